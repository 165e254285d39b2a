"""What a request may cost, in numbers that do not depend on the machine: writes, tasks, decodes, calls."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import pytest

from benchmarks.overhead import machine, programs
from tests.gateway import KEY, Gateway
from tests.house.source import ROOT
from tests.running import running
from tests.scripted_upstream import Behaviour, Fail, Gate, Json, ScriptedUpstream, Stream

CONCURRENT: Final = 64
REQUESTS: Final = 40
SPARE: Final = 6
"""What runs in the background may add: a heartbeat, a look at the budgets, a flush of the log."""
DECODES: Final = 4
"""Of a plain chat call: the members of its body; of these the name of the model and the cap; the usage of its answer."""
CALLS_PER_CHUNK: Final = 8
"""Python functions entered for one chunk, from the provider's socket to the client's. Each coroutine of the chain that
waits for it counts, as each goes on."""
HELLO_RATIO: Final = 8.0
"""Measured: 3 to 6. Here a Python client sends less at once, so less is done at once, and a machine
that is busy with something else spoils caches: the limit finds a client library or a framework on the hot path (each
would make it 20 and more), not a slow afternoon."""

CONFIG: Final = """
version: 1
server: {log_requests: true}
providers:
  up: {kind: openai, base_url: "UP", api_key: $PROVIDER_KEY}
models:
  small: {at: up/small, price: {input: 1, output: 2}, default_max_output: 512}
  large: {at: up/large, price: {input: 2, output: 4}, default_max_output: 512}
routes:
  auto:
    rules:
      - {name: agents, when: {tags: {kind: agent}}, use: [large]}
      - {name: long, when: {input_tokens: ">100000"}, use: [large]}
    default: {use: [small, large], by: cost}
budgets:
  company: $100000/month
  per-team: {limit: $50000/month, each: team}
  per-key: {limit: $20000/day, each: key}
  total: {limit: $1000000}
teams:
  search: {}
keys:
  bench: {team: search, secret: $TEST_KEY}
admins:
  ops: {secret_hash: "HASH", role: viewer}
