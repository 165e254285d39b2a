"""One HTTP/1.1 connection to a provider, and the answer that is arriving on it."""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import sys
import termios
from collections.abc import Sequence
from functools import cached_property
from typing import Final, Protocol, cast

from httptools import HttpParserError, HttpResponseParser

from router.edge.headers import FROM_UPSTREAM, REQUEST_ID
from router.ports import Sink, Timeouts, UpstreamError, UpstreamFault

BUFFER_BYTES: Final = 64 * 1024
"""Reading from the socket stops above this many bytes that nobody has asked for."""
MOST_UNREAD: Final = 8 * 1024 * 1024
"""Bytes that are taken from the socket of a call that is given up, to be counted."""
HEAD_BYTES: Final = 64 * 1024
HEAD_FIELDS: Final = 256
JOIN_BYTES: Final = 64 * 1024
"""Larger bodies are handed to the transport beside the head instead of being copied behind it."""

HEAD_END: Final = b"\r\n\r\n"
LINE_END: Final = b"\r\n"
ENCODING: Final = b"content-encoding"
NOTABLE: Final = re.compile(rb"\n(?:%b):" % b"|".join(map(re.escape, sorted({ENCODING, REQUEST_ID, *FROM_UPSTREAM}))))
"""A field, its name in lower case, that somebody wants to see of every answer. Many providers send none of them."""

# What a waiter waits for.
HEAD: Final = 0
ANY: Final = 1
ALL: Final = 2


class Owner(Protocol):
    """The pool a connection belongs to."""

    name: str

    def released(self, connection: Connection) -> None:
        """The connection is free for the next request."""
        ...

    def closing(self, connection: Connection) -> None:
        """The connection must not be used any more."""
        ...

    def lost(self, connection: Connection) -> None:
        """The connection is gone."""
        ...


class Http1Response:
    """An answer whose head has arrived. See `router.ports.UpstreamResponse`.

    One future at most is waiting: for the head, for any bytes, or for all of them. It is resolved once per read
    of the socket, after everything in it has been parsed, so a JSON answer costs one or two wake-ups in all.
    `parts` has one entry per read, however many chunks it held.
    """

    # Defaults stand in the class: an instance then costs a third of what it would with a slot for each.
    status = 0
    head = b""
    """As it came, without the blank line at its end."""
    shown: Sequence[tuple[bytes, bytes]] = ()
    """See `router.ports.UpstreamResponse.shown`."""
    encoded = False
    """Whether the body has a content-encoding."""
    size = 0
    """Bytes in `parts`."""
    limit = 0
    """Most bytes that `read` takes."""
    ended = False
    unread = False
    """Whether a reused connection closed before a byte came, and the provider certainly never had the whole request."""
    error: UpstreamError | None = None
    wants = HEAD
    sends = 1
    sink: Sink | None = None
    """Takes the body in place of `parts`, at once."""

    def __init__(self, connection: Connection, timeouts: Timeouts, started_at: float) -> None:
        self.connection = connection
        self.timeouts = timeouts
        self.started_at = started_at
        self.sent_at = connection.heard_at
        self.parts: list[bytes] = []
        self.began: asyncio.Future[None] = connection.loop.create_future()
        """Resolved when the head is here, or never will be."""
        self.waiter: asyncio.Future[None] | None = self.began

    @cached_property
    def headers(self) -> Sequence[tuple[bytes, bytes]]:
        """All fields of the head. See `router.ports.UpstreamResponse`."""
        # The parser has taken the head: it allows neither folded lines nor a CR or LF alone.
        split = [line.partition(b":") for line in self.head.split(LINE_END)[1:]]
        return [(name.lower(), value.lstrip(b" \t")) for name, _, value in split]

    async def read(self, limit: int) -> bytes:
        """The whole body. Does not suspend if it is here already. Raises `UpstreamError`."""
        if self.ended and self.size <= limit and len(self.parts) == 1:
            return self.parts.pop()
        if not self.ended and self.error is None:
            self.limit = limit
            if self.size <= limit:
                await self._arrival(ALL)
        if self.error is not None:
            raise self.error
        if self.size > limit:
            self.connection.too_large(self, limit)
            raise UpstreamError("too_large", f"{self.connection.owner.name}: the answer is larger than {limit} bytes", sent=True)
        parts = self.parts
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        self.parts = []
        self.size = 0
        return body

    async def chunk(self) -> bytes:
        """Whatever has arrived since the last call; empty at the clean end. Raises `UpstreamError`."""
        parts = self.parts
        while not parts:
            if self.error is not None:
                raise self.error
            if self.ended:
                return b""
            await self._arrival(ANY)
        return self.pending()

    async def pump(self, sink: Sink) -> bool:
        """Hand to `sink` whatever arrives. See `router.ports.UpstreamResponse.pump`."""
        if self.parts and not sink(self.pending()):
            return False
        if not self.ended and self.error is None:
            self.sink = sink
            try:
                await self._arrival(ANY)
            finally:
                full = self.sink is None
                self.sink = None
            if full:
                return False
        if self.error is not None:
            raise self.error
        return True

    def pending(self) -> bytes:
        """What has arrived and nobody has asked for."""
        parts = self.parts
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        self.size = 0
        return data

    def ahead(self) -> int:
        """About how many bytes of it nobody has asked for. See `router.ports.UpstreamResponse.ahead`."""
        return self.size + (0 if self.ended else self.connection.unread())

    def abort(self) -> None:
        """Close the connection now; harmless after the end."""
        if not self.ended:
            self.connection.abandon(self)

    def take(self, pieces: list[bytes]) -> None:
        """Keep or hand on what one read of the socket brought of the body; `pieces` is empty afterwards."""
        part = pieces.pop()
        if pieces:
            pieces.append(part)
            part = b"".join(pieces)
            pieces.clear()
        if self.sink is None:
            self.parts.append(part)
            self.size += len(part)
        elif not self.sink(part):
            self.sink = None
            self.wake()

    def _arrival(self, wants: int) -> asyncio.Future[None]:
        """A future that is resolved when what is wanted is here, or never will be. The idle time starts now."""
        connection = self.connection
        self.wants = wants
        waiter = self.waiter = connection.loop.create_future()
        connection.heard_at = connection.loop.time()
        if connection.paused:
            connection.resume()
        return waiter

    def wake(self) -> None:
        """Resolve the waiter, if there is one that still waits."""
        waiter = self.waiter
        if waiter is not None:
            self.waiter = None
            if not waiter.done():
                waiter.set_result(None)


