"""A ledger that somebody empties while it is served."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from router.adapters.redis.address import parse_url
from router.adapters.redis.scripts import command
from router.adapters.redis.wire import Wire
from tests.conftest import RedisServer
from tests.gateway import Gateway
from tests.running import chat
from tests.scripted_behaviours import Json
from tests.scripted_upstream import ScriptedUpstream

CONFIG = """
version: 1
server: {lease: 2s}
providers:
  up: {kind: openai, base_url: "UP", api_key: $PROVIDER_KEY}
models:
  m: {at: up/m, price: {input: 10, output: 10}, default_max_output: 100}
budgets:
  everyone: {limit: $1}
keys:
  tester: {secret: $TEST_KEY}
"""
RESETS = "faregate_ledger_resets_total "


async def test_a_ledger_that_was_emptied_is_said_and_has_its_limits_again(tmp_path: Path, own_redis: RedisServer) -> None:
    """Nobody can know what was spent, but that it is forgotten must be known; calls are guarded by the limits anew."""
    async with (
        ScriptedUpstream(default=Json()) as up,
        Gateway(tmp_path, CONFIG.replace("UP", up.base_url), store=own_redis.url) as gateway,
        gateway.client() as client,
    ):
        assert (await client.post("/chat/completions", json=chat())).status_code == 200
        await gateway.settled()
        wire = Wire(parse_url(own_redis.url), timeout_seconds=10)
        await wire.open()
        await wire.call(command("FLUSHALL"))
        await wire.close()
        deadline = time.monotonic() + 30
        while f"{RESETS}1" not in (await client.get(f"{gateway.root}/metrics")).text:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        assert (await client.post("/chat/completions", json=chat())).status_code == 200
        state = (await gateway.settled())["everyone|"]
        assert state.limit_nusd == 1_000_000_000
        assert gateway.errors().count("the ledger was emptied or replaced") == 1
        assert (await client.get(f"{gateway.root}/readyz")).status_code == 200
        assert await gateway.drifts() == []
