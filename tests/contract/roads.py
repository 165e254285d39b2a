"""A way to a server that a test may cut, exactly before or behind a command, or lead elsewhere."""

from __future__ import annotations

import asyncio
from typing import Literal, Self, cast

Cut = Literal["before", "behind"]


class Road:
    """Passes bytes both ways. What a client writes at once counts as one command."""

    def __init__(self, port: int) -> None:
        self.target = port
        """Where new connections lead."""
        self.port = 0
        self.cuts = 0
        """How often the way was cut."""
        self._cut: Cut | None = None
        self._skip = 0
        self.connections: set[_Client] = set()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def cut(self, where: Cut, skip: int = 0) -> None:
        """Cut the next command's connection, or that of a later one: the command is lost, or done and its answer is lost."""
        self._cut, self._skip = where, skip

    def spare(self) -> None:
        """Cut nothing any more."""
        self._cut = None

    def drop(self) -> None:
        """End all connections."""
        for client in list(self.connections):
            client.end()

    def due(self) -> Cut | None:
        """Whether this command is the one, and where the cut is."""
        if self._cut is None or self._skip:
            self._skip -= self._cut is not None
            return None
        where, self._cut = self._cut, None
        self.cuts += 1
        return where

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Client(self), "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.drop()
        while self.connections:
            await asyncio.sleep(0)


class _Client(asyncio.Protocol):
    """A client, and the connection that is made for it."""

    def __init__(self, road: Road) -> None:
        self._road = road
        self.transport: asyncio.Transport | None = None
        self._there: asyncio.Transport | None = None
        self.deaf = False
        """Its last command is done, and the answer shall be lost."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.pause_reading()
        self._road.connections.add(self)
        self._dialling = asyncio.ensure_future(self._dial())

    async def _dial(self) -> None:
        assert self.transport is not None
        try:
            there, _ = await asyncio.get_running_loop().create_connection(lambda: _Server(self), "127.0.0.1", self._road.target)
        except OSError:
            self.end()
            return
        self._there = there
        if self.transport.is_closing():
            self.end()
        else:
            self.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        assert self._there is not None
        where = self._road.due()
        self.deaf = where == "behind"
        if where == "before":
            self.end()
        else:
            self._there.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.end()
        self._road.connections.discard(self)

    def end(self) -> None:
        for transport in (self.transport, self._there):
            if transport is not None:
                transport.abort()


class _Server(asyncio.Protocol):
    def __init__(self, client: _Client) -> None:
        self._client = client

    def data_received(self, data: bytes) -> None:
        assert self._client.transport is not None
        if self._client.deaf:
            self._client.end()
        else:
            self._client.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._client.end()
