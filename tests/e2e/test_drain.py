"""The end of the service: what is under way ends, nothing new begins, the money is settled, the exit status is 0."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import httpx2 as httpx
import pytest

from router.domain.records import SpendRecord
from tests.books import typed
from tests.gateway import Gateway
from tests.running import chat, running
from tests.scripted_behaviours import Hang, Json, Stream
from tests.scripted_upstream import Gate, ScriptedUpstream

CONFIG = """
version: 1
server: {drain: DRAIN}
providers:
  up: {kind: openai, base_url: "UP", api_key: $PROVIDER_KEY}
models:
  m: {at: up/m, price: {input: 10, output: 10}, default_max_output: 1000}
budgets:
  everyone: {limit: $1}
keys:
  tester: {secret: $TEST_KEY}
"""
PRICE = 10_000


def config(up: ScriptedUpstream, drain: str = "30s") -> str:
    return CONFIG.replace("UP", up.base_url).replace("DRAIN", drain)


async def refused(gateway: Gateway) -> None:
    """Wait until no new connection is accepted."""
    deadline = time.monotonic() + 20
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        except ConnectionRefusedError:
            return
        writer.close()
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def settled(gateway: Gateway) -> list[SpendRecord]:
    """The records of a service that has ended: no hold is open, books and counters agree."""
    buckets = await gateway.buckets()
    records = typed(await gateway.records())
    assert [bucket.held_nusd for bucket in buckets.values()] == [0]
    assert sum(bucket.spent_nusd for bucket in buckets.values()) == sum(record.charge_nusd for record in records)
    assert await gateway.drifts() == []
    return records


@pytest.mark.parametrize("workers", [1, 2])
async def test_live_calls_end_before_the_service_does(tmp_path: Path, workers: int) -> None:
    """A deployment must not cost anybody an answer."""
    async with ScriptedUpstream() as up:
        pace, before = Gate(), Gate()
        up.on("m", Stream(tokens=8, pacer=pace, before=before))
        async with Gateway(tmp_path, config(up), workers=workers) as gateway, gateway.client() as client, gateway.client() as idle:
            assert (await idle.get("/models")).status_code == 200
            calls = [asyncio.create_task(client.post("/chat/completions", json=chat(stream=n % 2 == 0))) for n in range(6)]
            await up.until_seen(6)
            before.open()
            pace.step(5)
            ending = asyncio.create_task(gateway.stop())
            await refused(gateway)
            assert not ending.done()
            with pytest.raises(httpx.TransportError):
                await idle.get("/models")
            pace.open()
            answers = await asyncio.gather(*calls)
            assert await ending == 0
        records = await settled(gateway)
    assert [answer.status_code for answer in answers] == [200] * 6
    assert all(answer.text.endswith("data: [DONE]\n\n") for answer in answers[::2])
    assert [(record.outcome, record.charge_nusd) for record in records] == [("ok", 19 * PRICE)] * 6


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_call_longer_than_the_drain_time_is_cut_off_and_settled(tmp_path: Path, workers: int) -> None:
    """The service ends in time, whatever a provider does; what was produced is paid for."""
    async with ScriptedUpstream() as up:
        pace = Gate()
        up.on("m", Stream(tokens=1000, pacer=pace))
        async with Gateway(tmp_path, config(up, "1s"), workers=workers) as gateway, gateway.client() as client:
            async with client.stream("POST", "/chat/completions", json=chat(stream=True)) as answer:
                pace.step(12)
                seen, parts = b"", answer.aiter_raw()
                while seen.count(b" word") < 12:
                    seen += await anext(parts)
                ending = asyncio.create_task(gateway.stop())
                async for part in parts:
                    seen += part
            assert await ending == 0
        (record,) = await settled(gateway)
        await asyncio.wait_for(up.requests[0].gone.wait(), 10)
    assert b"[DONE]" not in seen
    assert b'"code":"shutting_down"' in seen.rpartition(b"data: ")[2]
    assert (record.outcome, record.evidence) == ("upstream_lost", "partial")
    assert 12 <= record.output_tokens <= 40
    assert record.charge_nusd == (record.input_tokens + record.output_tokens) * PRICE


async def test_a_call_without_an_answer_is_told_to_come_back(tmp_path: Path) -> None:
    """A client whose answer has not begun gets an error that its library retries, not a broken connection."""
    async with ScriptedUpstream() as up:
        up.on("m", Hang(gate=Gate()))
        async with Gateway(tmp_path, config(up, "1s")) as gateway, gateway.client() as client:
            call = asyncio.create_task(client.post("/chat/completions", json=chat()))
            await up.until_seen(1)
            ending = asyncio.create_task(gateway.stop())
            answer = await call
            assert await ending == 0
        (record,) = await settled(gateway)
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "shutting_down"
    assert answer.headers["retry-after"] == "1"
    assert (record.outcome, record.evidence) == ("upstream_lost", "partial")
    (line,) = gateway.log_lines()
    assert (line["status"], line["error"]) == (503, "shutting_down")


async def test_a_second_signal_does_not_break_the_end(tmp_path: Path) -> None:
    """Impatient people and orchestrators send it twice."""
    async with ScriptedUpstream() as up:
        pace = Gate()
        up.on("m", Stream(tokens=3, pacer=pace))
        async with Gateway(tmp_path, config(up)) as gateway, gateway.client() as client:
            call = asyncio.create_task(client.post("/chat/completions", json=chat(stream=True)))
            await up.until_seen(1)
            ending = asyncio.create_task(gateway.stop())
            await refused(gateway)
            os.kill(gateway.pid, signal.SIGTERM)
            os.kill(gateway.pid, signal.SIGINT)
            pace.open()
            assert (await call).text.endswith("data: [DONE]\n\n")
            assert await ending == 0
        (record,) = await settled(gateway)
    assert record.outcome == "ok"


async def test_a_draining_service_is_not_ready(tmp_path: Path) -> None:
    """Whoever balances load must send nothing more, while what is open goes on."""
    up = ScriptedUpstream(default=Json())
    async with running(tmp_path, CONFIG.replace("DRAIN", "5s"), up=up) as run:
        assert (await run.client.get(f"{run.root}/readyz")).status_code == 200
        run.app.service.draining = True
        waiting = await run.client.get(f"{run.root}/readyz")
        assert waiting.status_code == 503
        assert "shutting down" in waiting.text
        assert (await run.client.get(f"{run.root}/livez")).status_code == 200
        assert (await run.ask()).status_code == 200
