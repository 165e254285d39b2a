"""HTTP/1.1 from the socket: strict, bounded, and without an ASGI cycle for the requests that matter.

uvicorn runs the server; this protocol replaces its HTTP implementation. Calls for models go straight to the
pipeline, everything else through ASGI. A client that leaves is known at once: its task is cancelled.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import httptools

from router.edge.asgi import serve_asgi
from router.edge.exchange import STATUS_LINES
from router.edge.headers import encode
from router.edge.replies import error_reply
from router.errors import BAD_HTTP, BODY_TOO_LARGE, DRAINING, HEADERS_TOO_LARGE, REQUEST_TIMEOUT, ErrorSpec, RouterError

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from uvicorn.config import Config
    from uvicorn.server import ServerState

    from router.edge.gate import Gate

MAX_HEADERS: Final = 100
HEAD_SECONDS: Final = 10.0
BODY_SECONDS: Final = 60.0
IDLE_SECONDS: Final = 90.0
"""Longer than the keep-alive of common client pools: whoever closes first should be the client."""
UNPROVEN_BODY_BYTES: Final = 64 * 1024
"""A longer body is read only after its key was found good."""
MAX_PIPELINED: Final = 16
OFFERS: Final = frozenset({b"upgrade", b"connection", b"http2-settings"})
"""Headers by which a client offers another protocol."""
CHUNK_MARK_BYTES: Final = 16
"""Most bytes of framing per byte of a chunked body: a chunk of one byte has six, and somebody may write zeros before."""
VERSIONS: Final = frozenset({"1.1", "1.0"})
HIGH_WATER: Final = 256 * 1024


class GateProtocol(asyncio.Protocol):
    """One client connection."""

    def __init__(
        self, config: Config, server_state: ServerState, app_state: dict[str, Any], _loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        # Uvicorn types it as ASGI; we start it with a Gate.
        self.gate: Gate = config.app  # type: ignore[assignment]
        self.loop = _loop or asyncio.get_event_loop()
        self.state = server_state
        self.parser = httptools.HttpRequestParser(self)
        # Set before any other callback.
        self.transport: asyncio.Transport = None  # type: ignore[assignment]
        self.active: WireExchange | None = None
        self.waiting: deque[WireExchange] = deque()
        self.draining = False
        self.closing = False
        self.paused: asyncio.Future[None] | None = None
        self.phase = "idle"
        self.since = 0.0
        self.url = b""
        self.names: list[tuple[bytes, bytes]] = []
        self.parts: list[bytes] = []
        self.head_bytes = 0
        self.body_bytes = 0
        self.fresh = False
        """The request began in the packet that is being read."""
        self.pending = 0
        """Bytes that came since then and may still wait in the parser: it keeps a header until its line ends."""

    # The connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A stream transport, as for every TCP server.
        self.transport = transport  # type: ignore[assignment]
        self.transport.set_write_buffer_limits(high=HIGH_WATER)
        self.since = self.loop.time()
        # Uvicorn lists its own classes only.
        self.state.connections.add(self)  # type: ignore[arg-type]
        if len(self.state.connections) > self.gate.max_connections:
            self.refuse(self.gate.overloaded, "Too many connections are open.")

    def connection_lost(self, exc: Exception | None) -> None:
        self.state.connections.discard(self)
        self.closing = True
        self._resume_writer()
        for exchange in (self.active, *self.waiting):
            if exchange is not None:
                exchange.leave()
        self.waiting.clear()

    def eof_received(self) -> None:
        return None

    def pause_writing(self) -> None:
        if self.paused is None:
            self.paused = self.loop.create_future()

    def resume_writing(self) -> None:
        self._resume_writer()

    def _resume_writer(self) -> None:
        if self.paused is not None:
            if not self.paused.done():
                self.paused.set_result(None)
            self.paused = None

    def shutdown(self) -> None:
        """Called by uvicorn at SIGTERM: answer what is under way, accept nothing more."""
        self.draining = True
        if self.active is None:
            self.close()

    def sweep(self, now: float) -> None:
        """Called about once a second: end connections that take too long to say what they want."""
        waited = now - self.since
        if self.phase == "idle":
            if self.active is None and waited > IDLE_SECONDS:
                self.close()
        elif waited > (HEAD_SECONDS if self.phase == "head" else BODY_SECONDS):
            self.refuse(REQUEST_TIMEOUT, f"The request's {self.phase} did not arrive within {waited:.0f} seconds.")

    def close(self) -> None:
        self.closing = True
        self.transport.close()

    def refuse(self, spec: ErrorSpec, message: str) -> None:
        """Answer a request that cannot be read, and close. Without an answer if another one is being written."""
        if self.closing:
            return
        if self.active is None:
            reply = error_reply(RouterError(spec, message))
            headers = [*reply.headers, (b"content-length", b"%d" % len(reply.body)), (b"connection", b"close")]
            self.transport.write(STATUS_LINES[reply.status] + encode(headers) + b"\r\n" + reply.body)
        self.close()

    # The parser

    def data_received(self, data: bytes) -> None:
        if self.closing:
            return
        if self.phase == "idle":
            self.since = self.loop.time()
            self.phase = "head"
        self.fresh = False
        before = self.body_bytes
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as exc:
            if not self.closing:
                self._decline_upgrade(data[exc.args[0] :])
            return
        except httptools.HttpParserError as exc:
            self.refuse(BAD_HTTP, f"The request is not valid HTTP/1.1: {exc}")
        if self.phase != "idle":
            self._bound(len(data), before)

    def _decline_upgrade(self, rest: bytes) -> None:
        """Read the request as if nothing had been offered: Java's client offers h2c with every call in plain text.

        The parser takes everything after such a head for the other protocol, so that it begins anew without the offer.
        """
        method = self.parser.get_method()
        if method == b"CONNECT":
            return self.refuse(BAD_HTTP, "CONNECT is not served: this is no forward proxy.")
        kept = [pair for pair in self.names if pair[0] not in OFFERS]
        self.parser = httptools.HttpRequestParser(self)
        self.phase = "idle"
        self.data_received(b"%b %b HTTP/1.1\r\n%b\r\n%b" % (method, self.url, encode(kept), rest))
        return None

    def _bound(self, size: int, body_bytes_before: int) -> None:
        """Refuse a request that holds more in the parser than its head, chunk marks and trailers may need."""
        most = self.gate.max_header_bytes
        if self.phase == "head":
            if self.fresh:
                endless = size > most and not self.names
            else:
                self.pending += size
                endless = self.pending > most
        else:
            if not self.fresh:
                self.pending += size - (self.body_bytes - body_bytes_before)
            endless = self.pending > 2 * most + CHUNK_MARK_BYTES * self.body_bytes
        if endless:
            self.refuse(HEADERS_TOO_LARGE, f"The request line, a header or a trailer is longer than {most} bytes.")

    def on_message_begin(self) -> None:
        self.fresh = True
        self.pending = 0
        self.phase = "head"
        self.url = b""
        self.names = []
        self.parts = []
        self.head_bytes = 0
        self.body_bytes = 0

    def on_url(self, url: bytes) -> None:
        self.url += url
        self.head_bytes += len(url)
        if self.head_bytes > self.gate.max_header_bytes:
            self.refuse(HEADERS_TOO_LARGE, f"The request line is longer than {self.gate.max_header_bytes} bytes.")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.phase == "body":
            # A trailer: whoever checked the head has not seen it, so it counts for nothing.
            return
        self.names.append((name.lower(), value))
        self.head_bytes += len(name) + len(value)
        if self.head_bytes > self.gate.max_header_bytes or len(self.names) > MAX_HEADERS:
            self.refuse(
                HEADERS_TOO_LARGE, f"The headers are longer than {self.gate.max_header_bytes} bytes or more than {MAX_HEADERS} in number."
            )

    def on_headers_complete(self) -> None:
        if self.closing:
            return
        self.phase = "body"
        length = host = encoding = expect = None
        hosts = 0
        for name, value in self.names:
            if name == b"content-length":
                length = value
            elif name == b"host":
                hosts += 1
                host = value
            elif name == b"transfer-encoding":
                encoding = value
            elif name == b"expect":
                expect = value
        if length is None and encoding is None and expect is None and hosts == 1 and host:
            return
        self._check_head(length, hosts, encoding, expect)

    def _check_head(self, length: bytes | None, hosts: int, encoding: bytes | None, expect: bytes | None) -> None:
        if hosts != 1 and self.parser.get_http_version() != "1.0":
            return self.refuse(BAD_HTTP, "A request needs exactly one Host header.")
        if encoding is not None and (length is not None or encoding.strip().lower() != b"chunked"):
            return self.refuse(BAD_HTTP, "Transfer-Encoding must be `chunked`, alone and without Content-Length.")
        size = int(length) if length is not None and length.isdigit() else None
        if length is not None and size is None:
            return self.refuse(BAD_HTTP, "Content-Length must be one number.")
        if size is not None and size > self.gate.max_body_bytes:
            return self.refuse(BODY_TOO_LARGE, self._too_large())
        if (encoding is not None or (size or 0) > UNPROVEN_BODY_BYTES) and self.gate.refuses_early(dict(self.names)):
            exchange = self._make_exchange()
            exchange.keep_alive = False
            self.closing = True
            return self._start(exchange)
        if expect is not None and expect.lower() == b"100-continue":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return None

    def _too_large(self) -> str:
        return f"The request body is larger than {self.gate.max_body_bytes} bytes; server.max_body sets this limit."

    def on_body(self, body: bytes) -> None:
        if self.closing:
            return
        self.body_bytes += len(body)
        if self.body_bytes > self.gate.max_body_bytes:
            self.refuse(BODY_TOO_LARGE, self._too_large())
            return
        self.parts.append(body)

    def on_message_complete(self) -> None:
        if self.closing or self.parser.should_upgrade():
            return
        self.phase = "idle"
        self.since = self.loop.time()
        exchange = self._make_exchange()
        if exchange.version not in VERSIONS:
            self.refuse(BAD_HTTP, f"HTTP/{exchange.version} is not spoken here, only HTTP/1.1 and 1.0.")
        elif self.active is None:
            self._start(exchange)
        elif len(self.waiting) >= MAX_PIPELINED:
            self.refuse(BAD_HTTP, f"More than {MAX_PIPELINED} requests were sent without waiting for an answer.")
        else:
            self.waiting.append(exchange)
            self.transport.pause_reading()

    def _make_exchange(self) -> WireExchange:
        parser = self.parser
        version = parser.get_http_version()
        parts = self.parts
        return WireExchange(
            self,
            parser.get_method().decode("ascii"),
            self.url,
            self.names,
            parts[0] if len(parts) == 1 else b"".join(parts),
            version == "1.1" and parser.should_keep_alive() and not self.draining,
            version,
        )

    def _start(self, exchange: WireExchange) -> None:
        self.active = exchange
        gate = self.gate
        operation = gate.operations.get(exchange.target) if exchange.method == "POST" else None
        work = serve_asgi(gate.asgi, exchange) if operation is None else gate.serve(exchange, operation)
        task = self.loop.create_task(work)
        exchange.task = task
        self.state.tasks.add(task)
        task.add_done_callback(self._served)

    def _served(self, task: asyncio.Task[None]) -> None:
        """The task is over, money included: the connection is free for the next request."""
        self.state.tasks.discard(task)
        self.state.total_requests += 1
        exchange = self.active
        self.active = None
        if not task.cancelled() and (problem := task.exception()) is not None:
            self.gate.report(problem)
        if exchange is None or not exchange.complete or not exchange.keep_alive:
            self.close()
            return
        if self.draining:
            if self.waiting:
                self.refuse(DRAINING, "The server is shutting down and has not begun with this request; send it again.")
            self.close()
            return
        self.since = self.loop.time()
        if self.waiting and not self.closing:
            following = self.waiting.popleft()
            self.transport.resume_reading()
            self._start(following)


class WireExchange:
    """One request on a connection and its answer. See `router.edge.exchange.Exchange`."""

    __slots__ = (
        "_body",
        "_connection",
        "_path",
        "_transport",
        "chunked",
        "complete",
        "gone",
        "headers",
        "keep_alive",
        "method",
        "pairs",
        "query",
        "started",
        "target",
        "task",
        "version",
    )

    def __init__(
        self,
        connection: GateProtocol,
        method: str,
        url: bytes,
        pairs: list[tuple[bytes, bytes]],
        body: bytes,
        keep_alive: bool,
        version: str,
    ) -> None:
        self._connection = connection
        self._transport = connection.transport
        self.method = method
        self.target, _, self.query = url.partition(b"?")
        self.pairs = pairs
        self.headers = dict(pairs)
        self._body = body
        self.keep_alive = keep_alive
        self.version = version
        self.gone = False
        self.started = False
        self.complete = False
        self.chunked = False
        self.task: asyncio.Task[None] | None = None

    @property
    def path(self) -> str:
        return self.target.decode("latin-1")

    async def body(self) -> bytes:
        return self._body

    def leave(self) -> None:
        """The client has closed the connection."""
        if not self.gone:
            self.gone = True
            if self.task is not None and not self.complete:
                self.task.cancel()

    async def respond(self, status: int, headers: bytes, body: bytes) -> None:
        self.started = self.complete = True
        if self.gone:
            return
        head = STATUS_LINES[status] + headers
        if not self.keep_alive:
            head += b"connection: close\r\n"
        if self.method == "HEAD":
            self._transport.write(b"%bcontent-length: %d\r\n\r\n" % (head, len(body)))
        else:
            self._transport.write(b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body))
        if self._connection.paused is not None:
            await self._drain()

    async def start(self, status: int, headers: bytes) -> None:
        self.started = True
        if self.gone:
            return
        head = STATUS_LINES[status] + headers
        self.chunked = self.version == "1.1"
        if not self.chunked:
            self.keep_alive = False
        if not self.keep_alive:
            head += b"connection: close\r\n"
        self._transport.write(head + (b"transfer-encoding: chunked\r\n\r\n" if self.chunked else b"\r\n"))

    def write(self, data: bytes) -> Awaitable[None] | None:
        if self.gone or not data:
            return None
        self._transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self.chunked else data)
        return None if self._connection.paused is None else asyncio.shield(self._connection.paused)

    async def _drain(self) -> None:
        waiter = self._connection.paused
        if waiter is not None:
            await asyncio.shield(waiter)

    async def finish(self) -> None:
        self.complete = True
        if not self.gone and self.chunked:
            self._transport.write(b"0\r\n\r\n")

    def abort(self) -> None:
        self.keep_alive = False
        if not self.gone:
            self._transport.abort()
