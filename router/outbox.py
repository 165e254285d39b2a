"""The outbox: settlements that the store could not take are kept on disk and delivered when it is back.

An entry is on disk (fsync) before `settle` or `void` returns. It is delivered in order, as often as needed: every call
of a ledger is idempotent. With a store that can lose its last second (Redis after a power loss or a failover),
the settlements of the last seconds are sent again when another server answers than before.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import re
import threading
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, cast

import msgspec

from router.adapters.entries import machine_clock_ms
from router.domain.advances import MARK as ADVANCE
from router.domain.budgets import Bucket, BucketSet, Reservation
from router.errors import StoreUnavailable
from router.metrics_ledger import MeteredStore
from router.ports import Ledger
from router.tasks import end

RESEND_SECONDS: Final = 5.0
"""Settlements younger than this, and some up to twice as old, are sent again after the server changed. Redis' everysec can
lose 2 s."""
FIRST_PAUSE_SECONDS: Final = 0.1
MAX_PAUSE_SECONDS: Final = 5.0
WATCH_SECONDS: Final = 1.0
BATCH: Final = 64
OLD_MS: Final = 10 * 60_000
"""Beyond this the store may have forgotten the attempt id: the log is asked whether the entry was booked."""
MAX_FILES: Final = 64
_NUMBERED: Final = re.compile(r"^(.*-)[0-9]+(\\\.log)$")
"""The escaped name of a worker's file: what is before its number, and what is behind."""

