"""The outbox: a settlement is never lost, and never counted twice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from router.adapters.sqlite.ledger import SqliteLedger
from router.domain.budgets import Reservation
from router.errors import StoreUnavailable
from router.metrics import Metrics
from router.metrics_ledger import MeteredStore
from router.outbox import Outbox
from tests.contract.stores import bucket, buckets, counters, held, records

WHERE = buckets(bucket())
RECORD = b'{"attempt_id":"a","request_id":"r","at_ms":1}'


class Flaky(SqliteLedger):
    """A ledger that can be away; it may do the work and lose the answer."""

    away = False
    loses_answers = False
    run_id = ""
    settled = 0

    async def settle(self, held: Reservation, *, charge_nusd: int, record: bytes, tokens: int | None = None) -> bool:
        if self.away:
            raise StoreUnavailable("away")
        self.settled += 1
        done = await super().settle(held, charge_nusd=charge_nusd, record=record, tokens=tokens)
        if self.loses_answers:
            raise StoreUnavailable("lost")
        return done

    async def void(self, held: Reservation) -> bool:
        if self.away:
            raise StoreUnavailable("away")
        return await super().void(held)


class Place:
    """A ledger, and outboxes that come and go as processes do."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "outbox.log")
        self.now_ms = 1_800_000_000_000
        self.metrics = Metrics()
        self.ledger = Flaky(str(folder / "ledger.sqlite"), clock_ms=lambda: self.now_ms)

    async def outbox(self) -> Outbox:
        made = Outbox(
            self.path,
            MeteredStore(self.ledger, self.metrics, clock=time.monotonic),
            clock_ms=lambda: self.now_ms,
            first_pause_seconds=0.001,
        )
        await made.start()
        return made


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    made = Place(tmp_path)
    await made.ledger.open(replica_id="one", lease_seconds=20)
    yield made
    await made.ledger.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


async def test_a_settlement_goes_straight_to_a_store_that_answers(place: Place) -> None:
    """The common case touches no disk of ours."""
    outbox = await place.outbox()
    await outbox.settle(await held(place.ledger, 100, WHERE), charge_nusd=80, record=RECORD)
    await outbox.void(await held(place.ledger, 50, WHERE))
    assert await counters(place.ledger) == {"company": (80, 0, 0)}
    assert outbox.depth == 0
    assert Path(place.path).read_bytes() == b""
    await outbox.close()


async def test_settlements_wait_for_a_store_that_is_away(place: Place) -> None:
    """Delivered in order when it is back; then the file is empty again."""
    outbox = await place.outbox()
    first, second, third = [await held(place.ledger, 100, WHERE) for _ in range(3)]
    place.ledger.away = True
    await asyncio.gather(
        outbox.settle(first, charge_nusd=80, record=RECORD), outbox.settle(second, charge_nusd=30, record=RECORD), outbox.void(third)
    )
    assert outbox.depth == 3
    assert len(Path(place.path).read_bytes().splitlines()) == 3
    assert await counters(place.ledger) == {"company": (0, 300, 0)}
    place.ledger.away = False
    await until(lambda: outbox.depth == 0)
    await outbox.close()
    assert await counters(place.ledger) == {"company": (110, 0, 0)}
    assert Path(place.path).read_bytes() == b""


async def test_what_a_killed_process_left_is_delivered_by_the_next(place: Place) -> None:
    """An entry is on disk before `settle` returns; a line that the crash cut off is no entry, and harms no other."""
    place.ledger.away = True
    dead = await place.outbox()
    reserved = await held(place.ledger, 100, WHERE)
    await dead.settle(reserved, charge_nusd=80, record=RECORD)
    await dead.close()
    with Path(place.path).open("ab") as file:
        file.write(b'{"seq":2,"attempt_id":"cut')
    following = await place.outbox()
    assert following.depth == 1
    late = await held(place.ledger, 10, WHERE)
    await following.settle(late, charge_nusd=10, record=RECORD)
    await following.close()
    last = await place.outbox()
    assert last.depth == 2
    place.ledger.away = False
    await until(lambda: last.depth == 0)
    await last.close()
    assert await counters(place.ledger) == {"company": (90, 0, 0)}


async def test_a_settlement_whose_answer_was_lost_counts_once(place: Place) -> None:
    """The store did it and the answer got lost: delivering it again does nothing."""
    outbox = await place.outbox()
    reserved = await held(place.ledger, 100, WHERE)
    place.ledger.loses_answers = True
    await outbox.settle(reserved, charge_nusd=80, record=RECORD)
    assert outbox.depth == 1
    place.ledger.loses_answers = False
    await until(lambda: outbox.depth == 0)
    await outbox.close()
    assert await counters(place.ledger) == {"company": (80, 0, 0)}


