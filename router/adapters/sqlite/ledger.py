"""The ledger in a SQLite file: durable, without a server, shared by all processes of a machine."""

from __future__ import annotations

import asyncio
import os
import secrets
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from router.adapters.entries import CLOSED, MOST_LEASES, Entry, checked_amount, checked_attempt, machine_clock_ms, plan, present, share_rest
from router.adapters.sqlite import schema
from router.adapters.sqlite.batch import Batch
from router.adapters.sqlite.controls import SqliteControls
from router.adapters.sqlite.corrections import SqliteCorrections
from router.adapters.sqlite.experience import SqliteExperience
from router.adapters.sqlite.feedback import SqliteFeedback
from router.adapters.sqlite.markers import SqliteMarkers
from router.adapters.sqlite.readers import SqliteReaders
from router.adapters.sqlite.reads import Audit, bucket_page, bucket_states, states_named
from router.adapters.sqlite.shelf import SqliteShelf
from router.adapters.sqlite.writer import Writer
from router.domain.budgets import Bucket, BucketSet, BucketState, Refusal, Reservation, WindowMoved
from router.domain.windows import bucket_id
from router.errors import ConfigError, StoreUnavailable
from router.ports import Drift, StoredKey

T = TypeVar("T")
PAGE = 500
BUCKET_PAGE = 1000


