"""Two configurations on the same requests: what changes, for whom, and how sure that is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from router.replay.requests import Asked
from router.replay.simulate import Served, World
from router.replay.statistics import Interval, Sums, block_of, change, quantile, ratio

MONTH_MS: Final = 365.25 / 12 * 86_400_000
MOST_WEIGHT: Final = 10.0
"""Weights of off-policy estimates are cut here: a little bias for much less variance."""
LEAST_EFFECTIVE: Final = 30.0
"""An off-policy estimate of fewer effective requests is not shown."""

_COLUMNS: Final = ("requests", "cost_old", "cost_new", "ms_n", "ms_old", "ms_new", "q_n_old", "q_old", "q_n_new", "q_new", "n_old", "n_new")
(N, COST_OLD, COST_NEW, MS_N, MS_OLD, MS_NEW, Q_N_OLD, Q_OLD, Q_N_NEW, Q_NEW, N_OLD, N_NEW) = range(12)


class Figure(msgspec.Struct, kw_only=True):
    """One figure under both configurations."""

    old: float | None
    new: float | None
    change: float | None = None
    """By what share the new one is higher."""
    between: Interval | None = None
    """The change lies between these with 95 % confidence; None: too little is known to tell."""


class Row(msgspec.Struct, kw_only=True):
    """What changes for one team, or over all."""

    name: str
    requests: int
    changed: int
    """That are served by another model, or refused by only one of both."""
    cost_per_month_nusd: Figure
    total_ms: Figure
    """Mean over the requests that both serve, where both are known."""
    quality: Figure
    refused_old: int
    refused_new: int


class ModelRow(msgspec.Struct, kw_only=True):
    """What becomes of one model."""

    name: str
    requests_old: int
    requests_new: int
    cost_per_month_nusd: Figure


class OffPolicy(msgspec.Struct, kw_only=True):
    """What the log's own chance choices say of the new configuration: self-normalised inverse propensity scores."""

    requests: int
    """Whose chance is known."""
    effective: float
    """So many requests of the new configuration's own are worth as much."""
    cost_nusd: float | None = None
    """Mean charge of a request."""
    cost_between: Interval | None = None
    total_ms: float | None = None
    ms_between: Interval | None = None
    quality: float | None = None


class Comparison(msgspec.Struct, kw_only=True):
    """Everything that a plan says."""

    old: str
    new: str
    """Versions of the configurations."""
    since_ms: int
    until_ms: int
    requests: int
    exact: int
    """Requests whose decision was kept, so that nothing about them is guessed."""
    reproduced: tuple[int, int]
    """(That begin at the same deployment again, all) of those decided by one of both configurations."""
    as_recorded: int
    """Requests that the old configuration sends to the model that served them."""
    recorded_nusd: int
    """What the log was charged."""
    total: Row
    p95_ms: Figure
    first_ms: Figure
    teams: list[Row]
    models: list[ModelRow]
    moves: list[tuple[str, str, int]]
    """(model, model, requests) that change, the most frequent first; an empty model: refused."""
    refusals: list[tuple[str, int, int]]
    """(Why, by the old, by the new)."""
    rules: list[tuple[str, int, int]]
    """(Route and rule, requests by the old, by the new)."""
    unpriced: int
    """Requests that would go where no price is known; their cost counts as nothing."""
    off_policy: OffPolicy | None = None
    unknown_steps: int = 0
    """Requests that go to another plan of several steps: what its steps beyond the first cost is not known."""
    estimated_steps: int = 0
    """Requests that go to another cascade, whose cost follows from how often the log's own went on."""
    unknown_steps_nusd: int = 0
    """What the log was charged for them."""
    unread: int = 0
    """Requests of whose prompts a rule of the new configuration asks what nobody has read."""
    unread_signals: tuple[str, ...] = ()
    """What was asked for."""


@dataclass(slots=True)
class _Group:
    sums: Sums = field(default_factory=lambda: Sums(len(_COLUMNS)))
    changed: int = 0
    refused_old: int = 0
    refused_new: int = 0


