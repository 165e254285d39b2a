"""Clients that do not read, and bodies in crumbs: neither may keep money held or fill the memory."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from router.adapters.choose import visiting
from router.edge.protocol import MAX_PARTS, UNREAD_SECONDS, GateProtocol
from tests.gateway import KEY
from tests.running import Running, chat, running
from tests.scripted_behaviours import Json, Stream

CONFIG = """
version: 1
server: {store: "STORE", max_body: 1MiB}
providers:
  up: {kind: openai, base_url: "UP", api_key: $PROVIDER_KEY}
models:
  m: {at: up/m, price: {input: 1, output: 10}, default_max_output: 10000000}
budgets:
  all: {limit: "$1000", window: lifetime}
keys:
  tester: {secret: $TEST_KEY}
"""
MUCH = "x" * 8_000_000
"""More than all buffers between us and a client take."""


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path, CONFIG) as served:
        yield served


def head(*lines: bytes) -> bytes:
    start = b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nauthorization: Bearer " + KEY.encode() + b"\r\n"
    return start + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def call(**more: Any) -> bytes:
    body = json.dumps(chat(**more)).encode()
    return head(b"content-length: %d" % len(body)) + body


async def deaf(app: Running, data: bytes) -> socket.socket:
    """A client that sends and reads nothing."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, ("127.0.0.1", app.port))
    await loop.sock_sendall(client, data)
    return client


async def connected(app: Running) -> GateProtocol:
    """The one connection."""
    while True:
        for connection in app.app._server.server_state.connections:
            if isinstance(connection, GateProtocol):
                return connection
        await asyncio.sleep(0.001)


async def stuck(app: Running) -> GateProtocol:
    """The connection, once its client takes no more."""
    async with asyncio.timeout(30):
        while (connection := await connected(app)).paused is None:
            await asyncio.sleep(0.001)
        return connection


async def held(app: Running) -> int:
    async with visiting(app.store) as ledger:
        return sum([state.held_nusd for state in await ledger.bucket_states()])


async def nothing_held(app: Running) -> None:
    async with asyncio.timeout(30):
        while await held(app):
            await asyncio.sleep(0.001)


async def test_an_answer_is_settled_whether_it_is_read_or_not(app: Running) -> None:
    """The provider has billed it; a client that never reads must not keep money from all others."""
    app.up.on("m", Json(text=MUCH))
    client = await deaf(app, call())
    await stuck(app)
    await nothing_held(app)
    assert [record["outcome"] for record in await app.records()] == ["ok"]
    client.close()


async def test_requests_behind_an_unread_answer_wait(app: Running) -> None:
    """Each would add its own answer to what is kept in memory."""
    app.up.on("m", Json(text=MUCH))
    client = await deaf(app, call() * 2)
    connection = await stuck(app)
    await nothing_held(app)
    assert len(app.up.requests) == 1
    loop, taken = asyncio.get_running_loop(), 0
    async with asyncio.timeout(30):
        while taken < 2 * len(MUCH):
            taken += len(await loop.sock_recv(client, 1 << 20))
    assert len(app.up.requests) == 2
    assert not connection.closing
    client.close()


async def test_a_client_that_takes_nothing_has_left(app: Running) -> None:
    """A stream that nobody reads holds money; it is settled for what came of it."""
    app.up.on("m", Stream(text=MUCH[:400_000], tokens=20))
    client = await deaf(app, call(stream=True))
    connection = await stuck(app)
    connection.sweep(connection.unread_since + 1)
    connection.sweep(connection.unread_since + UNREAD_SECONDS - 1)
    assert await held(app) > 0
    connection.sweep(connection.unread_since + UNREAD_SECONDS + 1)
    await nothing_held(app)
    assert [record["outcome"] for record in await app.records()] == ["client_left"]
    client.close()


async def test_a_body_in_crumbs_is_joined(app: Running) -> None:
    """A piece of one byte takes fifty in memory."""
    body = json.dumps(chat()).encode() + b" " * (3 * MAX_PARTS)
    crumbs = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
    reader, writer = await asyncio.open_connection("127.0.0.1", app.port)
    writer.write(head(b"transfer-encoding: chunked", b"connection: close") + crumbs)
    async with asyncio.timeout(30):
        while not getattr(connection := await connected(app), "joined", b""):
            await asyncio.sleep(0.001)
    assert len(connection.parts) <= MAX_PARTS
    writer.write(b"0\r\n\r\n")
    async with asyncio.timeout(30):
        said = await reader.read()
    writer.close()
    assert said.startswith(b"HTTP/1.1 200 ")
    assert app.up.requests[0].body["messages"] == chat()["messages"]
