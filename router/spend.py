"""What was spent, from the records of the ledger: pure sums, exact to the nano-dollar."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from types import MappingProxyType
from typing import Final

from router.domain.records import SpendRecord
from router.domain.rerate import REASON as RERATED

Dimension = Callable[[SpendRecord, tzinfo], str]


def _by_time(form: str) -> Dimension:
    return lambda record, zone: datetime.fromtimestamp(record.at_ms / 1000, tz=zone).strftime(form)


TIMES: Final = ("hour", "day", "week", "month")
"""What the rows are in the order of, if split by one of them."""
DIMENSIONS: Final[Mapping[str, Dimension]] = MappingProxyType(
    {
        "day": _by_time("%Y-%m-%d"),
        "team": lambda record, _: record.team,
        "model": lambda record, _: record.model,
        "route": lambda record, _: record.route,
        "deployment": lambda record, _: record.deployment,
        "provider": lambda record, _: record.provider,
        "key": lambda record, _: record.key_id,
        "user": lambda record, _: record.user,
        "hour": _by_time("%Y-%m-%dT%H:00"),
        "week": _by_time("%G-W%V"),
        "month": _by_time("%Y-%m"),
        "org": lambda record, _: record.org,
        "session": lambda record, _: record.session,
        "rule": lambda record, _: record.rule,
        "outcome": lambda record, _: record.outcome,
        "operation": lambda record, _: record.operation,
    }
)
"""What the table can be split by, beside `tag:NAME`."""
TAG: Final = "tag:"

_AGO: Final = re.compile(r"(\d{1,5})\s*([hdw])")
_AGO_UNIT: Final = {"h": "hours", "d": "days", "w": "weeks"}
_FIRST: Final = datetime(1970, 1, 2, tzinfo=UTC)
_LAST: Final = datetime(9999, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class Sums:
    """One row: what all records of a group come to."""

    calls: int = 0
    """Calls to providers that were charged or refused; retries and fallbacks are calls of their own."""
    input_tokens: int = 0
    """All input tokens, cached ones included."""
    cached_tokens: int = 0
    """The part of `input_tokens` that came from the provider's cache."""
    output_tokens: int = 0
    charge_nusd: int = 0
    avoided_nusd: int | None = None
    """Cost on the baseline less the charge, negative if it was dearer; None if no record has a baseline. An estimate: the
    baseline is charged for the tokens that another model used."""
    estimated_nusd: int = 0
    """The part of `charge_nusd` that is not from the provider's own count."""
    requests: set[str] = field(default_factory=set)
    """Ids of the requests that the calls belong to."""

    @property
    def estimated_share(self) -> float | None:
        """The part of the charge that is estimated, 0 to 1; None if nothing was charged."""
        return self.estimated_nusd / self.charge_nusd if self.charge_nusd > 0 else None


