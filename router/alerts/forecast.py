"""Whether a budget will be used up before its window ends: exponentially weighted burn rate, with an interval. Pure.

Spend is counted in bins, each of which has an activity: how busy its hour usually is, 1 on average. The burn rate m is what was spent by
activity, v the variance of a bin's distance from it by activity; both exponentially weighted, so that the last hours count most. What bins
with the activity A bring has the mean m·A and the variance v·A + v·A²/e: that of the bins themselves, and that of the rate, which rests on
the activity e only. A budget is told of when even the low end of the 80 % interval exceeds what is left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from math import sqrt
from typing import Final

import msgspec

from router.alerts.events import Event
from router.alerts.thresholds import bucket_name, keep_ms, limit_of
from router.domain.budgets import BucketState, Budget, WindowKind
from router.domain.money import format_usd

KIND: Final = "budget_forecast"
Z: Final = 1.2816
"""Of the normal distribution: 80 % lie within, 10 % below."""
LEAST_BINS: Final = 12
"""Bins with which a forecast begins."""
LEAST_SHARE: Final = 0.1
"""Of the limit, spent: before that there is time."""
HOUR_MS: Final = 3_600_000
DAY: Final = 24
WEEK: Final = 168
"""Hours."""
LOOKED_BACK: Final = {DAY: 7, WEEK: 4}
"""Rounds that a profile is made of."""
FLOOR: Final = 0.05
"""Of the average: the least activity of an hour."""
CEILING: Final = 6.0
"""Its greatest."""
BUSY: Final = 6
"""A profile is trusted in full if at least one in so many hours has spend."""
_MINUTE: Final = 60_000
_SHAPES: Final[Mapping[WindowKind, tuple[int, int]]] = {
    "hour": (_MINUTE, 10 * _MINUTE),
    "day": (15 * _MINUTE, 4 * 60 * _MINUTE),
    "week": (60 * _MINUTE, 24 * 60 * _MINUTE),
    "month": (60 * _MINUTE, 24 * 60 * _MINUTE),
}
"""Length of a bin and half-life of its weight, ms, by window. Weeks and months: a day, so that the hours of the day even out."""


def shape_of(window: WindowKind) -> tuple[int, int] | None:
    """Length of a bin and half-life, ms; None for windows that no forecast fits, since they do not end."""
    return _SHAPES.get(window)


class Profile:
    """How busy each hour usually is, 1 on average: by the hour of the week once two weeks are known, by the hour of the day before."""

    def __init__(self, hours: Mapping[int, int], *, first_hour: int, now_hour: int) -> None:
        """`hours`: spend by hour since the Unix epoch, complete from `first_hour` up to `now_hour`."""
        known = now_hour - first_hour
        self._cycle = WEEK if known >= 2 * WEEK else DAY
        rounds = min(known // self._cycle, LOOKED_BACK[self._cycle])
        sums = [0] * self._cycle
        for hour in range(now_hour - rounds * self._cycle, now_hour):
            sums[hour % self._cycle] += hours.get(hour, 0)
        total, busy = sum(sums), sum(1 for each in sums if each > 0)
        # A few hours with spend are no habit. And one in which nothing was spent yet is not one in which nothing can be.
        trust = (1 - FLOOR) * min(1.0, BUSY * busy / self._cycle)
        self._activity = [min(CEILING, 1 - trust + trust * each * self._cycle / total) if total else 1.0 for each in sums]

    def at(self, at_ms: int) -> float:
        """The activity of the hour that a moment lies in."""
        return self._activity[at_ms // HOUR_MS % self._cycle]


class Burn(msgspec.Struct, array_like=True):
    """What one bucket spends by activity, exponentially weighted."""

    bin_ms: int
    half_life_ms: int
    bin: int
    """Number of the bin that is being filled, from the Unix epoch."""
    filling_nusd: int = 0
    bins: int = 0
    """Bins that were counted."""
    spent: float = 0.0
    """Weighted sums: of what was spent, of activity, of squared weights by activity, of squared distances by activity, of weights."""
    activity: float = 0.0
    activity_squares: float = 0.0
    squares: float = 0.0
    weight: float = 0.0

    def add(self, nusd: int, at_ms: int, profile: Profile | None = None) -> None:
        """Count what was spent. What comes late is counted in the bin that is being filled."""
        self.advance(at_ms, profile)
        self.filling_nusd += nusd

    def advance(self, now_ms: int, profile: Profile | None = None) -> None:
        """Close the bins that have ended. Without a profile, all hours are alike."""
        now = now_ms // self.bin_ms
        if now - self.bin > 20 * self.half_life_ms // self.bin_ms:
            # Nothing for so long: whatever was before says nothing of what is to come.
            self.bin, self.filling_nusd, self.bins = now, 0, 0
            self.spent = self.activity = self.activity_squares = self.squares = self.weight = 0.0
        while self.bin < now:
            self._close(self.filling_nusd, 1.0 if profile is None else profile.at(self.bin * self.bin_ms))
            self.bin += 1
            self.filling_nusd = 0

    def _close(self, nusd: int, activity: float) -> None:
        fade = 0.5 ** (self.bin_ms / self.half_life_ms)
        before = self.rate
        self.spent = self.spent * fade + nusd
        self.activity = self.activity * fade + activity
        self.activity_squares = self.activity_squares * fade * fade + activity
        self.weight = self.weight * fade + 1.0
        distance = (nusd - before * activity) * (nusd - self.rate * activity) if self.bins else 0.0
        self.squares = self.squares * fade + max(0.0, distance) / activity
        self.bins += 1

    @property
    def rate(self) -> float:
        """Nano-USD by activity: what a bin of an average hour spends."""
        return self.spent / self.activity if self.activity else 0.0

    def ahead(self, activity: float) -> tuple[float, float]:
        """Mean and standard deviation of what bins with so much activity together will bring, nano-USD."""
        if not self.weight:
            return 0.0, 0.0
        variance = self.squares / self.weight
        effective = self.activity * self.activity / self.activity_squares
        return activity * self.rate, sqrt(activity * variance + activity * activity * variance / max(1.0, effective))


@dataclass(frozen=True, slots=True)
class Forecast:
    """When a budget will be used up, Unix milliseconds; with 80 % probability between the earliest and the latest."""

    earliest_ms: int
    likely_ms: int
    latest_ms: int
    total_nusd: int
    """What will likely be asked for until the window ends, nano-USD; what is spent included."""


def forecast(burn: Burn, *, left_nusd: int, spent_nusd: int, now_ms: int, ends_ms: int, profile: Profile | None = None) -> Forecast | None:
    """The forecast, if the budget will most probably be used up before its window ends; else None."""
    if burn.bins < LEAST_BINS or burn.spent <= 0 or left_nusd <= 0:
        return None
    reached: list[int] = []
    activity = mean = 0.0
    for at_ms in range(now_ms, ends_ms, burn.bin_ms):
        activity += (1.0 if profile is None else profile.at(at_ms)) * min(1.0, (ends_ms - at_ms) / burn.bin_ms)
        mean, deviation = burn.ahead(activity)
        # The high end of the interval reaches what is left first, then the mean, then the low end.
        while len(reached) < 3 and mean + (Z, 0.0, -Z)[len(reached)] * deviation > left_nusd:
            reached.append(min(at_ms + burn.bin_ms, ends_ms))
    if len(reached) < 3:
        return None
    return Forecast(earliest_ms=reached[0], likely_ms=reached[1], latest_ms=reached[2], total_nusd=spent_nusd + int(mean))


def budget_forecast(state: BucketState, budget: Budget, burn: Burn, *, now_ms: int, profile: Profile | None = None) -> Event | None:
    """What to say of a bucket that will be used up too early."""
    limit = limit_of(state, budget)
    left = limit - state.spent_nusd
    if state.spent_nusd < LEAST_SHARE * limit:
        return None
    burn.advance(now_ms, profile)
    found = forecast(burn, left_nusd=left, spent_nusd=state.spent_nusd, now_ms=now_ms, ends_ms=state.ends_ms, profile=profile)
    if found is None:
        return None
    whose = f" ({state.scope})" if state.scope else ""
    rate = round(burn.rate * HOUR_MS / burn.bin_ms)
    return Event(
        kind=KIND,
        subject=f"Budget '{state.budget}'{whose} will be used up about {_clock(found.likely_ms)}, before {_clock(state.ends_ms)}",
        text=(
            f"{format_usd(state.spent_nusd)} of {format_usd(limit)} USD are spent, at present {format_usd(rate)} USD in an average hour."
            f" With 80 % probability it lasts until between {_clock(found.earliest_ms)} and {_clock(found.latest_ms)}."
        ),
        # A raised limit makes it another forecast.
        about=f"{bucket_name(state)}|{limit}",
        keep_ms=keep_ms(state, now_ms),
        fields={
            "budget": state.budget,
            "scope": state.scope,
            "window": state.window,
            "limit_nusd": limit,
            "spent_nusd": state.spent_nusd,
            "burn_nusd_per_hour": rate,
            "exhausted_at_ms": found.likely_ms,
            "exhausted_earliest_ms": found.earliest_ms,
            "exhausted_latest_ms": found.latest_ms,
            "expected_total_nusd": found.total_nusd,
            "resets_at_ms": state.ends_ms,
        },
    )


def _clock(at_ms: int) -> str:
    return f"{datetime.fromtimestamp(at_ms / 1000, UTC):%Y-%m-%dT%H:%MZ}"
