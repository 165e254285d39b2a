"""What is saved of a ledger that somebody empties."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import redis.asyncio as redis

from tests.conftest import RedisServer
from tests.e2e.test_store_reset import CONFIG
from tests.gateway import Gateway
from tests.running import chat
from tests.scripted_behaviours import Json
from tests.scripted_upstream import ScriptedUpstream


async def test_the_last_settlements_are_booked_again(tmp_path: Path, own_redis: RedisServer) -> None:
    """The server is the same, so its run id does not tell; the id of the ledger does. Those of the last seconds are known here."""
    async with (
        ScriptedUpstream(default=Json()) as up,
        Gateway(tmp_path, CONFIG.replace("UP", up.base_url), store=own_redis.url) as gateway,
        gateway.client() as client,
    ):
        for _ in range(3):
            assert (await client.post("/chat/completions", json=chat())).status_code == 200
        before = (await gateway.settled())["everyone|"].spent_nusd
        assert before > 0
        async with redis.Redis(port=own_redis.port) as store:
            await store.flushall()
        deadline = time.monotonic() + 30
        while (found := (await gateway.settled()).get("everyone|")) is None or found.spent_nusd != before:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        assert await gateway.drifts() == []
