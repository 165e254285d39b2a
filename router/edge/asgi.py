"""Between ASGI and exchanges, in both directions.

`serve_asgi` runs an ASGI application (health, models, metrics, documentation) for a request that the
protocol read. `AsgiExchange` lets the pipeline serve a request that any ASGI server read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from router.edge.headers import Headers, decode, encode
from router.errors import BODY_TOO_LARGE, RouterError

if TYPE_CHECKING:
    from router.edge.wire_exchange import WireExchange

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]


async def serve_asgi(app: AsgiApp, exchange: WireExchange) -> None:
    """Answer an exchange by an ASGI application."""
    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": exchange.head.version,
        "method": exchange.head.method,
        "scheme": "http",
        "path": unquote(exchange.path),
        "raw_path": exchange.head.target,
        "query_string": exchange.head.query,
        "root_path": "",
        "headers": exchange.head.pairs,
        "client": exchange.peer,
        "server": None,
    }
    bridge = _Bridge(exchange)
    await app(scope, bridge.receive, bridge.send)


class _Bridge:
    def __init__(self, exchange: WireExchange) -> None:
        self._exchange = exchange
        self._asked = False
        self._head: tuple[int, bytes] = (500, b"")

    async def receive(self) -> Message:
        if self._asked:
            # The task is cancelled when the client leaves, so nothing else ever comes.
            await asyncio.get_running_loop().create_future()
        self._asked = True
        return {"type": "http.request", "body": await self._exchange.body(), "more_body": False}

    async def send(self, message: Message) -> None:
        exchange = self._exchange
        if message["type"] == "http.response.start":
            headers = [(name.lower(), value) for name, value in message.get("headers", ())]
            kept = [pair for pair in headers if pair[0] not in (b"content-length", b"transfer-encoding")]
            self._head = (message["status"], encode(kept))
            return
        body, more = message.get("body", b""), message.get("more_body", False)
        if not exchange.started:
            if not more:
                await exchange.respond(*self._head, body)
                return
            await exchange.start(*self._head)
        full = exchange.write(body)
        if full is not None:
            await full
        if not more:
            await exchange.finish()


class AsgiExchange:
    """An exchange over ASGI. See `router.edge.exchange.Exchange`."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, *, max_body_bytes: int) -> None:
        self._receive = receive
        self._send = send
        self._max_body_bytes = max_body_bytes
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.headers: Headers = {name: value for name, value in scope["headers"] if name != b"content-length"}
        self.gone = False
        self.started = False
        self.task: asyncio.Task[None] | None = None
        """Cancelled when the client leaves."""
        self._watcher: asyncio.Future[None] | None = None
        self._sending: asyncio.Future[None] | None = None

    async def body(self) -> bytes:
        parts: list[bytes] = []
        size = 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self.gone = True
                raise asyncio.CancelledError
            part = message.get("body", b"")
            size += len(part)
            if size > self._max_body_bytes:
                raise RouterError(BODY_TOO_LARGE, f"The request body is larger than {self._max_body_bytes} bytes.")
            parts.append(part)
            if not message.get("more_body", False):
                self._watch()
                return b"".join(parts)

    def _watch(self) -> None:
        """Cancel the task once the client has left: ASGI says so only to whoever asks."""

        async def until_gone() -> None:
            while (await self._receive())["type"] != "http.disconnect":
                pass
            self.gone = True
            if self.task is not None:
                self.task.cancel()

        self._watcher = asyncio.ensure_future(until_gone())

    def unwatch(self) -> None:
        """The request is over."""
        if self._watcher is not None:
            self._watcher.cancel()

    async def sent(self) -> None:
        """The whole answer is on its way."""
        if self._sending is not None:
            await self._sending

    async def respond(self, status: int, headers: bytes, body: bytes) -> None:
        self.started = True
        await self._send(
            {"type": "http.response.start", "status": status, "headers": [*decode(headers), (b"content-length", b"%d" % len(body))]}
        )
        # A task: it is sent although nobody waits for the client to take it.
        self._sending = asyncio.ensure_future(self._send({"type": "http.response.body", "body": body, "more_body": False}))
        await asyncio.sleep(0)

    async def start(self, status: int, headers: bytes) -> None:
        self.started = True
        await self._send({"type": "http.response.start", "status": status, "headers": decode(headers)})

    def write(self, data: bytes) -> Awaitable[None] | None:
        if not data or self.gone:
            return None
        # A task: it is sent although nobody may come to await it.
        return asyncio.ensure_future(self._send({"type": "http.response.body", "body": data, "more_body": True}))

    async def finish(self) -> None:
        if not self.gone:
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    def abort(self) -> None:
        """ASGI knows no abort: ending the call without a last body message makes servers drop the connection."""
        self.gone = True
