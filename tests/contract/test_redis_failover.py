"""A Redis whose disk is full, whose password was changed, or whose replica takes over: calls end in time, no money is lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from router.adapters.redis.ledger import RedisLedger
from router.domain.budgets import Reservation
from router.errors import StoreUnavailable
from tests.conftest import RedisServer
from tests.contract.roads import Road
from tests.contract.stores import bucket, buckets, counters, held
from tests.contract.test_redis_faults import IN_TIME_SECONDS, RECORD, back, run

WHERE = buckets(bucket(limit=1_000_000))
SOON_SECONDS = 20


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[RedisLedger]:
    """With the timeout that `serve` uses."""
    made = RedisLedger(url)
    await made.open(replica_id="one", lease_seconds=20)
    try:
        yield made
    finally:
        await made.close()


@pytest.fixture
async def quick(own_redis: RedisServer) -> AsyncIterator[RedisLedger]:
    async with opened(own_redis.url) as made:
        yield made


@pytest.fixture
def second_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """Another one that the test may break."""
    (tmp_path / "second").mkdir()
    server = RedisServer(tmp_path / "second", "--appendonly", "yes")
    yield server
    server.close()


async def fails_in_time(call: Awaitable[object], why: str) -> None:
    """Expect a failure that says this, soon."""
    began = time.monotonic()
    with pytest.raises(StoreUnavailable, match=why):
        await call
    assert time.monotonic() - began < IN_TIME_SECONDS


def reserve(ledger: RedisLedger, attempt_id: str) -> Awaitable[object]:
    return ledger.reserve(attempt_id=attempt_id, amount_nusd=100, buckets=WHERE)


async def until_it_says(ledger: RedisLedger, why: str) -> None:
    """Write until that fails for this reason."""
    async with asyncio.timeout(SOON_SECONDS):
        while True:
            try:
                await ledger.heartbeat({})
            except StoreUnavailable as error:
                if why in str(error):
                    return
            await asyncio.sleep(0)


async def settled(ledger: RedisLedger, hold: Reservation) -> None:
    """Settle as the outbox does: until it is done."""
    async with asyncio.timeout(SOON_SECONDS):
        while True:
            try:
                await ledger.settle(hold, charge_nusd=80, record=RECORD)
                return
            except StoreUnavailable:
                await asyncio.sleep(0.05)


async def in_step(master: RedisServer, replica: RedisServer) -> None:
    """Wait until a replica has all that its master has. WAIT asks only for what its own connection wrote."""

    async def told(server: RedisServer, field: bytes) -> int:
        text = bytes(await run(server.url, "INFO", "replication"))
        return max((int(line.split(b":")[1]) for line in text.splitlines() if line.startswith(field)), default=-1)

    behind = await told(master, b"master_repl_offset")
    async with asyncio.timeout(SOON_SECONDS):
        while await told(replica, b"slave_repl_offset") < behind:
            await asyncio.sleep(0.01)


async def nothing_in_doubt(ledger: RedisLedger) -> None:
    async with asyncio.timeout(SOON_SECONDS):
        while ledger.in_doubt:
            await ledger.heartbeat({})
            await asyncio.sleep(0.01)


async def test_a_server_whose_disk_is_full_takes_nothing_and_recovers(own_redis: RedisServer, quick: RedisLedger) -> None:
    """MISCONF: what it cannot write to its append-only file it does not promise; settlements are taken later."""
    hold = await held(quick, 100, WHERE)
    with own_redis.full_disk():
        # It notices with a write; what it answered until then is in its memory, and is written later.
        await until_it_says(quick, "MISCONF")
        await fails_in_time(reserve(quick, "full"), "MISCONF")
        await fails_in_time(quick.settle(hold, charge_nusd=80, record=RECORD), "MISCONF")
    await settled(quick, hold)
    await nothing_in_doubt(quick)
    assert await counters(quick) == {"company": (80, 0, 0)}
    assert await quick.verify() == []
    own_redis.kill()
    own_redis.start()
    await back(quick)
    assert await counters(quick) == {"company": (80, 0, 0)}


async def test_a_password_changed_under_a_service_is_an_outage_that_says_so(own_redis: RedisServer, quick: RedisLedger) -> None:
    """The connection that stands goes on; the next one is refused, in time and with its reason, until the old password is back."""
    hold = await held(quick, 100, WHERE)
    await run(own_redis.url, "CONFIG", "SET", "requirepass", "s3cret")
    inside = own_redis.url.replace("//", "//:s3cret@")
    await run(inside, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    await until_it_says(quick, "refused the login")
    await fails_in_time(reserve(quick, "locked-out"), "refused the login: NOAUTH")
    await fails_in_time(quick.settle(hold, charge_nusd=80, record=RECORD), "refused the login")
    await run(inside, "CONFIG", "SET", "requirepass", "")
    await settled(quick, hold)
    assert await counters(quick) == {"company": (80, 0, 0)}


async def test_a_replica_that_takes_over_has_the_books(own_redis: RedisServer, second_redis: RedisServer) -> None:
    """Failover: the name leads to the promoted replica, the old master refuses writes, holds are settled where they are now."""
    await run(own_redis.url, "CONFIG", "SET", "repl-diskless-sync-delay", 0)
    await run(second_redis.url, "REPLICAOF", "127.0.0.1", own_redis.port)
    async with Road(own_redis.port) as road, opened(road.url) as quick:
        holds = [await held(quick, 100, WHERE) for _ in range(3)]
        await quick.settle(holds[0], charge_nusd=80, record=RECORD)
        first = quick.run_id
        await in_step(own_redis, second_redis)
        await run(second_redis.url, "REPLICAOF", "NO", "ONE")
        await run(own_redis.url, "REPLICAOF", "127.0.0.1", second_redis.port)
        road.target = second_redis.port
        # The old connection still leads to the old master: its answer, READONLY, makes it be given up.
        await fails_in_time(reserve(quick, "readonly"), "READONLY")
        await back(quick)
        await nothing_in_doubt(quick)
        assert quick.run_id != first, "the outbox sends its last settlements again when the server is another one"
        assert not await quick.settle(holds[0], charge_nusd=80, record=RECORD), "exactly once"
        await settled(quick, holds[1])
        assert await counters(quick) == {"company": (160, 100, 0)}
        await settled(quick, holds[2])
        assert await counters(quick) == {"company": (240, 0, 0)}
        assert await quick.verify() == []
        assert quick.resets == 0