@dataclass(slots=True)
class Report:
    """Sums by group and over all, filled record by record.

    The charges of all records add up to what the ledger's counters say: a call that was charged by a sweep and
    answered for later has two records, the second one with the difference, which may be negative.
    """

    by: tuple[str, ...]
    zone: tzinfo = UTC
    only: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Records that count: the value of each dimension here is one of these."""
    rows: dict[tuple[str, ...], Sums] = field(default_factory=dict)
    total: Sums = field(default_factory=Sums)
    unreadable: int = 0
    """Records that are not of a form this release knows."""
    _swept: dict[str, tuple[int, tuple[str, ...]]] = field(default_factory=dict)
    """Charge and group of swept attempts, until the truth about them comes."""

    def add(self, record: SpendRecord) -> None:
        """Count one record."""
        if any(dimension(name)(record, self.zone) not in wanted for name, wanted in self.only.items()):
            return
        group = tuple([dimension(name)(record, self.zone) for name in self.by])
        swept = self._swept.pop(record.attempt_id, None) if record.outcome == "corrected" else None
        if record.outcome == "swept":
            self._swept[record.attempt_id] = (record.charge_nusd, group)
        charged = record.charge_nusd + (swept[0] if swept else 0)
        for sums in (self.rows.setdefault(group, Sums()), self.total):
            _add(sums, record, charged, known_sweep=swept is not None)
        if swept is not None:
            # The whole charge is now known as well as the late record knows it: the sweep's guess is no longer one.
            for sums in (self.rows[swept[1]], self.total):
                sums.estimated_nusd -= swept[0]

    def sorted_rows(self) -> list[tuple[tuple[str, ...], Sums]]:
        """Days, hours, weeks, months in order; what is not split by time, the dearest first."""
        keyed = sorted(self.rows.items(), key=lambda item: (-item[1].charge_nusd, item[0]))
        times = [self.by.index(name) for name in self.by if name in TIMES]
        if times:
            keyed.sort(key=lambda item: [item[0][index] for index in times])
        return keyed


def _add(sums: Sums, record: SpendRecord, charged: int, *, known_sweep: bool) -> None:
    if record.outcome != "corrected":
        sums.calls += 1
        sums.requests.add(record.request_id or record.attempt_id)
    sums.input_tokens += record.input_tokens
    sums.cached_tokens += record.cache_read_tokens
    sums.output_tokens += record.output_tokens
    sums.charge_nusd += record.charge_nusd
    # Of a late truth whose sweep lies outside the report, the whole charge is not known here.
    if record.baseline_nusd is not None and (record.outcome != "corrected" or known_sweep or record.reason == RERATED):
        sums.avoided_nusd = (sums.avoided_nusd or 0) + record.baseline_nusd - charged
    if record.evidence != "exact":
        sums.estimated_nusd += charged


def parse_moment(text: str, *, now: datetime, zone: tzinfo) -> datetime:
    """Read `7d`, `24h`, `2w` (that long ago), `2026-11-01` or `2026-11-01T14:00` (in `zone` unless it says otherwise).

    What lies before 1970 or after 9998 is moved to a moment close to it: there are no records, and stores and calendars end.

    Raises:
        ValueError: none of these.
    """
    ago = _AGO.fullmatch(text.strip().lower())
    if ago:
        return _within(now - timedelta(**{_AGO_UNIT[ago[2]]: int(ago[1])}))
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ValueError(f"{text!r} is not a moment: write 7d, 24h, 2026-11-01 or 2026-11-01T14:00") from None
    return _within(moment if moment.tzinfo is not None else moment.replace(tzinfo=zone))


def _within(moment: datetime) -> datetime:
    return min(max(moment, _FIRST), _LAST)


def dimension(name: str) -> Dimension:
    """How a record is classed by this name: a member of `DIMENSIONS`, or `tag:NAME`.

    Raises:
        ValueError: it is neither.
    """
    known = DIMENSIONS.get(name)
    if known is not None:
        return known
    tag = name.removeprefix(TAG)
    if tag == name or not tag:
        raise ValueError(f"{name!r} is not something to split by: use {', '.join(DIMENSIONS)}, or tag:NAME")
    return lambda record, _: record.tags.get(tag, "")


def parse_dimensions(text: str) -> tuple[str, ...]:
    """Read `day,team,tag:project`.

    Raises:
        ValueError: a name that is no dimension, or the same one twice.
    """
    names: Sequence[str] = [_plain(name) for name in text.split(",") if name.strip()]
    for name in names:
        dimension(name)
    if not names or len(set(names)) != len(names):
        raise ValueError(f"{text!r}: name each of {', '.join(DIMENSIONS)}, tag:NAME at most once, and at least one")
    return tuple(names)


def _plain(name: str) -> str:
    name = name.strip()
    # The name of a tag is as its client wrote it.
    return name if name.startswith(TAG) else name.lower()


def parse_filters(texts: Sequence[str]) -> dict[str, frozenset[str]]:
    """Read `team=search`, `tag:project=x`; values of one name are alternatives. An empty value: records without one.

    Raises:
        ValueError: no `=`, or a name that is no dimension.
    """
    found: dict[str, set[str]] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"{text!r} is not a filter: write team=search or tag:project=x")
        name = _plain(name)
        dimension(name)
        found.setdefault(name, set()).add(value)
    return {name: frozenset(values) for name, values in found.items()}


def printable(text: str) -> str:
    """A name as it may stand on a terminal: names come from clients and may hold escape sequences."""
    return "".join(char if char.isprintable() else "?" for char in text)[:128]
