"""Demands that together leave nothing: rules that lead private requests nowhere; and what is not obvious of signals and kinds."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any, Final

from pydantic import BaseModel

from policies.kinds.hedge import HedgeOptions
from policies.kinds.latency import LatencyOptions
from policies.kinds.vendors import VendorsOptions
from policies.registry import all_inside
from policies.signals.names import LANGUAGES, MISTAKEN, PLUGIN_CLASSES
from router.domain.pricing import expected
from router.settings.findings import Finding, Path
from router.settings.lint_rules import asked, spec_covers
from router.settings.model import Settings
from router.settings.model_conditions import WhenSettings
from router.settings.model_privacy import PrivacySettings
from router.settings.model_routing import RouteSettings
from router.settings.types import format_duration
from router.snapshot import Deployment, Route, Snapshot

PLAIN: Final = frozenset({"operation", "language", "task", "tools", "stream", "json_schema", "org", "team", "key", "route"})
"""Conditions of which one value excludes the others."""
USUAL_INPUT: Final = 1000
USUAL_OUTPUT: Final = 300
"""Tokens of the call whose charges are compared."""

PRESIDIO_SECONDS: Final = 0.1
USUAL_PRESIDIO_SECONDS: Final = 0.25
"""Time for a signal below which Presidio is late often, and what to write."""

_EQUAL_LANGUAGE: Final = re.compile(r"""\blanguage\s*==\s*["'](\w+)["']""")
TINY: Final = 1e-9
_OVERSHARED: Final = (
    "the shares of providers ({listed}) are {whole} of the money together, so that one is always beyond its share: while all are, there"
    " is no cap and the order is that of `by` inside, with `beyond: never`, too; to be held, they must come to 100% or more"
)


def stranded(settings: Settings, snapshot: Snapshot) -> Iterator[Finding]:
    """Rules that lead to no model which may see requests of a class, although the route has one: those requests are refused."""
    for name, given in settings.routes.items():
        route = snapshot.routes[name]
        allowed = {one.name: one.allowed for one in route.policy.privacy}
        for label, private in settings.privacy.items():
            if not allowed[label].isdisjoint(route.deployments):
                yield from _stranded(("routes", name), given, route, label, private, allowed[label])


def _stranded(
    path: Path, given: RouteSettings, route: Route, label: str, private: PrivacySettings, allowed: frozenset[str]
) -> Iterator[Finding]:
    wanted: Mapping[str, Any] = private.when.spec()
    first: Path = path
    names: list[str] = []
    for index, rule in enumerate(given.rules):
        spec, branch = asked(rule), route.policy.rules[index].branch
        if rule.otherwise != "refuse" and allowed.isdisjoint(branch.deployments) and not excludes(spec, wanted):
            first = first if names else (*path, "rules", index)
            names.append(f'rule "{branch.rule}"')
        if spec_covers(spec, wanted):
            break
    else:
        if not branch_refuses(given) and allowed.isdisjoint(route.policy.default.deployments):
            names.append("the default")
    if names:
        several = len(names) > 1
        listed = f"{', '.join(names[:-1])} and {names[-1]} lead" if several else f"{names[0]} leads"
        refuse = f'to no model that may see "{label}" requests, and {"refuse" if several else "refuses"} them'
        way_out = "to serve them, let `use` name one that may behind the others, or put a rule for such requests before"
        yield Finding(first, f"{listed} {refuse}: {way_out}")


def branch_refuses(given: RouteSettings) -> bool:
    """Whether the default says that it refuses what it cannot serve."""
    return "refuse" in (given.otherwise, None if given.default is None else given.default.otherwise)


def excludes(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether both conditions can never hold for a request, as far as plain values tell."""
    for name in one.keys() & other.keys():
        mine, yours = one[name], other[name]
        if (_nothing_personal(mine) != _nothing_personal(yours)) if name == "pii" else name in PLAIN and _apart(mine, yours):
            return True
    return False


def _nothing_personal(values: object) -> bool:
    return values == (False,)


def _apart(mine: object, yours: object) -> bool:
    if not isinstance(mine, tuple) or not isinstance(yours, tuple):
        return False
    return set(mine).isdisjoint(yours) and "*" not in "".join(map(str, (*mine, *yours)))


def without_target(settings: Settings) -> Iterator[Finding]:
    """Rules on the difficulty, where nothing says how many requests are to be difficult."""
    if settings.signals.difficulty.target is not None or settings.signals.difficulty.plugin is not None:
        return
    for name, given in settings.routes.items():
        for index, rule in enumerate(given.rules):
            spec = rule.when.spec()
            if "difficulty" in spec or "task.difficulty" in str(spec.get("cel", "")):
                yield Finding(
                    ("routes", name, "rules", index, "when"),
                    "goes by the difficulty without signals.difficulty.target: of how many requests that holds is up to the traffic, from"
                    " none to nearly all; with signals: {difficulty: {target: {share: 30%}}}, three requests in ten are at 0.5 or above",
                )
                # Once is enough: it is the same everywhere.
                return


def never_found(settings: Settings) -> Iterator[Finding]:
    """Conditions on classes of personal data and on languages that only a plug-in finds, where there is none."""
    whens: list[tuple[Path, WhenSettings]] = [(("privacy", name), private.when) for name, private in settings.privacy.items()]
    for name, given in settings.routes.items():
        whens += [(("routes", name, "rules", index), rule.when) for index, rule in enumerate(given.rules)]
    builtin = settings.signals.pii.plugin is None and settings.signals.pii.engine == "builtin"
    for path, when in whens:
        named = sorted(PLUGIN_CLASSES.intersection(map(str, when.pii or ()))) if builtin else []
        if named:
            what = f"{', '.join(named)}: only a plug-in finds it, and there is none"
            yield Finding((*path, "when", "pii"), f"{what}; see signals.pii.engine and signals.pii.plugin")
        if settings.signals.language.plugin is None:
            yield from _untold((*path, "when"), when)


def _untold(path: Path, when: WhenSettings) -> Iterator[Finding]:
    """Languages that are never told apart here; often a country's code."""
    here = [((*path, "language"), str(code)) for code in when.language or ()]
    for place, code in here + [(path, code) for code in _EQUAL_LANGUAGE.findall(str(when.spec().get("cel", "")))]:
        if code not in LANGUAGES:
            meant = f'; did you mean "{MISTAKEN[code]}"?' if code in MISTAKEN else "; see signals.language.plugin"
            yield Finding(place, f'no text is ever told to be in "{code}"{meant}')


def too_short(settings: Settings) -> Iterator[Finding]:
    """A time budget in which Presidio does not come to its end."""
    given = settings.signals
    if given.pii.engine == "presidio" and given.timeout < PRESIDIO_SECONDS:
        short = f"{format_duration(given.timeout)} is short for Presidio, which takes some ms for 2,000 characters"
        way_out = f"what is not read in time counts as signals.unread says; write {format_duration(USUAL_PRESIDIO_SECONDS)}"
        yield Finding(("signals", "timeout"), f"{short}: {way_out}")


def _kinds(settings: Settings, snapshot: Snapshot) -> Iterator[tuple[Path, BaseModel, tuple[str, ...]]]:
    """Of every rule and default: where its kind stands, its options, and the deployments that it leads to."""
    for name, given in settings.routes.items():
        policy = snapshot.routes[name].policy
        for index, rule in enumerate(given.rules):
            if rule.by is not None:
                yield ("routes", name, "rules", index, "by"), rule.by, policy.rules[index].branch.deployments
        by = given.by if given.default is None else given.default.by
        if by is not None:
            where: Path = ("routes", name, "by") if given.default is None else ("routes", name, "default", "by")
            yield where, by, policy.default.deployments


def unhedged(settings: Settings, snapshot: Snapshot) -> Iterator[Finding]:
    """Second calls of a hedge that its bound on the cost rules out."""
    for path, by, names in _kinds(settings, snapshot):
        yield from _unhedged(path, by, names, snapshot)


def choiceless(settings: Settings, snapshot: Snapshot) -> Iterator[Finding]:
    """Targets of time where there is nothing to choose from: they hold nobody to anything."""
    for path, by, names in _kinds(settings, snapshot):
        if isinstance(by, LatencyOptions) and by.target_ms is not None and len(names) == 1:
            yield Finding(path, f"target_ms has no choice: {names[0]} is all that this leads to, and is called however slow it is")


def overshared(settings: Settings, snapshot: Snapshot) -> Iterator[Finding]:
    """Shares of providers that are less than everything together: somebody has to be beyond its share."""
    for path, by, names in _kinds(settings, snapshot):
        providers = dict.fromkeys(snapshot.deployments[name].traits.provider for name in names)
        for one in all_inside(by):
            if isinstance(one, VendorsOptions) and providers:
                shares = {name: one.each.get(name, one.most) for name in providers}
                whole = sum(shares.values())
                if whole < 1 - TINY:
                    listed = ", ".join(f"{name} {share * 100:.4g}%" for name, share in shares.items())
                    yield Finding(path, _OVERSHARED.format(listed=listed, whole=f"{whole * 100:.4g}%"))


def _unhedged(path: Path, by: BaseModel, names: tuple[str, ...], snapshot: Snapshot) -> Iterator[Finding]:
    hedge = next((one for one in all_inside(by) if isinstance(one, HedgeOptions)), None)
    charges = [(usual_nusd(snapshot.deployments[name]), name) for name in names]
    known = sorted((charge, name) for charge, name in charges if charge is not None)
    if hedge is None or len(known) < 2:
        return
    for (low, cheap), (high, dear) in pairwise(known):
        if high > low * hedge.cost_at_most:
            ratio = f"about {high / low:.0f} times as much as {cheap}" if low else f"something and {cheap} nothing"
            yield Finding(
                path, f"after {cheap} there is no second call to {dear}: it costs {ratio}, and cost_at_most is {hedge.cost_at_most:g}"
            )


def usual_nusd(deployment: Deployment) -> int | None:
    """What a call of usual length costs; None: no price is known."""
    price = deployment.price
    return None if price is None else int(expected(price, input_tokens=USUAL_INPUT, output_tokens=USUAL_OUTPUT))
