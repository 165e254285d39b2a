"""A real HTTP/1.1 provider on loopback that does what a test scripts, however wrong, and remembers what it saw.

    async with ScriptedUpstream() as up:
        up.on("broken", Stream(tokens=5, end="reset"))
        ...                                # POST to up.base_url + "/chat/completions" with model "broken"
        assert up.requests[-1].body["model"] == "broken"

A behaviour belongs to a model name; `up.default` serves all others. Nothing here sleeps: whatever waits, waits for
a `Gate` that the test opens or for the peer to go away. By hand: `python -m tests.scripted_upstream --port 9000`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ssl
import struct
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, cast

import httptools

from tests.scripted_behaviours import Behaviour, Close, Exchange, Fail, Gate, Hang, Json, Raw, Seen, Sequence, Stream, usage

__all__ = [
    "Behaviour",
    "Close",
    "Exchange",
    "Fail",
    "Gate",
    "Hang",
    "Json",
    "Raw",
    "ScriptedUpstream",
    "Seen",
    "Sequence",
    "Stream",
    "usage",
]

LINGER_OFF = struct.pack("ii", 1, 0)


class _Connection(asyncio.Protocol):
    """The server's end of one connection; requests on it are answered one after the other."""

    def __init__(self, up: ScriptedUpstream) -> None:
        self.up = up
        self.number = 0
        self.requests: asyncio.Queue[Seen | None] = asyncio.Queue()
        self.current: Seen | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._writable = asyncio.Event()
        self._writable.set()
        self._closed = False
        self._begin()

    def _begin(self) -> None:
        self._path = b""
        self._fields: list[tuple[bytes, bytes]] = []
        self._body: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not subclasses of asyncio's.
        self.transport = cast(asyncio.Transport, transport)
        self.up.connections += 1
        self.up.open_connections += 1
        self.number = self.up.connections
        self.up._live.add(self)
        self._task = asyncio.get_running_loop().create_task(self._serve())

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as exc:
            self.up.faults.append(repr(exc))
            self.transport.abort()

    def on_url(self, url: bytes) -> None:
        self._path += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        if any(name.lower() == b"expect" for name, _ in self._fields):
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, data: bytes) -> None:
        self._body.append(data)

    def on_message_complete(self) -> None:
        seen = Seen(
            method=self._parser.get_method().decode(),
            path=self._path.decode(),
            headers={name.decode("latin-1").lower(): value.decode("latin-1") for name, value in self._fields},
            fields=self._fields,
            raw=b"".join(self._body),
            at=time.monotonic(),
            connection=self.number,
        )
        self._begin()
        self.up._saw(seen)
        self.requests.put_nowait(seen)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed = True
        self._writable.set()
        self.up.open_connections -= 1
        self.up._live.discard(self)
        if self.current is not None:
            self.current.gone.set()
            self._task.cancel()
        self.requests.put_nowait(None)
        self.up._moved()

    async def write(self, data: bytes) -> None:
        """Write and wait until the socket takes more."""
        await self._writable.wait()
        if self._closed:
            raise ConnectionResetError
        self.transport.write(data)
        # The loop joins writes of one turn; a turn each keeps them apart.
        await asyncio.sleep(0)

    def close(self) -> None:
        self.current = None
        self.transport.close()

    def reset(self) -> None:
        """Close with a TCP RST."""
        self.current = None
        sock = self.transport.get_extra_info("socket")
        sock.setsockopt(1, 13, LINGER_OFF)  # SOL_SOCKET, SO_LINGER
        self.transport.abort()

    async def _serve(self) -> None:
        while (seen := await self.requests.get()) is not None:
            self.current = seen
            with contextlib.suppress(ConnectionResetError):
                await self.up.behaviour_for(seen)(Exchange(seen, self))
            self.current = None
            self.up._moved()

    async def end(self) -> None:
        """Stop serving and close."""
        self.transport.abort()
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task


class ScriptedUpstream:
    """An OpenAI-compatible server on a free port of 127.0.0.1. An async context manager."""

    def __init__(self, *, default: Behaviour | None = None, ssl_context: ssl.SSLContext | None = None, port: int = 0) -> None:
        self.default: Behaviour = default or Stream()
        """Serves models that have no behaviour of their own: JSON, or a stream if asked for one."""
        self.requests: list[Seen] = []
        self.connections = 0
        """Accepted so far."""
        self.open_connections = 0
        self.faults: list[str] = []
        """What was not HTTP."""
        self.port = port
        self._ssl_context = ssl_context
        self._behaviours: dict[str, Behaviour] = {}
        self._paths: dict[str, Behaviour] = {"/v1/models": Json(body={"object": "list", "data": [{"id": "scripted", "object": "model"}]})}
        self._live: set[_Connection] = set()
        self._changed = asyncio.Condition()
        self._notices: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def base_url(self) -> str:
        """`http://127.0.0.1:<port>/v1`."""
        return f"{'https' if self._ssl_context else 'http'}://127.0.0.1:{self.port}/v1"

    def on(self, model: str, behaviour: Behaviour) -> Self:
        """Answer requests for this model that way from now on."""
        self._behaviours[model] = behaviour
        return self

    def on_path(self, path: str, behaviour: Behaviour) -> Self:
        """Answer requests to this path that way, whatever the model."""
        self._paths[path] = behaviour
        return self

    def behaviour_for(self, seen: Seen) -> Behaviour:
        """What answers this request."""
        return self._paths.get(seen.path) or self._behaviours.get(seen.model) or self.default

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until the condition holds; it is looked at whenever a request arrives, ends or a connection closes."""
        async with asyncio.timeout(10), self._changed:
            await self._changed.wait_for(condition)

    async def until_seen(self, count: int) -> Seen:
        """Wait for the request number `count`, from 1."""
        await self.until(lambda: len(self.requests) >= count)
        return self.requests[count - 1]

    def drop_connections(self) -> None:
        """Close every connection, as a provider does with idle ones."""
        for connection in list(self._live):
            connection.close()

    async def stop_listening(self) -> None:
        """Refuse new connections; those that are open stay."""
        if self._server is not None:
            self._server.close()
            self._server = None

    @property
    def listening(self) -> bool:
        """Between the begin of the block and its end."""
        return self._server is not None

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), "127.0.0.1", self.port, ssl=self._ssl_context)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        await self.stop_listening()
        for connection in list(self._live):
            await connection.end()
        await asyncio.gather(*self._notices)

    def _saw(self, seen: Seen) -> None:
        self.requests.append(seen)
        self._moved()

    def _moved(self) -> None:
        task = asyncio.get_running_loop().create_task(self._notify())
        self._notices.add(task)
        task.add_done_callback(self._notices.discard)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()


async def _main(port: int) -> None:
    async with ScriptedUpstream(port=port) as up:
        print(up.base_url, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A scripted OpenAI-compatible provider for tests.")
    parser.add_argument("--port", type=int, default=0)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_main(parser.parse_args().port))
