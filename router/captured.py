"""Answers that are kept back: an exchange that writes nothing to a client, and what it kept."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Final

from policies.answers import Said, said_in_body, said_in_events
from router.domain.sse import payloads, split_events
from router.edge import headers as h
from router.edge.exchange import Exchange
from router.edge.headers import Headers

NO_HEADERS: Final[Headers] = MappingProxyType({})
MOST_COMPARED: Final = 1024 * 1024
"""Bytes of an answer that are kept to be compared with that of a copy."""


class Captured:
    """Stands for a client until it is known whether the client is to have the answer. See `router.edge.exchange.Exchange`."""

    def __init__(self, client: Exchange | None, *, clock: Callable[[], float] | None = None) -> None:
        """`client` None: nobody will ever see the answer. `clock` gives monotonic seconds; None: nobody asks when it ended."""
        self._client = client
        self._clock = clock
        self.method = "POST"
        self.path = ""
        self.headers: Headers = NO_HEADERS
        self.started = False
        self.aborted = False
        self.status = 0
        self.head = b""
        self.whole = False
        """It came in one piece: as JSON, not as a stream."""
        self.ended: float | None = None
        """When the last of a stream was here, monotonic seconds; None: it has not ended, or there is no clock."""
        self._parts: list[bytes] = []
        self._size = 0

    @property
    def gone(self) -> bool:
        """Whether the client has left."""
        return self._client is not None and self._client.gone

    @property
    def data(self) -> bytes:
        """The answer, as it would have been sent."""
        return b"".join(self._parts)

    async def body(self) -> bytes:
        """Nobody asks for it: the request has been read."""
        return b""

    async def respond(self, status: int, headers: bytes, body: bytes) -> None:
        """Keep a whole answer."""
        self.started = self.whole = True
        self.status, self.head = status, headers
        self._parts = [body]

    async def start(self, status: int, headers: bytes) -> None:
        """Keep the head of a stream."""
        self.started = True
        self.status, self.head = status, headers

    def write(self, data: bytes) -> Awaitable[None] | None:
        """Keep a part of a stream."""
        self._parts.append(data)
        return None

    async def finish(self) -> None:
        """The stream is whole."""
        if self._clock is not None:
            self.ended = self._clock()

    def abort(self) -> None:
        """The stream is not whole, and will not be."""
        self.aborted = True

    def said(self) -> Said:
        """What the model has answered."""
        return said_in_body(self.data) if self.whole else said_in_events(payloads(split_events(self.data)))

    def replace(self, data: bytes) -> None:
        """Keep this instead."""
        self._parts = [data]

    def keep(self, data: bytes) -> None:
        """Keep a part, as long as it is not too much to compare."""
        self._size += len(data)
        if self._size <= MOST_COMPARED:
            self._parts.append(data)

    async def replay(self, client: Exchange, changed: Mapping[bytes, bytes]) -> None:
        """Send it after all, with these header lines in place of those it has."""
        head = h.encode([(name, changed.get(name, value)) for name, value in h.decode(self.head)])
        if self.whole:
            await client.respond(self.status, head, self.data)
            return
        await client.start(self.status, head)
        full = client.write(self.data)
        if full is not None:
            await full
        await client.finish()


class Tee(Captured):
    """The client itself, and what it has been sent besides."""

    def __init__(self, client: Exchange) -> None:
        super().__init__(client)
        self._to = client
        self.method, self.path, self.headers = client.method, client.path, client.headers

    async def body(self) -> bytes:
        """The request's body."""
        return await self._to.body()

    async def respond(self, status: int, headers: bytes, body: bytes) -> None:
        """Send a whole answer, and keep it."""
        self.started = self.whole = True
        self.keep(body)
        await self._to.respond(status, headers, body)

    async def start(self, status: int, headers: bytes) -> None:
        """Send the head of a stream."""
        self.started = True
        await self._to.start(status, headers)

    def write(self, data: bytes) -> Awaitable[None] | None:
        """Send a part of a stream, and keep it."""
        self.keep(data)
        return self._to.write(data)

    async def finish(self) -> None:
        """End the stream."""
        await self._to.finish()

    def abort(self) -> None:
        """Close the client's connection."""
        self._to.abort()
