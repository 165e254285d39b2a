"""What both ledgers share: the checked edge, the wire form of a bucket set, the lines of the log as people read them."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec

from router.domain.budgets import NEVER_MS, REST, Bucket, BucketSet, Refusal
from router.domain.money import MAX_NUSD
from router.domain.windows import bucket_id, ends_unused, unit_of

KEEP_MS: Final = 40 * 86_400_000
"""How long the counters of a window are kept after its end."""
KEEP_INVENTED_MS: Final = 8 * 86_400_000
"""The same where clients make up the scope: longer than a swept attempt can still be corrected."""
IDLE_MS: Final = 7 * 86_400_000
"""After so long without use a session's window that never ends counts as ended."""
MOST_LEASES: Final = 3
"""A lease that ends after so many leases from now was written before the clock went back: it is cut to that."""
TOMBSTONE_MS: Final = 15 * 60_000
"""How long a settled or voided attempt is remembered, so that a second delivery does nothing."""
SWEPT_MS: Final = 7 * 86_400_000
"""How long a swept attempt is remembered, so that the late truth corrects the estimate."""
CLOSED: Final = "closed"
"""Outcome of a line that is no record: a bucket was forgotten, and its sums are taken back."""
AUDITOR_MS: Final = 180_000
"""How long a replica that compares counters and log keeps others from doing the same."""
DOUBT_ORPHAN: Final = "hold_lost"
"""`doubt` of a record whose hold the store did not know: it lost data, and the charge was booked all the same."""
SEPARATOR: Final = "\t"
"""Between bucket ids; cannot occur in one."""
is_attempt: Final = re.compile(r"[!-~]{1,128}").fullmatch
"""Whether an id can be part of a store key: printable ASCII without spaces."""


def machine_clock_ms() -> int:
    """Unix milliseconds by this machine's clock."""
    return time.time_ns() // 1_000_000


def checked_amount(amount_nusd: int) -> int:
    """The amount, if a counter can hold it.

    Raises:
        ValueError: not an integer, negative, or above 2^53 - 1.
    """
    if type(amount_nusd) is not int or not 0 <= amount_nusd <= MAX_NUSD:
        raise ValueError(f"{amount_nusd!r} is not an amount of nano-USD between 0 and {MAX_NUSD}")
    return amount_nusd


def checked_attempt(attempt_id: str) -> str:
    """The id, if it can be part of a store key.

    Raises:
        ValueError: empty, too long, or with characters other than printable ASCII without spaces.
    """
    if is_attempt(attempt_id) is None:
        raise ValueError(f"{attempt_id!r} is not an attempt id")
    return attempt_id


def split_ids(joined: str) -> list[str]:
    """The bucket ids in one string."""
    return joined.split(SEPARATOR) if joined else []


def in_unit(name: str, nusd: int, tokens: int, calls: int) -> int:
    """Of these amounts the one that the bucket with this id counts."""
    unit = unit_of(name)
    return nusd if unit == "usd" else tokens if unit == "tokens" else calls


def by_unit(name: str, spent: int, debt: int, tokens: int, tokens_debt: int, calls: int, calls_debt: int) -> tuple[int, int]:
    """Of these sums of the log the ones that the bucket with this id counts: spent, and owed. Calls under way leave no sum."""
    unit = unit_of(name)
    if unit == "usd":
        return spent, debt
    return (tokens, tokens_debt) if unit == "tokens" else (calls, calls_debt) if unit == "requests" else (0, 0)


def is_special(bucket: Bucket) -> bool:
    """Whether a bucket is not a plain one, and what is left in it is told with every hold."""
    return bucket.unit != "usd" or bucket.rolling_ms > 0 or bucket.shadow or bucket.carry_ppm > 0 or bucket.steers


@dataclass(frozen=True, slots=True)
class Plan:
    """What a bucket set comes to in a store."""

    buckets: tuple[Bucket, ...]
    """First those that are plain: nano-USD in a window that does not roll, not on trial, with nothing carried over, without steps."""
    plain: int
    """How many of them are."""
    ids: tuple[str, ...]
    joined: str
    """All ids in one string."""
    starts_ms: int
    """The latest begin of all windows."""
    ends_ms: int
    """The earliest end of all windows."""
    bounded: tuple[int, ...]
    """Places of buckets of which there may be only so many."""
    idle: tuple[int, ...]
    """Places of buckets whose window ends when they were not used for long."""


