"""Every command boundary of every call: the connection, or the process, ends exactly there, and the books are right in the end."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from router.adapters.redis import ledger as redis_ledger
from router.adapters.redis.ledger import RedisLedger
from router.adapters.sqlite import schema
from router.adapters.sqlite.ledger import SqliteLedger
from router.domain.budgets import Reservation
from router.errors import StoreUnavailable
from router.ports import Ledger
from tests.contract.roads import Cut, Road
from tests.contract.stores import RedisStore, SqliteStore, Store, bucket, buckets, counters, held, records, rolling_bucket
from tests.pipeline_fakes import Stepped

Act = Callable[[Ledger, Reservation], Awaitable[object]]
KINDS = {
    "plain": buckets(bucket(), bucket("team", limit=5000)),
    "special": buckets(bucket(), rolling_bucket(), bucket("calls", limit=50, unit="requests")),
}


def record(attempt_id: str, charge: int) -> bytes:
    return json.dumps({"attempt_id": attempt_id, "request_id": "r", "at_ms": 1, "charge_nusd": charge}).encode()


async def settle(ledger: Ledger, held: Reservation) -> None:
    await ledger.settle(held, charge_nusd=80, record=record("a", 80))


ACTS: dict[str, Act] = {
    "reserve": lambda ledger, a: ledger.reserve(attempt_id="b", amount_nusd=50, buckets=a.buckets),
    "extend": lambda ledger, a: ledger.extend(a, by_nusd=30),
    "settle": settle,
    "void": lambda ledger, a: ledger.void(a),
    "heartbeat": lambda ledger, a: ledger.heartbeat({"a": 70}),
    "sweep": lambda ledger, a: ledger.sweep(),
}
"""What is under way when the crash comes. `a` is held before; for the sweep another replica has died with holds of 40 in all."""
SWEPT = 40
LONG_NOTE = b'{"request_id":"so long that the holds are not kept as a small hash, which is read in one page"}'


async def prepare(store: Store, ledger: Ledger, act: str, kind: str) -> Reservation:
    if act == "sweep":
        dead = await store.replica("dead")
        # Redis sweeps page by page: there must be several.
        holds = [1] * SWEPT if isinstance(store, RedisStore) else [SWEPT // 2] * 2
        for n, amount in enumerate(holds):
            await held(dead, amount, KINDS[kind], attempt_id=f"dead-{n}", note=LONG_NOTE)
        await store.crash("dead")
    return await held(ledger, 100, KINDS[kind], attempt_id="a")


async def is_right(ledger: Ledger, spent: int) -> None:
    """Nothing is held, what was spent is this and in the log, once."""
    found = await counters(ledger)
    assert found["company"] == (spent, 0, 0)
    assert await ledger.verify() == []
    assert sum(json.loads(line)["charge_nusd"] for line in await records(ledger)) == spent


async def after_the_end(store: Store, act: str) -> None:
    """The replica is gone for good: others sweep, and its outbox is delivered by who takes it over."""
    await store.crash("one")
    two = await store.replica("two")
    await two.sweep()
    assert all(held == 0 for _, held, _ in (await counters(two)).values()), "no hold outlives lease and sweep"
    assert await two.verify() == []
    a = Reservation(attempt_id="a", amount_nusd=100, buckets=KINDS["plain"])
    b = Reservation(attempt_id="b", amount_nusd=50, buckets=KINDS["plain"])
    # As the outbox does, again and again.
    for _ in range(2):
        await (two.void(a) if act == "void" else settle(two, a))
        await two.void(b)
    await is_right(two, (0 if act == "void" else 80) + (SWEPT if act == "sweep" else 0))


@pytest.fixture
async def road(redis_url: str) -> AsyncIterator[Road]:
    async with Road(int(redis_url.rsplit(":", 1)[1].partition("/")[0])) as made:
        yield made


async def until_up(ledger: RedisLedger) -> None:
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(StoreUnavailable):
                await ledger.ping()
                return
            await asyncio.sleep(0.005)


async def cut_at(road: Road, store: RedisStore, act: str, kind: str, cut: Cut, point: int) -> tuple[RedisLedger, Reservation]:
    """Begin, and lose the connection at this command of the call."""
    ledger = RedisLedger(road.url, timeout_seconds=5)
    await ledger.open(replica_id="one", lease_seconds=20)
    a = await prepare(store, ledger, act, kind)
    road.cut(cut, skip=point)
    with contextlib.suppress(StoreUnavailable):
        await ACTS[act](ledger, a)
    return ledger, a


async def goes_on(ledger: RedisLedger, act: str, a: Reservation) -> None:
    """The replica lives: it repeats what its callers repeat, and ends what is under way."""
    await until_up(ledger)
    await ledger.heartbeat({})
    async with asyncio.timeout(20):
        while ledger.in_doubt:
            await asyncio.sleep(0.005)
    if act in ("settle", "void", "heartbeat", "sweep"):
        await ACTS[act](ledger, a)
    if act == "reserve":
        # Whether it was seen or not: a caller that got an answer voids, one that got none has left that to the adapter.
        await ledger.void(Reservation(attempt_id="b", amount_nusd=50, buckets=a.buckets))
    if act != "void":
        await settle(ledger, a)
    await is_right(ledger, (0 if act == "void" else 80) + (SWEPT if act == "sweep" else 0))


@pytest.mark.parametrize("cut", ["before", "behind"])
@pytest.mark.parametrize("act", ACTS)
async def test_a_connection_lost_at_any_command_leaves_the_books_right(
    road: Road, redis_url: str, monkeypatch: pytest.MonkeyPatch, act: str, cut: Cut
) -> None:
    """The network is cut before the server gets a command, or in the middle of it: the replica lives on, or dies with it."""
    monkeypatch.setattr(redis_ledger, "SWEEP_LIMIT", 10)
    flush = RedisStore(redis_url)
    for kind, dies in itertools.product(KINDS, (False, True)):
        for point in itertools.count():
            await flush.command("FLUSHALL")
            store = RedisStore(redis_url)
            road.cuts = 0
            ledger, a = await cut_at(road, store, act, kind, cut, point)
            if road.cuts:
                if dies:
                    await ledger.close()
                    await after_the_end(store, act)
                else:
                    await goes_on(ledger, act, a)
            road.spare()
            await ledger.close()
            await store.close()
            if not road.cuts:
                break
        assert point >= (2 if act == "sweep" else 1), "at least one command was cut"


@pytest.mark.parametrize("act", ACTS)
async def test_a_call_abandoned_at_any_await_leaves_the_books_right(store: Store, act: str) -> None:
    """Its task is cancelled wherever it waits; then the replica dies."""
    ledger = await store.replica("one")
    a = await prepare(store, ledger, act, "special")

    async def run() -> None:
        await ACTS[act](ledger, a)

    for step in itertools.count():
        stepped = Stepped(run(), frozenset({step}))
        task = asyncio.ensure_future(_awaited(stepped))
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()
            break
    assert step >= 1
    await after_the_end(store, act)


async def _awaited(stepped: Stepped) -> None:
    await stepped


def killed_at(store: Path, act: str, point: int) -> bool:
    """Run a call in a process of its own that is killed before its SQL statement of this number. False: it came to its end."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, status
        return os.WIFSIGNALED(status)
    try:
        asyncio.run(_run_and_die(store, act, point))
    finally:
        # Whatever happened, this process must not go on with its parent's tests.
        os._exit(0)


