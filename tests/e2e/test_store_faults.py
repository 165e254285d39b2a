"""A Redis that stops, dies, forgets, refuses or is slow, under a service that is at work."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx2 as httpx
import pytest

from router.adapters.entries import DOUBT_ORPHAN
from router.adapters.redis.address import parse_url
from router.adapters.redis.scripts import command
from router.adapters.redis.wire import Wire
from router.domain.records import SpendRecord
from router.errors import StoreUnavailable
from tests.books import typed
from tests.conftest import RedisServer
from tests.gateway import Gateway
from tests.running import Running, chat, running
from tests.scripted_behaviours import Json, Stream
from tests.scripted_upstream import Gate, ScriptedUpstream

CONFIG = """
version: 1
server: {store: "STORE", store_timeout: 250ms, drain: 10s}
providers:
  up: {kind: openai, base_url: "UP", api_key: $PROVIDER_KEY}
models:
  m: {at: up/m, price: {input: 10, output: 10}, default_max_output: 100}
budgets:
  everyone: {limit: $1}
keys:
  tester: {secret: $TEST_KEY}
"""
PRICE = 10_000
BILL = (11 + 3) * PRICE
IN_TIME_SECONDS = 3.0
"""Ten times what a call may wait for the store: the machine may be busy with other tests."""
EVER_SECONDS = 60


def config(up: ScriptedUpstream, **change: str) -> str:
    text = CONFIG
    for old, new in change.items():
        text = text.replace(f"{old}: 250ms", f"{old}: {new}")
    return text.replace("UP", up.base_url)


async def tell(server: RedisServer, *words: str | int) -> object:
    """One command on a connection of its own."""
    wire = Wire(parse_url(server.url), timeout_seconds=10)
    await wire.open()
    try:
        return await wire.call(command(*words))
    finally:
        await wire.close()


async def ask(client: httpx.AsyncClient, **more: object) -> httpx.Response:
    return await client.post("/chat/completions", json={**chat(), **more})


async def served_again(client: httpx.AsyncClient) -> None:
    """Wait until a call is served; the others cost nothing."""
    deadline = time.monotonic() + EVER_SECONDS
    while (await ask(client)).status_code != 200:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def refused_in_time(client: httpx.AsyncClient, count: int) -> None:
    """Calls while the store is away: an error that is retried, soon."""
    began = time.monotonic()
    answers = await asyncio.gather(*(ask(client, stream=n % 2 == 0) for n in range(count)))
    assert time.monotonic() - began < IN_TIME_SECONDS
    assert {answer.status_code for answer in answers} == {503}
    assert {answer.json()["error"]["code"] for answer in answers} == {"budget_store_unavailable"}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers)


async def agree(gateway: Gateway | Running, up: ScriptedUpstream) -> list[SpendRecord]:
    """Wait until all settlements are delivered, then compare the books with the provider's own count."""
    deadline = time.monotonic() + EVER_SECONDS
    while True:
        records = typed(await gateway.records())
        state = (await gateway.settled())["everyone|"]
        if len(records) == len(up.requests) and state.held_nusd == 0:
            break
        assert time.monotonic() < deadline, (len(records), len(up.requests), state)
        await asyncio.sleep(0.1)
    assert all(seen.answered for seen in up.requests)
    assert state.spent_nusd == sum(record.charge_nusd for record in records) == BILL * len(up.requests)
    assert await gateway.drifts() == []
    return records


@pytest.fixture
async def up() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream() as scripted:
        yield scripted


@asynccontextmanager
async def half_way(up: ScriptedUpstream, client: httpx.AsyncClient, count: int) -> AsyncIterator[list[asyncio.Task[httpx.Response]]]:
    """Streams that have begun; when the block ends they go on and must all end well."""
    pace = Gate()
    up.on("m", Stream(tokens=3, pacer=pace))
    before = len(up.requests)
    streams = [asyncio.create_task(ask(client, stream=True)) for _ in range(count)]
    await up.until_seen(before + count)
    pace.step(count)
    yield streams
    pace.open()
    answers = await asyncio.gather(*streams)
    assert all(answer.status_code == 200 and answer.text.endswith("data: [DONE]\n\n") for answer in answers)
    up.on("m", Json())


async def test_while_redis_is_stopped_calls_are_refused_and_live_streams_go_on(
    tmp_path: Path, own_redis: RedisServer, up: ScriptedUpstream
) -> None:
    """Money is not spent unguarded, and what was promised is kept: their settlements arrive when it is back."""
    async with running(tmp_path, config(up), up=up, store=own_redis.url) as app:
        await served_again(app.client)
        async with half_way(up, app.client, 8) as streams:
            own_redis.signal(signal.SIGSTOP)
            await refused_in_time(app.client, 20)
        assert all(stream.done() for stream in streams)
        await refused_in_time(app.client, 5)
        assert (await app.client.get(f"{app.root}/livez")).status_code == 200
        while (await app.client.get(f"{app.root}/readyz")).status_code == 200:
            await asyncio.sleep(0.05)
        own_redis.signal(signal.SIGCONT)
        await served_again(app.client)
        records = await agree(app, up)
    assert {record.outcome for record in records} == {"ok"}


