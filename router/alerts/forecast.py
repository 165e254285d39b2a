"""Whether a budget will be used up before its window ends: exponentially weighted burn rate, with an interval. Pure.

Spend is counted in bins. Mean and variance of a bin are exponentially weighted, so that the last hours count most. What
n more bins will bring has the mean n·m and the variance n·v + n²·v/e: that of the bins themselves, and that of the mean, which
is known from e effective bins only. A budget is told of when even the low end of the 80 % interval exceeds what is left.
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


class Burn(msgspec.Struct, array_like=True):
    """What one bucket spends in a bin, exponentially weighted."""

    bin_ms: int
    half_life_ms: int
    bin: int
    """Number of the bin that is being filled, from the Unix epoch."""
    filling_nusd: int = 0
    bins: int = 0
    """Bins that were counted."""
    mean: float = 0.0
    squares: float = 0.0
    """Weighted sum of squared distances from the mean."""
    weight: float = 0.0
    weight_squares: float = 0.0

    def add(self, nusd: int, at_ms: int) -> None:
        """Count what was spent. What comes late is counted in the bin that is being filled."""
        self.advance(at_ms)
        self.filling_nusd += nusd

    def advance(self, now_ms: int) -> None:
        """Close the bins that have ended."""
        now = now_ms // self.bin_ms
        if now - self.bin > 20 * self.half_life_ms // self.bin_ms:
            # Nothing for so long: whatever was before says nothing of what is to come.
            self.bin, self.filling_nusd, self.bins = now, 0, 0
            self.mean = self.squares = self.weight = self.weight_squares = 0.0
        while self.bin < now:
            self._close(self.filling_nusd)
            self.bin += 1
            self.filling_nusd = 0

    def _close(self, nusd: int) -> None:
        fade = 0.5 ** (self.bin_ms / self.half_life_ms)
        self.weight = self.weight * fade + 1.0
        self.weight_squares = self.weight_squares * fade * fade + 1.0
        distance = nusd - self.mean
        self.mean += distance / self.weight
        self.squares = self.squares * fade + distance * (nusd - self.mean)
        self.bins += 1

    @property
    def variance(self) -> float:
        """Of one bin, without bias."""
        free = self.weight - self.weight_squares / self.weight if self.weight else 0.0
        return self.squares / free if free > 0 else 0.0

    @property
    def effective_bins(self) -> float:
        """As many equally weighted bins would tell as much."""
        return self.weight * self.weight / self.weight_squares if self.weight_squares else 0.0

    def ahead(self, bins: float) -> tuple[float, float]:
        """Mean and standard deviation of what so many more bins will bring, nano-USD."""
        variance = self.variance
        return bins * self.mean, sqrt(bins * variance + bins * bins * variance / max(1.0, self.effective_bins))


@dataclass(frozen=True, slots=True)
class Forecast:
    """When a budget will be used up, Unix milliseconds; with 80 % probability between the earliest and the latest."""

    earliest_ms: int
    likely_ms: int
    latest_ms: int
    total_nusd: int
    """What will likely be asked for until the window ends, nano-USD; what is spent included."""


def forecast(burn: Burn, *, left_nusd: int, spent_nusd: int, now_ms: int, ends_ms: int) -> Forecast | None:
    """The forecast, if the budget will most probably be used up before its window ends; else None."""
    if burn.bins < LEAST_BINS or burn.mean <= 0 or left_nusd <= 0:
        return None
    bins = (ends_ms - now_ms) / burn.bin_ms
    mean, deviation = burn.ahead(bins)
    if mean - Z * deviation <= left_nusd:
        return None

    def moment(sign: float) -> int:
        low, high = 0.0, bins
        for _ in range(40):
            middle = (low + high) / 2
            expected, spread = burn.ahead(middle)
            low, high = (middle, high) if expected + sign * Z * spread < left_nusd else (low, middle)
        return now_ms + int(high * burn.bin_ms)

    return Forecast(earliest_ms=moment(1.0), likely_ms=moment(0.0), latest_ms=moment(-1.0), total_nusd=spent_nusd + int(mean))


def budget_forecast(state: BucketState, budget: Budget, burn: Burn, *, now_ms: int) -> Event | None:
    """What to say of a bucket that will be used up too early."""
    limit = limit_of(state, budget)
    left = limit - state.spent_nusd
    if state.spent_nusd < LEAST_SHARE * limit:
        return None
    burn.advance(now_ms)
    found = forecast(burn, left_nusd=left, spent_nusd=state.spent_nusd, now_ms=now_ms, ends_ms=state.ends_ms)
    if found is None:
        return None
    whose = f" ({state.scope})" if state.scope else ""
    rate = round(burn.mean * 3_600_000 / burn.bin_ms)
    return Event(
        kind=KIND,
        subject=f"Budget '{state.budget}'{whose} will be used up about {_clock(found.likely_ms)}, before {_clock(state.ends_ms)}",
        text=(
            f"{format_usd(state.spent_nusd)} of {format_usd(limit)} USD are spent, {format_usd(rate)} USD an hour at present."
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