class Comparing:
    """Takes in one request after the other."""

    def __init__(self) -> None:
        self._total = _Group()
        self._teams: dict[str, _Group] = {}
        self._models: dict[str, Sums] = {}
        self._moves: Counter[tuple[str, str]] = Counter()
        self._refusals: dict[str, list[int]] = {}
        self._rules: dict[str, list[int]] = {}
        self._times: tuple[list[float], list[float]] = ([], [])
        self._firsts: tuple[list[float], list[float]] = ([], [])
        self._unpriced = 0
        self._unknown = [0, 0]
        self._estimated = 0

    def add(self, asked: Asked, old: Served, new: Served) -> None:
        """One request under both."""
        block = block_of(asked.facts.session or asked.request_id)
        changed = old.model != new.model or bool(old.refused) != bool(new.refused)
        if changed:
            self._moves[(old.model, new.model)] += 1
        for place, served in enumerate((old, new)):
            if served.refused:
                self._refusals.setdefault(served.refused, [0, 0])[place] += 1
            else:
                self._rules.setdefault(f"{asked.facts.route}/{served.rule}", [0, 0])[place] += 1
                self._add_model(served, place, block)
        if new.plan is not None and new.plan != old.plan:
            self._estimated += new.estimated
            self._unknown[0] += not new.estimated
            self._unknown[1] += 0 if new.estimated else asked.charge_nusd
        self._unpriced += not new.refused and new.cost_nusd is None
        values = _values(old, new)
        for group in (self._total, self._teams.setdefault(asked.facts.team or "(none)", _Group())):
            group.changed += changed
            group.refused_old += bool(old.refused)
            group.refused_new += bool(new.refused)
            for column, value in values:
                group.sums.columns[column][block] += value
        for kept, one, other in ((self._times, old.total_ms, new.total_ms), (self._firsts, old.first_ms, new.first_ms)):
            if one is not None and other is not None:
                kept[0].append(one)
                kept[1].append(other)

    def _add_model(self, served: Served, place: int, block: int) -> None:
        for model, cost in [(model, cost) for model, _, cost in served.spent] or [(served.model, served.cost_nusd or 0)]:
            sums = self._models.get(model)
            if sums is None:
                sums = self._models[model] = Sums(5)
            columns = sums.columns
            columns[0][block] += 1
            columns[1 + place][block] += 1
            columns[3 + place][block] += cost

    def compared(
        self, worlds: tuple[World, World], requests: Sequence[Asked], *, reproduced: tuple[int, int], as_recorded: int
    ) -> Comparison:
        """The whole comparison."""
        since, until = (requests[0].starts_ms, max(asked.ends_ms for asked in requests)) if requests else (0, 0)
        months = max(until - since, 1) / MONTH_MS
        by_size = sorted(self._teams.items(), key=lambda item: -item[1].sums.totals()[COST_OLD])
        return Comparison(
            old=worlds[0].snapshot.version,
            new=worlds[1].snapshot.version,
            since_ms=since,
            until_ms=until,
            requests=len(requests),
            exact=sum(asked.exact for asked in requests),
            reproduced=reproduced,
            as_recorded=as_recorded,
            recorded_nusd=sum(asked.charge_nusd for asked in requests),
            total=_row("all", self._total, months),
            p95_ms=_figure(quantile(self._times[0], 0.95), quantile(self._times[1], 0.95)),
            first_ms=_figure(_mean(self._firsts[0]), _mean(self._firsts[1])),
            teams=[_row(name, group, months) for name, group in by_size],
            models=sorted((_model(name, sums, months) for name, sums in self._models.items()), key=lambda row: -row.requests_old),
            moves=[(*move, count) for move, count in self._moves.most_common()],
            refusals=sorted((name, old, new) for name, (old, new) in self._refusals.items()),
            rules=sorted((name, old, new) for name, (old, new) in self._rules.items()),
            unpriced=self._unpriced,
            unknown_steps=self._unknown[0],
            unknown_steps_nusd=self._unknown[1],
            estimated_steps=self._estimated,
            unread=len(set().union(*worlds[1].unread.values())),
            unread_signals=tuple(sorted(worlds[1].unread)),
        )


