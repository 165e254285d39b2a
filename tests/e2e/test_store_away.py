"""Calls that go on while the store is away: paid from an advance, or let through up to a cap."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2 as httpx
import pytest

from tests.conftest import RedisServer
from tests.e2e.test_store_faults import EVER_SECONDS, PRICE, ask, served_again
from tests.gateway import Gateway
from tests.running import Running, running
from tests.scripted_behaviours import Json
from tests.scripted_upstream import ScriptedUpstream

CONFIG = """
version: 1
server: {store: "STORE", store_timeout: 250ms, drain: 10s, lease: 2s, when_store_is_down: MODE, lease_share: 20%, open_up_to: $0.0100}
providers:
  up: {kind: openai, base_url: "UP", api_key: $PROVIDER_KEY}
models:
  m: {at: up/m, price: {input: 0, output: 10}, default_max_output: 100}
budgets:
  everyone: {limit: $0.1}
keys:
  tester: {secret: $TEST_KEY}
"""
HOLD = 100 * PRICE
"""What a call holds, nano-USD."""
BILL = 50 * PRICE
USAGE = {"prompt_tokens": 11, "completion_tokens": 50, "total_tokens": 61}


def config(up: ScriptedUpstream, mode: str) -> str:
    return CONFIG.replace("UP", up.base_url).replace("MODE", mode)


def leasing(folder: Path, redis: RedisServer, up: ScriptedUpstream, *, expect_exit: int | None = 0) -> Gateway:
    text = config(up, "lease").replace("STORE", redis.url)
    return Gateway(folder, text, store=redis.url, expect_exit=expect_exit)


@pytest.fixture
async def up() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream(default=Json(usage=USAGE)) as scripted:
        yield scripted


async def metric(gateway: Gateway, client: httpx.AsyncClient, line: str) -> float:
    text = (await client.get(f"{gateway.root}/metrics")).text
    return sum(float(found.rpartition(" ")[2]) for found in text.splitlines() if found.startswith(line))


async def advanced(gateway: Gateway, client: httpx.AsyncClient) -> float:
    """Wait until an advance is there; how much it is, in USD."""
    deadline = time.monotonic() + EVER_SECONDS
    while not (found := await metric(gateway, client, "faregate_store_advances_usd")):
        assert time.monotonic() < deadline
        await ask(client)
        await asyncio.sleep(0.1)
    return found


async def until_refused(client: httpx.AsyncClient) -> int:
    """Call until no more is served; how often that was."""
    for served in range(1000):
        answer = await ask(client, stream=False)
        if answer.status_code == 503:
            assert "budget_store_unavailable" in answer.text
            return served
        assert answer.status_code == 200, answer.text
    raise AssertionError("never refused")


async def booked(gateway: Gateway | Running, up: ScriptedUpstream) -> int:
    """Wait until every call is in the books, exactly once, and nothing is held; what was spent."""
    deadline = time.monotonic() + EVER_SECONDS
    while True:
        records = [record for record in await gateway.records() if record.get("reason") != "advance"]
        state = (await gateway.buckets())["everyone|"]
        if len(records) == len(up.requests):
            break
        assert time.monotonic() < deadline, (len(records), len(up.requests), state)
        await asyncio.sleep(0.1)
    assert len({record["attempt_id"] for record in records}) == len(records)
    assert sum(record["charge_nusd"] for record in records) == BILL * len(up.requests)
    return BILL * len(up.requests)


async def test_an_advance_pays_for_calls_while_redis_is_away(tmp_path: Path, own_redis: RedisServer, up: ScriptedUpstream) -> None:
    """Served as far as was set aside, then refused; nothing is lost or spent twice, and no limit is exceeded, not even for a moment."""
    async with leasing(tmp_path, own_redis, up) as gateway, gateway.client() as client:
        room = round(await advanced(gateway, client) * 1e9)
        assert HOLD <= room <= 20_000_000
        own_redis.signal(signal.SIGSTOP)
        served = await until_refused(client)
        # The last one needs a whole hold; what those before did not use is there again.
        assert served == (room - HOLD) // BILL + 1
        ready = await client.get(f"{gateway.root}/readyz")
        assert ready.status_code == 200
        assert "the budget store is away; advances are left for calls that hold" in ready.text
        assert await metric(gateway, client, 'faregate_store_away_calls_total{mode="lease"}') == served
        assert await metric(gateway, client, 'faregate_store_away_calls_total{mode="refused"}') == 1
        own_redis.signal(signal.SIGCONT)
        await served_again(client)
        spent = await booked(gateway, up)
        assert await gateway.drifts() == []
        await gateway.stop()
        state = (await gateway.settled())["everyone|"]
        assert (state.spent_nusd, state.held_nusd, state.debt_nusd) == (spent, 0, 0)
    assert "calls are served as `when_store_is_down` says" in gateway.errors()


async def test_a_process_killed_while_redis_is_away_has_spent_its_advance_until_its_calls_are_booked(
    tmp_path: Path, own_redis: RedisServer, up: ScriptedUpstream
) -> None:
    """Nobody knows what it spent: the whole advance counts as spent. What it wrote down is booked by the next process, exactly."""
    async with leasing(tmp_path, own_redis, up, expect_exit=None) as gateway, gateway.client() as client:
        await advanced(gateway, client)
        own_redis.signal(signal.SIGSTOP)
        assert [(await ask(client)).status_code for _ in range(2)] == [200, 200]
        while await metric(gateway, client, "faregate_outbox_entries") < 2:
            await asyncio.sleep(0.01)
        gateway.kill()
        own_redis.signal(signal.SIGCONT)
        gateway.start()
        await gateway.until_ready()
        spent = await booked(gateway, up)
        deadline = time.monotonic() + EVER_SECONDS
        while sum(record["charge_nusd"] for record in await gateway.records() if record.get("reason") == "advance") == 0:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)
        await gateway.stop()
        state = (await gateway.settled())["everyone|"]
        assert (state.held_nusd, state.debt_nusd) == (0, 0)
        assert spent < state.spent_nusd <= 100_000_000
        assert await gateway.drifts() == []


async def test_open_lets_calls_through_up_to_its_cap(tmp_path: Path, own_redis: RedisServer, up: ScriptedUpstream) -> None:
    """The limit is exceeded by no more than the cap; what was let through is booked in full, as debt."""
    async with running(tmp_path, config(up, "open"), up=up, store=own_redis.url) as app:
        await served_again(app.client)
        own_redis.kill()
        assert await until_refused(app.client) == (10_000_000 - HOLD) // BILL + 1
        own_redis.start()
        await served_again(app.client)
        spent = await booked(app, up)
        state = (await app.settled())["everyone|"]
        assert (state.spent_nusd, state.held_nusd) == (spent, 0)
        assert 0 < state.debt_nusd <= 10_000_000
        assert await app.drifts() == []