async def test_what_redis_acknowledged_outlives_its_death(tmp_path: Path, own_redis: RedisServer, up: ScriptedUpstream) -> None:
    """Killed in mid-load and started again: holds and charges are there, late settlements find theirs."""
    async with running(tmp_path, config(up), up=up, store=own_redis.url) as app:
        assert {answer.status_code for answer in await asyncio.gather(*(ask(app.client) for _ in range(20)))} == {200}
        async with half_way(up, app.client, 8):
            own_redis.kill()
            await refused_in_time(app.client, 10)
        own_redis.start()
        await served_again(app.client)
        records = await agree(app, up)
    assert {record.outcome for record in records} == {"ok"}


async def test_a_service_that_ends_while_redis_is_away_leaves_its_settlements_on_disk(
    tmp_path: Path, own_redis: RedisServer, up: ScriptedUpstream
) -> None:
    """The next process delivers them, before or after the holds are swept."""
    async with Gateway(tmp_path, config(up).replace("STORE", own_redis.url), store=own_redis.url) as gateway, gateway.client() as client:
        await served_again(client)
        async with half_way(up, client, 5):
            own_redis.kill()
            await refused_in_time(client, 1)
        assert await gateway.stop() == 0
        own_redis.start()
        gateway.start()
        await gateway.until_ready()
        await agree(gateway, up)


async def test_scripts_that_redis_forgot_are_sent_again(tmp_path: Path, own_redis: RedisServer, up: ScriptedUpstream) -> None:
    """Nobody notices a SCRIPT FLUSH."""
    async with running(tmp_path, config(up), up=up, store=own_redis.url) as app:
        for _ in range(3):
            await tell(own_redis, "SCRIPT", "FLUSH")
            assert {answer.status_code for answer in await asyncio.gather(*(ask(app.client) for _ in range(5)))} == {200}
        await agree(app, up)


async def test_calls_whose_holds_were_wiped_are_charged_all_the_same(tmp_path: Path, own_redis: RedisServer, up: ScriptedUpstream) -> None:
    """After FLUSHALL the budget begins anew, but what is under way is still paid for, and flagged."""
    async with running(tmp_path, config(up), up=up, store=own_redis.url) as app:
        async with half_way(up, app.client, 4):
            await tell(own_redis, "FLUSHALL")
        assert (await ask(app.client)).status_code == 200
        records = await agree(app, up)
    assert [record.doubt for record in records].count(DOUBT_ORPHAN) == 4
    assert {record.evidence for record in records} == {"exact"}


async def test_a_redis_that_became_a_replica_is_away_until_it_is_the_master(
    tmp_path: Path, own_redis: RedisServer, up: ScriptedUpstream
) -> None:
    """READONLY: a failover is under way."""
    async with running(tmp_path, config(up), up=up, store=own_redis.url) as app:
        async with half_way(up, app.client, 3):
            await tell(own_redis, "REPLICAOF", "127.0.0.1", 1)
            await refused_in_time(app.client, 5)
        await tell(own_redis, "REPLICAOF", "NO", "ONE")
        await served_again(app.client)
        await agree(app, up)


@asynccontextmanager
async def no_memory(redis: RedisServer) -> AsyncIterator[None]:
    await tell(redis, "CONFIG", "SET", "maxmemory", 1)
    yield
    await tell(redis, "CONFIG", "SET", "maxmemory", 0)


@asynccontextmanager
async def no_disk(redis: RedisServer) -> AsyncIterator[None]:
    with redis.full_disk():
        with suppress(StoreUnavailable):
            while True:
                await tell(redis, "SET", "x", 1)
        yield


@asynccontextmanager
async def another_password(redis: RedisServer) -> AsyncIterator[None]:
    wire = Wire(parse_url(redis.url), timeout_seconds=10)
    await wire.open()
    await wire.call(command("CONFIG", "SET", "requirepass", "s3cret"))
    await wire.call(command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"))
    yield
    await wire.call(command("CONFIG", "SET", "requirepass", ""))
    await wire.close()


async def test_a_redis_that_is_full_or_locks_us_out_refuses_calls_in_time_and_loses_none(
    tmp_path: Path, own_redis: RedisServer, up: ScriptedUpstream
) -> None:
    """OOM, MISCONF, a changed password: whatever the reason, no call waits long, live streams end well, and all is booked."""
    async with running(tmp_path, config(up), up=up, store=own_redis.url) as app:
        for fault in (no_memory, no_disk, another_password):
            await served_again(app.client)
            async with half_way(up, app.client, 4), fault(own_redis):
                await refused_in_time(app.client, 5)
            await served_again(app.client)
        records = await agree(app, up)
    assert {record.outcome for record in records} == {"ok"}


class SlowRoad:
    """A way to a server that delays whatever comes back, without changing its order."""

    def __init__(self, port: int, delay_seconds: float) -> None:
        self._target = port
        self.delay_seconds = delay_seconds
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    async def __aenter__(self) -> SlowRoad:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
            with suppress(ConnectionError):
                await asyncio.gather(self._pass_on(reader, back, slowly=False), self._pass_on(there, writer, slowly=True))
        finally:
            self._tasks.discard(task)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, slowly: bool) -> None:
        try:
            while data := await reader.read(65536):
                if slowly:
                    await asyncio.sleep(self.delay_seconds)
                writer.write(data)
        finally:
            writer.close()


