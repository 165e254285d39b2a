"""More than one Redis: Sentinels that name the master, and a cluster whose nodes send us to the one that has the ledger."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from router.adapters.redis.address import parse_url
from router.adapters.redis.ledger import RedisLedger
from router.errors import ConfigError, StoreUnavailable
from tests.conftest import RedisServer, free_port
from tests.contract.stores import bucket, buckets, counters, held
from tests.contract.test_redis_failover import in_step, nothing_in_doubt, opened, settled
from tests.contract.test_redis_faults import run

WHERE = buckets(bucket(limit=1_000_000))
SOON_SECONDS = 30
Start = Callable[..., RedisServer]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start servers with options of their own."""
    servers: list[RedisServer] = []

    def begin(*options: str, config: Path | None = None) -> RedisServer:
        folder = tmp_path / str(len(servers))
        folder.mkdir()
        servers.append(RedisServer(folder, *options, config=config))
        return servers[-1]

    yield begin
    for server in servers:
        server.close()


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(SOON_SECONDS):
        while not await condition():
            await asyncio.sleep(0.05)


async def works(ledger: RedisLedger) -> bool:
    with contextlib.suppress(StoreUnavailable):
        await ledger.heartbeat({})
        return True
    return False


@asynccontextmanager
async def sentinel_of(master: RedisServer, replica: RedisServer, folder: Path, start: Start) -> AsyncIterator[RedisServer]:
    await run(master.url, "CONFIG", "SET", "repl-diskless-sync-delay", 0)
    await run(replica.url, "REPLICAOF", "127.0.0.1", master.port)

    await in_step(master, replica)
    config = folder / "sentinel.conf"
    rules = [f"monitor books 127.0.0.1 {master.port} 1", "down-after-milliseconds books 300", "failover-timeout books 3000"]
    config.write_text("".join(f"sentinel {rule}\n" for rule in rules))
    yield start("--sentinel", config=config)


async def test_the_master_that_sentinels_name_is_the_store_also_after_a_failover(tmp_path: Path, start: Start) -> None:
    """The master dies; its replica is promoted and found by itself, with the books and the holds."""
    master, replica = start("--appendonly", "yes"), start("--appendonly", "yes")
    async with sentinel_of(master, replica, tmp_path, start) as sentinel:
        address = f"redis+sentinel://127.0.0.1:1,127.0.0.1:{sentinel.port}/books"
        with pytest.raises(StoreUnavailable, match="no Sentinel knows the master 'others'"):
            await RedisLedger(address.replace("/books", "/others")).open(replica_id="one", lease_seconds=20)
        async with opened(address) as ledger:
            hold = await held(ledger, 100, WHERE)
            await in_step(master, replica)
            master.kill()
            await until(lambda: works(ledger))
            await settled(ledger, hold)
            await nothing_in_doubt(ledger)
            assert await counters(ledger) == {"company": (80, 0, 0)}
            assert await ledger.verify() == []


async def move_slot(slot: int, source: RedisServer, target: RedisServer) -> None:
    """As `redis-cli --cluster reshard` does."""
    ids = [bytes(await run(node.url, "CLUSTER", "MYID")).decode() for node in (source, target)]
    await run(target.url, "CLUSTER", "SETSLOT", slot, "IMPORTING", ids[0])
    await run(source.url, "CLUSTER", "SETSLOT", slot, "MIGRATING", ids[1])
    while keys := await run(source.url, "CLUSTER", "GETKEYSINSLOT", slot, 100):
        assert isinstance(keys, list)
        await run(source.url, "MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *[key.decode() for key in keys])
    for node in (target, source):
        await run(node.url, "CLUSTER", "SETSLOT", slot, "NODE", ids[1])


async def test_a_ledger_in_a_cluster_is_found_and_followed_to_another_node(start: Start) -> None:
    """All its keys share a slot. Whichever node is asked first, and wherever the slot is moved, the books are whole."""
    buses = [free_port() for _ in range(3)]
    nodes = [start("--cluster-enabled", "yes", "--cluster-port", str(bus), "--appendonly", "yes") for bus in buses]
    slot = await run(nodes[0].url, "CLUSTER", "KEYSLOT", "{fg}:books")
    assert isinstance(slot, int)
    edges = [0, 5461, 10923, 16384]
    for i, node in enumerate(nodes):
        await run(node.url, "CLUSTER", "ADDSLOTSRANGE", edges[i], edges[i + 1] - 1)
        await run(nodes[0].url, "CLUSTER", "MEET", "127.0.0.1", node.port, buses[i])

    async def formed() -> bool:
        states = [bytes(await run(node.url, "CLUSTER", "INFO")) for node in nodes]
        return all(b"cluster_state:ok" in state and b"cluster_known_nodes:3" in state for state in states)

    await until(formed)
    owner = next(node for i, node in enumerate(nodes) if edges[i] <= slot < edges[i + 1])
    first, second = [node for node in nodes if node is not owner]
    async with opened(f"redis://127.0.0.1:1,127.0.0.1:{first.port},127.0.0.1:{owner.port}/0") as ledger:
        holds = [await held(ledger, 100, WHERE) for _ in range(2)]
        await settled(ledger, holds[0])
        await ledger.sweep()
        await move_slot(slot, owner, second)
        await settled(ledger, holds[1])
        await nothing_in_doubt(ledger)
        assert await counters(ledger) == {"company": (160, 0, 0)}
        assert await ledger.verify() == []
        assert await ledger.trim(before_ms=0) == 0


@pytest.mark.parametrize(
    ("url", "hosts", "master", "db"),
    [
        ("redis://a:1,b,c:3/2", (("a", 1), ("b", 6379), ("c", 3)), "", 2),
        ("redis+sentinel://u:p%40@a,[::1]:5/m%2Fm/3", (("a", 26379), ("::1", 5)), "m/m", 3),
        ("redis://", (("localhost", 6379),), "", 0),
    ],
)
def test_several_hosts_are_read(url: str, hosts: tuple[tuple[str, int], ...], master: str, db: int) -> None:
    """Of a cluster, or of Sentinels."""
    address = parse_url(url)
    assert (address.hosts, address.master, address.db) == (hosts, master, db)
    assert "p@" not in repr(address)


def test_sentinels_need_the_name_of_a_master() -> None:
    """They may watch several."""
    with pytest.raises(ConfigError, match="the name of the master is missing"):
        parse_url("redis+sentinel://a:1")
