"""Clients that leave: the provider is told at once, what was produced is paid for, nothing stays behind."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httptools
import pytest

from router.domain.records import SpendRecord
from tests.books import typed
from tests.running import Running, chat, running
from tests.scripted_behaviours import Close, Exchange, Fail, Hang, Json, Stream
from tests.scripted_upstream import Gate, ScriptedUpstream

CONFIG = """
version: 1
server: {store: STORE}
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
LINGER_OFF = struct.pack("ii", 1, 0)


class Client:
    """A client on a bare socket, which can leave in any way."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def of(cls, run: Running) -> Client:
        return cls(*await asyncio.open_connection("127.0.0.1", run.port))

    def send(self, run: Running, body: bytes, *, only: int | None = None) -> None:
        """A call, or only the first bytes of its body."""
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: {run.client.headers['authorization']}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        self.writer.write(head.encode() + (body if only is None else body[:only]))

    async def read_words(self, count: int) -> None:
        seen = b""
        while seen.count(b" word") < count:
            part = await self.reader.read(65536)
            assert part, seen
            seen += part

    async def leave(self, *, reset: bool) -> None:
        if reset:
            self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_OFF)
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except ConnectionError:
            assert reset


def encoded(**more: Any) -> bytes:
    return json.dumps(chat(**more)).encode()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for it, for long enough on the busiest machine."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


def in_flight(run: Running) -> float:
    """The gauge of requests being served."""
    points = run.app.service.metrics.state()["faregate_requests_in_flight"]
    return sum(float(value) for _, value in points if isinstance(value, int | float))


async def all_quiet(run: Running) -> list[SpendRecord]:
    """Check that nothing is left of any call; the records."""
    service = run.app.service
    await until(lambda: not service.live and in_flight(run) == 0 and run.up.open_connections == 0)
    state = (await run.settled()).get("everyone|")
    records = typed(await run.records())
    assert (state.spent_nusd if state is not None else 0) == sum(record.charge_nusd for record in records)
    assert state is None or state.held_nusd == 0
    assert service.fleet.view("up/m").in_flight == 0
    assert await service.ledger.verify() == []
    return records


@pytest.mark.parametrize("reset", [False, True], ids=["fin", "rst"])
async def test_a_client_that_leaves_in_mid_stream_pays_for_what_was_produced(tmp_path: Path, reset: bool) -> None:
    """The provider must stop writing what nobody reads, and the words so far are on its bill."""
    up, pace = ScriptedUpstream(), Gate()
    up.on("m", Stream(tokens=1000, pacer=pace))
    async with running(tmp_path, CONFIG, up=up) as run:
        client = await Client.of(run)
        client.send(run, encoded(stream=True))
        pace.step(20)
        await client.read_words(20)
        await client.leave(reset=reset)
        await asyncio.wait_for(up.requests[0].gone.wait(), 10)
        (record,) = await all_quiet(run)
    assert (record.outcome, record.evidence, record.http_status) == ("client_left", "partial", 200)
    assert 20 <= record.output_tokens <= 60
    assert record.charge_nusd == (record.input_tokens + record.output_tokens) * PRICE
    (line,) = run.log_lines()
    assert (line["status"], line["outcome"]) == (499, "client_left")
    assert line["output_tokens"] == record.output_tokens
    assert line["cost_nusd"] == record.charge_nusd


@pytest.mark.parametrize("stream", [False, True], ids=["json", "sse"])
async def test_a_client_that_leaves_before_the_answer_pays_for_what_may_have_been_written(tmp_path: Path, stream: bool) -> None:
    """A stream stops where it is left; a JSON answer may be written to its end, so all that the cap allows counts."""
    up, never = ScriptedUpstream(), Gate()
    up.on("m", Hang(gate=never))
    async with running(tmp_path, CONFIG, up=up) as run:
        client = await Client.of(run)
        client.send(run, encoded(stream=stream))
        await up.until_seen(1)
        await client.leave(reset=False)
        await asyncio.wait_for(up.requests[0].gone.wait(), 10)
        (record,) = await all_quiet(run)
    assert (record.outcome, record.evidence, record.http_status) == ("client_left", "partial", 0)
    assert record.output_tokens == (0 if stream else 1000)
    assert record.charge_nusd == (record.input_tokens + record.output_tokens) * PRICE > 0
    (line,) = run.log_lines()
    assert (line["status"], line["outcome"]) == (499, "client_left")


async def test_a_client_that_leaves_in_mid_json_pays_for_all_that_the_cap_allows(tmp_path: Path) -> None:
    """A whole answer was probably written, and hanging up must not be a way to spend unseen."""
    up, gate = ScriptedUpstream(), Gate()

    async def half(exchange: Exchange) -> None:
        await exchange.head(200, {"content-type": "application/json"}, length=1000)
        await exchange.write(b'{"choices": [')
        await gate.wait()

    up.on("m", Json())
    async with running(tmp_path, CONFIG, up=up) as run:
        assert (await run.ask()).status_code == 200
        up.on("m", half)
        client = await Client.of(run)
        client.send(run, encoded())
        await until(lambda: gate.waiting == 1)
        await client.leave(reset=False)
        await asyncio.wait_for(up.requests[1].gone.wait(), 10)
        _, record = await all_quiet(run)
    assert (record.outcome, record.evidence, record.output_tokens) == ("client_left", "partial", 1000)


async def test_a_client_that_leaves_while_it_uploads_costs_nothing(tmp_path: Path) -> None:
    """No call was made: no hold, no record, no provider."""
    async with running(tmp_path, CONFIG) as run:
        client = await Client.of(run)
        client.send(run, encoded(padding="x" * 10_000), only=5_000)
        await until(lambda: len(run.app._server.server_state.connections) == 1)
        await client.leave(reset=True)
        await until(lambda: not run.app._server.server_state.connections)
        assert await all_quiet(run) == []
        assert run.up.requests == []
    assert run.log_lines() == []


async def test_a_client_that_leaves_during_a_pause_is_not_called_for_again(tmp_path: Path) -> None:
    """While a retry waits nothing is held, and nobody is left to retry for."""
    up = ScriptedUpstream()
    up.on("m", Fail(status=503, headers={"retry-after": "7"}))
    async with running(tmp_path, CONFIG, up=up) as run:
        client = await Client.of(run)
        client.send(run, encoded())
        await up.until(lambda: bool(up.requests) and up.requests[0].answered)
        await until(lambda: not run.app.service.live and in_flight(run) == 1)
        await client.leave(reset=False)
        await until(lambda: in_flight(run) == 0)
        up.drop_connections()
        (record,) = await all_quiet(run)
        assert len(up.requests) == 1
    assert (record.outcome, record.charge_nusd) == ("refused_upstream", 0)
    assert run.log_lines()[0]["outcome"] == "client_left"


async def test_a_client_that_leaves_with_its_whole_answer_is_served(tmp_path: Path) -> None:
    """The settlement that is still on its way is not cancelled."""
    up = ScriptedUpstream()
    up.on("m", Stream(tokens=3))
    async with running(tmp_path, CONFIG, up=up) as run:
        client = await Client.of(run)
        client.send(run, encoded(stream=True))
        seen = b""
        while not seen.endswith(b"0\r\n\r\n"):
            seen += await client.reader.read(65536)
        await client.leave(reset=True)
        await until(lambda: not run.app.service.live)
        up.drop_connections()
        (record,) = await all_quiet(run)
    assert (record.outcome, record.evidence, record.output_tokens) == ("ok", "exact", 3)
    assert run.log_lines()[0]["status"] == 200


async def test_a_hundred_clients_that_leave_at_once_leave_nothing(tmp_path: Path) -> None:
    """A deployment of a client service ends all its connections in one instant, some of them with answers half read."""
    up, pace = ScriptedUpstream(), Gate()
    up.on("m", Stream(tokens=1000, pacer=pace))
    async with running(tmp_path, CONFIG, up=up) as run:
        clients = [await Client.of(run) for _ in range(60)]
        for client in clients:
            client.send(run, encoded(stream=True, max_tokens=100))
        await up.until_seen(60)
        pace.step(60 * 3)
        await asyncio.gather(*(client.read_words(1) for client in clients[:20]))
        await asyncio.gather(*(client.leave(reset=place % 2 == 0) for place, client in enumerate(clients)))
        records = await all_quiet(run)
    assert len(records) == 60
    assert {record.outcome for record in records} == {"client_left"}
    assert all(record.charge_nusd > 0 for record in records)
    assert {line["status"] for line in run.log_lines()} == {499}


async def test_a_provider_that_hangs_up_on_a_client_that_left_is_settled_once(tmp_path: Path) -> None:
    """Both ends may go in the same instant."""
    up = ScriptedUpstream()
    up.on("m", Close(reset=True))
    async with running(tmp_path, CONFIG, up=up) as run:
        for _ in range(10):
            client = await Client.of(run)
            client.send(run, encoded(stream=True))
            await client.leave(reset=True)
        records = await all_quiet(run)
    assert len({record.attempt_id for record in records}) == len(records)


class Whole:
    """The answers of a connection, parsed as strictly as by a client."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.ended = 0
        self.headers: list[dict[bytes, bytes]] = []
        self.parser = httptools.HttpResponseParser(self)

    def on_message_begin(self) -> None:
        self.bodies.append(b"")
        self.headers.append({})

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[-1][name] = value

    def on_body(self, body: bytes) -> None:
        self.bodies[-1] += body

    def on_message_complete(self) -> None:
        self.ended += 1


