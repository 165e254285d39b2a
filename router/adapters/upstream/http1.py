"""HTTP/1.1 to providers: a keep-alive pool on asyncio and httptools, with no task and no timer per request."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import router
from router.adapters.upstream.decode import decoded
from router.adapters.upstream.dial import TlsContexts, connect, proxy_of
from router.adapters.upstream.http1_connection import JOIN_BYTES, Connection, Http1Response
from router.domain.addresses import in_url
from router.ports import Endpoint, Timeouts, UpstreamError, UpstreamResponse

SWEEP_SECONDS: Final = 0.25
"""How often time limits are looked at."""
MAX_AGE_SECONDS: Final = 600.0
"""A connection is not used again after this, so that a changed DNS answer takes effect."""
MAX_HEADS: Final = 64
"""Request heads remembered per endpoint."""
PROXY_WANTS_CREDENTIALS: Final = 407

USER_AGENT: Final = f"faregate/{router.__version__}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolState:
    """Connections of one endpoint at this moment."""

    open: int
    """All that count against `max_connections`, those being dialled included."""
    idle: int
    waiting: int
    """Calls that wait for a connection."""


class Http1Upstream:
    """Calls providers over HTTP/1.1. See `router.ports.Upstream`.

    One instance per event loop. Each connection carries one request at a time. One periodic sweep enforces the
    first-byte, idle and total limits to a quarter of a second; only dialling has a timer of its own.
    """

    def __init__(self, *, sweep_seconds: float = SWEEP_SECONDS) -> None:
        self._pools: dict[Endpoint, Pool] = {}
        self._tls = TlsContexts()
        self._sweep_seconds = sweep_seconds
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False

    def post(
        self, endpoint: Endpoint, path: str, body: bytes, *, headers: Sequence[tuple[bytes, bytes]] = (), timeouts: Timeouts
    ) -> Coroutine[Any, Any, UpstreamResponse]:
        """POST JSON to `base_path + path`. See `router.ports.Upstream.post`."""
        pool = self._pools.get(endpoint) or self._open_pool(endpoint)
        head = pool.heads.get(path) or pool.post_head(path)
        extra = extra_fields(headers) if headers else b""
        if len(body) <= JOIN_BYTES:
            return self._exchange(pool, b"%b%d\r\n%b\r\n%b" % (head, len(body), extra, body), b"", timeouts)
        return self._exchange(pool, b"%b%d\r\n%b\r\n" % (head, len(body), extra), body, timeouts)

    async def get(
        self, endpoint: Endpoint, path: str, *, headers: Sequence[tuple[bytes, bytes]] = (), timeouts: Timeouts
    ) -> UpstreamResponse:
        """GET `base_path + path`: health probes and discovery. Otherwise as `post`."""
        pool = self._pools.get(endpoint) or self._open_pool(endpoint)
        head = b"%b%b\r\n" % (request_head(endpoint, "GET", path), extra_fields(headers))
        return await self._exchange(pool, head, b"", timeouts)

    def state(self, endpoint: Endpoint) -> PoolState:
        """How busy the connections of an endpoint are."""
        pool = self._pools.get(endpoint)
        if pool is None:
            return PoolState(open=0, idle=0, waiting=0)
        return PoolState(open=pool.count, idle=len(pool.idle), waiting=len(pool.waiters))

    def connections(self, endpoint: Endpoint) -> Collection[Connection]:
        """All connections of an endpoint, busy and idle."""
        pool = self._pools.get(endpoint)
        return () if pool is None else tuple(pool.connections)

    def sweep(self, now: float) -> None:
        """Enforce all time limits as of `now`, seconds of the event loop's clock."""
        for endpoint, pool in list(self._pools.items()):
            for connection in list(pool.connections):
                connection.check(now, endpoint.keepalive_seconds)
            if not pool.count and not pool.waiters:
                del self._pools[endpoint]

    async def close(self) -> None:
        """Close every connection; calls under way fail with `reset`, later ones too."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        connections = [connection for pool in self._pools.values() for connection in pool.connections]
        for pool in self._pools.values():
            pool.closed = True
        self._pools.clear()
        for connection in connections:
            connection.close()
        # Transports report their end within the next turns of the loop; an event per connection would serve only this.
        while any(connection.connected for connection in connections):  # noqa: ASYNC110
            await asyncio.sleep(0)

    async def _exchange(self, pool: Pool, head: bytes, body: bytes, timeouts: Timeouts) -> UpstreamResponse:
        started_at = pool.loop.time()
        connection = pool.take(started_at) or await pool.fresh(timeouts.connect_seconds)
        response = connection.send(head, body, started_at, timeouts)
        try:
            await response.began
        except BaseException:
            response.abort()
            raise
        if not response.status:
            if response.unread:
                response = await self._again(pool.endpoint, head, body, started_at, timeouts)
            if response.error is not None and not response.status:
                response.error.sends = response.sends
                raise response.error
        if response.status == PROXY_WANTS_CREDENTIALS and pool.endpoint.proxy:
            response.abort()
            raise UpstreamError("connect", f"{pool.name}: the proxy answered 407: it wants other credentials", sent=False)
        # Its headers are a cached property: they can be set, which mypy does not know.
        answer = cast(UpstreamResponse, response)
        return decoded(answer) if response.encoded else answer

    async def _again(self, endpoint: Endpoint, head: bytes, body: bytes, started_at: float, timeouts: Timeouts) -> Http1Response:
        """Send the request on another connection: the provider closed an idle one while it was on its way.

        Only once, and only if the provider certainly never had the whole of the first one, so that nothing is paid for twice.
        Whatever else closes a connection without an answer is the end of an attempt.
        """
        pool = self._pools.get(endpoint) or self._open_pool(endpoint)
        connection = await pool.fresh(timeouts.connect_seconds)
        response = connection.send(head, body, started_at, timeouts)
        response.sends = 2
        try:
            await response.began
        except BaseException:
            response.abort()
            raise
        return response

    def _open_pool(self, endpoint: Endpoint) -> Pool:
        loop = asyncio.get_running_loop()
        pool = Pool(endpoint, loop, self._tls)
        if self._closed:
            # Whoever awaits the call learns of it when a connection is dialled.
            pool.closed = True
            return pool
        self._pools[endpoint] = pool
        if self._sweeper is None:
            self._sweeper = loop.call_later(self._sweep_seconds, self._tick, loop)
        return pool

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        self.sweep(loop.time())
        self._sweeper = loop.call_later(self._sweep_seconds, self._tick, loop) if self._pools else None


class Pool:
    """The connections of one endpoint: last in, first out, so that idle ones can expire."""

    def __init__(self, endpoint: Endpoint, loop: asyncio.AbstractEventLoop, tls: TlsContexts) -> None:
        self.endpoint = endpoint
        self.loop = loop
        self.name = endpoint.name
        # Plain proxies close when they like, and on the way there nobody could tell whether the provider had the request.
        through_plain = endpoint.scheme == "http" and endpoint.proxy
        self.keepalive_seconds = 0.0 if through_plain else endpoint.keepalive_seconds
        self.heads: dict[str, bytes] = {}
        self.idle: dict[Connection, None] = {}
        self.connections: set[Connection] = set()
        self.waiters: deque[asyncio.Future[Connection | None]] = deque()
        self.count = 0
        self.closed = False
        self._tls = tls

    def post_head(self, path: str) -> bytes:
        """Everything of a POST's head up to the value of content-length, remembered per path."""
        head = request_head(self.endpoint, "POST", path) + b"content-length: "
        if len(self.heads) < MAX_HEADS:
            self.heads[path] = head
        return head

    def take(self, now: float) -> Connection | None:
        """An idle connection that should still work, or None."""
        idle = self.idle
        while idle:
            connection = idle.popitem()[0]
            # As `usable`, but this is the way of every request.
            working = connection.connected and not connection.transport.is_closing()
            if working and now - connection.heard_at < self.keepalive_seconds:
                connection.heard_at = now
                return connection
            connection.close()
        return None

    async def fresh(self, timeout_seconds: float) -> Connection:
        """A new connection, or, at the limit, the first one that becomes free. Raises `UpstreamError`, never `sent`."""
        try:
            async with asyncio.timeout(timeout_seconds):
                if self.count >= self.endpoint.max_connections:
                    handed = await self._queue()
                    if handed is not None and handed.usable():
                        return handed
                    if handed is not None:
                        self.count += 1
                else:
                    self.count += 1
                return await self._dial()
        except TimeoutError as exc:
            where = f"{self.endpoint.host}:{self.endpoint.port}"
            message = (
                f"{self.name}: no connection to {where} within {timeout_seconds:g} s ({self.count} of {self.endpoint.max_connections} open)"
            )
            raise UpstreamError("connect_timeout", message, sent=False) from exc

    async def _queue(self) -> Connection | None:
        """Wait in line for a connection, or for leave to dial one (None; it is counted already)."""
        waiter: asyncio.Future[Connection | None] = self.loop.create_future()
        self.waiters.append(waiter)
        try:
            return await waiter
        except BaseException:
            if waiter.done() and not waiter.cancelled():
                self._pass_on(waiter.result())
            elif waiter in self.waiters:
                self.waiters.remove(waiter)
            raise

    def _pass_on(self, handed: Connection | None) -> None:
        if handed is None:
            self._leave()
        elif handed.usable():
            self.released(handed)

    async def _dial(self) -> Connection:
        """Connect; the caller has counted it."""
        try:
            if self.closed:
                raise UpstreamError("connect", f"{self.name}: the client is closed", sent=False)
            context = await self._tls.get(self.endpoint) if self.endpoint.scheme == "https" else None
            connection = await connect(self.endpoint, self.loop, context, lambda: Connection(self, self.loop))
        except BaseException:
            self._leave()
            raise
        connection.pooled = True
        connection.heard_at = self.loop.time()
        self.connections.add(connection)
        return connection

    def _leave(self) -> None:
        """One connection less: the next in line may dial."""
        self.count -= 1
        while self.waiters:
            waiter = self.waiters.popleft()
            if not waiter.done():
                self.count += 1
                waiter.set_result(None)
                return

    # What a connection reports

    def released(self, connection: Connection) -> None:
        """The connection is free: hand it to the next in line, or keep it."""
        if connection.heard_at - connection.born_at > MAX_AGE_SECONDS:
            connection.close()
            return
        while self.waiters:
            waiter = self.waiters.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return
        self.idle[connection] = None

    def closing(self, connection: Connection) -> None:
        """The connection must not be given out any more."""
        self.idle.pop(connection, None)

    def lost(self, connection: Connection) -> None:
        """The connection is gone."""
        if connection.pooled:
            connection.pooled = False
            self.connections.discard(connection)
            self._leave()


