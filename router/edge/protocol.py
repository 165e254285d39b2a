"""HTTP/1.1 from the socket: strict, bounded, and without an ASGI cycle for the requests that matter.

uvicorn runs the server; this protocol replaces its HTTP implementation. Calls for models go straight to the
pipeline, everything else through ASGI. A client that leaves is known at once: its task is cancelled.

A head that is the same as one before it on the connection is not parsed again: see `router.edge.heads.KnownHead`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

import httptools

from router.edge.asgi import serve_asgi
from router.edge.exchange import STATUS_LINES
from router.edge.headers import Headers, encode
from router.edge.heads import KnownHead, RequestHead, know
from router.edge.replies import SERVING_FAILED, error_reply
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
MAX_PIPELINED: Final = 16
OFFERS: Final = frozenset({b"upgrade", b"connection", b"http2-settings"})
"""Headers by which a client offers another protocol."""
CHUNK_MARK_BYTES: Final = 16
"""Most bytes of framing per byte of a chunked body: a chunk of one byte has six, and somebody may write zeros before."""
VERSIONS: Final = frozenset({"1.1", "1.0"})
HIGH_WATER: Final = 256 * 1024
MAX_HEADS_KNOWN: Final = 8
"""Different heads of one connection that are made known, one after the other: a proxy before us may mix many clients."""
HOST: Final = b"host"
TRANSFER_ENCODING: Final = b"transfer-encoding"
EXPECT: Final = b"expect"
UPGRADE: Final = b"upgrade"


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
        self.pairs: list[tuple[bytes, bytes]] = []
        # Set before any body.
        self.head: RequestHead = None  # type: ignore[assignment]
        self.parts: list[bytes] = []
        self.body_bytes = 0
        self.known: KnownHead | None = None
        self.heads_to_know = MAX_HEADS_KNOWN
        self.packet = b""
        """What is being parsed, if it began between two requests and none has begun in it yet."""
        self.missing = 0
        """Bytes to come of the body behind a known head: the parser sees neither of them."""
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
        if self.missing:
            self._go_on(data)
        elif self.known is None or self.phase != "idle" or not self._take_known(self.known, data):
            self._parse(data)

    def _take_known(self, known: KnownHead, data: bytes) -> bool:
        """Take a request with the known head and no more than one body; False leaves all of it to the parser."""
        start, size = known.find_body(data)
        missing = size - len(data) + start
        if not start or missing < 0 or size > self.gate.unproven_body_bytes:
            return False
        if missing:
            self.phase = "body"
            self.since = self.loop.time()
            self.head = known.head
            self.parts = [data[start:]]
            self.missing = missing
        else:
            self._take(WireExchange(self, known.head, data[start:], not self.draining))
        return True

    def _go_on(self, data: bytes) -> None:
        """The body behind a known head goes on."""
        missing = self.missing
        self.parts.append(data[:missing])
        self.missing = max(0, missing - len(data))
        if not self.missing:
            self.phase = "idle"
            self._take(WireExchange(self, self.head, b"".join(self.parts), not self.draining))
            if len(data) > missing:
                self.data_received(data[missing:])

    def _parse(self, data: bytes) -> None:
        self.packet = b""
        if self.phase == "idle":
            self.since = self.loop.time()
            self.phase = "head"
            self.packet = data
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
        kept = [pair for pair in self.head.pairs if pair[0] not in OFFERS]
        self.parser = httptools.HttpRequestParser(self)
        self.phase = "idle"
        self.data_received(b"%b %b HTTP/1.1\r\n%b\r\n%b" % (method, self.url, encode(kept), rest))
        return None

    def _bound(self, size: int, body_bytes_before: int) -> None:
        """Refuse a request that holds more in the parser than its head, chunk marks and trailers may need."""
        most = self.gate.max_header_bytes
        if self.phase == "head":
            if self._head_too_large():
                return
            if self.fresh:
                endless = size > most and not self.pairs
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
        self.pairs = []
        self.parts = []
        self.body_bytes = 0

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.pairs.append((name.lower(), value))

    def _head_too_large(self) -> bool:
        """Refuse a head that is too long, or has too many headers, so far."""
        most, pairs = self.gate.max_header_bytes, self.pairs
        if len(self.url) > most:
            self.refuse(HEADERS_TOO_LARGE, f"The request line is longer than {most} bytes.")
        elif len(pairs) > MAX_HEADERS or len(self.url) + sum(map(len, chain.from_iterable(pairs))) > most:
            self.refuse(HEADERS_TOO_LARGE, f"The headers are longer than {most} bytes or more than {MAX_HEADERS} in number.")
        return self.closing

    def on_headers_complete(self) -> None:
        if self.closing or self._head_too_large():
            return
        self.phase = "body"
        parser, packet = self.parser, self.packet
        self.packet = b""
        pairs = self.pairs
        # Trailers come into a list of their own: whoever checked the head has not seen them, so they count for nothing.
        self.pairs = []
        target, _, query = self.url.partition(b"?")
        method = parser.get_method().decode("ascii")
        operation = self.gate.operations.get(target) if method == "POST" else None
        head = self.head = RequestHead(method, target, query, parser.get_http_version(), pairs, operation)
        if self._check_head(head) and packet and operation is not None and self.heads_to_know and parser.should_keep_alive():
            self.heads_to_know -= 1
            self.known = know(head, packet)

    def _check_head(self, head: RequestHead) -> bool:
        """Refuse what could be understood in two ways, or is too large. True if the same head may be taken again unseen."""
        headers = head.headers
        length, encoding, expect = head.length, headers.get(TRANSFER_ENCODING), headers.get(EXPECT)
        one_host = HOST in headers and (len(headers) == len(head.pairs) or [name for name, _ in head.pairs].count(HOST) == 1)
        if not one_host and head.version != "1.0":
            self.refuse(BAD_HTTP, "A request needs exactly one Host header.")
        elif encoding is not None and (length is not None or encoding.strip().lower() != b"chunked"):
            self.refuse(BAD_HTTP, "Transfer-Encoding must be `chunked`, alone and without Content-Length.")
        elif length is not None and not length.isdigit():
            self.refuse(BAD_HTTP, "Content-Length must be one number.")
        elif length is not None and int(length) > self.gate.max_body_bytes:
            self.refuse(BODY_TOO_LARGE, self._too_large())
        elif (encoding is not None or int(length or 0) > self.gate.unproven_body_bytes) and self.gate.refuses_early(headers):
            exchange = WireExchange(self, head, b"", False)
            self.closing = True
            self._start(exchange)
        else:
            if expect is not None and expect.lower() == b"100-continue":
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            return encoding is None and expect is None and head.version == "1.1" and UPGRADE not in headers
        return False

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
        head, parts = self.head, self.parts
        if head.version not in VERSIONS:
            self.refuse(BAD_HTTP, f"HTTP/{head.version} is not spoken here, only HTTP/1.1 and 1.0.")
            return
        keep_alive = head.version == "1.1" and self.parser.should_keep_alive() and not self.draining
        self._take(WireExchange(self, head, parts[0] if len(parts) == 1 else b"".join(parts), keep_alive))

    # Requests

    def _take(self, exchange: WireExchange) -> None:
        """A request is whole: serve it, after those before it."""
        if self.active is None:
            self._start(exchange)
        elif len(self.waiting) >= MAX_PIPELINED:
            self.refuse(BAD_HTTP, f"More than {MAX_PIPELINED} requests were sent without waiting for an answer.")
        else:
            # One may wait at no cost: clients ask on while the call before is still being settled.
            if self.waiting:
                self.transport.pause_reading()
            self.waiting.append(exchange)

    def _start(self, exchange: WireExchange) -> None:
        self.active = exchange
        gate = self.gate
        operation = exchange.head.operation
        work = serve_asgi(gate.asgi, exchange) if operation is None else gate.work(exchange, exchange.head, operation)
        task = exchange.task = self.loop.create_task(work)
        self.state.tasks.add(task)
        task.add_done_callback(self._served)

    def _served(self, task: asyncio.Task[None]) -> None:
        """The task is over, money included: the connection is free for the next request."""
        self.state.tasks.discard(task)
        self.state.total_requests += 1
        exchange, self.active = self.active, None
        # Nothing else ends it.
        assert exchange is not None  # noqa: S101
        if not task.cancelled() and (problem := task.exception()) is not None:
            self.gate.report(problem)
            if exchange.head.operation is not None:
                exchange.fail()
        if not exchange.complete or not exchange.keep_alive:
            self.close()
        elif self.draining or self.waiting:
            self._follow()
        else:
            self.since = self.loop.time()

    def _follow(self) -> None:
        """Begin with the next of the requests that came meanwhile, or end the connection if the service ends."""
        if self.draining:
            if self.waiting:
                self.refuse(DRAINING, "The server is shutting down and has not begun with this request; send it again.")
            self.close()
        elif not self.closing:
            self.since = self.loop.time()
            following = self.waiting.popleft()
            if not self.transport.is_reading():
                self.transport.resume_reading()
            self._start(following)


class WireExchange:
    """One request on a connection and its answer. See `router.edge.exchange.Exchange`."""

    # Defaults stand in the class: an instance then costs a third of what it would with a slot for each.
    gone = False
    started = False
    complete = False
    """The whole answer has been written."""
    chunked = False
    task: asyncio.Task[None] | None = None

    def __init__(self, connection: GateProtocol, head: RequestHead, body: bytes, keep_alive: bool) -> None:
        self._connection = connection
        self._transport = connection.transport
        self.head = head
        self.headers: Headers = head.headers
        self._body = body
        self.keep_alive = keep_alive

    @property
    def method(self) -> str:
        return self.head.method

    @property
    def path(self) -> str:
        return self.head.target.decode("latin-1")

    async def body(self) -> bytes:
        return self._body

    def leave(self) -> None:
        """The client has closed the connection."""
        if not self.gone:
            self.gone = True
            if self.task is not None and not self.complete:
                self.task.cancel()

    async def respond(self, status: int, headers: bytes, body: bytes) -> None:
        self._answer(status, headers, body)
        if self._connection.paused is not None:
            await self._drain()

    def _answer(self, status: int, headers: bytes, body: bytes) -> None:
        self.started = self.complete = True
        if self.gone:
            return
        closing = b"" if self.keep_alive else b"connection: close\r\n"
        shown = b"" if self.head.method == "HEAD" else body
        self._transport.write(b"%b%b%bcontent-length: %d\r\n\r\n%b" % (STATUS_LINES[status], headers, closing, len(body), shown))

    async def start(self, status: int, headers: bytes) -> None:
        self.started = True
        if self.gone:
            return
        head = STATUS_LINES[status] + headers
        self.chunked = self.head.version == "1.1"
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

    def fail(self) -> None:
        """The task has failed: answer if no answer has begun, else show that it is not whole."""
        if self.started:
            self.abort()
            return
        reply = error_reply(SERVING_FAILED)
        self._answer(reply.status, encode(reply.headers), reply.body)

    def abort(self) -> None:
        self.keep_alive = False
        if not self.gone:
            self._transport.abort()