@pytest.mark.parametrize("when", ["before the head", "in the stream"])
@pytest.mark.parametrize("stream", [False, True], ids=["json", "sse"])
async def test_a_client_that_only_ends_its_own_side_gets_its_answer(tmp_path: Path, stream: bool, when: str) -> None:
    """`nc -N` and some proxies do, and it looks like leaving. Nothing of the answer may be changed by finding out."""
    up, before, pace = ScriptedUpstream(), Gate(), Gate()
    up.on("m", Stream(tokens=4, before=before, pacer=pace))
    async with running(tmp_path, CONFIG, up=up) as run:
        client = await Client.of(run)
        client.send(run, encoded())
        client.send(run, encoded(stream=stream))
        answers = Whole()
        before.step()
        await up.until_seen(2)
        if when == "in the stream":
            before.open()
            pace.step(2)
            while stream and (len(answers.bodies) < 2 or answers.bodies[-1].count(b" word") < 2):
                answers.parser.feed_data(await client.reader.read(65536))
        client.writer.write_eof()
        # Longer than it takes to find out that a client has left.
        first = await client.reader.read(1) if when == "before the head" or stream else b""
        before.open()
        pace.open()
        answers.parser.feed_data(first + await client.reader.read(-1))
        client.writer.close()
        await run.settled()
        records = typed(await run.records())
    assert answers.ended == len(answers.bodies) == 2
    assert [record.outcome for record in records] == ["ok", "ok"]
    assert json.loads(answers.bodies[0])["choices"][0]["message"]["content"]
    if stream:
        assert answers.bodies[1].count(b" word") == 4
        assert answers.bodies[1].endswith(b"data: [DONE]\n\n")
    else:
        assert answers.headers[1][b"connection"] == b"close"


async def test_a_page_is_shown_to_a_client_that_only_ends_its_own_side(tmp_path: Path) -> None:
    """The simplest probe there is: `printf 'GET /livez ...' | nc`."""
    async with running(tmp_path, CONFIG) as run:
        reader, writer = await asyncio.open_connection("127.0.0.1", run.port)
        writer.write(b"GET /livez HTTP/1.0\r\n\r\n")
        writer.write_eof()
        assert (await reader.read(-1)).endswith(b'\r\n\r\n{"status":"ok"}')
        writer.close()
