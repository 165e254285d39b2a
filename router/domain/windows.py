"""From budgets to buckets: which window of which budget, for which scope, an attempt falls under."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final
from urllib.parse import unquote
from zoneinfo import ZoneInfo

from router.domain.budgets import NEVER_MS, Bucket, BucketSet, Budget, Unit, WindowKind

MAX_SCOPE_LENGTH: Final = 128
"""Characters of a scope value in a store key, after escaping."""
_DIGEST_LENGTH: Final = 32
_KEPT_AS_IS: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:@/+, ~#")


def window_at(kind: WindowKind, timezone: str, now_ms: int) -> tuple[str, int, int]:
    """The calendar window that `now_ms` lies in: its label, first millisecond, first millisecond after it.

    Windows begin by the wall clock of the time zone. Where clocks are put back, the hour that occurs twice is
    one window of two hours; where they are put forward, the hour that is left out has no window.

    Raises:
        zoneinfo.ZoneInfoNotFoundError: no such time zone.
    """
    if kind in ("lifetime", "rolling"):
        return "all", 0, NEVER_MS
    if kind == "minute":
        # No zone in use is off by part of a minute, and no clock is changed within one.
        begin_ms = now_ms - now_ms % 60_000
        begin = datetime.fromtimestamp(begin_ms / 1000, tz=ZoneInfo(timezone))
        return begin.strftime("%Y-%m-%dT%H:%M%z"), begin_ms, begin_ms + 60_000
    zone = ZoneInfo(timezone)
    local = datetime.fromtimestamp(now_ms / 1000, tz=zone).replace(tzinfo=None, fold=0, minute=0, second=0, microsecond=0)
    label, begin, end = _wall_window(kind, local)
    # Should a zone put its clocks back over a window's edge, the window that holds `now_ms` is still one that contains it.
    return label, min(_instant_ms(begin, zone), now_ms), max(_instant_ms(end, zone), now_ms + 1)


def _wall_window(kind: WindowKind, hour: datetime) -> tuple[str, datetime, datetime]:
    """The label, begin and end of a window, as wall clock times."""
    if kind == "hour":
        return hour.strftime("%Y-%m-%dT%H"), hour, hour + timedelta(hours=1)
    day = hour.replace(hour=0)
    if kind == "day":
        return day.strftime("%Y-%m-%d"), day, day + timedelta(days=1)
    if kind == "week":
        year, week, weekday = day.isocalendar()
        begin = day - timedelta(days=weekday - 1)
        return f"{year:04}-W{week:02}", begin, begin + timedelta(days=7)
    begin = day.replace(day=1)
    return begin.strftime("%Y-%m"), begin, (begin + timedelta(days=32)).replace(day=1)


def _instant_ms(wall: datetime, zone: ZoneInfo) -> int:
    """Unix milliseconds of a wall clock time: the first of two; the moment of the change if it never occurs."""
    return round(wall.replace(tzinfo=zone).timestamp()) * 1000


@lru_cache(maxsize=65536)
def escape_scope(value: str) -> str:
    """Make a name that a client may have invented fit for a store key.

    Everything but plain characters is percent-encoded, so that separators and control characters cannot occur and
    different values stay different. Values too long are cut and told apart by a hash.
    """
    text = "".join(c if c in _KEPT_AS_IS else "".join(f"%{b:02X}" for b in c.encode("utf-8", "surrogatepass")) for c in value)
    if len(text) <= MAX_SCOPE_LENGTH:
        return text
    digest = hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST_LENGTH]
    return f"{text[: MAX_SCOPE_LENGTH - _DIGEST_LENGTH - 1]}~{digest}"


SLOTS: Final = 60
"""A rolling window is counted in so many slots of time."""
_UNIT_MARKS: Final[dict[Unit, str]] = {"usd": "", "tokens": "~t", "requests": "~r", "concurrent": "~c"}
_UNITS: Final[dict[str, Unit]] = {mark: unit for unit, mark in _UNIT_MARKS.items() if mark}


def budget_of(bucket_name: str) -> str:
    """The budget's name in a bucket id."""
    return unquote(bucket_name.split("|", 1)[0])


def bucket_id(bucket: Bucket) -> str:
    """`budget|scope|window`: how the books name a bucket. What does not count USD ends in `~` and a letter for its unit."""
    return f"{escape_scope(bucket.budget)}|{bucket.scope}|{bucket.window}{_UNIT_MARKS[bucket.unit]}"


