"""Put what two sources say of a provider's models into one section of the book."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from router.prices import Checked, Classes, Dated, Row, Section, Service
from router.prices.curated import REVIEWED

EMBEDDINGS: Final = frozenset({"embeddings"})
MOST_NUSD_PER_MTOK: Final = 1000 * 10**9
"""A dearer token is a slip between per-token, per-thousand and per-million prices. The dearest text model known costs 600 USD."""


class Model(msgspec.Struct, kw_only=True):
    """A model as one source has it."""

    base: dict[str, int]
    """Rates by class as in `Classes`. A class that the source does not name is not in it."""
    tiers: dict[int, dict[str, int]] = {}
    """Rates by the input tokens above which they hold; every class of the base is in each."""
    per_request_nusd: int = 0
    date: str = ""
    context: int | None = None
    max_output: int | None = None
    capabilities: frozenset[str] | None = None
    services: dict[str, dict[str, int]] = {}
    """Rates by service tier. A class that the source does not name is not in it."""
    service_tiers: dict[str, dict[int, dict[str, int]]] = {}
    """The same by the input tokens above which they hold."""
    others: dict[str, Model] = {}
    """What it cost before, or will cost, by the ISO date from which that holds; empty: ever since it was sold."""
    web_search: tuple[int, int, int] | None = None
    """Fee of a web search by the size of its context, nano-USD."""


class Known(msgspec.Struct):
    """What one source knows of a provider."""

    models: dict[str, Model] = {}
    aliases: dict[str, str] = {}


def merge(kind: str, first: Known, second: Known) -> tuple[Section, list[str]]:
    """(the section, decisions that fit no model). The first source is the main one.

    Where the sources differ and nobody has decided, the dearer rate of each class holds: a budget can be
    kept too well, never overspent.
    """
    rows: dict[str, Row] = {}
    for model in [*first.models, *second.models]:
        ours = first.models.get(model)
        other = second.models.get(model)
        if ours is None and other is not None and model in first.aliases:
            ours = first.models[first.aliases[model]]
            if _same(ours, _aligned(ours, other)):
                continue
            # The sources price this alias differently: it may point elsewhere by now, so it gets a row of its own.
        row = _row(kind, model, ours, _aligned(ours, other) if other is not None else _by_alias(model, first, second))
        if row is not None:
            rows[model] = row
    aliases = {alias: model for alias, model in first.aliases.items() if alias not in rows and model in rows}
    unknown = [f"{of}/{model}: decided on, but not in the book" for of, model in REVIEWED if of == kind and model not in rows]
    return Section(models=rows, aliases=aliases), unknown


def _aligned(first: Model | None, second: Model) -> Model:
    """The second with its tiers renamed where the first says `above 199,999` and it says `above 200,000`."""
    if first is None:
        return second
    tiers = {(above - 1 if above - 1 in first.tiers else above): rates for above, rates in second.tiers.items()}
    return msgspec.structs.replace(second, tiers=tiers)


def _by_alias(model: str, first: Known, second: Known) -> Model | None:
    """What the second source says under an alias of this model, if the price is the same."""
    for alias, target in first.aliases.items():
        if target != model or alias not in second.models:
            continue
        other = _aligned(first.models[model], second.models[alias])
        if _same(first.models[model], other):
            return other
    return None


def _row(kind: str, model: str, first: Model | None, second: Model | None) -> Row | None:
    if first is None or second is None:
        only = first or second
        return None if only is None else _assemble(model, only, only, "l" if first is None else "g", "single")
    if _same(first, second):
        return _assemble(model, first, second, "b", "agree")
    decision = REVIEWED.get((kind, model))
    if decision is None:
        return _assemble(model, _dearer(first, second), second, "b", "dearer")
    taken = {"genai-prices": first, "litellm": second, "dearer": _dearer(first, second)}[decision.take]
    limits = msgspec.structs.replace(taken, context=first.context, max_output=second.max_output, capabilities=second.capabilities)
    limits = _with_extras(limits, second)
    source = {"genai-prices": "g", "litellm": "l", "dearer": "b"}[decision.take]
    row = _assemble(model, limits, limits, source, "reviewed")
    return None if row is None else msgspec.structs.replace(row, n=f"{decision.reason} ({decision.date})")


def _assemble(model: str, main: Model, filling: Model, source: str, checked: Checked) -> Row | None:
    """The row with its prices at other dates. Where a decision or the dearer rates hold, those of one source would contradict it."""
    row = _assemble_one(model, main, filling, source, checked)
    if row is None or checked not in ("agree", "single") or not main.others:
        return row
    # The other source knows the rates of today only.
    limits = msgspec.structs.replace(filling, base={}, tiers={}, services={})
    history = [(date, _assemble_one(model, one, limits, source, checked)) for date, one in sorted(main.others.items())]
    dated = [Dated(d=date, p=one.p, t=one.t, f=one.f, sv=_moved(row, one)) for date, one in history if one is not None]
    return msgspec.structs.replace(row, h=tuple(dated))


def _moved(row: Row, then: Row) -> dict[str, Service]:
    """Rates of service tiers at another date: as many times the usual ones as today, rounded up."""
    by, of = row.p.i, then.p.i

    def move(classes: Classes) -> Classes:
        return Classes(**{name: -(-rate * of // by) for name, rate in msgspec.structs.asdict(classes).items() if rate is not None})

    return {name: Service(p=move(one.p), t=tuple((above, move(rates)) for above, rates in one.t)) for name, one in row.sv.items()}


def _assemble_one(model: str, main: Model, filling: Model, source: str, checked: Checked) -> Row | None:
    """The main source's rates and limits; what it leaves out comes from the other. None if it is not a price for text."""
    base = {**filling.base, **main.base}
    capabilities = main.capabilities or filling.capabilities
    if "embed" in model or capabilities == EMBEDDINGS:
        base["o"] = 0
    if not _believable(base, embeddings="embed" in model or capabilities == EMBEDDINGS):
        return None
    tiers = {above: _paid({**base, **rates}) for above, rates in (main.tiers or filling.tiers).items()}
    return Row(
        p=Classes(**_paid(base)),
        s=source,
        c=checked,
        t=tuple((above, Classes(**rates)) for above, rates in sorted(tiers.items())),
        f=main.per_request_nusd or filling.per_request_nusd,
        d=main.date or filling.date,
        ctx=main.context or filling.context,
        out=main.max_output or filling.max_output,
        caps=None if capabilities is None else tuple(sorted(capabilities)),
        sv=_services(base, tiers, main if main.services else filling),
        ws=main.web_search or filling.web_search,
    )


