"""HTTP/1.1 from the socket: strict, bounded, and without an ASGI cycle for the requests that matter.

uvicorn runs the server; this protocol replaces its HTTP implementation. Calls for models go straight to the
pipeline, everything else through ASGI. A client that leaves is known at once: its task is cancelled.

A head that is the same as one before it on the connection is not parsed again: see `router.edge.heads.KnownHead`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from itertools import chain
from socket import SO_ERROR, SOL_SOCKET
from typing import TYPE_CHECKING, Any, Final

import httptools

from router.edge.asgi import serve_asgi
from router.edge.exchange import STATUS_LINES
from router.edge.headers import encode
from router.edge.heads import KnownHead, RequestHead, know
from router.edge.replies import error_reply
from router.edge.wire_exchange import WireExchange
from router.errors import BAD_HTTP, BODY_TOO_LARGE, DRAINING, HEADERS_TOO_LARGE, REQUEST_TIMEOUT, ErrorSpec, RouterError

if TYPE_CHECKING:
    from uvicorn.config import Config
    from uvicorn.server import ServerState

    from router.edge.gate import Gate

MAX_HEADERS: Final = 100
HEAD_SECONDS: Final = 10.0
BODY_SECONDS: Final = 60.0
IDLE_SECONDS: Final = 90.0
"""Longer than the keep-alive of common client pools: whoever closes first should be the client."""
UNREAD_SECONDS: Final = 60.0
"""A client that takes nothing of its answer for so long has left."""
MAX_PIPELINED: Final = 16
MAX_PARTS: Final = 1000
"""Pieces of a body that are kept apart: each costs some hundred bytes, and a chunk may have one."""
OFFERS: Final = frozenset({b"upgrade", b"connection", b"http2-settings"})
"""Headers by which a client offers another protocol."""
CHUNK_MARK_BYTES: Final = 16
"""Most bytes of framing per byte of a chunked body: a chunk of one byte has six, and somebody may write zeros before."""
VERSIONS: Final = frozenset({"1.1", "1.0"})
RESET_SECONDS: Final = (0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 1.0)
"""Pauses between looks for a reset; the last one again and again."""
LINGER_SECONDS: Final = 2.0
"""How long the rest of a request is still taken, and thrown away, after its last answer."""
HIGH_WATER: Final = 256 * 1024
MAX_HEADS_KNOWN: Final = 8
"""Different heads of one connection that are made known, one after the other: a proxy before us may mix many clients."""
HOST: Final = b"host"
TRANSFER_ENCODING: Final = b"transfer-encoding"
EXPECT: Final = b"expect"
UPGRADE: Final = b"upgrade"


class GateProtocol(asyncio.Protocol):
    """One client connection."""

    joined: bytearray
    """What came of the body before `parts`, if they were too many. Set when a request begins."""
    ending = False
    """Nothing more is read: the connection closes after what has been taken."""
    last_word: tuple[ErrorSpec, str] | None = None
    """Said once all requests that were taken have their answers."""
    unread_bytes = 0
    """What waited to be taken by the client when that was last looked at."""
    unread_since = 0.0

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
        self.task: asyncio.Task[None] | None = None
        """Serves the active request."""
        self.waiting: deque[WireExchange] = deque()
        self.draining = self.gate.draining
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
        self.last_word = None
        self._resume_writer()
        for exchange in (self.active, *self.waiting):
            if exchange is not None:
                exchange.leave()
        self.waiting.clear()

    def eof_received(self) -> bool:
        """The client sends nothing more. True: the connection stays until its requests are answered.

        Whoever closes a connection and whoever only ends its own side send the same. A byte sent to the first is answered by a
        reset, which ends the call; the second waits for the answer. The rest of a request that has begun never comes.
        """
        if (active := self.active) is None or (active.complete and not self.waiting) or not active.probe():
            return False
        (self.waiting[-1] if self.waiting else active).keep_alive = False
        self.phase = "idle"
        self._look_for_reset(0)
        return True

    def _look_for_reset(self, looks: int) -> None:
        """Hang up if the client of a call has left. Nothing is read any more, so that nobody else tells."""
        if self.active is None or self.transport.is_closing():
            return
        if self.transport.get_extra_info("socket").getsockopt(SOL_SOCKET, SO_ERROR):
            self.transport.abort()
        else:
            self.loop.call_later(RESET_SECONDS[min(looks, len(RESET_SECONDS) - 1)], self._look_for_reset, looks + 1)

    def pause_writing(self) -> None:
        if self.paused is None:
            self.paused = self.loop.create_future()
            self.unread_bytes, self.unread_since = 0, self.loop.time()

    def resume_writing(self) -> None:
        self._resume_writer()
        if self.active is None and (not self.closing or self.waiting or self.last_word is not None):
            self._next()

    def _resume_writer(self) -> None:
        if self.paused is not None:
            if not self.paused.done():
                self.paused.set_result(None)
            self.paused = None

    def drain(self) -> None:
        """The service ends soon: close after the next answer, and say so in it."""
        self.draining = True
        if self.active is not None and not self.active.started and not self.waiting:
            self.active.keep_alive = False

    def shutdown(self) -> None:
        """Called by uvicorn at the end of the service: answer what is under way, accept nothing more."""
        self.draining = self.ending = True
        if self.active is None:
            self._follow()

    def sweep(self, now: float) -> None:
        """Called about once a second: end connections that take too long to say what they want, or take no answer."""
        if self.paused is not None or self.closing:
            self._watch_client(now)
            return
        waited = now - self.since
        if self.phase == "idle":
            if self.active is None and waited > IDLE_SECONDS:
                self.close()
        elif waited > (HEAD_SECONDS if self.phase == "head" else BODY_SECONDS):
            self.refuse(REQUEST_TIMEOUT, f"The request's {self.phase} did not arrive within {waited:.0f} seconds.")

    def _watch_client(self, now: float) -> None:
        """Hang up if the client has taken nothing for long: its call is then settled as if it had left."""
        unread = self.transport.get_write_buffer_size()
        if not unread or unread != self.unread_bytes:
            self.unread_bytes, self.unread_since = unread, now
        elif now - self.unread_since > UNREAD_SECONDS:
            self.transport.abort()

    def close(self) -> None:
        self.closing = True
        if self.phase == "idle" or self.transport.is_closing():
            self.transport.close()
            return
        # A socket that is closed with unread bytes in it is reset, and the client may lose our last answer with that.
        self.transport.write_eof()
        self.transport.resume_reading()
        self.loop.call_later(LINGER_SECONDS, self.transport.close)

    def refuse(self, spec: ErrorSpec, message: str) -> None:
        """Answer a request that cannot be read, and close. Those before it get their answers first."""
        if self.closing:
            return
        if self.active is not None:
            self.closing = True
            self.last_word = spec, message
            return
        self._say(spec, message)
        self.close()

    def _say(self, spec: ErrorSpec, message: str) -> None:
        reply = error_reply(RouterError(spec, message))
        headers = [*reply.headers, (b"content-length", b"%d" % len(reply.body)), (b"connection", b"close")]
        self.transport.write(STATUS_LINES[reply.status] + encode(headers) + b"\r\n" + reply.body)

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
        if not start or missing < 0 or (size > self.gate.unproven_body_bytes and not self._may_send(known.head, size)):
            return False
        if missing:
            self.joined = bytearray()
            self.phase = "body"
            self.since = self.loop.time()
            self.head = known.head
            self.parts = [data[start:]]
            self.missing = missing
        else:
            self._take(WireExchange(self, known.head, data[start:], not self.draining))
        return True

    def _may_send(self, head: RequestHead, size: int) -> bool:
        """Whether so long a body will be read: its key was good once, and must be still."""
        return size <= self.gate.max_body_bytes and not self.gate.refuses_early(head.headers)

    def _go_on(self, data: bytes) -> None:
        """The body behind a known head goes on."""
        missing = self.missing
        self._keep_part(data[:missing])
        self.missing = max(0, missing - len(data))
        if not self.missing:
            self.phase = "idle"
            self._take(WireExchange(self, self.head, b"".join((self.joined, *self.parts)), not self.draining))
            if len(data) > missing:
                self.data_received(data[missing:])

    def _parse(self, data: bytes) -> None:
        self.packet = b""
        if self.phase == "idle":
            # RFC 9112, 2.2: empty lines before a request are nothing.
            if not data.strip(b"\r\n"):
                return
            self.since = self.loop.time()
            self.phase = "head"
            self.packet = data
        self.fresh, before = False, self.body_bytes
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
            self.refuse(BAD_HTTP, "CONNECT is not served: this is no forward proxy.")
            return
        kept = [pair for pair in self.head.pairs if pair[0] not in OFFERS]
        self.parser = httptools.HttpRequestParser(self)
        self.phase = "idle"
        self.data_received(b"%b %b HTTP/1.1\r\n%b\r\n%b" % (method, self.url, encode(kept), rest))

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
        self.joined = bytearray()
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
        parser, packet, self.packet = self.parser, self.packet, b""
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
        elif length is not None and int(length) > self.gate.most_body(head):
            self.refuse(BODY_TOO_LARGE, self._too_large())
        elif head.operation and (encoding or int(length or 0) > self.gate.unproven_body_bytes) and self.gate.refuses_early(headers):
            self._take(WireExchange(self, head, b"", False))
            self.closing = True
        else:
            # RFC 9110, 10.1.1: an HTTP/1.0 client must not be told so; nobody may in the middle of another answer.
            if expect is not None and expect.lower() == b"100-continue" and head.version != "1.0" and self.active is None:
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            return encoding is None and expect is None and head.version == "1.1" and UPGRADE not in headers
        return False

    def _too_large(self) -> str:
        limit = "server.max_body sets this limit" if self.head.operation else "only calls for models may have longer ones"
        return f"The request body is larger than {self.gate.most_body(self.head)} bytes; {limit}."

    def on_body(self, body: bytes) -> None:
        if self.closing:
            return
        self.body_bytes += len(body)
        if self.body_bytes > self.gate.most_body(self.head):
            self.refuse(BODY_TOO_LARGE, self._too_large())
            return
        self._keep_part(body)

    def _keep_part(self, part: bytes) -> None:
        self.parts.append(part)
        if len(self.parts) > MAX_PARTS:
            self.joined += b"".join(self.parts)
            self.parts.clear()

    def on_message_complete(self) -> None:
        if self.closing or self.parser.should_upgrade():
            return
        self.phase = "idle"
        head, parts = self.head, self.parts
        if head.version not in VERSIONS:
            self.refuse(BAD_HTTP, f"HTTP/{head.version} is not spoken here, only HTTP/1.1 and 1.0.")
            return
        keep_alive = head.version == "1.1" and self.parser.should_keep_alive() and not self.draining
        body = parts[0] if len(parts) == 1 and not self.joined else b"".join((self.joined, *parts))
        self._take(WireExchange(self, head, body, keep_alive))

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
        """Serve a request. Nothing else is being served."""
        self.active = exchange
        task = self.task
        if task is None:
            task = self.task = self.loop.create_task(self._serve())
            self.state.tasks.add(task)
            task.add_done_callback(self._ended)
        exchange.task = task

    async def _serve(self) -> None:
        """Serve the active request, then those that have come meanwhile: a task for each would cost more than all of the edge."""
        gate = self.gate
        while (exchange := self.active) is not None:
            operation = exchange.head.operation
            try:
                await (serve_asgi(gate.asgi, exchange) if operation is None else gate.work(exchange, exchange.head, operation))
            # The last line of defence: a bug must not take the connection's other requests with it.
            except Exception as exc:  # noqa: BLE001
                gate.report(exc)
                if operation is not None:
                    exchange.fail()
            self._served(exchange)
        # At once: the next request may come before the callback of the end.
        self.task = None

    def _ended(self, task: asyncio.Task[None]) -> None:
        """The task is over. If it was cancelled, before it began perhaps, its request is still the active one."""
        self.state.tasks.discard(task)
        if self.task is task:
            self.task = None
            if self.active is not None:
                self._served(self.active)

    def _served(self, exchange: WireExchange) -> None:
        """A request is over, money included: the connection is free for the next one."""
        self.active = None
        self.state.total_requests += 1
        if not exchange.complete or not exchange.keep_alive:
            self.close()
        elif self.ending or self.waiting or self.closing or self.paused is not None:
            self._follow()
        else:
            self.since = self.loop.time()

    def _follow(self) -> None:
        """Begin with the next of the requests that came meanwhile, or end the connection if nothing more may come."""
        if self.ending:
            if (self.waiting or self.phase != "idle") and not self.transport.is_closing():
                self._say(DRAINING, "The server is shutting down and has not begun with this request; send it again.")
            self.close()
        elif self.paused is None:
            self._next()
        elif not self.closing:
            # What the client does not take must not become more.
            self.transport.pause_reading()

    def _next(self) -> None:
        self.since = self.loop.time()
        if self.waiting:
            following = self.waiting.popleft()
            if not self.transport.is_reading():
                self.transport.resume_reading()
            self._start(following)
        elif self.last_word is not None:
            self._say(*self.last_word)
            self.close()
        elif not self.closing and not self.transport.is_reading():
            self.transport.resume_reading()
