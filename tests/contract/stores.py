"""The stores that the contract suite runs over, and what a test may do to them from outside."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from router.adapters.entries import machine_clock_ms
from router.adapters.redis.address import parse_url
from router.adapters.redis.keys import counter_fields, lease_field
from router.adapters.redis.ledger import RedisLedger
from router.adapters.redis.scripts import command
from router.adapters.redis.wire import Wire
from router.adapters.sqlite.ledger import SqliteLedger
from router.domain.budgets import NEVER_MS, Bucket, BucketSet, Reservation, Unit
from router.domain.windows import SLOTS, rolling_of, slot_ms
from router.ports import Ledger

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


class Store(Protocol):
    """One set of books, with as many replicas as a test opens."""

    async def replica(self, name: str, *, lease_seconds: float = 20) -> Ledger: ...

    async def clock_went_back(self, name: str) -> None:
        """Let the lease of a replica end in a day: it was renewed before the clock was corrected."""
        ...

    async def now_ms(self) -> int:
        """The store's clock."""
        ...

    async def crash(self, name: str) -> None:
        """Let the lease of a replica run out, as if it had stopped to renew it."""
        ...

    async def tamper(self, bucket_id: str, by: int) -> None:
        """Change what a bucket says was spent, past the ledger."""
        ...

    async def pass_time(self, bucket_id: str, slots: int) -> None:
        """Let time pass for a bucket whose window rolls, and for all open holds."""
        ...

    async def forget(self, bucket_id: str) -> None:
        """Make a bucket so old that the next sweep drops it."""
        ...

    async def close(self) -> None: ...


class _Replicas:
    def __init__(self) -> None:
        self._open: list[Ledger] = []

    async def _opened(self, ledger: Ledger, name: str, lease_seconds: float) -> Ledger:
        await ledger.open(replica_id=name, lease_seconds=lease_seconds)
        self._open.append(ledger)
        return ledger

    async def close(self) -> None:
        for ledger in self._open:
            await ledger.close()


class SqliteStore(_Replicas):
    """A ledger file; every replica has a writer of its own, as processes have."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._path = str(folder / "ledger.sqlite")
        self.clock_ms = machine_clock_ms()

    async def replica(self, name: str, *, lease_seconds: float = 20) -> Ledger:
        return await self._opened(SqliteLedger(self._path, clock_ms=lambda: self.clock_ms), name, lease_seconds)

    async def clock_went_back(self, name: str) -> None:
        with contextlib.closing(sqlite3.connect(self._path, timeout=5)) as connection, connection:
            connection.execute("UPDATE lease SET until_ms=? WHERE replica=?", (self.clock_ms + DAY_MS, name))

    async def now_ms(self) -> int:
        return self.clock_ms

    async def crash(self, name: str) -> None:
        with contextlib.closing(sqlite3.connect(self._path, timeout=5)) as connection, connection:
            connection.execute("UPDATE lease SET until_ms=0 WHERE replica=?", (name,))

    async def tamper(self, bucket_id: str, by: int) -> None:
        with contextlib.closing(sqlite3.connect(self._path, timeout=5)) as connection, connection:
            connection.execute("UPDATE bucket SET spent=spent+? WHERE id=?", (by, bucket_id))

    async def pass_time(self, bucket_id: str, slots: int) -> None:
        # Not the clock is set, by which leases and much else go: what it knows is made older instead.
        shift_ms = slots * slot_ms(rolling_of(bucket_id))
        with contextlib.closing(sqlite3.connect(self._path, timeout=5)) as db, db:
            for (kept,) in db.execute("SELECT rolling FROM bucket WHERE id=?", (bucket_id,)).fetchall():
                gone, newest, amounts = json.loads(kept)
                older = json.dumps([gone, newest - slots, {int(number) - slots: amount for number, amount in amounts.items()}])
                db.execute("UPDATE bucket SET rolling=? WHERE id=?", (older.encode(), bucket_id))
            for name, kept in db.execute("SELECT id, units FROM attempt WHERE units IS NOT NULL").fetchall():
                *units, pieces = json.loads(kept)
                older = json.dumps([*units, [[at_ms - shift_ms, amount] for at_ms, amount in pieces]])
                db.execute("UPDATE attempt SET units=? WHERE id=?", (older.encode(), name))

    async def forget(self, bucket_id: str) -> None:
        with contextlib.closing(sqlite3.connect(self._path, timeout=5)) as connection, connection:
            connection.execute("UPDATE bucket SET ends_ms=1 WHERE id=?", (bucket_id,))


class RedisStore(_Replicas):
    """A ledger in a Redis, real or faked."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url

    async def replica(self, name: str, *, lease_seconds: float = 20) -> Ledger:
        return await self._opened(RedisLedger(self._url, timeout_seconds=5), name, lease_seconds)

    async def clock_went_back(self, name: str) -> None:
        ends_ms = await self.now_ms() + DAY_MS
        await self.command("ZADD", "{fg}:leases", ends_ms, name)
        await self.command("HSET", "{fg}:books", lease_field(name), ends_ms)

    async def now_ms(self) -> int:
        seconds, micros = await self.command("TIME")
        return int(seconds) * 1000 + int(micros) // 1000

    async def crash(self, name: str) -> None:
        await self.command("ZADD", "{fg}:leases", 1, name)
        await self.command("HSET", "{fg}:books", lease_field(name), 1)

    async def tamper(self, bucket_id: str, by: int) -> None:
        for field in counter_fields(bucket_id)[:2]:
            await self.command("HINCRBY", "{fg}:books", field, by)

    async def pass_time(self, bucket_id: str, slots: int) -> None:
        # The clock of a server cannot be set: what it knows is made older instead.
        books, opened, shift_ms = "{fg}:books", "{fg}:open", slots * slot_ms(rolling_of(bucket_id))
        fields = [f"{bucket_id}|{i}" for i in range(SLOTS)]
        newest, *amounts = await self.command("HMGET", books, f"{bucket_id}|n", *fields)
        if newest is not None:
            await self.command("HSET", books, f"{bucket_id}|n", int(newest) - slots)
            await self.command("HDEL", books, *fields)
            for i, amount in enumerate(amounts):
                if amount is not None:
                    await self.command("HSET", books, fields[(i - slots) % SLOTS], int(amount))
        holds = await self.command("HGETALL", opened)
        for key, hold in zip(holds[::2], holds[1::2], strict=True):
            await self.command("HSET", opened, key.decode(), _older(hold, shift_ms))
        # Swept ones may be extended.
        for key in await self.command("KEYS", "{fg}:a:*"):
            ended = await self.command("GET", key.decode())
            if ended.startswith(b"X"):
                await self.command("SET", key.decode(), _older(ended, shift_ms), "KEEPTTL")

    async def forget(self, bucket_id: str) -> None:
        for index in ("{fg}:index", "{fg}:index:scopes"):
            await self.command("ZADD", index, "XX", 1, bucket_id)

    async def command(self, *values: str | int) -> Any:
        wire = Wire(parse_url(self._url), timeout_seconds=5)
        await wire.open()
        try:
            return await wire.call(command(*values))
        finally:
            await wire.close()