def _with_extras(model: Model, source: Model) -> Model:
    changes: dict[str, Any] = {"services": source.services, "service_tiers": source.service_tiers, "web_search": source.web_search}
    return msgspec.structs.replace(model, **changes)


def _services(base: dict[str, int], tiers: dict[int, dict[str, int]], source: Model) -> dict[str, Service]:
    """The rates of each service tier. What the source leaves out is scaled as the input is; never below zero, always rounded up."""
    found = {}
    for name, own in source.services.items():
        if "i" not in own or "o" not in own:
            continue
        of, by = own["i"], source.base["i"]
        rates = {each: -(-rate * of // by) for each, rate in base.items()} | own
        longer = source.service_tiers.get(name, {})
        by_length = {above: {each: -(-rate * of // by) for each, rate in usual.items()} for above, usual in tiers.items()}
        for above, told in longer.items():
            nearest = above if above in by_length else above - 1 if above - 1 in by_length else None
            if nearest is not None:
                by_length[nearest] |= told
        found[name] = Service(
            p=Classes(**_paid(rates)), t=tuple((above, Classes(**_paid(one))) for above, one in sorted(by_length.items()))
        )
    return found


def _believable(base: dict[str, int], *, embeddings: bool) -> bool:
    """Whether both rates are known and none is zero (then a fee per call or a mistake stands behind it) or absurd."""
    lowest = base.get("i", 0) if embeddings else min(base.get("i", 0), base.get("o", 0))
    return lowest > 0 and max(base.values()) <= MOST_NUSD_PER_MTOK


def _paid(rates: dict[str, int]) -> dict[str, int]:
    """Without classes at zero: they stand for "included in another class", and are charged as that one."""
    return {name: rate for name, rate in rates.items() if rate or name in ("i", "o")}


def _same(first: Model, second: Model) -> bool:
    """Whether what both name is the same. Cached reads may differ by 2 %: the sources round them."""
    embeddings = second.capabilities == EMBEDDINGS
    pairs = [(first.base, second.base), *((rates, second.tiers[above]) for above, rates in first.tiers.items() if above in second.tiers)]
    if first.tiers and second.tiers and first.tiers.keys() != second.tiers.keys():
        return False
    return all(
        abs(one[name] - other[name]) * 50 <= (one[name] if name == "cr" else 0)
        for one, other in pairs
        for name in one.keys() & other.keys()
        if not (embeddings and name == "o")
    )


def _dearer(first: Model, second: Model) -> Model:
    base = _highest(first.base, second.base)
    tiers = {}
    for above in first.tiers.keys() | second.tiers.keys():
        tiers[above] = _highest(first.tiers.get(above, first.base), second.tiers.get(above, second.base))
    return msgspec.structs.replace(first, base=base, tiers=tiers)


def _highest(first: dict[str, int], second: dict[str, int]) -> dict[str, int]:
    return {name: max(first.get(name, 0), second.get(name, 0)) for name in first.keys() | second.keys()}
