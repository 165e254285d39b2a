"""Which shares of a budget are used up, and what to say of it. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from router.alerts.events import Event, FieldValue
from router.domain.budgets import NEVER_MS, BucketState, Budget
from router.domain.money import format_amount, format_usd

KIND: Final = "budget_threshold"
LISTED: Final = 3
"""Most instances of a split budget that are told one by one; more at once are told together."""
NAMED: Final = 10
"""Instances that are named when they are told together."""
LIFETIME_KEEP_MS: Final = 400 * 86_400_000
"""How long a crossing in a window that never ends is remembered."""
STEADY: Final = 0.9
"""Of a share: how far a rolling window must fall before reaching it is news again."""
SHORTEST_MS: Final = 3_600_000
"""Of a rolling window, in tokens or requests, whose crossings are told."""
MARGIN_MS: Final = 3_600_000
"""How long a mark outlives its window: clocks differ."""


@dataclass(frozen=True, slots=True)
class Crossing:
    """A bucket that has reached a share of its limit."""

    state: BucketState
    limit_nusd: int
    at: float
    """The highest share reached."""
    names: tuple[str, ...]
    """Marks of this share and of all below it: reaching 80 % at once is told once, not twice."""


def bucket_name(state: BucketState) -> str:
    """`budget|scope|window`."""
    return f"{state.budget}|{state.scope}|{state.window}"


def mark_name(state: BucketState, at: float) -> str:
    """What is told once: this share of this bucket."""
    return f"{KIND}|{bucket_name(state)}|{at:g}"


def limit_of(state: BucketState, budget: Budget) -> int:
    """The limit that the store decides by, else the configuration's."""
    return budget.limit_nusd if state.limit_nusd is None else state.limit_nusd


def crossings(states: Iterable[BucketState], budgets: Mapping[str, Budget], told: Mapping[str, object]) -> list[Crossing]:
    """Buckets that have reached a share which was not told yet. What is spent counts, not what is only held."""
    found: list[Crossing] = []
    for state in states:
        budget = budgets.get(state.budget)
        if budget is None:
            continue
        limit = limit_of(state, budget)
        reached = [at for at in budget.alert_at if state.spent_nusd > 0 and state.spent_nusd >= limit * at]
        names = tuple([mark_name(state, at) for at in reached])
        if names and names[-1] not in told:
            found.append(Crossing(state, limit, reached[-1], names))
    return found


def rearmed(states: Iterable[BucketState], budgets: Mapping[str, Budget], told: Mapping[str, object]) -> list[str]:
    """Marks of shares that are not reached any more: crossing them again is news again.

    The limit was raised, or a rolling window has left spend behind.
    """
    return [
        name
        for state in states
        if (budget := budgets.get(state.budget)) is not None
        for at in budget.alert_at
        if state.spent_nusd < limit_of(state, budget) * at * (STEADY if budget.window == "rolling" else 1.0)
        and (name := mark_name(state, at)) in told
    ]


def keep_ms(state: BucketState, now_ms: int) -> int:
    """How long a mark of this bucket must last."""
    return LIFETIME_KEEP_MS if state.ends_ms >= NEVER_MS else max(0, state.ends_ms - now_ms) + MARGIN_MS


def grouped(found: Sequence[Crossing]) -> list[list[Crossing]]:
    """What to tell together: many instances of one budget at the same share at once; each other crossing by itself."""
    alike: defaultdict[tuple[str, float], list[Crossing]] = defaultdict(list)
    for crossing in found:
        alike[crossing.state.budget, crossing.at].append(crossing)
    groups: list[list[Crossing]] = []
    for some in alike.values():
        groups += [some] if len(some) > LISTED else [[crossing] for crossing in some]
    return groups


def event_of(group: Sequence[Crossing], budget: Budget) -> Event:
    """What to say of one crossing, or of several alike, of this budget."""
    hard = budget.hard and not budget.shadow
    first = group[0]
    state, share = first.state, f"{first.at * 100:g} %"
    at_limit = first.at >= 1
    unit = budget.unit
    # Money is nano-USD; what is counted in another unit says which.
    word = "_nusd" if unit == "usd" else ""
    fields: dict[str, FieldValue] = {
        "budget": state.budget,
        "threshold": first.at,
        f"limit{word}": first.limit_nusd,
        "window": state.window,
        "resets_at_ms": state.resets_ms,
    }
    if unit != "usd":
        fields["unit"] = unit
    limit = format_amount(first.limit_nusd, unit)
    if len(group) > 1:
        scopes = sorted(crossing.state.scope for crossing in group)
        subject = f"Budget '{state.budget}': {len(group)} instances have reached {share} of {limit}"
        fields |= {"instances": len(group), "scopes": ", ".join(scopes[:NAMED])}
        detail = f"Among them: {', '.join(scopes[:NAMED])}."
    else:
        whose = f" ({state.scope})" if state.scope else ""
        spent = format_usd(state.spent_nusd) if unit == "usd" else f"{state.spent_nusd:,}"
        subject = f"Budget '{state.budget}'{whose} has reached {share}: {spent} of {limit}"
        fields |= {"scope": state.scope, f"spent{word}": state.spent_nusd, f"held{word}": state.held_nusd}
        detail = f"Set aside for calls under way: {format_amount(state.held_nusd, unit)}."
    return Event(
        kind=KIND,
        severity="critical" if at_limit and hard else "warning" if first.at >= 0.8 else "info",
        subject=subject,
        text=f"{detail} {_consequence(budget, at_limit=at_limit)} {_resets(budget, state.resets_ms)}",
        about=first.names[-1].partition("|")[2],
        fields=fields,
    )


def is_told(budget: Budget) -> bool:
    """Whether crossings are news: rates, such as tokens a minute and calls under way, reach their limits all the time."""
    rate = budget.window == "minute" or 0 < budget.rolling_ms < SHORTEST_MS
    return budget.unit == "usd" or (budget.unit != "concurrent" and not rate)


def _consequence(budget: Budget, *, at_limit: bool) -> str:
    if budget.shadow:
        return "It is only tried out: nothing is refused."
    if not budget.hard:
        return "It is soft: nothing is refused."
    return "Further requests are refused." if at_limit else "At its limit, further requests are refused."


def _resets(budget: Budget, resets_ms: int | None) -> str:
    if budget.window == "rolling":
        return f"It counts the last {budget.rolling_ms // 1000} seconds."
    if resets_ms is None:
        return "It never starts anew."
    return f"It starts anew at {datetime.fromtimestamp(resets_ms / 1000, UTC):%Y-%m-%dT%H:%M:%SZ}."