def _older(hold: bytes, shift_ms: int) -> str:
    return re.sub(rb"(\d{11,13}):", lambda found: b"%d:" % (int(found[1]) - shift_ms), hold).decode()


def bucket(budget: str = "company", *, limit: int = 1000, hard: bool = True, window: str = "all", scope: str = "", **more: Any) -> Bucket:
    """A bucket whose window is open, whatever the clock says."""
    return Bucket(budget=budget, scope=scope, window=window, starts_ms=0, ends_ms=NEVER_MS, limit_nusd=limit, hard=hard, **more)


SLOT_MS = 10 * 86_400_000
"""So long that a test does not meet the end of one."""
ROLLING_MS = SLOT_MS * (SLOTS - 1)


def rolling_bucket(budget: str = "rolling", *, limit: int = 1000, unit: Unit = "usd", **more: Any) -> Bucket:
    """A bucket whose window rolls; a slot of it lasts ten days."""
    return bucket(budget, limit=limit, unit=unit, window=f"last-{ROLLING_MS // 1000}s", rolling_ms=ROLLING_MS, **more)


def buckets(*members: Bucket) -> BucketSet:
    return BucketSet(buckets=members, valid_until_ms=min((b.ends_ms for b in members), default=NEVER_MS))


ids = (f"attempt-{n}" for n in itertools.count())


async def held(
    ledger: Ledger, amount: int, where: BucketSet, *, attempt_id: str | None = None, note: bytes = b"", tokens: int = 0
) -> Reservation:
    """Reserve, and insist that it works."""
    answer = await ledger.reserve(attempt_id=attempt_id or next(ids), amount_nusd=amount, buckets=where, note=note, tokens=tokens)
    assert isinstance(answer, Reservation), answer
    return answer


async def counters(ledger: Ledger) -> Mapping[str, tuple[int, int, int]]:
    """(spent, held, debt) of every bucket, by `budget` or `budget/scope/window`."""
    states = await ledger.bucket_states(current_only=False)
    return {
        s.budget if not s.scope and s.window == "all" else f"{s.budget}/{s.scope}/{s.window}": (s.spent_nusd, s.held_nusd, s.debt_nusd)
        for s in states
    }


async def records(ledger: Ledger) -> list[bytes]:
    return [record async for record in ledger.records()]
