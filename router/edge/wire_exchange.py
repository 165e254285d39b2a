"""One request on a client's connection, and its answer on the way back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from router.edge.exchange import STATUS_LINES
from router.edge.headers import Headers, encode
from router.edge.heads import RequestHead
from router.edge.replies import SERVING_FAILED, error_reply

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from router.edge.protocol import GateProtocol


PROBE: Final = b"H"
"""What every status line begins with."""


class _Rest:
    """Stands for the transport until an answer is written whose first byte has been sent."""

    def __init__(self, exchange: WireExchange, transport: asyncio.Transport) -> None:
        self._exchange = exchange
        self._transport = transport

    def write(self, data: bytes) -> None:
        self._exchange._transport = self._transport
        self._transport.write(data[len(PROBE) :])

    def abort(self) -> None:
        self._transport.abort()


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

    @property
    def peer(self) -> tuple[str, int] | None:
        """Address and port of whoever is connected; None if that has none."""
        name = self._transport.get_extra_info("peername")
        return (name[0], name[1]) if isinstance(name, tuple) else None

    async def body(self) -> bytes:
        return self._body

    def probe(self) -> bool:
        """Send a byte of the answer that says nothing yet: whoever has left answers it with a reset. False: there is none.

        The first one of the status line, or a zero before the size of the next chunk.
        """
        if not self.started:
            transport = self._transport
            transport.write(PROBE)
            # Duck typing for the one write that follows; everything else goes to the transport.
            self._transport = _Rest(self, transport)  # type: ignore[assignment]
        elif self.chunked and not self.complete:
            self._transport.write(b"0")
        return self.complete or self.chunked or not self.started

    def leave(self) -> None:
        """The client has closed the connection."""
        if not self.gone:
            self.gone = True
            if self.task is not None and not self.complete:
                self.task.cancel()

    async def respond(self, status: int, headers: bytes, body: bytes) -> None:
        self._answer(status, headers, body)

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
            self.gone = True
            self._transport.abort()