async def test_a_slow_redis_makes_calls_slow_and_nothing_else(tmp_path: Path, own_redis: RedisServer, up: ScriptedUpstream) -> None:
    """300 ms each way back, and leave to wait for it: every call is served, the books are right."""
    up.default = Json()
    async with SlowRoad(own_redis.port, 0.3) as road:
        text = config(up, store_timeout="2s")
        async with running(tmp_path, text, up=up, store=f"redis://127.0.0.1:{road.port}/0") as app:
            answers = await asyncio.gather(*(ask(app.client, stream=n % 2 == 0) for n in range(30)))
            assert {answer.status_code for answer in answers} == {200}
            app.store = own_redis.url
            await agree(app, up)


async def test_a_redis_slower_than_the_limit_refuses_calls_in_time(tmp_path: Path, own_redis: RedisServer, up: ScriptedUpstream) -> None:
    """Nothing waits longer than server.store_timeout, and a hold that nobody heard of is given back."""
    up.default = Json()
    async with (
        SlowRoad(own_redis.port, 0.0) as road,
        running(tmp_path, config(up), up=up, store=f"redis://127.0.0.1:{road.port}/0") as app,
    ):
        await served_again(app.client)
        async with half_way(up, app.client, 4):
            road.delay_seconds = 0.6
            await refused_in_time(app.client, 10)
        await refused_in_time(app.client, 1)
        road.delay_seconds = 0.0
        await served_again(app.client)
        app.store = own_redis.url
        await agree(app, up)


async def test_two_services_on_one_redis_hold_one_budget(tmp_path: Path, redis_url: str, up: ScriptedUpstream) -> None:
    """More than one machine: together they serve what the budget pays for, and not one call more."""
    gate = Gate()
    up.on("m", Json(before=gate, usage={"prompt_tokens": 0, "completion_tokens": 100, "total_tokens": 100}))
    text = config(up).replace("input: 10,", "input: 0,").replace("limit: $1", "limit: $0.05")
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
    async with (
        running(folders[0], text, up=up, store=redis_url) as one,
        running(folders[1], text, up=up, store=redis_url) as two,
    ):
        calls = [asyncio.create_task(ask((one, two)[n % 2].client, max_tokens=100)) for n in range(100)]
        await up.until_seen(50)
        while sum(call.done() for call in calls) < 50:
            await asyncio.sleep(0.02)
        gate.open()
        statuses = [answer.status_code for answer in await asyncio.gather(*calls)]
        state = (await one.settled())["everyone|"]
        assert (statuses.count(200), statuses.count(402)) == (50, 50)
        assert (state.spent_nusd, state.held_nusd, state.debt_nusd) == (50_000_000, 0, 0)
        assert len(up.requests) == 50
        assert await two.drifts() == []


async def fails_to_start(folder: Path, url: str, environment: Mapping[str, str] | None = None) -> str:
    """Start on a store that must be refused; what is said on standard error."""
    gateway = Gateway(folder, CONFIG.replace("UP", "http://127.0.0.1:1/v1").replace("STORE", url), store=url, environment=environment)
    gateway.start()
    assert await gateway.ended() == 1
    return gateway.errors()


async def test_a_wrong_password_is_said_at_the_start(tmp_path: Path, own_redis: RedisServer) -> None:
    """One line that says what to look at, without the password."""
    await tell(own_redis, "CONFIG", "SET", "requirepass", "s3cret")
    said = await fails_to_start(tmp_path, own_redis.url.replace("//", "//:gue55ed@"))
    assert "refused the login" in said
    assert "gue55ed" not in said
    assert "Traceback" not in said


async def test_a_redis_that_evicts_is_refused_with_the_way_out(tmp_path: Path, own_redis: RedisServer) -> None:
    """Eviction would reset budgets without a word."""
    await tell(own_redis, "CONFIG", "SET", "maxmemory", "100mb")
    await tell(own_redis, "CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    said = await fails_to_start(tmp_path, own_redis.url)
    assert "maxmemory-policy noeviction" in said
    assert "Traceback" not in said