def _values(old: Served, new: Served) -> list[tuple[int, float]]:
    """What one request adds to which columns."""
    values: list[tuple[int, float]] = [(N, 1), (COST_OLD, old.cost_nusd or 0), (COST_NEW, new.cost_nusd or 0)]
    if old.total_ms is not None and new.total_ms is not None:
        values += [(MS_N, 1), (MS_OLD, old.total_ms), (MS_NEW, new.total_ms)]
    if old.quality is not None:
        values += [(Q_N_OLD, 1), (Q_OLD, old.quality)]
    if new.quality is not None:
        values += [(Q_N_NEW, 1), (Q_NEW, new.quality)]
    return values


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _figure(old: float | None, new: float | None, between: Interval | None = None) -> Figure:
    moved = new / old - 1 if old and new is not None else None
    return Figure(old=old, new=new, change=moved, between=between)


def _over(totals: Sequence[float], top: int, bottom: int) -> float | None:
    return totals[top] / totals[bottom] if totals[bottom] else None


def _quality_change(totals: Sequence[float]) -> float | None:
    old, new = _over(totals, Q_OLD, Q_N_OLD), _over(totals, Q_NEW, Q_N_NEW)
    return new / old - 1 if old and new is not None else None


def _row(name: str, group: _Group, months: float) -> Row:
    sums = group.sums
    totals = sums.totals()
    return Row(
        name=name,
        requests=int(totals[N]),
        changed=group.changed,
        cost_per_month_nusd=_figure(totals[COST_OLD] / months, totals[COST_NEW] / months, sums.interval(change(COST_NEW, COST_OLD))),
        total_ms=_figure(_over(totals, MS_OLD, MS_N), _over(totals, MS_NEW, MS_N), sums.interval(change(MS_NEW, MS_OLD), count=MS_N)),
        quality=_figure(_over(totals, Q_OLD, Q_N_OLD), _over(totals, Q_NEW, Q_N_NEW), sums.interval(_quality_change, count=Q_N_NEW)),
        refused_old=group.refused_old,
        refused_new=group.refused_new,
    )


def _model(name: str, sums: Sums, months: float) -> ModelRow:
    totals = sums.totals()
    return ModelRow(
        name=name,
        requests_old=int(totals[1]),
        requests_new=int(totals[2]),
        cost_per_month_nusd=_figure(totals[3] / months, totals[4] / months, sums.interval(change(4, 3))),
    )


def off_policy(worlds: tuple[World, World], requests: Iterable[Asked]) -> OffPolicy | None:
    """What the new configuration would cost, by what chance has tried already; None if the log's policy left nothing to chance."""
    new = worlds[1]
    sums = Sums(6)
    known, by_chance, squares = 0, False, 0.0
    for asked in requests:
        drawn = asked.share
        if not drawn:
            continue
        known += 1
        by_chance = by_chance or drawn < 1
        weight = min(new.share_of(asked, asked.first) / drawn, MOST_WEIGHT)
        if not weight:
            continue
        squares += weight * weight
        block = block_of(asked.facts.session or asked.request_id)
        values = [1, weight, weight * asked.charge_nusd, weight * asked.duration_ms]
        values += [weight, weight * asked.rating] if asked.rating is not None else [0, 0]
        for column, value in enumerate(values):
            sums.columns[column][block] += value
    if not by_chance or not squares:
        return None
    totals = sums.totals()
    told = OffPolicy(requests=known, effective=totals[1] ** 2 / squares)
    if told.effective >= LEAST_EFFECTIVE:
        told.cost_nusd, told.cost_between = _over(totals, 2, 1), sums.interval(ratio(2, 1))
        told.total_ms, told.ms_between = _over(totals, 3, 1), sums.interval(ratio(3, 1))
        told.quality = _over(totals, 5, 4)
    return told


def compare(
    worlds: tuple[World, World], requests: Sequence[Asked], served: tuple[list[Served], list[Served]], reproduced: tuple[int, int]
) -> Comparison:
    """Two simulations of the same requests."""
    comparing = Comparing()
    as_recorded = 0
    for asked, old, new in zip(requests, *served, strict=True):
        comparing.add(asked, old, new)
        as_recorded += old.model == asked.model
    told = comparing.compared(worlds, requests, reproduced=reproduced, as_recorded=as_recorded)
    told.off_policy = off_policy(worlds, requests)
    return told
