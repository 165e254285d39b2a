"""Books what calls come to at other prices: old records stay as they are, each difference is a record of its own."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

import msgspec

from router.books.reading import read_open
from router.books.rerate import Change, Rerating
from router.domain.controls import AuditEntry
from router.domain.money import format_usd
from router.domain.rerate import correction_of
from router.errors import ConfigError
from router.ports import Correction, Ledger

MOST_AT_ONCE: Final = 100
"""Corrections in one step of the store: bounds how long requests wait for it."""


async def apply(ledger: Ledger, rerating: Rerating, *, since_ms: int, who: str, reason: str) -> int:
    """Read the log from a moment on, compare, and book every difference. Returns how many.

    A run that is killed has booked some of them; the next one finds these in the log and books the rest. Two at once cannot
    book the same: the slower one is refused.

    Raises:
        ConfigError: somebody booked corrections meanwhile, or a record cannot be read.
        StoreUnavailable: the ledger does not answer.
    """
    corrections = ledger.corrections()
    # First this, then the log: what is booked from now on is either seen in the log or makes it another turn.
    turn = await corrections.turn()
    unreadable = await read_open(ledger, rerating.add, since_ms=since_ms)
    if unreadable:
        raise ConfigError(f"{unreadable} records cannot be read, and may be corrections: nothing was booked.")
    rerating.compare()
    changes = rerating.changes
    for at in range(0, len(changes), MOST_AT_ONCE):
        some = changes[at : at + MOST_AT_ONCE]
        now_ms = time.time_ns() // 1_000_000
        made = [_correction(change, now_ms) for change in some]
        if not await corrections.book(made, turn=turn, entry=_entry(some, who, reason)):
            raise ConfigError(f"Somebody else booked corrections meanwhile; {at} were booked here. Run it again: none is booked twice.")
        turn += 1
    return len(changes)


def _correction(change: Change, now_ms: int) -> Correction:
    record = change.record
    return Correction(
        attempt_id=record.attempt_id,
        by_nusd=change.by_nusd,
        at_ms=record.at_ms - record.duration_ms,
        buckets=tuple(record.buckets),
        record=msgspec.json.encode(correction_of(record, change.price, by_nusd=change.by_nusd, at_ms=now_ms)),
    )


def _entry(changes: Sequence[Change], who: str, reason: str) -> bytes:
    by = sum(change.by_nusd for change in changes)
    calls = f"{len(changes)} calls"
    return msgspec.json.encode(
        AuditEntry(
            who=who,
            via="command",
            action="ledger.rerate",
            target=calls,
            after=f"{'+' if by > 0 else ''}{format_usd(by)} USD",
            reason=reason,
        )
    )
