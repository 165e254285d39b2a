"""Event streams through the real server: chunk by chunk, within their money, priced by what they used."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.books import typed
from tests.running import Running, chat, running
from tests.scripted_behaviours import Exchange, Json, Stream, frame, sse, usage
from tests.scripted_upstream import Gate, ScriptedUpstream

CONFIG = """
version: 1
server: {store: STORE, slice_tokens: 16}
providers:
  up: {kind: openai, base_url: "UP", api_key: $PROVIDER_KEY, timeouts: {idle: 60s}}
models:
  m: {at: up/m, price: {input: 10, output: 10}, default_max_output: 4000}
  spare: {at: up/spare, price: {input: 10, output: 10}}
  rich: {at: up/rich, price: {input: 10, output: 20, cached_input: 1, audio_input: 40, audio_output: 80}}
routes:
  auto: [m, spare]
budgets:
  everyone: {limit: $LIMIT}
keys:
  tester: {secret: $TEST_KEY}
"""
PRICE = 10_000
"""Nano-USD per token of most models above."""


def config(limit: str = "100") -> str:
    return CONFIG.replace("$LIMIT", f"${limit}")


def events(text: str) -> list[Any]:
    """The payloads of a stream, `[DONE]` as a string."""
    payloads = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [payload if payload == "[DONE]" else json.loads(payload) for payload in payloads]


def finish_reasons(text: str) -> dict[int, str]:
    """The finish reason of each choice; the last one holds."""
    ended: dict[int, str] = {}
    for event in events(text):
        for choice in event["choices"] if isinstance(event, dict) else ():
            if choice["finish_reason"] is not None:
                ended[choice["index"]] = choice["finish_reason"]
    return ended


async def read_until(parts: AsyncIterator[bytes], count: int, seen: bytes) -> bytes:
    """Read on until so many content events have come."""
    while seen.count(b" word") < count:
        seen += await anext(parts)
    return seen


async def test_every_chunk_passes_before_the_next_one_exists(tmp_path: Path) -> None:
    """Whoever waits for a word sees it when the provider has said it, not when a buffer is full."""
    up, pace = ScriptedUpstream(), Gate()
    up.on("m", Stream(tokens=5, pacer=pace))
    async with running(tmp_path, config(), up=up) as run, run.client.stream("POST", "/chat/completions", json=chat(stream=True)) as answer:
        parts, seen = answer.aiter_raw(), b""
        for count in range(1, 6):
            pace.step()
            seen = await read_until(parts, count, seen)
            assert seen.count(b" word") == count
        seen += b"".join([part async for part in parts])
        assert seen.endswith(b"data: [DONE]\n\n")
        assert b"usage" not in seen.replace(b'"usage":null', b"")
        await run.settled()
        (record,) = typed(await run.records())
    assert (record.outcome, record.evidence, record.output_tokens) == ("ok", "exact", 5)


async def test_a_long_stream_holds_its_next_slice_before_it_is_produced(tmp_path: Path) -> None:
    """Holding the whole cap for every stream would leave most of a budget unusable; holding nothing would overspend it."""
    up, pace = ScriptedUpstream(), Gate()
    up.on("m", Stream(tokens=300, pacer=pace))
    async with running(tmp_path, config(), up=up) as run, run.client.stream("POST", "/chat/completions", json=chat(stream=True)) as answer:
        parts = answer.aiter_raw()
        pace.step()
        seen = await read_until(parts, 1, b"")
        (attempt,) = run.app.service.live.values()
        first = attempt.held.amount_nusd
        pace.step(99)
        seen = await read_until(parts, 100, seen)
        # The bound is a token per byte, so that no tokenizer can count more than is held.
        async with asyncio.timeout(30):
            while attempt.held.amount_nusd < first + 400 * PRICE:
                await asyncio.sleep(0.005)
        pace.open()
        seen += b"".join([part async for part in parts])
        await run.settled()
        (record,) = typed(await run.records())
    assert (record.outcome, record.output_tokens, record.charge_nusd) == ("ok", 300, 311 * PRICE)
    assert record.hold_nusd > first
    assert record.overrun_nusd == 0


class TwoChoices:
    """Two choices word by word; the first one ends early."""

    def __init__(self, pace: Gate) -> None:
        self._pace = pace

    async def __call__(self, exchange: Exchange) -> None:
        await exchange.head(200, {"content-type": "text/event-stream"}, length=None)
        for count in range(400):
            await self._write(exchange, (0, 1) if count < 3 else (1,))
            if count == 2:
                await exchange.write(sse({**frame(exchange.seen), "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}))
        await exchange.finish("hang")

    async def _write(self, exchange: Exchange, choices: tuple[int, ...]) -> None:
        for index in choices:
            await self._pace.wait()
            delta = {"index": index, "delta": {"content": " word"}, "finish_reason": None}
            await exchange.write(sse({**frame(exchange.seen), "choices": [delta]}))


async def read_paced(run: Running, pace: Gate, body: dict[str, object]) -> str:
    """Read a stream whose provider writes the next word when the last one was read: no two of them in one piece."""
    seen = b""
    pace.step()
    async with run.client.stream("POST", "/chat/completions", json=body) as answer:
        assert answer.status_code == 200
        async for part in answer.aiter_raw():
            pace.step(part.count(b" word"))
            seen += part
    return seen.decode()


@pytest.mark.parametrize("wants_usage", [False, True], ids=["plain", "usage-asked"])
@pytest.mark.parametrize("choices", [1, 2])
async def test_a_stream_whose_money_ends_is_cut_cleanly(tmp_path: Path, choices: int, wants_usage: bool) -> None:
    """The client gets a whole, valid, shorter answer; the provider is told to stop; the budget is kept."""
    up, pace = ScriptedUpstream(), Gate()
    up.on("m", Stream(tokens=400, pacer=pace, end="hang") if choices == 1 else TwoChoices(pace))
    more: dict[str, Any] = {"n": choices, "stream_options": {"include_usage": True}} if wants_usage else {"n": choices}
    async with running(tmp_path, config("0.004"), up=up) as run:
        text = await read_paced(run, pace, chat(stream=True, **more))
        await asyncio.wait_for(up.requests[0].gone.wait(), 10)
        state = (await run.settled())["everyone|"]
        (record,) = typed(await run.records())
    assert text.endswith("data: [DONE]\n\n")
    assert finish_reasons(text) == ({0: "length"} if choices == 1 else {0: "stop", 1: "length"})
    told = [event["usage"] for event in events(text) if isinstance(event, dict) and event.get("usage")]
    assert [counts["completion_tokens"] for counts in told] == ([record.output_tokens] if wants_usage else [])
    assert (record.outcome, record.evidence) == ("cut", "partial")
    assert state.spent_nusd == record.charge_nusd <= 4_000_000
    assert (state.held_nusd, state.debt_nusd) == (0, 0)
    assert record.output_tokens >= text.count(" word") > 20
    assert run.log_lines()[0]["outcome"] == "cut"


@pytest.mark.parametrize(
    "behaviour",
    [
        Stream(tokens=7, usage_twice=True),
        Stream(tokens=7, usage_in_every=True, usage=None),
        Stream(tokens=7, usage=usage(completion=7), end="no_done"),
        Stream(tokens=7, pieces="bytes"),
        Stream(tokens=7, pieces="whole"),
        Stream(tokens=7, framing="close"),
        Stream(tokens=7, encoding="gzip"),
        Stream(tokens=7, encoding="deflate"),
    ],
    ids=["twice", "in-every-chunk", "no-done", "byte-by-byte", "one-write", "until-close", "gzip", "deflate"],
)
async def test_however_a_provider_says_it_the_usage_is_booked_once(tmp_path: Path, behaviour: Stream) -> None:
    """The bill is the same whether the counts come once, twice, with every event, in pieces or compressed."""
    up = ScriptedUpstream()
    up.on("m", behaviour)
    async with running(tmp_path, config(), up=up) as run:
        answer = await run.ask(stream=True)
        state = (await run.settled())["everyone|"]
        (record,) = typed(await run.records())
    assert answer.text.count(" word") == 7
    assert finish_reasons(answer.text) == {0: "stop"}
    assert "content-encoding" not in answer.headers
    assert (record.outcome, record.evidence) == ("ok", "exact")
    assert state.spent_nusd == record.charge_nusd == (11 + 7) * PRICE


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "raw-deflate"])
async def test_a_compressed_answer_reaches_the_client_as_plain_json(tmp_path: Path, encoding: Any) -> None:
    """Some providers compress although they were asked not to."""
    up = ScriptedUpstream()
    up.on("m", Json(text="Grüße", encoding=encoding))
    async with running(tmp_path, config(), up=up) as run:
        answer = await run.ask()
        await run.settled()
        (record,) = typed(await run.records())
    assert answer.json()["choices"][0]["message"]["content"] == "Grüße"
    assert "content-encoding" not in answer.headers
    assert record.charge_nusd == (11 + 3) * PRICE


@pytest.mark.parametrize("stream", [False, True], ids=["json", "sse"])
async def test_each_class_of_tokens_has_its_own_price(tmp_path: Path, stream: bool) -> None:
    """Cached input, reasoning and audio are inside the totals: counted once, each at its rate."""
    told = usage(
        prompt=1000,
        completion=500,
        prompt_tokens_details={"cached_tokens": 400, "audio_tokens": 100},
        completion_tokens_details={"reasoning_tokens": 200, "audio_tokens": 50},
    )
    up = ScriptedUpstream()
    up.on("rich", Stream(usage=told) if stream else Json(usage=told))
    async with running(tmp_path, config(), up=up) as run:
        await run.ask("rich", stream=stream, max_tokens=600)
        state = (await run.settled())["everyone|"]
        (record,) = typed(await run.records())
    plain_input, plain_output = 1000 - 400 - 100, 500 - 50
    charge = plain_input * 10_000 + 400 * 1_000 + 100 * 40_000 + plain_output * 20_000 + 50 * 80_000
    assert state.spent_nusd == record.charge_nusd == charge
    assert (record.cache_read_tokens, record.audio_input_tokens) == (400, 100)
    assert (record.reasoning_tokens, record.audio_output_tokens) == (200, 50)


@pytest.mark.parametrize("end", ["reset", "truncate", "hang", "error_event"])
async def test_a_stream_that_dies_ends_with_an_error_and_never_cleanly(tmp_path: Path, end: Any) -> None:
    """Half an answer that looks like a whole one is worse than none."""
    up = ScriptedUpstream()
    up.on("m", Stream(tokens=4, end=end))
    text = config().replace("idle: 60s", "idle: 500ms") if end == "hang" else config()
    async with running(tmp_path, text, up=up) as run:
        answer = await run.ask(stream=True)
        state = (await run.settled())["everyone|"]
        (record,) = typed(await run.records())
        assert run.app.service.fleet.view("up/m").in_flight == 0
    last = events(answer.text)[-1]
    assert last["error"]["message"]
    assert "[DONE]" not in answer.text
    assert last["error"]["code"] == {"hang": "upstream_timeout", "error_event": "boom"}.get(end, "upstream_failed")
    assert record.outcome == ("upstream_error" if end == "error_event" else "upstream_lost")
    assert record.evidence == "partial"
    assert record.output_tokens >= 4
    assert state.spent_nusd == record.charge_nusd > 0


@pytest.mark.parametrize("pieces", ["events", "bytes"])
async def test_a_stream_that_begins_with_an_error_falls_back(tmp_path: Path, pieces: Any) -> None:
    """Nothing has reached the client yet, so another deployment may answer; both calls are in the books."""

    async def error_first(exchange: Exchange) -> None:
        exchange.one_by_one = pieces == "bytes"
        await exchange.head(200, {"content-type": "text/event-stream"}, length=None)
        await exchange.write(sse({"error": {"message": "The engine is on fire.", "type": "server_error"}}))
        await exchange.finish("clean")

    up = ScriptedUpstream()
    up.on("m", error_first)
    async with running(tmp_path, config(), up=up) as run:
        answer = await run.ask("auto", stream=True)
        await run.settled()
        records = typed(await run.records())
    assert answer.headers["x-faregate-model"] == "spare"
    assert answer.text.endswith("data: [DONE]\n\n")
    assert [(record.deployment, record.outcome) for record in records] == [("up/m", "upstream_error"), ("up/spare", "ok")]


class Flood:
    """Sends events as fast as they are taken."""

    def __init__(self, count: int, size: int) -> None:
        self.count = count
        self.written = 0
        self._text = "x" * size

    async def __call__(self, exchange: Exchange) -> None:
        await exchange.head(200, {"content-type": "text/event-stream"}, length=None)
        event = sse({**frame(exchange.seen), "choices": [{"index": 0, "delta": {"content": self._text}, "finish_reason": None}]})
        for _ in range(self.count):
            await exchange.write(event)
            self.written += 1
        await exchange.write(sse({**frame(exchange.seen), "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}))
        await exchange.write(b"data: [DONE]\n\n")
        await exchange.finish("clean")


async def stalled(flood: Flood) -> int:
    """Wait until nobody takes any more of it."""
    same, last = 0, -1
    while same < 25:
        await asyncio.sleep(0.01)
        same, last = (same + 1, last) if flood.written == last else (0, flood.written)
    return last


async def test_a_slow_reader_slows_the_provider_down(tmp_path: Path) -> None:
    """Memory must not grow with what a client does not read."""
    up, flood = ScriptedUpstream(), Flood(1000, 64 * 1024)
    up.on("m", flood)
    body = chat(stream=True, max_tokens=100_000)
    async with running(tmp_path, config("100000"), up=up) as run, run.client.stream("POST", "/chat/completions", json=body) as answer:
        assert await stalled(flood) < flood.count
        # What is between the two sockets: our buffers, not the answer.
        assert buffered(run) < 4 * 1024 * 1024
        text = b"".join([part async for part in answer.aiter_raw()])
        assert text.count(b"data: ") == flood.count + 2
        await run.settled()


def buffered(run: Running) -> int:
    """Bytes waiting to be sent to clients."""
    state = run.app._server.server_state
    return sum(connection.transport.get_write_buffer_size() for connection in state.connections)


async def test_a_client_may_read_a_stream_without_keep_alive(tmp_path: Path) -> None:
    """HTTP/1.0 knows no chunks: the end of the connection is the end of the answer."""
    up = ScriptedUpstream()
    up.on("m", Stream(tokens=3))
    body = json.dumps(chat(stream=True)).encode()
    async with running(tmp_path, config(), up=up) as run:
        reader, writer = await asyncio.open_connection("127.0.0.1", run.port)
        head = f"POST /v1/chat/completions HTTP/1.0\r\nauthorization: {run.client.headers['authorization']}\r\ncontent-length: {len(body)}"
        writer.write(head.encode() + b"\r\n\r\n" + body)
        answer = await reader.read()
        writer.close()
        await run.settled()
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"transfer-encoding" not in answer
    assert answer.endswith(b"data: [DONE]\n\n")