class SqliteLedger:
    """`router.ports.Ledger` in one file.

    All writes of this process go through one thread, which commits everything that waits at once. Reads for people
    use connections of their own. Time is this machine's clock.
    """

    def __init__(self, path: str, *, clock_ms: Callable[[], int] = machine_clock_ms, timeout_seconds: float = 2.0) -> None:
        self.path = path
        self._clock_ms = clock_ms
        self._timeout_seconds = timeout_seconds
        """Longest wait for another process that writes."""
        self._writer: Writer | None = None
        self._replica = ""
        self._lease_ms = 0
        self._audit: Audit | None = None
        self.resets = 0
        """Always: a file that is replaced under a process is not seen."""

    async def open(self, *, replica_id: str, lease_seconds: float) -> None:
        """Open or create the file and take the lease.

        Raises:
            ConfigError: the file cannot be used as a ledger.
            StoreUnavailable: another process keeps it locked.
        """
        self._replica = replica_id
        self._lease_ms = round(lease_seconds * 1000)
        try:
            connection = await asyncio.to_thread(self._connect)
        except (sqlite3.Error, OSError) as error:
            raise ConfigError(
                f"store: the ledger file {self.path} cannot be used: {error}. "
                "Give a path that this user may write to (server.store or FAREGATE_STORE)."
            ) from error
        self._writer = Writer(connection, self._clock_ms)
        try:
            await self.heartbeat({})
        except BaseException:
            await self.close()
            raise

    def _connect(self) -> sqlite3.Connection:
        Path(self.path).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # The pepper and all spend records are in it: for this user only.
        os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
        connection = schema.connect(self.path, timeout_seconds=self._timeout_seconds)
        found = schema.prepare(connection)
        if found != schema.VERSION:
            connection.close()
            raise ConfigError(
                f"store: the ledger file {self.path} was written by another version (tables {found}, this one knows "
                f"{schema.VERSION}). Use that version, or another file."
            )
        return connection

    async def close(self) -> None:
        """Write what was submitted and close the file."""
        if self._writer is not None:
            await self._writer.close()
            self._writer = None

    def control_store(self) -> SqliteControls:
        """What people change while the service runs, and who changed it."""
        return SqliteControls(self.path, clock_ms=self._clock_ms, timeout_seconds=self._timeout_seconds)

    def corrections(self) -> SqliteCorrections:
        """Changes of old charges."""
        return SqliteCorrections(self.path, clock_ms=self._clock_ms, timeout_seconds=self._timeout_seconds)

    def readers(self) -> SqliteReaders:
        """Who keeps records elsewhere."""
        return SqliteReaders(self.path, clock_ms=self._clock_ms, timeout_seconds=self._timeout_seconds)

    def shelf(self) -> SqliteShelf:
        """Texts of the configuration."""
        return SqliteShelf(self.path, clock_ms=self._clock_ms, timeout_seconds=self._timeout_seconds)

    def experience_store(self) -> SqliteExperience:
        """What processes have learned."""
        return SqliteExperience(self.path, clock_ms=self._clock_ms, timeout_seconds=self._timeout_seconds)

    def feedback_store(self) -> SqliteFeedback:
        """What clients say of answers."""
        return SqliteFeedback(self.path, clock_ms=self._clock_ms, timeout_seconds=self._timeout_seconds)

    def alert_store(self) -> SqliteMarkers:
        """What alerts keep here."""
        return SqliteMarkers(self.path, clock_ms=self._clock_ms, timeout_seconds=self._timeout_seconds)

    def _submit(self, method: Callable[..., T], attempt_id: str, *args: Any) -> asyncio.Future[T]:
        if self._writer is None:
            raise StoreUnavailable("the ledger file is not open")
        return self._writer.submit(method, attempt_id, *args)

    # -- BudgetStore -------------------------------------------------------------------------------------------

    async def reserve(
        self, *, attempt_id: str, amount_nusd: int, buckets: BucketSet, note: bytes = b"", tokens: int = 0
    ) -> Reservation | Refusal | WindowMoved:
        """See `BudgetStore.reserve`."""
        checked_amount(amount_nusd)
        checked_attempt(attempt_id)
        answer = self._submit(
            Batch.reserve, attempt_id, amount_nusd, checked_amount(tokens), buckets, plan(buckets), note, self._replica, self._lease_ms
        )
        try:
            found = await answer
        except asyncio.CancelledError:
            # The caller will never learn of the hold, so nobody would settle it.
            self._submit(Batch.void, attempt_id).add_done_callback(_ignore)
            raise
        if type(found) is Refusal and found.crowded and found.bucket.shares_rest:
            share_rest(found.bucket, buckets)
            return await self.reserve(attempt_id=attempt_id, amount_nusd=amount_nusd, buckets=buckets, note=note, tokens=tokens)
        return found

    async def extend(self, held: Reservation, *, by_nusd: int) -> Reservation | Refusal:
        """See `BudgetStore.extend`."""
        total = checked_amount(held.amount_nusd + checked_amount(by_nusd))
        buckets = held.buckets
        args = (total, held.tokens, buckets, plan(buckets), self._replica, self._lease_ms)
        return await self._submit(Batch.extend, held.attempt_id, *args)

    async def settle(self, held: Reservation, *, charge_nusd: int, record: bytes, tokens: int | None = None) -> bool:
        """See `BudgetStore.settle`."""
        checked_amount(charge_nusd)
        used = None if tokens is None else checked_amount(tokens)
        return await self._submit(Batch.settle, checked_attempt(held.attempt_id), charge_nusd, used, plan(held.buckets), record)

    async def lend(self, lender_id: str, *, to: Reservation, total_nusd: int, note: bytes = b"") -> bool:
        """See `Lending.lend`."""
        total = checked_amount(total_nusd)
        return await self._submit(Batch.lend, checked_attempt(to.attempt_id), checked_attempt(lender_id), total, self._replica, note)

    def trust(self, attempt_id: str) -> None:
        """See `Lending.trust`: what failed here was undone."""

    async def void(self, held: Reservation) -> bool:
        """See `BudgetStore.void`."""
        return await self._submit(Batch.void, checked_attempt(held.attempt_id))

    # -- Lease -------------------------------------------------------------------------------------------------

    async def heartbeat(self, progress: Mapping[str, int]) -> None:
        """See `Lease.heartbeat`."""
        for burnt in progress.values():
            checked_amount(burnt)
        await self._submit(Batch.heartbeat, "", self._replica, self._lease_ms, dict(progress))

    async def sweep(self) -> int:
        """See `Lease.sweep`."""
        total = 0
        while swept := await self._submit(Batch.sweep, "", MOST_LEASES * self._lease_ms):
            total += swept
        return total

    async def release(self) -> None:
        """See `Lease.release`."""
        await self._submit(Batch.release, "", self._replica)

    # -- Books -------------------------------------------------------------------------------------------------

    async def publish_limits(self, limits: Mapping[str, int], *, version: str) -> None:
        """See `Books.publish_limits`."""
        for limit in limits.values():
            checked_amount(limit)
        await self._submit(Batch.publish_limits, "", dict(limits), version)

    async def bucket_states(self, *, budget: str | None = None, current_only: bool = True) -> Sequence[BucketState]:
        """See `Books.bucket_states`."""
        now_ms = self._clock_ms()
        return await self._read(lambda db: bucket_states(db, budget=budget, clock_ms=now_ms, current_only=current_only))

    async def states_of(self, buckets: Sequence[Bucket]) -> Sequence[BucketState]:
        """See `Books.states_of`."""
        names, now_ms = [bucket_id(bucket) for bucket in buckets], self._clock_ms()
        return await self._read(lambda db: states_named(db, names, clock_ms=now_ms)) if names else ()

    async def bucket_pages(self) -> AsyncIterator[Sequence[BucketState]]:
        """See `Books.bucket_pages`."""
        last, now_ms = "", self._clock_ms()
        while True:
            last, page = await self._read(partial(bucket_page, after=last, most=BUCKET_PAGE, clock_ms=now_ms))
            if not last:
                return
            yield page

    async def bucket_count(self) -> int:
        """See `Books.bucket_count`."""
        (count,) = await self._read(lambda db: db.execute("SELECT count(*) FROM bucket").fetchone())
        return int(count)

    async def records(self, *, since_ms: int = 0, until_ms: int | None = None) -> AsyncIterator[bytes]:
        """See `Books.records`."""
        last = 0
        while True:
            page = await self._read(partial(_page, after=last, since_ms=since_ms, until_ms=until_ms))
            for seq, entry in page:
                last = seq
                if entry.outcome != CLOSED:
                    yield present(entry)
            if len(page) < PAGE:
                return

    async def verify(self) -> Sequence[Drift]:
        """See `Books.verify`."""
        return await self._read(Audit().run)

    async def audit(self) -> Sequence[Drift] | None:
        """See `Books.audit`."""
        if not await self._submit(Batch.claim_audit, "", self._replica):
            self._audit = None
            return None
        if self._audit is None:
            self._audit = Audit()
        return await self._read(self._audit.run)

    async def trim(self, *, before_ms: int) -> int:
        """See `Books.trim`."""
        total = 0
        while trimmed := await self._submit(Batch.trim, "", before_ms):
            total += trimmed
        return total

    async def ping(self) -> None:
        """See `Books.ping`."""
        await self._submit(Batch.ping, "")

    async def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run a read in a thread, on a connection of its own, within one consistent view of the file."""

        def run() -> T:
            connection = schema.connect(self.path, timeout_seconds=self._timeout_seconds)
            try:
                connection.execute("BEGIN")
                return work(connection)
            finally:
                connection.close()

        try:
            return await asyncio.to_thread(run)
        except sqlite3.Error as error:
            raise StoreUnavailable(f"the ledger file cannot be read: {error}") from error

    # -- KeyStore ----------------------------------------------------------------------------------------------

    async def pepper(self) -> bytes:
        """See `KeyStore.pepper`."""
        return await self._submit(Batch.pepper, "", secrets.token_bytes(32))

    async def get_key(self, key_id: str) -> StoredKey | None:
        """The key with this id, if there is one."""
        rows = await self._read(lambda db: db.execute("SELECT stored FROM virtual_key WHERE key_id=?", (key_id,)).fetchall())
        return msgspec.json.decode(rows[0][0], type=StoredKey) if rows else None

    async def put_key(self, key: StoredKey) -> None:
        """See `KeyStore.put_key`."""
        await self._submit(Batch.put_key, "", key.key_id, msgspec.json.encode(key))

    async def list_keys(self) -> Sequence[StoredKey]:
        """All keys, by id."""
        rows = await self._read(lambda db: db.execute("SELECT stored FROM virtual_key ORDER BY key_id").fetchall())
        return [msgspec.json.decode(row[0], type=StoredKey) for row in rows]


def _page(db: sqlite3.Connection, after: int, since_ms: int, until_ms: int | None) -> list[tuple[int, Entry]]:
    rows = db.execute(
        "SELECT seq, at_ms, attempt_id, outcome, spent, debt, held, buckets, record FROM log"
        " WHERE seq > ? AND at_ms >= ? AND (? IS NULL OR at_ms < ?) ORDER BY seq LIMIT ?",
        (after, since_ms, until_ms, until_ms, PAGE),
    )
    return [
        (r[0], Entry(at_ms=r[1], attempt_id=r[2], outcome=r[3], spent_nusd=r[4], debt_nusd=r[5], held_nusd=r[6], joined=r[7], record=r[8]))
        for r in rows
    ]


def _ignore(future: asyncio.Future[Any]) -> None:
    """Look at a result that nobody waits for, so that its failure is not reported as lost."""
    if not future.cancelled():
        future.exception()