class Connection(asyncio.Protocol):
    """A keep-alive connection: at most one request at a time, no pipelining.

    The parser checks every byte, but calls Python only where a message begins, at the end of a head and of a message:
    bodies are collected by a list's own `append`, and fields are cut out of a head only where somebody asks for them.
    """

    def __init__(self, owner: Owner, loop: asyncio.AbstractEventLoop) -> None:
        self.owner = owner
        self.loop = loop
        self.transport: asyncio.Transport
        self.connected = False
        self.response: Http1Response | None = None
        self.reused = False
        self.pooled = False
        """Whether the pool counts it; set when the dial has succeeded as a whole."""
        self.paused = False
        self._time = loop.time
        self.born_at = self.heard_at = loop.time()
        self._pieces: list[bytes] = []
        """Of the body, from the read that is being parsed."""
        self.on_body = self._pieces.append
        # It looks up its callbacks now.
        self._parser: HttpResponseParser = HttpResponseParser(self)
        self._head = b""
        """What came of the answer until its head was whole."""
        self._head_done = False
        self._complete = False
        self._keep = False

    # What the pool and the response call

    def usable(self) -> bool:
        """Whether a request may be written to it."""
        return self.connected and not self.transport.is_closing()

    def send(self, head: bytes, body: bytes, started_at: float, timeouts: Timeouts) -> Http1Response:
        """Write a request in one go; the answer arrives in what is returned. `heard_at` is the time of sending."""
        response = self.response = Http1Response(self, timeouts, started_at)
        if body:
            self.transport.writelines((head, body))
        else:
            self.transport.write(head)
        return response

    def abandon(self, response: Http1Response) -> None:
        """Close at once if that answer is still arriving; what has come of it by now can be asked for still."""
        if self.response is response:
            if self._head_done and self.paused:
                self._take_unread(response)
            self._fail("reset", "the call was given up")

    def unread(self) -> int:
        """Bytes that wait in the socket because nobody wanted more; through TLS as they are encrypted."""
        if not self.paused or self.transport.is_closing():
            return 0
        return self._bytes_in_socket(termios.FIONREAD) or 0

    def _take_unread(self, response: Http1Response) -> None:
        """Read what waits in the socket because nobody wanted more: the provider wrote it and bills it. Not through TLS."""
        if self.transport.is_closing() or self.transport.get_extra_info("sslcontext") is not None:
            return
        # The connection is closed next, so that the loop, which has stopped reading from it, misses nothing.
        descriptor = self.transport.get_extra_info("socket").fileno()
        try:
            for _ in range(MOST_UNREAD // BUFFER_BYTES):
                data = os.read(descriptor, BUFFER_BYTES)
                if not data:
                    break
                self._parser.feed_data(data)
        except (OSError, HttpParserError):
            # Nothing more is there, or it is no part of the answer.
            pass
        if self._pieces:
            response.sink = None
            response.take(self._pieces)

    def too_large(self, response: Http1Response, limit: int) -> None:
        """Close if that answer is still arriving, because it is over the limit."""
        if self.response is response:
            self._fail("too_large", f"the answer is larger than {limit} bytes")

    def resume(self) -> None:
        """Read from the socket again."""
        self.paused = False
        if self.connected:
            self.transport.resume_reading()

    def close(self) -> None:
        """Close at once; a call that is under way fails with `reset`."""
        if self.response is not None:
            self._fail("reset", "the client is shutting down")
        else:
            self._drop()

    def check(self, now: float, keepalive_seconds: float) -> None:
        """Enforce the time limits. Called a few times a second, so limits are exact to that grain."""
        response = self.response
        if response is None:
            if now - self.heard_at >= keepalive_seconds and self.pooled:
                self._drop()
            return
        timeouts = response.timeouts
        if now >= response.started_at + timeouts.total_seconds:
            self._fail("total_timeout", f"the answer did not end within {timeouts.total_seconds:g} s")
        elif not response.status:
            if now >= response.sent_at + timeouts.first_byte_seconds:
                self._fail("first_byte_timeout", f"no answer began within {timeouts.first_byte_seconds:g} s")
        elif response.waiter is not None and not response.waiter.done() and now >= self.heard_at + timeouts.idle_seconds:
            self._fail("idle_timeout", f"nothing came for {timeouts.idle_seconds:g} s in the middle of the answer")

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not subclasses of asyncio's.
        self.transport = cast(asyncio.Transport, transport)
        self.connected = True

    def data_received(self, data: bytes) -> None:
        response = self.response
        if response is None:
            # Bytes that belong to no request, such as a 408 before an idle connection is closed.
            self._drop()
            return
        self.heard_at = self._time()
        if not self._head_done:
            self._head += data
        try:
            self._parser.feed_data(data)
        except HttpParserError as exc:
            self._broken(response, exc)
            return
        pieces = self._pieces
        if pieces:
            if response.sink is None or len(pieces) > 1:
                response.take(pieces)
            # Here too for the most frequent of all: one event of a stream.
            elif not response.sink(pieces.pop()):
                response.sink = None
                response.wake()
        if self._complete:
            self._finish(response)
        elif response.sink is None:
            self._deliver(response)

    def _broken(self, response: Http1Response, why: HttpParserError) -> None:
        """What came is not HTTP; what follows a whole answer does not harm it, but the connection is of no use any more."""
        if self._pieces:
            response.take(self._pieces)
        if self._complete:
            self._keep = False
            self._finish(response)
        else:
            self._fail("protocol", f"the answer is not HTTP/1.1: {why.__context__ or why}")

    def eof_received(self) -> None:
        if self.response is not None and not self._head_done:
            self.response.unread = self._was_unread()
        self.owner.closing(self)

    def connection_lost(self, exc: Exception | None) -> None:
        response = self.response
        if response is not None:
            self._end_at_close(response, exc)
        self.owner.closing(self)
        self.owner.lost(self)
        self.connected = False
        del self._parser

    # httptools

    def on_message_begin(self) -> None:
        if self._complete:
            raise ValueError("more than one answer to a request")

    def on_headers_complete(self) -> None:
        parser = self._parser
        status = parser.get_status_code()
        if status < 200:
            if status == 101:
                raise ValueError("an upgrade that was not asked for")
            # The provider works on the request: it must not be sent again, whatever comes now.
            self.reused = False
            self._head = self._head.partition(HEAD_END)[2]
            return
        head, self._head = self._head, b""
        head = head[: head.find(HEAD_END)]
        response = self.response
        if response is None:
            raise ValueError("an answer to no request")
        if head.count(LINE_END) > HEAD_FIELDS:
            raise ValueError(f"more than {HEAD_FIELDS} header fields")
        self._head_done = True
        self._keep = parser.should_keep_alive()
        response.head = head
        # Names come in any case, and a search that ignores it costs ten times as much.
        if NOTABLE.search(lower := head.lower()) is not None:
            response.shown = response.headers
            response.encoded = ENCODING in lower
        response.status = status

    def on_message_complete(self) -> None:
        # A 1xx message completes too; the real one comes after it.
        self._complete = self._head_done

    # Ends

    def _deliver(self, response: Http1Response) -> None:
        """Wake whoever waits for what has just come; stop reading if nobody does and enough is here."""
        if not self._head_done:
            if len(self._head) > HEAD_BYTES:
                self._fail("protocol", f"the head of the answer is larger than {HEAD_BYTES} bytes")
        elif response.wants != ALL:
            if response.size > BUFFER_BYTES and not self.paused:
                self.paused = True
                self.transport.pause_reading()
            if response.wants == HEAD or response.parts:
                response.wake()
        elif response.size > response.limit:
            self._fail("too_large", f"the answer is larger than {response.limit} bytes")

    def _finish(self, response: Http1Response) -> None:
        """The answer is whole: free the connection, or close it if it cannot be used again."""
        self.response = None
        self._complete = self._head_done = False
        response.ended = True
        transport = self.transport
        # A request that is still being written when its answer is complete would run into the next one.
        if self._keep and not transport.get_write_buffer_size() and not transport.is_closing():
            if self.paused:
                self.resume()
            self.reused = True
            self.owner.released(self)
        else:
            self._drop()
        response.wake()

    def _end_at_close(self, response: Http1Response, exc: Exception | None) -> None:
        """The peer closed before the parser saw the end: clean only if the answer was framed by the close."""
        self.response = None
        if not self._head_done:
            # EPIPE says that the peer had closed its side before; after ECONNRESET nothing is certain.
            response.unread = response.unread or (isinstance(exc, BrokenPipeError) and self._was_unread())
            what = "the connection was closed" if exc is None else f"the connection broke ({_why(exc)})"
            self._set_error(response, "reset", f"{what} before an answer")
        elif exc is not None:
            self._set_error(response, "reset", f"the connection broke in the middle of the answer ({_why(exc)})")
        elif any(name in (b"content-length", b"transfer-encoding") for name, _ in response.headers):
            self._set_error(response, "truncated", "the connection was closed in the middle of the answer")
        else:
            response.ended = True
        response.wake()

    def _was_unread(self) -> bool:
        """Whether the peer closed a reused connection before all of the request had come there. Only after its FIN.

        A FIN acknowledges all that the other machine has received until then, and what comes after it is thrown away there: what
        is not acknowledged was read by nobody. TIOCOUTQ counts that (tcp(7), SIOCOUTQ). A reset acknowledges nothing.
        """
        if not self.reused or self._head:
            return False
        if self.transport.get_write_buffer_size():
            return True
        # Not every system tells: then it may have been read.
        return bool(self._bytes_in_socket(termios.TIOCOUTQ))

    def _bytes_in_socket(self, which: int) -> int | None:
        """Bytes on their way in or out, in the machine's buffer; None where the system does not tell."""
        try:
            count = fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), which, bytes(4))
        except OSError:
            return None
        return int.from_bytes(count, sys.byteorder)

    def _fail(self, fault: UpstreamFault, message: str) -> None:
        """End the call with an error and close at once."""
        response = cast(Http1Response, self.response)
        self.response = None
        self._set_error(response, fault, message)
        self._drop()
        response.wake()

    def _set_error(self, response: Http1Response, fault: UpstreamFault, message: str) -> None:
        response.error = UpstreamError(fault, f"{self.owner.name}: {message}", sent=True)

    def _drop(self) -> None:
        self.owner.closing(self)
        if self.connected:
            self.transport.abort()


def _why(exc: Exception) -> str:
    return exc.strerror or type(exc).__name__ if isinstance(exc, OSError) else type(exc).__name__