def request_head(endpoint: Endpoint, method: str, path: str) -> bytes:
    """Request line and the fields that never change, each line ended. Raises `ValueError` for what would break the framing."""
    target = endpoint.base_path + path
    if not target.startswith("/") or not target.isascii() or not target.isprintable() or " " in target:
        raise ValueError(f"{endpoint.name}: {target!r} is not a request target")
    host = in_url(endpoint.host)
    proxy = proxy_of(endpoint) if endpoint.scheme == "http" else None
    if endpoint.port != (443 if endpoint.scheme == "https" else 80):
        host = f"{host}:{endpoint.port}"
    fields = {
        "host": host,
        "user-agent": USER_AGENT,
        "accept": "*/*",
        "accept-encoding": "identity",
    }
    if method == "POST":
        fields["content-type"] = "application/json"
    # Through TLS a proxy sees nothing; otherwise it is told whom to call.
    if proxy is not None:
        target = f"http://{host}{target}"
        fields["connection"] = "close"
        if proxy.credentials:
            fields["proxy-authorization"] = proxy.credentials
    fields.update((name.lower(), value) for name, value in endpoint.headers)
    encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields.items()]
    return f"{method} {target} HTTP/1.1\r\n".encode() + extra_fields(encoded)


def extra_fields(headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Header fields as they go over the wire. Raises `ValueError` if one would break out of its line."""
    lines = b"".join([b"%b: %b\r\n" % field for field in headers])
    if lines.count(b"\n") != len(headers) or lines.count(b"\r") != len(headers) or b"\0" in lines:
        raise ValueError("a header field contains a line break")
    return lines