""".replace("HASH", "0" * 64)


def request(port: int, *, stream: bool = False) -> bytes:
    """A whole HTTP request, as the benchmark sends it."""
    return programs.Target("", port, key=KEY).request(stream=stream)


@dataclass(slots=True)
class Peer:
    """A keep-alive connection of a client that costs little itself."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def open(cls, port: int) -> Peer:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def head(self) -> dict[str, str]:
        """The head of an answer, which must be a 200."""
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        assert lines[0].split()[1] == "200", lines[0]
        return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)}

    async def answer(self) -> bytes:
        """A whole answer with a length."""
        return await self.reader.readexactly(int((await self.head())["content-length"]))

    async def chunk(self) -> bytes:
        """A chunk of a chunked answer; empty at its end."""
        size = int(await self.reader.readline(), 16)
        return (await self.reader.readexactly(size + 2))[:-2]

    async def ask(self, raw: bytes) -> bytes:
        """One request, one answer."""
        self.writer.write(raw)
        return await self.answer()

    async def close(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()


@asynccontextmanager
async def peers(port: int, count: int) -> AsyncIterator[list[Peer]]:
    """Open connections."""
    found = [await Peer.open(port) for _ in range(count)]
    try:
        yield found
    finally:
        for peer in found:
            await peer.close()


class Counted:
    """The service in a process of its own that counts."""

    def __init__(self, process: Process, port: int) -> None:
        self._process = process
        self.port = port

    async def _say(self, word: bytes) -> bytes:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(word + b"\n")
        return await self._process.stdout.readline()

    async def count(self) -> None:
        """Count from nothing."""
        assert await self._say(b"count") == b"counting\n"

    async def tell(self) -> dict[str, int]:
        """What was counted."""
        counts: dict[str, int] = json.loads(await self._say(b"tell"))
        return {"json": 0, **counts}

    def pause(self) -> None:
        """Everything that is sent to it now arrives at once."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._process.send_signal(signal.SIGCONT)


@asynccontextmanager
async def counted(folder: Path, up: ScriptedUpstream, store: str) -> AsyncIterator[Counted]:
    """Serve `CONFIG` and count."""
    config = folder / "router.yaml"
    config.write_text(CONFIG.replace("UP", up.base_url))
    environment = {
        **os.environ,
        "PROVIDER_KEY": "sk-provider",
        "TEST_KEY": KEY,
        "REDIS_URL": store if "://" in store else "",
        "FAREGATE_STORE": store,
        "XDG_STATE_HOME": str(folder / "state"),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.house.counted", str(config), stdin=PIPE, stdout=PIPE, env=environment, cwd=ROOT
    )
    assert process.stdin is not None
    assert process.stdout is not None
    line = (await process.stdout.readline()).decode()
    assert line.startswith("http://"), "the service did not start"
    try:
        yield Counted(process, int(line.rsplit(":", 1)[1].partition("/")[0]))
    finally:
        process.send_signal(signal.SIGCONT)
        process.stdin.close()
        assert await process.wait() == 0


@pytest.fixture
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty store of the kind that the test asks for."""
    return str(request.getfixturevalue("redis_url")) if request.param == "redis" else str(tmp_path / "ledger.sqlite")


async def test_64_requests_at_once_are_two_writes_to_the_store(tmp_path: Path, redis_url: str) -> None:
    """A round trip each would cost more than everything else together: one write holds for all, one settles for all."""
    gate = Gate()
    async with (
        ScriptedUpstream(default=Json(before=gate)) as up,
        counted(tmp_path, up, redis_url) as service,
        peers(service.port, CONCURRENT) as clients,
    ):
        raw = request(service.port)
        # The first wave opens the connections to the provider.
        for client in clients:
            client.writer.write(raw)
        await up.until_seen(CONCURRENT)
        gate.step(CONCURRENT)
        for client in clients:
            await client.answer()

        await service.count()
        service.pause()
        for client in clients:
            client.writer.write(raw)
            await client.writer.drain()
        service.go_on()
        await up.until_seen(2 * CONCURRENT)
        service.pause()
        gate.step(CONCURRENT)
        await up.until(lambda: all(seen.answered for seen in up.requests))
        service.go_on()
        for client in clients:
            await client.answer()
        counts = await service.tell()
    # A write to the provider and one to the client for each, and two to the store for all of them.
    assert 2 * CONCURRENT + 2 <= counts["writes"] <= 2 * CONCURRENT + 2 + SPARE


@pytest.mark.parametrize("store", ["redis", "sqlite"], indirect=True)
async def test_a_request_is_one_task_at_most_and_no_json_is_read_twice(tmp_path: Path, store: str) -> None:
    """A task costs 3 µs and a decode of a long body hundreds; the json of the standard library is ten times slower than ours."""
    async with (
        ScriptedUpstream(default=Json()) as up,
        counted(tmp_path, up, store) as service,
        peers(service.port, 1) as [client],
    ):
        raw = request(service.port)
        await client.ask(raw)
        await service.count()
        for _ in range(REQUESTS):
            await client.ask(raw)
        counts = await service.tell()
    # None where it comes before the money of the one before is settled.
    assert counts.get("tasks", 0) <= REQUESTS + SPARE
    assert counts["decodes"] // REQUESTS == DECODES
    assert counts["json"] == 0


async def _stream(client: Peer, raw: bytes, gate: Gate, tokens: int) -> None:
    """One stream in lockstep: the provider sends an event only when the client has the one before."""
    client.writer.write(raw)
    await client.head()
    seen = 0
    while chunk := await client.chunk():
        seen += chunk.count(b"data:")
        if 1 <= seen <= tokens:
            gate.step()


async def test_a_chunk_of_a_stream_costs_a_few_calls_and_no_task(tmp_path: Path, redis_url: str) -> None:
    """Streams are most of the work of a busy proxy: whatever is done per chunk is done fifty times per answer."""
    gate = Gate()
    costs = []
    async with ScriptedUpstream() as up, counted(tmp_path, up, redis_url) as service, peers(service.port, 1) as [client]:
        raw = request(service.port, stream=True)
        for tokens in (10, 10, 110, 110, 110):
            up.default = Stream(tokens=tokens, pacer=gate)
            await service.count()
            await _stream(client, raw, gate, tokens)
            costs.append(await service.tell())
    # What the service does on its own once in a while falls into one of them on a crowded machine, not into all.
    short, long = costs[1], min(costs[2:], key=lambda cost: cost["calls"])
    assert (long["calls"] - short["calls"]) / 100 <= CALLS_PER_CHUNK
    assert long.get("tasks", 0) <= 1 + SPARE
    assert long["decodes"] - short["decodes"] <= SPARE
    assert long["json"] == 0


def _members(body: bytes) -> list[tuple[str, bytes]]:
    """Names and bytes of the members of an object, in their order; the cap last, by whatever name the provider obeys."""
    members = [(name, bytes(raw)) for name, raw in msgspec.json.decode(body, type=dict[str, msgspec.Raw]).items()]
    caps = [("cap", raw) for name, raw in members if name in ("max_tokens", "max_completion_tokens")]
    return [(name, raw) for name, raw in members if name not in ("max_tokens", "max_completion_tokens")] + caps


async def test_a_body_travels_as_it_was_written(tmp_path: Path) -> None:
    """Numbers, escapes, spaces and unknown members mean something to somebody; the model's name is ours to change, and the cap."""
    odd = (
        b'{ "temperature" : 1.0e-05, "messages" :[ {"role":"user" , "content":"\\u00e9\\/ \\ud83d\\ude00"} ],"seed":9007199254740993,'
        b'"model":"auto","max_tokens":  7, "x_unknown":{"b":[1.50,  -0.0],"a":null} }'
    )
    answer = (
        b'{"id" :"x","choices":[ {"message":{"content":"\\u00e9"},"index":0}],"usage":{"prompt_tokens":11,"completion_tokens":3},"n":1.0}'
    )
    async with running(tmp_path, CONFIG, up=ScriptedUpstream(default=Json(body=answer))) as live:
        got = await live.client.post("/chat/completions", content=odd, headers={"content-type": "application/json"})
        sent = live.up.requests[-1].raw
    assert _members(sent) == [(name, b'"small"' if name == "model" else raw) for name, raw in _members(odd)]
    assert got.content == answer


async def test_the_service_loads_nothing_that_it_does_not_need(tmp_path: Path) -> None:
    """Each of these costs every worker memory and time to start, and litellm seconds and 170 MB."""
    async with (
        ScriptedUpstream(default=Stream()) as up,
        Gateway(tmp_path, CONFIG.replace("UP", up.base_url), environment={"PYTHONPROFILEIMPORTTIME": "1"}) as gateway,
        gateway.client() as client,
    ):
        for stream in (False, True):
            body = {"model": "auto", "messages": [{"role": "user", "content": "Hello"}], "stream": stream}
            assert (await client.post("/chat/completions", json=body)).status_code == 200
        reports = [line for line in gateway.errors().splitlines() if line.startswith("import time:")]
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in reports}
    assert "router" in loaded
    assert loaded.isdisjoint({"fastapi", "starlette", "litellm", "pyreqwest", "httpx", "aiohttp", "openai", "redis", "numpy", "tiktoken"})


