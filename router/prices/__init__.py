"""The price book: list prices of hosted models, generated into `book.json` from two public sources that check each other.

Lookup never guesses: an id is known as it stands, by an alias that a source names, or as a dated snapshot of
a model that the book has. Anything else is unpriced.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Final, Literal

import msgspec

from router.domain.prices import Price, Rates, Tier

Checked = Literal["agree", "single", "dearer", "reviewed"]
"""Both sources say the same; only one has it; they differ and the dearer holds; they differ and a person decided."""

KIND_ALIASES: Final[Mapping[str, str]] = {
    "azure_ai": "azure",
    "bedrock_converse": "bedrock",
    "cohere_chat": "cohere",
    "fireworks_ai": "fireworks",
    "friendliai": "friendli",
    "google": "gemini",
    "nvidia_nim": "nvidia",
    "together_ai": "together",
    "vertex_ai_beta": "vertex_ai",
    "x-ai": "xai",
}
"""Other names of providers: those that litellm and genai-prices use."""

SAME_MODELS: Final[Mapping[str, str]] = {"azure": "openai"}
"""A seller that asks the maker's list price for the maker's models, for ids that it has no row of its own for."""

PREFIXES: Final[Mapping[str, str]] = {"fireworks": "accounts/fireworks/models/", "gemini": "models/"}
"""What some providers put before every model id."""

_SNAPSHOT: Final = re.compile(r"(?:-\d{4}-\d{2}-\d{2}|[-@]20\d{6})$")


class BookEntry(msgspec.Struct, frozen=True, kw_only=True):
    """What the book knows of a model."""

    provider: str
    model: str
    """The id in the book; differs from the one asked for if that was an alias or a dated snapshot."""
    price: Price
    """In force on the date of the book."""
    prices: tuple[Price, ...] = ()
    """All that have been or will be, in the order of time; empty if only one is known."""
    checked: Checked
    context_tokens: int | None = None
    """Input plus output limit; None if unknown."""
    max_output_tokens: int | None = None
    capabilities: frozenset[str] | None = None
    """Operations and features; None if unknown."""
    note: str = ""
    """Why a person decided, where the sources differ."""


class Classes(msgspec.Struct, frozen=True, omit_defaults=True):
    """Rates as the file has them, nano-USD per million tokens."""

    i: int
    o: int
    cr: int | None = None
    cw: int | None = None
    r: int | None = None
    ai: int | None = None
    ao: int | None = None

    def rates(self) -> Rates:
        """The same in words."""
        return Rates(
            input=self.i,
            output=self.o,
            cache_read=self.cr,
            cache_write=self.cw,
            reasoning=self.r,
            audio_input=self.ai,
            audio_output=self.ao,
        )


class Service(msgspec.Struct, frozen=True, omit_defaults=True):
    """Rates of a service tier as the file has them."""

    p: Classes
    t: tuple[tuple[int, Classes], ...] = ()


class Dated(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a model cost, or will, from a date on."""

    d: str
    """ISO date; empty: ever since it was sold."""
    p: Classes
    t: tuple[tuple[int, Classes], ...] = ()
    f: int = 0
    sv: dict[str, Service] = {}


class Row(msgspec.Struct, frozen=True, omit_defaults=True):
    """A model as the file has it."""

    p: Classes
    s: str
    """Source: `g` genai-prices, `l` litellm, `b` both."""
    c: Checked = "single"
    t: tuple[tuple[int, Classes], ...] = ()
    f: int = 0
    """Fee per request, nano-USD."""
    d: str = ""
    """Date from which the price holds, if a source says so."""
    ctx: int | None = None
    out: int | None = None
    caps: tuple[str, ...] | None = None
    n: str = ""
    sv: dict[str, Service] = {}
    """Rates of service tiers by their names."""
    ws: tuple[int, int, int] | None = None
    """Fee of a web search, nano-USD, by the size of its context: low, medium, high."""
    h: tuple[Dated, ...] = ()
    """Prices before and after, in the order of time."""