async def _run_and_die(folder: Path, act: str, point: int) -> None:
    counted: list[int] = []
    connect = schema.connect

    def connect_and_count(path: str, *, timeout_seconds: float) -> sqlite3.Connection:
        connection = connect(path, timeout_seconds=timeout_seconds)
        connection.set_trace_callback(lambda _: _die_at(counted, point))
        return connection

    schema.connect = connect_and_count
    ledger = SqliteLedger(str(folder / "ledger.sqlite"))
    await ledger.open(replica_id="one", lease_seconds=20)
    a = Reservation(attempt_id="a", amount_nusd=100, buckets=KINDS["special"])
    counted.append(0)
    await ACTS[act](ledger, a)


def _die_at(counted: list[int], point: int) -> None:
    if counted:
        if counted[0] == point:
            os.kill(os.getpid(), signal.SIGKILL)
        counted[0] += 1


@pytest.mark.parametrize("act", ACTS)
def test_a_process_killed_at_any_statement_leaves_the_file_right(tmp_path: Path, act: str) -> None:
    """kill -9 between any two steps of a transaction: it is done or not done."""

    async def begin(folder: Path) -> None:
        store = SqliteStore(folder)
        await prepare(store, await store.replica("one"), act, "special")
        await store.close()

    async def end(folder: Path) -> None:
        store = SqliteStore(folder)
        await after_the_end(store, act)
        await store.close()

    for point in itertools.count():
        folder = tmp_path / str(point)
        folder.mkdir()
        asyncio.run(begin(folder))
        killed = killed_at(folder, act, point)
        asyncio.run(end(folder))
        if not killed:
            break
    assert point >= 3, "a transaction has a begin, something to do and an end"