async def _cost(port: int, pids: Sequence[int], raw: bytes, *, connections: int, each: int) -> float:
    """CPU seconds per request of these processes, in a closed loop."""
    async with peers(port, connections) as clients:

        async def ask(client: Peer, times: int) -> None:
            for _ in range(times):
                await client.ask(raw)

        await asyncio.gather(*(ask(client, 3) for client in clients))
        before = machine.cpu_seconds(list(pids))
        await asyncio.gather(*(ask(client, each) for client in clients))
        return (machine.cpu_seconds(list(pids)) - before) / (connections * each)


async def test_a_guarded_request_costs_a_few_hello_worlds(tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one figure of speed that a shared machine can tell: two programs, side by side, in CPU time."""
    # Measuring coverage of the one and not of the other would be measured.
    for name in ("COVERAGE_PROCESS_CONFIG", "COVERAGE_PROCESS_START"):
        monkeypatch.delenv(name, raising=False)
    port = programs.free_port()
    program = programs.hello(tmp_path, port, ())
    hello = programs.Target("hello", port, program, key=KEY)
    async with ScriptedUpstream(default=Json()) as up:
        config = CONFIG.replace("UP", up.base_url)
        async with Gateway(tmp_path, config, store=redis_url) as gateway:
            await asyncio.to_thread(hello.start)
            try:
                ratios = []
                for _ in range(3):
                    least = await _cost(port, program.pids, request(port), connections=32, each=20)
                    ours = await _cost(gateway.port, machine.tree(gateway.pid), request(gateway.port), connections=32, each=20)
                    ratios.append(ours / least)
            finally:
                program.stop()
    assert min(ratios) <= HELLO_RATIO


LEFTOVERS: Final[dict[str, tuple[str, bool, Behaviour, int]]] = {
    "json": ("auto", False, Json(), 200),
    "stream": ("auto", True, Stream(), 200),
    "refused upstream": ("auto", False, Fail(status=400), 400),
    "unknown route": ("nothing", False, Json(), 404),
}


@pytest.mark.parametrize("case", LEFTOVERS)
async def test_a_request_leaves_nothing_for_the_garbage_collector(tmp_path: Path, case: str) -> None:
    """A cycle keeps the request's body in memory until the collector comes by, tens of thousands of requests later."""
    model, stream, behaviour, status = LEFTOVERS[case]
    async with running(tmp_path, CONFIG, up=ScriptedUpstream(default=behaviour)) as live:
        # The first request makes what is kept; other connections may end meanwhile, and are left once: what a request leaves, each does.
        for round_number in range(8):
            gc.collect()
            gc.disable()
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.garbage.clear()
            try:
                assert (await live.ask(model, stream=stream)).status_code == status
                await live.settled()
                gc.collect()
                left = [kind for kind in map(type, gc.garbage) if kind.__module__.startswith("router.")]
            finally:
                gc.set_debug(0)
                gc.garbage.clear()
                gc.enable()
            if round_number and not left:
                break
        assert left == [], left
