"""A vendor is gone: which requests nothing else could have served, what the others would cost, which budgets would break."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from router.replay.compare import Comparison, compare
from router.replay.report import Table, changed, short_of, usd
from router.replay.requests import Asked
from router.replay.simulate import World, reproduced, simulate
from router.snapshot import Snapshot


class Dependency(msgspec.Struct, kw_only=True):
    """A branch of a route that has nothing left."""

    route: str
    rule: str
    deployments: list[str]


class Share(msgspec.Struct, kw_only=True):
    """How much of the spending one provider gets."""

    provider: str
    recorded: float | None
    """In the log, from 0 to 1; None: nothing was spent."""
    drilled: float | None
    """After it is gone."""


class Drill(msgspec.Struct, kw_only=True):
    """Everything that a drill says."""

    without: list[str]
    gone: list[str]
    """Deployments that are gone."""
    dependencies: list[Dependency]
    """Rules that lead nowhere then, whether the log used them or not."""
    stranded: list[tuple[str, str, str, int]]
    """(Team, route, rule, requests) that nothing else could have served."""
    shares: list[Share]
    comparison: Comparison | None
    """With and without; None: the log has no requests."""


def dependencies(snapshot: Snapshot, gone: frozenset[str]) -> list[Dependency]:
    """Rules all of whose deployments are gone. Routes that are only the name of a model count if nothing else names them."""
    found = []
    for name, route in snapshot.routes.items():
        if name != route.name or (route.aliases_model and "/" in name):
            continue
        for branch in (*(rule.branch for rule in route.policy.rules), route.policy.default):
            if branch.deployments and gone.issuperset(branch.deployments):
                found.append(Dependency(route=name, rule=branch.rule, deployments=list(branch.deployments)))
    return found


def drill(snapshot: Snapshot, without: Sequence[str], requests: Sequence[Asked], observed_world: World, world: World) -> Drill:
    """Replay with all deployments, and without those that are gone."""
    told = Drill(
        without=list(without),
        gone=sorted(world.gone),
        dependencies=dependencies(snapshot, world.gone),
        stranded=[],
        shares=[],
        comparison=None,
    )
    if not requests:
        return told
    for asked in requests:
        observed_world.remember(asked)
    worlds = observed_world, world
    before, after = simulate(observed_world, requests), simulate(world, requests)
    stranded: Counter[tuple[str, str, str]] = Counter()
    spent: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
    for asked, old, new in zip(requests, before, after, strict=True):
        for part in asked.parts:
            spent[0][part.provider] += part.charge_nusd
        if new.refused:
            if not old.refused and not new.refused.startswith("budget:"):
                stranded[(asked.facts.team or "(none)", asked.facts.route, new.rule)] += 1
        else:
            for provider, cost in [(provider, cost) for _, provider, cost in new.spent] or [(new.provider, new.cost_nusd or 0)]:
                spent[1][provider] += cost
    told.stranded = [(*who, count) for who, count in stranded.most_common()]
    told.shares = _shares(*spent)
    told.comparison = compare(worlds, requests, (before, after), reproduced([observed_world], requests))
    return told


def _shares(recorded: Mapping[str, int], drilled: Mapping[str, int]) -> list[Share]:
    all_recorded, all_drilled = sum(recorded.values()), sum(drilled.values())
    names = sorted(recorded.keys() | drilled.keys(), key=lambda name: -recorded.get(name, 0))
    return [
        Share(
            provider=name,
            recorded=recorded.get(name, 0) / all_recorded if all_recorded else None,
            drilled=drilled.get(name, 0) / all_drilled if all_drilled else None,
        )
        for name in names
    ]


def notes_of(told: Drill) -> list[str]:
    """What a drill comes to, in sentences."""
    notes = [f"Without {', '.join(told.without)}: these deployments are gone: {', '.join(told.gone) or 'none'}."]
    both = told.comparison
    if both is None:
        return [*notes, "The log has no requests in this time: only the configuration was looked at."]
    notes += short_of(both.since_ms, both.until_ms)
    lost = sum(count for *_, count in told.stranded)
    cost = both.total.cost_per_month_nusd
    notes.append(f"{lost:,} of {both.requests:,} requests ({lost / both.requests:.1%}) have no other deployment.")
    notes.append(f"The others are served: {usd(cost.new)} USD a month instead of {usd(cost.old)} ({changed(cost)}).")
    breaking = [(name, new - old) for name, old, new in both.refusals if name.startswith("budget:") and new > old]
    if both.unknown_steps:
        notes.append(f"{both.unknown_steps:,} requests lose a step or a judge of their plan: what the rest would cost then is not known.")
    if breaking:
        notes.append(
            "Budgets that would break: " + ", ".join(f"{name[7:]} ({more:,} more requests refused)" for name, more in breaking) + "."
        )
    return notes


def tables_of(told: Drill) -> list[Table]:
    """The tables of a drill."""
    both = told.comparison
    return [
        Table(
            title="Rules with nothing left",
            columns=("route", "rule", "deployments"),
            rows=[(one.route, one.rule, ", ".join(one.deployments)) for one in told.dependencies],
        ),
        Table(
            title="Requests with nothing left",
            columns=("team", "route", "rule", "requests"),
            rows=[(team, route, rule, f"{count:,}") for team, route, rule, count in told.stranded],
        ),
        Table(
            title="Share of the spending",
            columns=("provider", "now", "without"),
            rows=[(one.provider, _percent(one.recorded), _percent(one.drilled)) for one in told.shares],
        ),
        Table(
            title="Where requests go instead",
            columns=("from", "to", "requests"),
            rows=[] if both is None else [(old or "(refused)", new or "(refused)", f"{count:,}") for old, new, count in both.moves],
        ),
    ]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"