async def test_an_old_entry_is_looked_up_in_the_log_before_it_is_sent_again(place: Place) -> None:
    """After fifteen minutes the store has forgotten the attempt; sent blindly, it would be charged twice."""
    outbox = await place.outbox()
    reserved = await held(place.ledger, 100, WHERE, attempt_id="old")
    place.ledger.loses_answers = True
    await outbox.settle(reserved, charge_nusd=80, record=b'{"attempt_id":"old","request_id":"r","at_ms":1}')
    place.ledger.away = True
    await outbox.close()
    place.now_ms += 60 * 60_000
    await place.ledger.heartbeat({})
    await place.ledger.sweep()
    place.ledger.loses_answers = place.ledger.away = False
    following = await place.outbox()
    await until(lambda: following.depth == 0)
    await following.close()
    assert await counters(place.ledger) == {"company": (80, 0, 0)}
    assert len(await records(place.ledger)) == 1


async def test_an_old_entry_that_was_never_booked_is_booked(place: Place) -> None:
    """A store that was away for an hour still gets every charge."""
    outbox = await place.outbox()
    place.ledger.away = True
    await outbox.settle(await held(place.ledger, 100, WHERE), charge_nusd=80, record=RECORD)
    await outbox.close()
    place.now_ms += 60 * 60_000
    await place.ledger.heartbeat({})
    place.ledger.away = False
    following = await place.outbox()
    await until(lambda: following.depth == 0)
    await following.close()
    assert await counters(place.ledger) == {"company": (80, 0, 0)}


async def test_two_processes_with_one_path_do_not_share_a_file(place: Place) -> None:
    """Each would strike out what the other still has to deliver."""
    place.ledger.away = True
    one, two = await place.outbox(), await place.outbox()
    await one.settle(await held(place.ledger, 1, WHERE), charge_nusd=1, record=RECORD)
    await two.settle(await held(place.ledger, 2, WHERE), charge_nusd=2, record=RECORD)
    await one.close()
    await two.close()
    assert len(Path(place.path).read_bytes().splitlines()) == 1
    assert len(Path(place.path + ".1").read_bytes().splitlines()) == 1


async def test_the_last_settlements_are_sent_again_to_another_server(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Redis that took over, or came back after a power loss, may lack the last second."""
    monkeypatch.setattr("router.outbox.WATCH_SECONDS", 0.001)
    place.ledger.run_id = "first"
    outbox = await place.outbox()
    reserved = await held(place.ledger, 100, WHERE)
    await outbox.settle(reserved, charge_nusd=80, record=RECORD)
    assert place.ledger.settled == 1
    place.ledger.run_id = "second"
    await until(lambda: place.ledger.settled == 2)
    await outbox.close()
    assert await counters(place.ledger) == {"company": (80, 0, 0)}


async def test_a_full_disk_keeps_settlements_in_memory(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Better delivered from memory than refused; the log says so."""
    outbox = await place.outbox()
    place.ledger.away = True

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("router.outbox.os.fsync", full)
    await outbox.settle(await held(place.ledger, 100, WHERE), charge_nusd=80, record=RECORD)
    assert "in memory only" in caplog.text
    place.ledger.away = False
    await until(lambda: outbox.depth == 0)
    await outbox.close()
    assert await counters(place.ledger) == {"company": (80, 0, 0)}


async def test_what_a_worker_left_that_does_not_come_back_is_delivered_by_another(place: Place, tmp_path: Path) -> None:
    """A service that is started again with fewer workers must not leave charges in a file that nobody opens."""
    place.path = str(tmp_path / "outbox-3.log")
    gone = await place.outbox()
    reserved = await held(place.ledger, 100, WHERE)
    place.ledger.away = True
    await gone.settle(reserved, charge_nusd=80, record=RECORD)
    await gone.close()
    place.path = str(tmp_path / "outbox-0.log")
    other = await place.outbox()
    assert other.depth == 1
    await other.close()
    assert (tmp_path / "outbox-3.log").stat().st_size == 0
    # It is in a file of our own from now on, also over another restart.
    place.ledger.away = False
    last = await place.outbox()
    await until(lambda: last.depth == 0)
    await last.close()
    assert await counters(place.ledger) == {"company": (80, 0, 0)}


async def test_the_file_of_a_worker_that_lives_is_left_alone(place: Place, tmp_path: Path) -> None:
    """Workers start at the same time, and one that is replaced starts while the others serve."""
    place.path = str(tmp_path / "outbox-1.log")
    living = await place.outbox()
    reserved = await held(place.ledger, 100, WHERE)
    place.ledger.away = True
    await living.settle(reserved, charge_nusd=80, record=RECORD)
    place.path = str(tmp_path / "outbox-0.log")
    other = await place.outbox()
    assert (living.depth, other.depth) == (1, 0)
    await other.close()
    await living.close()
