"""Whether more is spent in this hour than is usual for this hour of the week. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from statistics import median
from typing import Final

from router.alerts.events import Event
from router.domain.money import format_usd

KIND: Final = "spend_anomaly"
HOUR_MS: Final = 3_600_000
WEEK_HOURS: Final = 168
WEEKS: Final = 8
"""Weeks that are looked back."""
SIGMA: Final = 1.4826
"""Standard deviation of a normal distribution by its median absolute deviation."""
LEAST_SPREAD: Final = 0.1
"""Of the median: hours that were all alike must not make every cent an anomaly."""


def usual(hours: Mapping[int, int], *, hour: int, first_hour: int) -> list[int]:
    """What was spent in the same hour of the weeks before, nano-USD. Hours since `first_hour` of which nothing is known spent nothing."""
    past = (hour - week * WEEK_HOURS for week in range(1, WEEKS + 1))
    return [hours.get(each, 0) for each in past if each >= first_hour]


def ceiling(samples: list[int], *, factor: float, least_nusd: int) -> int:
    """From where on an hour's spend is unusual: the median and `factor` robust standard deviations, at least `least_nusd` more."""
    middle = median(samples)
    spread = SIGMA * median(abs(each - middle) for each in samples)
    return int(middle + max(factor * max(spread, LEAST_SPREAD * middle), least_nusd))


def anomaly(
    name: str, hours: Mapping[int, int], *, now_ms: int, first_hour: int, least_samples: int, factor: float, least_nusd: int
) -> Event | None:
    """What to say if this hour is unusual already; None if it is not, or too little is known. Empty `name`: all spend."""
    hour = now_ms // HOUR_MS
    spent = hours.get(hour, 0)
    samples = usual(hours, hour=hour, first_hour=first_hour)
    if len(samples) < least_samples:
        return None
    limit = ceiling(samples, factor=factor, least_nusd=least_nusd)
    if spent <= limit:
        return None
    begun = datetime.fromtimestamp(hour * HOUR_MS / 1000, UTC)
    whose = f"Team '{name}'" if name else "All together"
    typical = round(median(samples))
    return Event(
        kind=KIND,
        subject=f"{whose} spent {format_usd(spent)} USD since {begun:%H:%MZ}; usual for this hour are {format_usd(typical)} USD",
        text=(
            f"Median of the same hour of {len(samples)} weeks; from {format_usd(limit)} USD on it is unusual."
            " `faregate spend --by key` tells who spends it."
        ),
        about=f"{name}|{hour}",
        keep_ms=2 * HOUR_MS,
        fields={
            "team": name,
            "hour_ms": hour * HOUR_MS,
            "spent_nusd": spent,
            "usual_nusd": typical,
            "ceiling_nusd": limit,
            "weeks": len(samples),
        },
    )
