"""Takes what is new in the log into a table elsewhere."""

from __future__ import annotations

import asyncio
import hashlib

import msgspec

from router.books.export import steps
from router.books.postgres import Table
from router.errors import ConfigError, StoreUnavailable
from router.ports import Ledger

SCHEMES = ("postgresql://", "postgres://")


class Taken(msgspec.Struct, kw_only=True):
    """What one run did."""

    records: int = 0
    """Read of the log."""
    new: int = 0
    """Of these, not in the table before."""
    unreadable: int = 0


def ledger_hash(store: str) -> str:
    """Tells ledgers apart without their passwords."""
    return hashlib.sha256(store.rpartition("@")[2].encode()).hexdigest()[:16]


def sink(ledger: Ledger, store: str, address: str, *, schema: str = "faregate", name: str = "sink", since_ms: int = 0) -> Taken:
    """Take in what is new since the last run. `since_ms` counts for the first one.

    A ledger that was restored from a backup, or made anew, is read from its beginning: what the table has already is not taken twice.

    `ledger` is the one at `store`, not open yet. The cursor is in the database, in the transaction of the records; `name` is told
    to the ledger afterwards, which may keep its log until then.

    Raises:
        ConfigError: the store or the database cannot be used.
    """
    if not address.startswith(SCHEMES):
        raise ConfigError("A sink is an address like postgresql://user@host/database.")
    try:
        return asyncio.run(_sink(ledger, store, address, schema, name, since_ms))
    except StoreUnavailable as error:
        raise ConfigError(f"The ledger cannot be read: {error}") from None


async def _sink(ledger: Ledger, store: str, address: str, schema: str, name: str, since_ms: int) -> Taken:
    done = Taken()
    async with Table(address, schema, ledger_hash(store)) as table:
        at = await table.position()
        async for records, unreadable, position in steps(ledger, at, since_ms, name=name, again=True):
            done.new += await table.write(records, after=at, position=position)
            at = position
            done.records += len(records)
            done.unreadable += unreadable
    return done