log = logging.getLogger("faregate.outbox")


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of the file: a settlement to deliver, or the word that one was delivered."""

    seq: int
    done: bool = False
    attempt_id: str = ""
    at_ms: int = 0
    held_nusd: int = 0
    charge_nusd: int | None = None
    """None: void."""
    held_tokens: int = 0
    tokens: int | None = None
    """What the call took in and gave out; None: unknown, or no bucket counts it."""
    buckets: tuple[Bucket, ...] = ()
    record: bytes = b""
    lender: str = ""
    """The advance that paid for the call, see `router/escrow.py`."""
    intent: bool = False
    """The call was about to be sent, and nobody came back to say what it cost: its hold is charged."""

    def reservation(self) -> Reservation:
        """The hold that it ends."""
        where = BucketSet(buckets=self.buckets, valid_until_ms=min((b.ends_ms for b in self.buckets), default=0))
        return Reservation(
            attempt_id=self.attempt_id, amount_nusd=self.held_nusd, tokens=self.held_tokens, buckets=where, lender=self.lender
        )


class Outbox:
    """Brings settlements to the store, now or later; loses none."""

    def __init__(
        self,
        path: str,
        store: MeteredStore,
        *,
        clock_ms: Callable[[], int] = machine_clock_ms,
        first_pause_seconds: float = FIRST_PAUSE_SECONDS,
    ) -> None:
        """`path` names the file; a second process with the same path takes `path.1`, and so on."""
        self._wanted_path = path
        self._store = store
        self._plain = store.plain
        self._clock_ms = clock_ms
        self._first_pause_seconds = first_pause_seconds
        self._fd = -1
        self._seq = 0
        self._waiting: deque[Entry] = deque()
        self._parked: dict[str, Entry] = {}
        """Holds that whoever takes the file over gives back; by attempt id."""
        self._intents: dict[str, Entry] = {}
        """Holds that whoever takes the file over charges; by attempt id."""
        self._parking = threading.Lock()
        """Nobody empties the file while a line about such a hold is written."""
        self._unwritten: list[Entry] = []
        self._writing: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._recent: list[tuple[Reservation, int, bytes, int | None]] = []
        """Settlements of the last seconds, and before them those of the seconds before."""
        self._older: list[tuple[Reservation, int, bytes, int | None]] = []
        self._aged_at = 0.0
        self._run_id = ""
        self._resets = 0

    @property
    def depth(self) -> int:
        """Entries that the store has not acknowledged yet."""
        return len(self._waiting)

    async def start(self) -> None:
        """Open the file, take over what an earlier process left, start delivering."""
        self._fd = await asyncio.to_thread(self._open)
        for entry in await asyncio.to_thread(_undelivered, self._fd):
            self._waiting.append(entry)
            self._seq = max(self._seq, entry.seq)
        await asyncio.to_thread(self._adopt)
        if self._waiting:
            log.warning("%d settlements of an earlier process wait for the store", len(self._waiting))
            self._wake.set()
        self._run_id = getattr(self._store, "run_id", "")
        self._resets = self._store.resets
        self._task = asyncio.get_running_loop().create_task(self._run())

    def _open(self) -> int:
        Path(self._wanted_path).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        for i in range(MAX_FILES):
            fd = os.open(self._wanted_path + (f".{i}" if i else ""), os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                continue
            size = os.fstat(fd).st_size
            if size and os.pread(fd, 1, size - 1) != b"\n":
                # The last line was cut off by a crash; the next one must not become a part of it.
                os.write(fd, b"\n")
            return fd
        raise OSError(f"{MAX_FILES} processes use the outbox {self._wanted_path} already")

    def _adopt(self) -> None:
        """Take over what processes left that do not come back: those of workers that there are no more."""
        own = Path(self._wanted_path)
        family = re.compile(_NUMBERED.sub(r"\1[0-9]+\2", re.escape(own.name)) + r"(\.[0-9]+)?")
        for path in sorted(own.parent.iterdir()):
            if family.fullmatch(path.name) and path.stat().st_size:
                self._adopt_file(path)

    def _adopt_file(self, path: Path) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            # The lock of a process that lives, or our own.
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            entries = []
            for entry in _undelivered(fd):
                self._seq += 1
                entries.append(msgspec.structs.replace(entry, seq=self._seq))
            if entries:
                os.write(self._fd, _lines(entries))
                os.fsync(self._fd)
                self._waiting.extend(entries)
                log.warning("%d settlements were left in %s", len(entries), path)
            # Emptied, not removed: a process may be about to lock it.
            os.ftruncate(fd, 0)
        except BlockingIOError:
            return
        finally:
            os.close(fd)

    async def close(self) -> None:
        """Stop delivering; what is left stays on disk for the next process."""
        task, self._task = self._task, None
        if task is not None:
            await end([task])
        if self._writing is not None:
            await self._writing
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    async def settle(self, held: Reservation, *, charge_nusd: int, record: bytes, tokens: int | None = None) -> None:
        """Book the charge: in the store, else on disk for later. See `BudgetStore.settle`."""
        store = self._store
        began = store.clock()
        try:
            await self._plain.settle(held, charge_nusd=charge_nusd, record=record, tokens=tokens)
        except StoreUnavailable:
            store.failed("settle", began)
            await self._keep(held, charge_nusd, record, tokens)
            return
        now = store.clock()
        store.settled(now - began)
        if self._intents:
            self._strike(held.attempt_id)
        if self._run_id:
            self._recent.append((held, charge_nusd, record, tokens))

    async def void(self, held: Reservation) -> None:
        """Give the hold back: in the store, else later. See `BudgetStore.void`."""
        try:
            await self._store.void(held)
        except StoreUnavailable:
            await self._keep(held, None, b"")
            return
        if self._intents:
            self._strike(held.attempt_id)

    async def void_later(self, held: Reservation) -> None:
        """Give the hold back once all that is to be delivered already was."""
        await self._keep(held, None, b"")

    def park(self, held: Reservation) -> None:
        """Give the hold back if this process does not come back: whoever takes the file over does it. Blocks for an fsync."""
        with self._parking:
            entry = self._parked[held.attempt_id] = self._entry(held, None, b"", None)
            self._append([entry])

    def unpark(self, attempt_id: str) -> None:
        """The hold is not given back by others. Blocks for an fsync."""
        with self._parking:
            entry = self._parked.pop(attempt_id, None)
            if entry is not None:
                self._append([Entry(seq=entry.seq, done=True)])
                os.fsync(self._fd)

    def intend(self, held: Reservation, record: bytes) -> None:
        """Charge the hold, which the store does not know, if this process does not come back: whoever takes the file over does it.

        Said again, it replaces what was said before; `settle` and `void` end it. Blocks for an fsync.
        """
        with self._parking:
            before = self._intents.get(held.attempt_id)
            entry = msgspec.structs.replace(self._entry(held, held.amount_nusd, record, None), intent=True)
            self._intents[held.attempt_id] = entry
            self._append([entry] if before is None else [entry, Entry(seq=before.seq, done=True)])

    def _strike(self, attempt_id: str) -> None:
        with self._parking:
            entry = self._intents.pop(attempt_id, None)
            if entry is not None:
                self._append([Entry(seq=entry.seq, done=True)])

    def _age(self) -> None:
        """Forget settlements that a server certainly has on disk by now."""
        now = self._store.clock()
        if now - self._aged_at >= RESEND_SECONDS:
            self._older, self._recent, self._aged_at = self._recent, [], now

    async def _keep(self, held: Reservation, charge_nusd: int | None, record: bytes, tokens: int | None = None) -> None:
        entry = self._entry(held, charge_nusd, record, tokens)
        self._waiting.append(entry)
        self._unwritten.append(entry)
        self._wake.set()
        try:
            await self._written()
        finally:
            # Not before the truth is on disk.
            if self._intents:
                self._strike(held.attempt_id)

    def _entry(self, held: Reservation, charge_nusd: int | None, record: bytes, tokens: int | None) -> Entry:
        self._seq += 1
        return Entry(
            seq=self._seq,
            attempt_id=held.attempt_id,
            at_ms=self._clock_ms(),
            held_nusd=held.amount_nusd,
            charge_nusd=charge_nusd,
            held_tokens=held.tokens,
            tokens=tokens,
            buckets=held.buckets.buckets,
            record=record,
            lender=held.lender,
        )

    async def _written(self) -> None:
        """Wait until everything that was handed in is on disk. All who wait together share one fsync."""
        while self._unwritten or self._writing is not None:
            if self._writing is None:
                self._writing = asyncio.get_running_loop().create_task(self._write())
            # Shielded: a caller that is cancelled must not take the others' write with it.
            await asyncio.shield(self._writing)

    async def _write(self) -> None:
        batch, self._unwritten = self._unwritten, []
        # Decided here, where nothing can come between: an entry handed in from now on is written after this.
        work = self._append if self._waiting else self._clear
        try:
            await asyncio.to_thread(work, batch)
        finally:
            # Before this task is done: whoever waits for a task that is done already would wait without a pause.
            self._writing = None

    def _append(self, batch: list[Entry]) -> None:
        try:
            os.write(self._fd, _lines(batch))
            # A line that strikes out may be lost: an entry that is delivered twice does nothing.
            if not all(entry.done for entry in batch):
                os.fsync(self._fd)
        except OSError as error:
            # They are still in memory, and delivered as long as this process lives.
            log.error("the outbox %s cannot be written: %s; %d settlements are in memory only", self._wanted_path, error, len(batch))

    def _clear(self, batch: list[Entry]) -> None:
        """Nothing waits any more: empty the file instead of striking out its last lines."""
        try:
            with self._parking:
                os.ftruncate(self._fd, 0)
                kept = [*self._parked.values(), *self._intents.values()]
                if kept:
                    self._append(kept)
        except OSError as error:
            # Delivered twice, an entry does nothing.
            log.error("the outbox %s cannot be emptied of %d lines: %s", self._wanted_path, len(batch), error)

    # -- delivery ----------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        pause = self._first_pause_seconds
        while True:
            if not self._waiting:
                self._wake.clear()
                await self._watch()
            if not self._waiting or await self._deliver():
                pause = self._first_pause_seconds
            else:
                await asyncio.sleep(pause)
                pause = min(pause * 2, MAX_PAUSE_SECONDS)

    async def _watch(self) -> None:
        """Wait for an entry; meanwhile look whether another server answers."""
        try:
            async with asyncio.timeout(WATCH_SECONDS):
                await self._wake.wait()
        except TimeoutError:
            await self._resend()
        self._age()

    async def _resend(self) -> None:
        """Send the last settlements again if the server is not the one that acknowledged them, or was emptied since."""
        run_id, resets = getattr(self._store, "run_id", ""), self._store.resets
        if (run_id, resets) == (self._run_id, self._resets):
            return
        self._run_id, self._resets = run_id, resets
        recent = self._older + self._recent
        self._older, self._recent = [], []
        log.warning("the store was restarted, replaced or emptied: sending the last %d settlements again", len(recent))
        for held, charge_nusd, record, tokens in recent:
            await self.settle(held, charge_nusd=charge_nusd, record=record, tokens=tokens)

    async def _deliver(self) -> bool:
        """Deliver the oldest entries. False: the store did not take all of them."""
        batch = [self._waiting[i] for i in range(min(BATCH, len(self._waiting)))]
        taken = await asyncio.gather(*[self._deliver_one(entry) for entry in batch])
        for _ in batch:
            self._waiting.popleft()
        failed = [entry for entry, ok in zip(batch, taken, strict=True) if not ok]
        self._waiting.extendleft(reversed(failed))
        self._unwritten += [Entry(seq=entry.seq, done=True) for entry, ok in zip(batch, taken, strict=True) if ok]
        await self._written()
        return not failed

    async def _deliver_one(self, entry: Entry) -> bool:
        held, charge_nusd = entry.reservation(), entry.charge_nusd
        try:
            if charge_nusd is None:
                # An advance is given back after all calls that it pays for are booked.
                if ADVANCE in entry.attempt_id and any(other.lender == entry.attempt_id for other in self._waiting):
                    return False
                await self._store.void(held)
            elif not await self._booked_long_ago(entry):
                if held.lender:
                    await self._store.lend(held.lender, to=held, total_nusd=min(charge_nusd, held.amount_nusd))
                await self._store.settle(held, charge_nusd=charge_nusd, record=entry.record, tokens=entry.tokens)
        except StoreUnavailable:
            return False
        return True

    async def _booked_long_ago(self, entry: Entry) -> bool:
        """Whether the log has an old entry, whose id the store may have forgotten by now."""
        if self._clock_ms() - entry.at_ms < OLD_MS:
            return False
        # Every store of this program keeps books, too; a test's store that does not has no old entries.
        ledger = cast(Ledger, self._store)
        async for record in ledger.records(since_ms=entry.at_ms - OLD_MS, until_ms=entry.at_ms + OLD_MS):
            line = msgspec.json.decode(record, type=_Line)
            if line.attempt_id == entry.attempt_id and (entry.intent or line.outcome != "swept"):
                return True
        return False


class _Line(msgspec.Struct):
    attempt_id: str = ""
    outcome: str = "ok"


def _lines(entries: Iterable[Entry]) -> bytes:
    return b"".join(msgspec.json.encode(entry) + b"\n" for entry in entries)


def _undelivered(fd: int) -> list[Entry]:
    """The entries of a file that were not struck out. A line that a crash cut off is no entry."""
    size = os.fstat(fd).st_size
    entries: dict[int, Entry] = {}
    for line in os.pread(fd, size, 0).splitlines():
        try:
            entry = msgspec.json.decode(line, type=Entry)
        except msgspec.DecodeError:
            continue
        if entry.done:
            entries.pop(entry.seq, None)
        else:
            entries[entry.seq] = entry
    return list(entries.values())
