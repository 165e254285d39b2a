"""What was spent, from the records of the ledger: pure sums, exact to the nano-dollar."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from types import MappingProxyType
from typing import Final

from router.domain.records import SpendRecord

DIMENSIONS: Final[Mapping[str, Callable[[SpendRecord, tzinfo], str]]] = MappingProxyType(
    {
        "day": lambda record, zone: datetime.fromtimestamp(record.at_ms / 1000, tz=zone).strftime("%Y-%m-%d"),
        "team": lambda record, _: record.team,
        "model": lambda record, _: record.model,
        "route": lambda record, _: record.route,
        "deployment": lambda record, _: record.deployment,
        "provider": lambda record, _: record.provider,
        "key": lambda record, _: record.key_id,
        "user": lambda record, _: record.user,
    }
)
"""What the table can be split by."""

_AGO: Final = re.compile(r"(\d{1,5})\s*([hdw])")
_AGO_UNIT: Final = {"h": "hours", "d": "days", "w": "weeks"}


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
    """Cost on the baseline less the charge, negative if it was dearer; None if no record has a baseline."""
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
    rows: dict[tuple[str, ...], Sums] = field(default_factory=dict)
    total: Sums = field(default_factory=Sums)
    unreadable: int = 0
    """Records that are not of a form this release knows."""
    _swept: dict[str, tuple[int, tuple[str, ...]]] = field(default_factory=dict)
    """Charge and group of swept attempts, until the truth about them comes."""

    def add(self, record: SpendRecord) -> None:
        """Count one record."""
        group = tuple([DIMENSIONS[name](record, self.zone) for name in self.by])
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
        """Days in order; what is not split by day, the dearest first."""
        keyed = sorted(self.rows.items(), key=lambda item: (-item[1].charge_nusd, item[0]))
        if "day" in self.by:
            keyed.sort(key=lambda item: item[0][self.by.index("day")])
        return keyed


def _add(sums: Sums, record: SpendRecord, charged: int, *, known_sweep: bool) -> None:
    if record.outcome != "corrected":
        sums.calls += 1
        sums.requests.add(record.request_id or record.attempt_id)
    sums.input_tokens += record.input_tokens
    sums.cached_tokens += record.cache_read_tokens
    sums.output_tokens += record.output_tokens
    sums.charge_nusd += record.charge_nusd
    # Of a correction whose sweep lies outside the report, the whole charge is not known here.
    if record.baseline_nusd is not None and (record.outcome != "corrected" or known_sweep):
        sums.avoided_nusd = (sums.avoided_nusd or 0) + record.baseline_nusd - charged
    if record.evidence != "exact":
        sums.estimated_nusd += charged


def parse_moment(text: str, *, now: datetime, zone: tzinfo) -> datetime:
    """Read `7d`, `24h`, `2w` (that long ago), `2026-11-01` or `2026-11-01T14:00` (in `zone` unless it says otherwise).

    Raises:
        ValueError: none of these.
    """
    ago = _AGO.fullmatch(text.strip().lower())
    if ago:
        return now - timedelta(**{_AGO_UNIT[ago[2]]: int(ago[1])})
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ValueError(f"{text!r} is not a moment: write 7d, 24h, 2026-11-01 or 2026-11-01T14:00") from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=zone)


def parse_dimensions(text: str) -> tuple[str, ...]:
    """Read `day,team`.

    Raises:
        ValueError: a name that is not in `DIMENSIONS`, or the same one twice.
    """
    names: Sequence[str] = [name.strip().lower() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in DIMENSIONS:
            raise ValueError(f"{name!r} is not something to split by: use {', '.join(DIMENSIONS)}")
    if not names or len(set(names)) != len(names):
        raise ValueError(f"{text!r}: name each of {', '.join(DIMENSIONS)} at most once, and at least one")
    return tuple(names)
