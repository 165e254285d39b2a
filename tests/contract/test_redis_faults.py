"""A Redis that stops, dies, forgets or refuses: every call ends in time, and no money is lost."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from router.adapters.redis.address import parse_url
from router.adapters.redis.ledger import RedisLedger
from router.adapters.redis.scripts import command
from router.adapters.redis.wire import Wire
from router.domain.budgets import Refusal, Reservation
from router.errors import ConfigError, StoreUnavailable
from tests.conftest import RedisServer
from tests.contract.stores import bucket, buckets, counters, held, records

WHERE = buckets(bucket(limit=1_000_000))
RECORD = b'{"attempt_id":"a","request_id":"r","at_ms":1}'
IN_TIME_SECONDS = 0.3 + 0.5
"""The promise is 300 ms; the rest is for a machine that is busy with other tests."""


@pytest.fixture
async def ledger(own_redis: RedisServer) -> AsyncIterator[RedisLedger]:
    # Time is not the subject of most tests, and the machine may be busy.
    made = RedisLedger(own_redis.url, timeout_seconds=5)
    await made.open(replica_id="one", lease_seconds=20)
    yield made
    await made.close()


@pytest.fixture
async def quick(own_redis: RedisServer) -> AsyncIterator[RedisLedger]:
    """With the timeout that `serve` uses."""
    made = RedisLedger(own_redis.url)
    await made.open(replica_id="one", lease_seconds=20)
    yield made
    await made.close()


async def test_an_answer_that_waits_while_this_process_is_busy_is_not_late(quick: RedisLedger) -> None:
    """A long stretch of work of our own must not look like an outage of the store."""

    async def busy() -> None:
        time.sleep(0.5)

    answer, _ = await asyncio.gather(quick.reserve(attempt_id="busy", amount_nusd=1, buckets=WHERE), busy())
    assert isinstance(answer, Reservation)


async def run(url: str, *values: str | int) -> Any:
    """One command on a connection of its own."""
    wire = Wire(parse_url(url), timeout_seconds=5)
    await wire.open()
    try:
        return await wire.call(command(*values))
    finally:
        await wire.close()


async def back(ledger: RedisLedger) -> None:
    """Wait until the ledger has found its server again."""
    async with asyncio.timeout(20):
        while True:
            try:
                await ledger.ping()
                return
            except StoreUnavailable:
                await asyncio.sleep(0.01)


async def fails_in_time(ledger: RedisLedger, attempt_id: str) -> float:
    """Reserve, expect a failure, return how long it took."""
    began = time.monotonic()
    with pytest.raises(StoreUnavailable):
        await ledger.reserve(attempt_id=attempt_id, amount_nusd=100, buckets=WHERE)
    return time.monotonic() - began


async def test_calls_to_a_stopped_server_fail_in_time_and_then_at_once(own_redis: RedisServer, quick: RedisLedger) -> None:
    """A server that accepts and does not answer must not stall requests; a known outage costs nothing."""
    reserved = await held(quick, 100, WHERE)
    own_redis.signal(signal.SIGSTOP)
    waits = await asyncio.gather(*[fails_in_time(quick, f"stopped-{i}") for i in range(20)])
    assert max(waits) < IN_TIME_SECONDS
    # The first attempt to connect anew is waited for; it fails within the same time.
    assert await fails_in_time(quick, "probe") < IN_TIME_SECONDS
    assert await fails_in_time(quick, "at-once") < 0.05
    began = time.monotonic()
    with pytest.raises(StoreUnavailable):
        await quick.settle(reserved, charge_nusd=1, record=RECORD)
    assert time.monotonic() - began < IN_TIME_SECONDS
    own_redis.signal(signal.SIGCONT)
    await back(quick)
    assert await quick.settle(reserved, charge_nusd=70, record=RECORD)


async def test_reserves_that_nobody_heard_the_answer_of_are_given_back(own_redis: RedisServer, quick: RedisLedger) -> None:
    """They reached the server and are done when it goes on; without a void they would hold money as long as we live."""
    own_redis.signal(signal.SIGSTOP)
    await asyncio.gather(*[fails_in_time(quick, f"unheard-{i}") for i in range(5)])
    own_redis.signal(signal.SIGCONT)
    await back(quick)
    await quick.heartbeat({})
    async with asyncio.timeout(10):
        while quick.in_doubt or any(h for _, h, _ in (await counters(quick)).values()):
            await asyncio.sleep(0.01)
    # Wherever the void came first, the late reserve must hold nothing either.
    assert all(c == (0, 0, 0) for c in (await counters(quick)).values())
    assert await quick.verify() == []


async def test_nothing_acknowledged_is_lost_when_redis_is_killed(own_redis: RedisServer, ledger: RedisLedger) -> None:
    """With an append-only file the books survive a crash of the server."""
    reserved = await held(ledger, 100, WHERE)
    open_hold = await held(ledger, 50, WHERE)
    await ledger.settle(reserved, charge_nusd=80, record=RECORD)
    first = ledger.run_id
    own_redis.kill()
    assert await fails_in_time(ledger, "killed") < IN_TIME_SECONDS
    own_redis.start()
    await back(ledger)
    assert await counters(ledger) == {"company": (80, 50, 0)}
    assert ledger.run_id != first
    assert await ledger.settle(open_hold, charge_nusd=50, record=RECORD)
    assert await ledger.verify() == []


async def test_a_server_that_forgot_its_scripts_is_taught_them(own_redis: RedisServer, ledger: RedisLedger) -> None:
    """SCRIPT FLUSH, or a replica that took over, must not refuse requests."""
    await run(own_redis.url, "SCRIPT", "FLUSH")
    reserved = await held(ledger, 100, WHERE)
    await run(own_redis.url, "SCRIPT", "FLUSH")
    assert await ledger.settle(reserved, charge_nusd=80, record=RECORD)
    assert await ledger.sweep() == 0
    assert await counters(ledger) == {"company": (80, 0, 0)}


async def test_a_server_that_became_a_replica_is_not_the_store(own_redis: RedisServer, ledger: RedisLedger) -> None:
    """After a failover the name leads elsewhere: the connection is given up, so that it is looked up anew."""
    reserved = await held(ledger, 100, WHERE)
    await run(own_redis.url, "REPLICAOF", "127.0.0.1", 1)
    assert await fails_in_time(ledger, "readonly") < IN_TIME_SECONDS
    await run(own_redis.url, "REPLICAOF", "NO", "ONE")
    await back(ledger)
    assert await ledger.settle(reserved, charge_nusd=80, record=RECORD)


async def test_a_full_server_refuses_new_holds_but_books_charges(own_redis: RedisServer, ledger: RedisLedger) -> None:
    """Money that was spent is booked whatever the memory; money that was not is not spent."""
    reserved = await held(ledger, 100, WHERE)
    await run(own_redis.url, "CONFIG", "SET", "maxmemory", 1)
    await fails_in_time(ledger, "full")
    assert await ledger.settle(reserved, charge_nusd=80, record=RECORD)
    await run(own_redis.url, "CONFIG", "SET", "maxmemory", 0)
    assert (await counters(ledger))["company"] == (80, 0, 0)


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
async def test_a_server_that_evicts_is_refused_with_the_way_out(own_redis: RedisServer, policy: str) -> None:
    """Eviction silently resets budgets."""
    await run(own_redis.url, "CONFIG", "SET", "maxmemory", "100mb")
    await run(own_redis.url, "CONFIG", "SET", "maxmemory-policy", policy)
    with pytest.raises(ConfigError, match="maxmemory-policy noeviction"):
        await RedisLedger(own_redis.url).open(replica_id="one", lease_seconds=20)


async def test_a_server_without_append_only_file_is_warned_about(own_redis: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """It works, until it restarts."""
    await run(own_redis.url, "CONFIG", "SET", "appendonly", "no")
    ledger = RedisLedger(own_redis.url)
    with caplog.at_level(logging.WARNING, logger="faregate.store"):
        await ledger.open(replica_id="one", lease_seconds=20)
    await ledger.close()
    assert "appendonly yes" in caplog.text
    assert ledger.warnings


async def test_users_and_passwords_of_the_url_are_used(own_redis: RedisServer) -> None:
    """ACL user, database number, and a message without the password when they are wrong."""
    await run(own_redis.url, "ACL", "SETUSER", "fare", "on", ">s3cret/x", "~*", "+@all")
    address = f"127.0.0.1:{own_redis.port}/2"
    ledger = RedisLedger(f"redis://fare:s3cret%2Fx@{address}")
    await ledger.open(replica_id="one", lease_seconds=20)
    await held(ledger, 1, WHERE)
    await ledger.close()
    assert await run(f"redis://{address}", "EXISTS", "{fg}:leases") == 1
    with pytest.raises(ConfigError, match="refused the login") as wrong:
        await RedisLedger(f"redis://fare:gue55@{address}").open(replica_id="one", lease_seconds=20)
    assert "gue55" not in str(wrong.value)


async def test_a_password_that_is_missing_is_a_configuration_error(own_redis: RedisServer) -> None:
    """`requirepass` is set and the URL has none."""
    await run(own_redis.url, "CONFIG", "SET", "requirepass", "s3cret")
    with pytest.raises(ConfigError, match="NOAUTH"):
        await RedisLedger(own_redis.url).open(replica_id="one", lease_seconds=20)
    ledger = RedisLedger(own_redis.url.replace("//", "//:s3cret@"))
    await ledger.open(replica_id="one", lease_seconds=20)
    await ledger.close()


async def test_a_stopped_server_fails_the_start_in_time(own_redis: RedisServer) -> None:
    """`serve` must say that the store does not answer, not hang."""
    own_redis.signal(signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(StoreUnavailable, match=f"127.0.0.1:{own_redis.port} cannot be reached"):
        await RedisLedger(own_redis.url).open(replica_id="one", lease_seconds=20)
    assert time.monotonic() - began < IN_TIME_SECONDS


async def test_a_unix_socket_works(tmp_path: Path) -> None:
    """The cheapest way to a Redis on the same machine."""
    path = tmp_path / "redis.sock"
    server = RedisServer(tmp_path, "--unixsocket", str(path), "--appendonly", "yes")
    try:
        ledger = RedisLedger(f"unix://{path}?db=1")
        await ledger.open(replica_id="one", lease_seconds=20)
        assert isinstance(await ledger.reserve(attempt_id="a", amount_nusd=1, buckets=WHERE), Reservation)
        await ledger.close()
    finally:
        server.close()


async def test_commands_of_one_turn_of_the_loop_share_a_write(ledger: RedisLedger) -> None:
    """Sixty-four clients at once cost one system call, not sixty-four."""
    before = ledger.writes
    answers = await asyncio.gather(*[ledger.reserve(attempt_id=f"w-{i}", amount_nusd=1, buckets=WHERE) for i in range(64)])
    assert ledger.writes - before == 1
    assert not any(isinstance(a, Refusal) for a in answers)


async def test_the_log_is_read_while_the_hot_connection_serves(ledger: RedisLedger) -> None:
    """A report that reads the whole log must not hold up requests: it has a connection of its own."""
    before = ledger.writes
    assert await records(ledger) == []
    assert ledger.writes == before


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://localhost:1", "is not a scheme of Redis"),
        ("redis://localhost:port", "is not the address of a Redis"),
        ("redis://localhost/zero", "is not the address of a Redis"),
        ("rediss://localhost?ssl_ca_certs=/does/not/exist", "cannot be read"),
    ],
)
def test_an_address_that_is_none_is_a_configuration_error(url: str, message: str) -> None:
    """Said at start, with the field that is wrong."""
    with pytest.raises(ConfigError, match=message):
        RedisLedger(url)
