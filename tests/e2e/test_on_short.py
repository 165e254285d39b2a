"""The end of a budget over HTTP: who has to wait gets an answer, who is clamped is told, nothing is overspent."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.running import chat, running
from tests.scripted_behaviours import Gate, Json, usage
from tests.scripted_upstream import ScriptedUpstream

CENT = 10_000_000
CONFIG = """
version: 1
server: {store: "LEDGER", log_requests: false, on_short: [WAYS], short_wait: 30s, least_output: 100}
providers: {up: {kind: openai, base_url: "UP", api_key: $PROVIDER_KEY}}
models: {m: {at: up/m, price: {input: 0, output: 10}, default_max_output: 1000}}
budgets: {everyone: {limit: $0.025}}
keys: {tester: {secret: $TEST_KEY}}
"""


@pytest.fixture(params=["sqlite", "redis"])
def ledger(request: pytest.FixtureRequest) -> str:
    url: str = "STORE" if request.param == "sqlite" else request.getfixturevalue("redis_url")
    return url


async def test_calls_wait_for_the_room_that_others_leave(tmp_path: Path, ledger: str) -> None:
    """Two whole holds fit; the other four calls are served from what the first ones did not need."""
    up = ScriptedUpstream()
    gate = Gate()
    up.on("m", Json(usage=usage(10, 100), before=gate))
    async with running(tmp_path, CONFIG.replace("LEDGER", ledger).replace("WAYS", "wait, refuse"), up=up) as app:
        calls = [asyncio.ensure_future(app.client.post("/chat/completions", json=chat())) for _ in range(6)]
        lines = app.app.service.pipeline.shortages.lines
        # A call that ended without a place in the line would be waited for without end.
        while sum(len(line) for line in lines.values()) < 4 and not any(call.done() for call in calls):
            await asyncio.sleep(0.01)
        gate.open()
        answers = await asyncio.gather(*calls)
        assert [answer.status_code for answer in answers] == [200] * 6
        metrics = (await app.client.get(f"{app.root}/metrics")).text
        assert 'faregate_budget_refusals_total{budget="everyone",action="wait"} 4' in metrics


async def test_a_call_is_clamped_to_the_room_that_is_left(tmp_path: Path, ledger: str) -> None:
    """The third of three calls gets half of its length instead of a refusal, and its cap reaches the provider."""
    up = ScriptedUpstream()
    gate = Gate()
    up.on("m", Json(usage=usage(10, 100), before=gate))
    async with running(tmp_path, CONFIG.replace("LEDGER", ledger).replace("WAYS", "clamp, refuse"), up=up) as app:
        calls = [asyncio.ensure_future(app.client.post("/chat/completions", json=chat())) for _ in range(4)]
        done, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        assert [call.result().status_code for call in done] == [402]
        gate.open()
        answers = [await call for call in calls]
        clamped = [answer.headers["x-faregate-clamped"] for answer in answers if "x-faregate-clamped" in answer.headers]
        assert clamped == ["500"]
        assert sorted(answer.status_code for answer in answers) == [200, 200, 200, 402]
        metrics = (await app.client.get(f"{app.root}/metrics")).text
        assert 'faregate_budget_usable_ratio{budget="everyone"} 0' in metrics