def unit_of(bucket_name: str) -> Unit:
    """What the bucket with this id counts."""
    return _UNITS.get(bucket_name[-2:], "usd")


def window_of(bucket_name: str) -> str:
    """The window in a bucket id."""
    label = bucket_name.rpartition("|")[2]
    return label[:-2] if label[-2:] in _UNITS else label


def is_invented(scope: str) -> bool:
    """Whether clients can make up values of a scope as they like: users, sessions, tags."""
    return "user=" in scope or "session=" in scope or "tag:" in scope


def ends_unused(bucket_name: str) -> bool:
    """Whether the bucket with this id is forgotten once it was not used for long, and its id may come again."""
    _, scope, label = bucket_name.split("|")
    return label.startswith("last-") or (label[:3] == "all" and "session=" in scope)


def rolling_of(bucket_name: str) -> int:
    """Length of a rolling window by the bucket's id, ms; 0 if its window is of another kind."""
    label = window_of(bucket_name)
    return int(label[5:-1]) * 1000 if label.startswith("last-") else 0


def slot_ms(rolling_ms: int) -> int:
    """Length of a slot of a rolling window: sixty of them cover it at any moment."""
    return -(-rolling_ms // (SLOTS - 1))


def _scope(budget: Budget, dims: Mapping[str, str], tags: Mapping[str, str]) -> str:
    """The scope of an attempt that the budget applies to: `team=search`, with several dimensions joined by `&`."""
    return "&".join([f"{escape_scope(name)}={escape_scope(_value(name, dims, tags) or '')}" for name in budget.dimensions])


def _value(name: str, dims: Mapping[str, str], tags: Mapping[str, str]) -> str | None:
    return tags.get(name[4:]) if name.startswith("tag:") else dims.get(name)


def applies(budget: Budget, *, dims: Mapping[str, str], tags: Mapping[str, str]) -> bool:
    """Whether an attempt falls under a budget.

    Every condition must hold. A budget that is split by a dimension does not apply to a request that lacks it.
    """
    for name in budget.dimensions:
        if not _value(name, dims, tags):
            return False
    for name, accepted in budget.when:
        value = _value(name, dims, tags)
        if value is None or value not in accepted:
            return False
    return budget.condition is None or budget.condition.holds(dims, tags)


def scope_of(budget: Budget, *, dims: Mapping[str, str], tags: Mapping[str, str]) -> str | None:
    """The scope of the bucket that an attempt falls under; None if the budget does not apply to it."""
    if not applies(budget, dims=dims, tags=tags):
        return None
    return "" if budget.each is None else _scope(budget, dims, tags)


def bucket_at(budget: Budget, scope: str, now_ms: int) -> Bucket:
    """The bucket of a budget for this scope at this moment."""
    label, starts_ms, ends_ms = window_at(budget.window, budget.timezone, now_ms)
    if budget.rolling_ms:
        label = f"last-{budget.rolling_ms // 1000}s"
    return Bucket(
        budget=budget.name,
        scope=scope,
        window=label,
        starts_ms=starts_ms,
        ends_ms=ends_ms,
        # Until the store knows this ledger's share, it has none.
        limit_nusd=0 if budget.shared else budget.limit_nusd,
        hard=budget.hard,
        unit=budget.unit,
        shadow=budget.shadow,
        rolling_ms=budget.rolling_ms,
        before=window_at(budget.window, budget.timezone, starts_ms - 1)[0] if budget.carry_ppm and starts_ms else "",
        carry_ppm=budget.carry_ppm,
        max_scopes=budget.max_scopes if any(is_invented(f"{name}=") for name in budget.dimensions) else 0,
        # What never refuses for its limit does not refuse for the number of its scopes either.
        shares_rest=budget.beyond == "other" or not budget.hard or budget.shadow,
        steers=bool(budget.steps) or budget.watched,
    )


def bucket_set(budgets: Sequence[Budget], *, dims: Mapping[str, str], tags: Mapping[str, str], now_ms: int) -> BucketSet:
    """All buckets that an attempt falls under at `now_ms`, in the order of the budgets.

    `dims` holds org, team, key, user, session, route, model and provider; what is absent or empty matches nothing.
    """
    buckets: list[Bucket] = []
    for budget in budgets:
        if not applies(budget, dims=dims, tags=tags):
            continue
        buckets.append(bucket_at(budget, "" if budget.each is None else _scope(budget, dims, tags), now_ms))
    return BucketSet(buckets=tuple(buckets), valid_until_ms=min((b.ends_ms for b in buckets), default=NEVER_MS))
