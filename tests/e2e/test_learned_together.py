"""What policy kinds learn is known to every process of a ledger, and outlives all of them."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pytest

from tests.gateway import Gateway
from tests.running import chat
from tests.scripted_upstream import Json, ScriptedUpstream, usage

CONFIG = """
version: 1
server: {log_requests: false}
providers:
  up: {kind: openai, base_url: "UP", api_key: $PROVIDER_KEY}
models:
  small: {at: up/small, price: {input: 1, output: 1}, default_max_output: 100}
  large: {at: up/large, price: {input: 10, output: 10}, default_max_output: 100}
routes:
  auto: {use: [small, large], by: {kind: bandit, worth_usd: 0.0004, explore: 20%}}
budgets:
  everyone: {limit: $5}
keys:
  tester: {secret: $TEST_KEY}
"""
QUESTIONS = 40


@pytest.fixture(params=["sqlite", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where the ledger is."""
    return str(tmp_path / "ledger.sqlite") if request.param == "sqlite" else str(request.getfixturevalue("redis_url"))


def known(gateway: Gateway, body: str) -> dict[str, float]:
    """How many answers of each model are known, as `faregate explain` tells it."""
    told = gateway.run("explain", body, "--config", str(gateway.folder / "router.yaml"), "--store", gateway.store, "--key", "tester")
    return {name: float(number) for name, number in re.findall(r"known now: n/bandit/up/(\w+) (\S+)", told)}


async def until_known(gateway: Gateway, body: str, wanted: int) -> dict[str, float]:
    async with asyncio.timeout(60):
        while sum((found := await asyncio.to_thread(known, gateway, body)).values()) != wanted:
            await asyncio.sleep(0.2)
    return found


async def test_a_bandit_knows_what_all_workers_saw_before_they_were_killed(tmp_path: Path, store: str) -> None:
    """Two workers learn together; kill -9 of both, and those that come after go on from there."""
    body = tmp_path / "body.json"
    body.write_text(json.dumps(chat(model="auto")))
    async with ScriptedUpstream(default=Json(usage=usage(10, 10))) as up:
        gateway = Gateway(tmp_path, CONFIG.replace("UP", up.base_url), store=store, workers=2, expect_exit=None)
        async with gateway:
            for _ in range(QUESTIONS):
                async with gateway.client() as client:
                    assert (await client.post("/chat/completions", json=chat(model="auto"))).status_code == 200
            before = await until_known(gateway, str(body), QUESTIONS)
            assert set(before) == {"small", "large"}
            gateway.kill()
        async with Gateway(tmp_path, CONFIG.replace("UP", up.base_url), store=store, workers=2) as again, again.client() as client:
            assert await asyncio.to_thread(known, again, str(body)) == before
            for _ in range(10):
                assert (await client.post("/chat/completions", json=chat(model="auto"))).status_code == 200
        # Its clean end told all of it.
        assert sum((await asyncio.to_thread(known, again, str(body))).values()) == QUESTIONS + 10
