"""The end of the service: what is under way ends, nothing new begins, the money is settled, the exit status is 0."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
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


async def asked(ask: Callable[[], Awaitable[httpx.Response]]) -> httpx.Response:
    """A worker without calls ends at once, and with it connections that it has not taken yet: asked anew, the others answer."""
    deadline = time.monotonic() + 20
    while True:
        with suppress(httpx.TransportError):
            return await ask()
        assert time.monotonic() < deadline


async def draining(gateway: Gateway) -> None:
    """Wait until every worker says that it drains: each new connection is dealt to any of them."""
    deadline = time.monotonic() + 20
    said = 0
    async with httpx.AsyncClient(limits=httpx.Limits(max_keepalive_connections=0)) as client:
        while said < 16:
            answer = await asked(lambda: client.get(f"{gateway.root}/readyz"))
            said = said + 1 if answer.status_code == 503 else 0
            assert said == 0 or answer.json()["reason"] == "draining"
            assert time.monotonic() < deadline


async def stranger(gateway: Gateway) -> httpx.Response:
    """A call on a connection of its own, with a body that is only read from clients who are let in."""
    async with gateway.client() as client:
        return await asked(lambda: client.post("/chat/completions", json=chat(padding="x" * 100_000)))


async def said(gateway: Gateway, words: str, times: int) -> None:
    """Wait until the workers have said it."""
    deadline = time.monotonic() + 30
    while gateway.errors().count(words) < times:
        assert time.monotonic() < deadline, gateway.errors()
        await asyncio.sleep(0.02)


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
            await said(gateway, "Started server process", workers)
            before.open()
            pace.step(5)
            ending = asyncio.create_task(gateway.stop())
            await draining(gateway)
            for refused in (await idle.get("/models"), await idle.post("/chat/completions", json=chat()), await stranger(gateway)):
                assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
                assert (refused.headers["retry-after"], refused.headers["x-should-retry"]) == ("1", "true")
                assert refused.headers["connection"] == "close"
            assert (await idle.get(f"{gateway.root}/livez")).status_code == 200
            assert b"faregate_requests_total" in (await idle.get(f"{gateway.root}/metrics")).content
            assert len(up.requests) == 6
            assert not ending.done()
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
            await draining(gateway)
            os.kill(gateway.pid, signal.SIGTERM)
            os.kill(gateway.pid, signal.SIGINT)
            pace.open()
            assert (await call).text.endswith("data: [DONE]\n\n")
            assert await ending == 0
        (record,) = await settled(gateway)
    assert record.outcome == "ok"


async def test_an_idle_service_stays_as_long_as_its_load_balancer_needs(tmp_path: Path) -> None:
    """A balancer that never sees the 503 sends calls to nobody."""
    up = ScriptedUpstream(default=Json())
    async with running(tmp_path, CONFIG.replace("{drain: DRAIN}", "{drain: 30s, drain_delay: 30s}"), up=up) as run:
        assert (await run.client.get(f"{run.root}/readyz")).status_code == 200
        ending = asyncio.create_task(run.app.drain())
        await asyncio.sleep(0)
        waiting = await run.client.get(f"{run.root}/readyz")
        assert (waiting.status_code, waiting.json()["reason"], waiting.headers["connection"]) == (503, "draining", "close")
        assert (await run.client.get(f"{run.root}/livez")).status_code == 200
        assert (await run.ask()).status_code == 503
        await run.app.service.swap(run.app.service.snapshot)
        assert (await run.ask()).status_code == 503
        assert not ending.done()
        ending.cancel()
        await asyncio.wait([ending])
        snapshot = run.app.service.snapshot
        run.app.service.snapshot = replace(snapshot, server=replace(snapshot.server, drain_delay_seconds=0.0))
    assert [line["error"] for line in run.log_lines()] == ["shutting_down"] * 2


async def test_a_worker_that_ends_alone_leaves_the_port_to_the_others(tmp_path: Path) -> None:
    """Its calls end; new ones must not be refused while another worker would serve them."""
    async with ScriptedUpstream() as up:
        pace = Gate()
        up.on("m", Stream(tokens=3, pacer=pace))
        async with Gateway(tmp_path, config(up), workers=2) as gateway, gateway.client() as client:
            await said(gateway, "Started server process", 2)
            calls = [asyncio.create_task(client.post("/chat/completions", json=chat(stream=True))) for _ in range(16)]
            await up.until_seen(16)
            first = Path(f"/proc/{gateway.pid}/task/{gateway.pid}/children").read_text().split()[0]
            os.kill(int(first), signal.SIGTERM)
            await said(gateway, "left the port to the other workers", 1)
            async with httpx.AsyncClient(limits=httpx.Limits(max_keepalive_connections=0)) as probe:
                assert {(await probe.get(f"{gateway.root}/readyz")).status_code for _ in range(16)} == {200}
            pace.open()
            assert {answer.status_code for answer in await asyncio.gather(*calls)} == {200}
            assert await gateway.stop() == 0
        await settled(gateway)
