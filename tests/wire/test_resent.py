"""A request that was sent twice: only if the provider cannot have had the first; else it is another attempt."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path

from router.adapters.upstream.http1 import Http1Upstream
from router.ports import Endpoint
from tests.running import running
from tests.scripted_upstream import Close, Json, Raw, Sequence
from tests.wire.helpers import LIMIT, PATH, TIMEOUTS, fault_of, on_both_loops, request, world

CONFIG = """
version: 1
server: {store: "STORE"}
providers:
  up: {kind: openai, base_url: "UP", api_key: $PROVIDER_KEY}
models:
  m: {at: up/m, price: {input: 1, output: 10}, default_max_output: 100}
routes:
  auto: {default: {use: m}, fallback: {retries: 0}}
keys:
  tester: {secret: $TEST_KEY}
"""


class Server:
    """A provider on bare sockets, which closes a connection at a moment of the test's choice, with no event loop between."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self.endpoint = Endpoint(name="bare", scheme="http", host="127.0.0.1", port=self._listener.getsockname()[1], base_path="/v1")
        self.connections: list[socket.socket] = []

    async def answer_one(self) -> None:
        """Take a connection, and answer one request on it."""
        loop = asyncio.get_running_loop()
        connection, _ = await loop.sock_accept(self._listener)
        self.connections.append(connection)
        assert await loop.sock_recv(connection, 65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")

    def stop_listening(self) -> None:
        self._listener.close()

    def close(self) -> None:
        for closing in (self._listener, *self.connections):
            closing.close()


@on_both_loops
async def test_what_the_provider_never_had_is_sent_again() -> None:
    """It closed the idle connection while we wrote: an error to the client, or a charge, would be for nothing."""
    server, client = Server(), Http1Upstream()
    with contextlib.closing(server):
        for number in range(3):
            serving = asyncio.ensure_future(server.answer_one())
            response = await client.post(server.endpoint, PATH, request(), timeouts=TIMEOUTS)
            assert (await response.read(LIMIT), response.sends) == (b"{}", 1 if number == 0 else 2)
            await serving
            # From here to the next request nothing else runs.
            server.connections[-1].close()
        server.stop_listening()
        error = await fault_of(client.post(server.endpoint, PATH, request(), timeouts=TIMEOUTS))
        assert (error.fault, error.sent) == ("connect", False)
        await client.close()


@on_both_loops
async def test_a_provider_that_has_said_anything_is_not_asked_again() -> None:
    """Even a 103 shows that it works on the request: a second one would be paid for twice."""
    async with world() as (up, client, endpoint):
        early = Raw([b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"])
        for said in (early, Raw([b"HTTP/1.1 2"])):
            up.on("m", Sequence([Json(), said, Json()]))
            await (await client.post(endpoint, PATH, request(), timeouts=TIMEOUTS)).read(LIMIT)
            before = len(up.requests)
            error = await fault_of(client.post(endpoint, PATH, request(), timeouts=TIMEOUTS))
            assert (error.fault, error.sent, error.sends) == ("reset", True, 1)
            assert len(up.requests) == before + 1


async def test_a_call_that_the_provider_had_is_an_attempt_of_its_own(tmp_path: Path) -> None:
    """It may have begun to work and bill both: each has its hold, its record and its place among the attempts."""
    async with running(tmp_path, CONFIG.replace("retries: 0", "retries: 1")) as app:
        app.up.on("m", Sequence([Json(), Close(), Json(), Close(reset=True), Close()]))
        answers = [await app.ask("auto") for _ in range(3)]
        assert [(answer.status_code, answer.headers["x-faregate-attempts"]) for answer in answers] == [(200, "1"), (200, "2"), (502, "2")]
        await app.settled()
        records = await app.records()
        assert [record["outcome"] for record in records] == ["ok", "upstream_lost", "ok", "upstream_lost", "upstream_lost"]
        assert [(record["charge_nusd"] > 0, record.get("sends")) for record in records] == [(True, None)] * 5
        assert len(app.up.requests) == 5
