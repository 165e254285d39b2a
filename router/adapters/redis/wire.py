"""A connection to Redis for the hot path: all commands of one turn of the event loop go out in one write.

No timer per command: one sweeper looks at the oldest unanswered write. Whoever waits longer than the timeout takes the
connection down with it; everything that waits then fails at once, and so do later calls until a probe succeeds.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final, cast

import hiredis

from router.adapters.redis.address import Address, Place, find_master, moved_to
from router.adapters.redis.scripts import command
from router.errors import ConfigError, StoreUnavailable

FIRST_BACKOFF_SECONDS: Final = 0.05
MOST_MOVES: Final = 3
"""Nodes of a cluster that are asked, one after the other, before it is given up."""
MAX_BACKOFF_SECONDS: Final = 2.0
_JITTER: Final = random.SystemRandom()
_WAIT: Final = 0.85
"""Share of the timeout after which an unanswered write is late ..."""
_STEP: Final = 0.15
"""... and share between two looks at it: together they make the timeout."""
_UNAVAILABLE: Final = (
    *("MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN", "LOADING", "READONLY", "MASTERDOWN", "NOREPLICAS"),
    *("OOM", "MISCONF", "BUSY", "UNKILLABLE"),
)
_LOGIN_NEEDED: Final = ("NOAUTH", "WRONGPASS")
_ELSEWHERE: Final = ("READONLY", "MASTERDOWN", "CLUSTERDOWN")
"""Errors of a server that is not the master any more: connect anew, the name may lead to another one."""


_NOTHING: Final = object()
"""What the reader answers when it needs more bytes."""


class NotSent(StoreUnavailable):
    """There was no connection: the command never left."""


def parse_info(text: bytes) -> dict[str, str]:
    """The `name:value` lines of an INFO reply."""
    return dict(line.split(":", 1) for line in bytes(text).decode(errors="replace").splitlines() if ":" in line)


class _Protocol(asyncio.Protocol):
    """One connection: replies in, futures answered in order."""

    def __init__(self, loop: asyncio.AbstractEventLoop, timeout_seconds: float, lost: Callable[[_Protocol], None]) -> None:
        self._loop = loop
        self._timeout_seconds = timeout_seconds
        self._lost = lost
        self._reader = hiredis.Reader(replyError=hiredis.ReplyError, notEnoughData=_NOTHING)
        self._transport: asyncio.Transport | None = None
        self._out: list[bytes] = []
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._create_future = loop.create_future
        self._sent = 0
        self._marks: deque[tuple[float, int]] = deque()
        """(deadline, commands sent until then), one per write."""
        self._sweeping = False
        self.writes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def send(self, data: bytes) -> asyncio.Future[Any]:
        """Queue a command; its future gets the reply, also if that is an error of the server."""
        future: asyncio.Future[Any] = self._create_future()
        out = self._out
        if not out:
            # Also where the connection is lost: the flush then fails what waits.
            self._loop.call_soon(self._flush)
        out.append(data)
        self._waiting.append(future)
        return future

    def _flush(self) -> None:
        transport, out = self._transport, self._out
        if transport is None:
            self._fail_all("Redis closed the connection")
            return
        if not out:
            return
        self._sent += len(out)
        transport.write(b"".join(out))
        out.clear()
        self.writes += 1
        self._marks.append((self._loop.time() + self._timeout_seconds * _WAIT, self._sent))
        if not self._sweeping:
            self._sweeping = True
            self._sweep_later()

    def _sweep_later(self) -> None:
        step = self._timeout_seconds * _STEP
        self._loop.call_later(step, self._sweep, self._loop.time() + step)

    def _sweep(self, due: float) -> None:
        marks = self._marks
        answered = self._sent + len(self._out) - len(self._waiting)
        while marks and marks[0][1] <= answered:
            marks.popleft()
        if not marks or self._transport is None:
            self._sweeping = False
            return
        now = self._loop.time()
        # If we come late ourselves, this process was busy, and the answer may be waiting to be read: look once more.
        if marks[0][0] <= now < due + self._timeout_seconds * _STEP:
            self._sweeping = False
            self.drop("Redis did not answer in time")
            return
        self._sweep_later()

    def data_received(self, data: bytes) -> None:
        reader, next_waiting = self._reader, self._waiting.popleft
        reader.feed(data)
        try:
            for reply in iter(reader.gets, _NOTHING):
                try:
                    next_waiting().set_result(reply)
                except asyncio.InvalidStateError:
                    # Whoever waited was cancelled.
                    continue
        except (hiredis.ProtocolError, IndexError):
            self.drop("Redis sent something that is not its protocol")

    def connection_lost(self, exc: Exception | None) -> None:
        self.drop("Redis closed the connection")

    def drop(self, why: str) -> None:
        """Give the connection up; everything that waits fails now."""
        transport, self._transport = self._transport, None
        if transport is None:
            return
        transport.abort()
        self._fail_all(why)
        self._lost(self)

    def _fail_all(self, why: str) -> None:
        self._out.clear()
        waiting, self._waiting = self._waiting, deque()
        for future in waiting:
            if not future.done():
                future.set_exception(StoreUnavailable(why))


class Wire:
    """A connection that comes back by itself."""

    def __init__(
        self,
        address: Address,
        *,
        timeout_seconds: float,
        patient: bool = False,
        probe: bytes = b"",
        on_connect: Callable[[str], None] | None = None,
    ) -> None:
        """`patient`: a call without a connection waits for one, up to the timeout; for people, not for requests.

        `probe`: a command about a key, whose answer tells which node of a cluster has it.
        """
        self._address = address
        self._probe = probe
        self._turn = 0
        """Which of several hosts is tried next."""
        self._place: Place | None = None
        """Where we are connected, or were last."""
        self._moved: Place | None = None
        """Where a cluster says that our keys are."""
        self._timeout_seconds = timeout_seconds
        self._patient = patient
        self._on_connect = on_connect
        self._loop = asyncio.get_running_loop()
        self.protocol: _Protocol | None = None
        self.send: Callable[[bytes], Awaitable[Any]] = self._send_when_up
        """Send one encoded command; resolves to its reply, also if that is an error of the server. Raises `StoreUnavailable`.

        While there is a connection, its own method: no coroutine of ours is between it and who waits.
        """
        self._up = asyncio.Event()
        self._connecting: asyncio.Future[None] | None = None
        """The first attempt after a loss: worth waiting for."""
        self._keeper: asyncio.Task[None] | None = None
        self._closed = False
        self._why_not = ""
        """Why the last attempt to connect failed."""
        self.info: dict[str, str] = {}
        """`INFO server` of the server we are connected to."""

    async def open(self) -> None:
        """Connect for the first time.

        Raises:
            StoreUnavailable: nobody answers.
            ConfigError: the server refuses our credentials.
        """
        for _ in self._address.hosts[1:]:
            with suppress(StoreUnavailable):
                self._use(await self._connect())
                return
        self._use(await self._connect())

    def _use(self, protocol: _Protocol | None) -> None:
        self.protocol = protocol
        self.send = self._send_when_up if protocol is None else protocol.send

    async def _send_when_up(self, data: bytes) -> Any:
        protocol = await self._wait()
        return await protocol.send(data)

    @property
    def connected(self) -> bool:
        """Whether a call would be sent now."""
        return self.protocol is not None

    @property
    def writes(self) -> int:
        """Writes on the present connection."""
        return 0 if self.protocol is None else self.protocol.writes

    def leave(self) -> None:
        """Give the connection up for a new one: the address leads elsewhere by now."""
        if self.protocol is not None:
            self.protocol.drop("Redis is not the master")

    async def call(self, data: bytes) -> Any:
        """Send one encoded command and wait for its reply.

        Raises:
            StoreUnavailable: no connection, no answer in time, or the server says that it cannot serve.
            hiredis.ReplyError: any other error of the server.
        """
        protocol = self.protocol
        if protocol is None:
            protocol = await self._wait()
        reply = await protocol.send(data)
        if type(reply) is hiredis.ReplyError:
            self._raise(reply, protocol)
        return reply

    def _raise(self, reply: hiredis.ReplyError, protocol: _Protocol) -> None:
        kind = str(reply).split(" ", 1)[0].lstrip("-")
        if kind in _ELSEWHERE:
            protocol.drop("Redis is not the master")
        if kind == "MOVED":
            self._moved = moved_to(str(reply), self._place)
            protocol.drop("the ledger is at another node of the cluster")
        if kind in _UNAVAILABLE:
            raise StoreUnavailable(f"Redis cannot serve: {reply}")
        raise reply

    async def _wait(self) -> _Protocol:
        if self._connecting is not None:
            await asyncio.shield(self._connecting)
        if self.protocol is None and self._patient:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._timeout_seconds):
                    await self._up.wait()
        if self.protocol is None:
            raise NotSent(self._why_not or f"Redis at {self._address.shown} cannot be reached")
        return self.protocol

    async def _connect(self) -> _Protocol:
        try:
            async with asyncio.timeout(self._timeout_seconds):
                for _ in range(MOST_MOVES):
                    protocol = await self._handshake(await self._dial())
                    if protocol is not None:
                        return protocol
                raise StoreUnavailable("its cluster sends from one node to the other")
        except (OSError, TimeoutError, StoreUnavailable) as error:
            self._moved = None
            self._turn += 1
            raise StoreUnavailable(f"Redis at {self._address.shown} cannot be reached: {error or 'no answer in time'}") from error

    async def _dial(self) -> _Protocol:
        address = self._address

        def make() -> _Protocol:
            return _Protocol(self._loop, self._timeout_seconds, self._on_lost)

        if address.path is not None:
            return (await self._loop.create_unix_connection(make, address.path))[1]
        if self._moved is not None:
            self._place = self._moved
        elif address.master:
            self._place = await find_master(address)
        else:
            self._place = address.hosts[self._turn % len(address.hosts)]
        return (await self._loop.create_connection(make, *self._place, ssl=address.tls))[1]

    async def _handshake(self, protocol: _Protocol) -> _Protocol | None:
        """Log in. None: our keys are at another node."""
        address = self._address
        commands = address.greeting()
        if self._probe:
            commands.append(self._probe)
        commands.append(command("INFO", "server"))
        try:
            replies = await asyncio.gather(*[protocol.send(c) for c in commands])
        except BaseException:
            protocol.drop("Redis did not answer in time")
            raise
        info = replies.pop()
        probed = replies.pop() if self._probe else None
        if isinstance(info, hiredis.ReplyError) and str(info).startswith(_LOGIN_NEEDED):
            replies.append(info)
        for reply in replies:
            if isinstance(reply, hiredis.ReplyError):
                protocol.drop("Redis refused the login")
                raise ConfigError(f"store: Redis at {address.shown} refused the login: {reply}. Check user, password and ACL in its URL.")
        if isinstance(info, hiredis.ReplyError):
            # It may be forbidden to us. What it says of loading is said again by the first script.
            info = b""
        if isinstance(probed, hiredis.ReplyError) and str(probed).startswith("MOVED"):
            self._moved = moved_to(str(probed), self._place)
            protocol.drop("the ledger is at another node of the cluster")
            return None
        self.info = parse_info(info)
        if self._on_connect is not None:
            self._on_connect(self.info.get("run_id", ""))
        return protocol

    def _on_lost(self, protocol: _Protocol) -> None:
        if protocol is self.protocol:
            self._use(None)
            self._up.clear()
            if not self._closed:
                self._connecting = self._loop.create_future()
                self._keeper = self._loop.create_task(self._reconnect())

    async def _reconnect(self) -> None:
        """Try until connected: at once, then with growing pauses."""
        pause = FIRST_BACKOFF_SECONDS
        while not self._closed:
            try:
                self._use(await self._connect())
            except (StoreUnavailable, ConfigError) as error:
                self._why_not = str(error).removeprefix("store: ")
                self._first_attempt_over()
                # Spread out: replicas should not all come back in the same instant.
                await asyncio.sleep(pause * _JITTER.uniform(0.5, 1.0))
                pause = min(pause * 2, MAX_BACKOFF_SECONDS)
            else:
                self._up.set()
                break
        self._first_attempt_over()

    def _first_attempt_over(self) -> None:
        if self._connecting is not None:
            self._connecting.set_result(None)
            self._connecting = None

    async def close(self) -> None:
        """Close the connection; what still waits fails."""
        self._closed = True
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.wait([keeper])
        self._first_attempt_over()
        if self.protocol is not None:
            self.protocol.drop("the ledger is closed")
            self._use(None)


class NoWire:
    """In place of a connection before a ledger is open and after it is closed."""

    writes = 0

    async def send(self, data: bytes) -> Any:
        """Raises `NotSent`."""
        raise NotSent("the ledger is not open")

    call = send

    async def close(self) -> None:
        """Nothing to close."""


NO_WIRE: Final = NoWire()