class Section(msgspec.Struct, frozen=True):
    """All models of one provider."""

    models: dict[str, Row]
    aliases: dict[str, str] = {}


class Book(msgspec.Struct, frozen=True):
    """The file. Sections are decoded when they are first asked for."""

    date: str
    """When the sources were read, ISO date."""
    sources: dict[str, str]
    """Name and version by the letter that rows use."""
    curated: dict[str, list[str]]
    """Models that both sources must agree on, or a person has decided, by provider."""
    providers: dict[str, msgspec.Raw]


def lookup(provider_kind: str, model_id: str) -> BookEntry | None:
    """The list price and the limits of a model, or None if the book does not have it.

    `provider_kind` is a preset's name, or litellm's name for the provider (`litellm/` before it is ignored).
    """
    kind = provider_kind.removeprefix("litellm/")
    kind = KIND_ALIASES.get(kind, kind)
    for section in (kind, SAME_MODELS.get(kind, "")):
        for spelling in _spellings(section, model_id):
            found = _find(section, spelling)
            if found is not None:
                return found
    return None


def providers() -> tuple[str, ...]:
    """Names of the providers in the book."""
    return tuple(book().providers)


def entries(provider: str) -> Iterator[BookEntry]:
    """All models of a provider, by id."""
    for model, row in _section(provider).models.items():
        yield _entry(provider, model, row)


@cache
def book() -> Book:
    """The file, read at first use."""
    return msgspec.json.decode(Path(__file__).with_name("book.json").read_bytes(), type=Book)


@cache
def _section(provider: str) -> Section:
    raw = book().providers.get(provider)
    return Section(models={}) if raw is None else msgspec.json.decode(raw, type=Section)


def undated(model_id: str) -> str:
    """A model's id without the date of its snapshot."""
    return _SNAPSHOT.sub("", model_id)


def _spellings(provider: str, model_id: str) -> Iterator[str]:
    plain = model_id.removeprefix(PREFIXES.get(provider, ""))
    yield plain
    bare = undated(plain)
    if bare != plain:
        yield bare


def _find(provider: str, model_id: str) -> BookEntry | None:
    section = _section(provider)
    model = section.aliases.get(model_id, model_id)
    row = section.models.get(model)
    return None if row is None else _entry(provider, model, row)


def _entry(provider: str, model: str, row: Row) -> BookEntry:
    return BookEntry(
        provider=provider,
        model=model,
        price=_price(row),
        prices=_prices(row),
        checked=row.c,
        context_tokens=row.ctx,
        max_output_tokens=row.out,
        capabilities=None if row.caps is None else frozenset(row.caps),
        note=row.n,
    )


def _price(row: Row) -> Price:
    usual = Price(
        rates=row.p.rates(),
        tiers=_tiers(row.t),
        per_request_nusd=row.f,
        web_search_nusd=row.ws,
        source=book().sources[row.s],
        date=row.d or book().date,
        since_ms=_since_ms(row.d) if row.h else 0,
    )
    if not row.sv:
        return usual
    services = {
        name: msgspec.structs.replace(usual, rates=one.p.rates(), tiers=_tiers(one.t), web_search_nusd=None) for name, one in row.sv.items()
    }
    return msgspec.structs.replace(usual, services=services)


def _prices(row: Row) -> tuple[Price, ...]:
    if not row.h:
        return ()
    dated = [_price(msgspec.structs.replace(row, p=one.p, t=one.t, f=one.f, sv=one.sv, d=one.d)) for one in row.h]
    made = sorted([_price(row), *dated], key=lambda price: price.since_ms)
    # The first has no beginning: it holds for whatever was called before.
    return tuple(made)


def _since_ms(date: str) -> int:
    return int(datetime.fromisoformat(date).replace(tzinfo=UTC).timestamp() * 1000) if date else 0


def _tiers(written: tuple[tuple[int, Classes], ...]) -> tuple[Tier, ...]:
    return tuple(Tier(above_input_tokens=above, rates=classes.rates()) for above, classes in written)