def crowded(bucket: Bucket) -> Refusal:
    """The refusal of a bucket that would be one scope too many."""
    return Refusal(bucket=bucket, limit_nusd=bucket.max_scopes, spent_nusd=0, held_nusd=0, needed_nusd=1, crowded=True)


def share_rest(bucket: Bucket, buckets: BucketSet) -> None:
    """Plan a set anew: this one of its buckets came too late, and counts in the scope that all such share."""
    names = [part.partition("=")[0] for part in bucket.scope.split("&")]
    rest = replace(bucket, scope="&".join([f"{name}={REST}" for name in names]), max_scopes=0)
    del buckets.encoded["plan"]
    buckets.encoded["plan"] = _plan([rest if b == bucket else b for b in buckets.encoded.get("members", buckets.buckets)], buckets)


def plan(buckets: BucketSet) -> Plan:
    """The plan of a set, made once and kept with it."""
    made: Plan | None = buckets.encoded.get("plan")
    if made is None:
        made = buckets.encoded["plan"] = _plan(buckets.buckets, buckets)
    return made


def _plan(given: Sequence[Bucket], buckets: BucketSet) -> Plan:
    buckets.encoded["members"] = given
    members = tuple(sorted(given, key=is_special))
    ids = tuple(bucket_id(b) for b in members)
    return Plan(
        buckets=members,
        plain=sum(not is_special(b) for b in members),
        ids=ids,
        joined=SEPARATOR.join(ids),
        starts_ms=max((b.starts_ms for b in members), default=0),
        ends_ms=min((b.ends_ms for b in members), default=NEVER_MS),
        bounded=tuple(i for i, b in enumerate(members) if b.max_scopes),
        idle=tuple(i for i, name in enumerate(ids) if ends_unused(name) and not members[i].rolling_ms),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of the log as a store keeps it."""

    at_ms: int
    attempt_id: str
    outcome: str
    """Empty: as in the record. `swept`, `corrected`, `orphan`: what the store knows better."""
    spent_nusd: int
    """What the line added to `spent` of every bucket; negative for some corrections."""
    debt_nusd: int
    """What the line added to `debt` of every bucket."""
    held_nusd: int
    """The hold that it ended."""
    joined: str
    """Bucket ids."""
    record: bytes
    """The record as it was handed in, or the note of a hold."""

    @property
    def bucket_ids(self) -> list[str]:
        """The buckets that the line was booked in."""
        return split_ids(self.joined)


def present(entry: Entry) -> bytes:
    """The spend record that people read: what was handed in, with what the store knows better."""
    if not entry.outcome and b'"buckets":[' in entry.record:
        return entry.record
    fields = _fields(entry.record)
    fields.setdefault("attempt_id", entry.attempt_id)
    fields.setdefault("request_id", "")
    fields.setdefault("at_ms", entry.at_ms)
    if entry.bucket_ids:
        fields["buckets"] = entry.bucket_ids
    if entry.outcome in ("swept", "corrected"):
        fields["outcome"] = entry.outcome
        fields["at_ms"] = entry.at_ms
        fields["charge_nusd"] = entry.spent_nusd
        fields["hold_nusd"] = entry.held_nusd
        fields["overrun_nusd"] = max(0, entry.debt_nusd)
    if entry.outcome == "swept":
        fields["evidence"] = "estimated"
        fields.setdefault("doubt", "replica_lost")
    if entry.outcome == "orphan":
        fields["doubt"] = fields.get("doubt") or DOUBT_ORPHAN
        fields["overrun_nusd"] = max(0, entry.debt_nusd)
    return msgspec.json.encode(fields)


def _fields(record: bytes) -> dict[str, Any]:
    """The members of a record or note; none if it is empty or not an object."""
    try:
        decoded = msgspec.json.decode(record) if record else {}
    except msgspec.DecodeError:
        return {}
    return decoded if isinstance(decoded, dict) else {}
