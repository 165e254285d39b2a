"""Records of a ledger, one after the other, for commands."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Final

import msgspec

from router.domain.feedback import Feedback, latest
from router.domain.records import SpendRecord
from router.errors import ConfigError, StoreUnavailable
from router.ports import Ledger

LEASE_SECONDS: Final = 20.0
TIMEOUT_SECONDS: Final = 10.0
"""A report may take long; the store answers it page by page."""


def each_record(ledger: Ledger, take: Callable[[SpendRecord], None], *, since_ms: int = 0, until_ms: int | None = None) -> int:
    """Open the ledger, hand every record of a span to `take`, in the order they were written. Returns how many could not be read.

    Raises:
        ConfigError: the store cannot be read.
    """
    try:
        return asyncio.run(_read(ledger, take, since_ms=since_ms, until_ms=until_ms))
    except StoreUnavailable as error:
        raise ConfigError(f"The ledger cannot be read: {error}") from None


def read_feedback(ledger: Ledger, *, since_ms: int = 0) -> dict[tuple[str, str], Feedback]:
    """What clients said of answers from then on, by request and key.

    Raises:
        ConfigError: the store cannot be read.
    """
    try:
        return latest(asyncio.run(_feedback(ledger, since_ms)))
    except StoreUnavailable as error:
        raise ConfigError(f"The ledger cannot be read: {error}") from None


async def _feedback(ledger: Ledger, since_ms: int) -> list[Feedback]:
    await ledger.open(replica_id=f"books-{secrets.token_hex(6)}", lease_seconds=LEASE_SECONDS)
    try:
        found = [given async for given in ledger.feedback_store().all(since_ms=since_ms)]
        await ledger.release()
    finally:
        await ledger.close()
    return found


async def _read(ledger: Ledger, take: Callable[[SpendRecord], None], *, since_ms: int, until_ms: int | None) -> int:
    await ledger.open(replica_id=f"books-{secrets.token_hex(6)}", lease_seconds=LEASE_SECONDS)
    try:
        unreadable = await read_open(ledger, take, since_ms=since_ms, until_ms=until_ms)
        await ledger.release()
    finally:
        await ledger.close()
    return unreadable


async def read_open(ledger: Ledger, take: Callable[[SpendRecord], None], *, since_ms: int = 0, until_ms: int | None = None) -> int:
    """`each_record` for a ledger that is open. Raises `StoreUnavailable`."""
    decoder = msgspec.json.Decoder(SpendRecord)
    unreadable = 0
    async for line in ledger.records(since_ms=since_ms, until_ms=until_ms):
        try:
            record = decoder.decode(line)
        except msgspec.DecodeError:
            unreadable += 1
        else:
            take(record)
    return unreadable
