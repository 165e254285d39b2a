"""HTTP/2 to providers, and calls through proxies that speak TLS or SOCKS: pyreqwest behind the same port. Imported only if needed."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import (
    BuilderError,
    ConnectError,
    ConnectTimeoutError,
    PoolTimeoutError,
    PyreqwestError,
)
from pyreqwest.proxy import ProxyBuilder
from pyreqwest.request import StreamRequest
from pyreqwest.response import Response

from router.adapters.upstream.decode import decoded
from router.adapters.upstream.http1 import USER_AGENT, extra_fields
from router.domain.addresses import in_url
from router.ports import Endpoint, Timeouts, UpstreamError, UpstreamFault, UpstreamResponse

CERTIFICATE: Final = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
UNSENT: Final[tuple[tuple[UpstreamFault, tuple[str, ...]], ...]] = (
    ("dns", ("dns", "lookup address", "resolve")),
    ("tls", ("certificate", "handshake", "invalidcontenttype", "corrupt message")),
    ("connect", ("refused", "unreachable", "no route", "tunnel")),
)
"""Words in a `ConnectError` that show that no byte of the request was sent, and the fault they mean."""
BAD_WORDS: Final = ("invalid http", "parse", "protocol")
SHORT_WORDS: Final = ("eof", "end of file", "before message length", "incomplete")

GRACE_SECONDS: Final = 1.0
"""How much later than ours the client's own limits end a call that nobody waits for."""

T = TypeVar("T")


class PyreqwestUpstream:
    """Calls providers through reqwest. See `router.ports.Upstream`.

    HTTP/2 if the endpoint has `http2` and the server agrees by ALPN, else HTTP/1.1. Proxies are taken from the
    endpoint, never from the environment. Given a `ca_file`, its certificates are trusted beside the built-in ones.

    One thing is weaker than in the port: a call that is cancelled before the head of its answer has come is given up
    here at once, but pyreqwest 0.15 keeps its connection until the provider answers, or until `GRACE_SECONDS` after
    the time for the first byte: it leaves the task that waits for the head to itself, and offers no way to end it but
    the process (src/client/runtime.rs, `spawn_handled`, read 2026-11). Such a call is charged like any other whose
    client left. Once the head is here, `abort` closes at once.
    """

    def __init__(self) -> None:
        self._clients: dict[tuple[Endpoint, Timeouts], Client] = {}
        self._closed = False

    async def post(
        self, endpoint: Endpoint, path: str, body: bytes, *, headers: Sequence[tuple[bytes, bytes]] = (), timeouts: Timeouts
    ) -> UpstreamResponse:
        """POST JSON to `base_path + path`. See `router.ports.Upstream.post`."""
        client = await self._client(endpoint, timeouts)
        extra_fields(headers)  # Refuses what would break out of its line.
        fields = {"content-type": "application/json", "accept": "*/*", "accept-encoding": "identity"}
        fields.update((name.lower(), value) for name, value in endpoint.headers)
        fields.update((name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in headers)
        # Without the limit of 0 up to 64 KB of a stream are held back before the first byte is handed over.
        request = client.post(_url(endpoint, path)).headers(fields).body_bytes(body).streamed_read_buffer_limit(0).build_streamed()
        response = PyreqwestResponse(endpoint.name, request, timeouts)
        await response.begin()
        return decoded(response)

    async def close(self) -> None:
        """Close every client."""
        self._closed = True
        clients = list(self._clients.values())
        self._clients.clear()
        for client in clients:
            await client.close()

    async def _client(self, endpoint: Endpoint, timeouts: Timeouts) -> Client:
        if self._closed:
            raise UpstreamError("connect", f"{endpoint.name}: the client is closed", sent=False)
        client = self._clients.get((endpoint, timeouts))
        if client is None:
            pem = await asyncio.to_thread(Path(endpoint.ca_file).read_bytes) if endpoint.ca_file else b""
            client = self._clients[endpoint, timeouts] = _build(endpoint, timeouts, pem)
        return client


class PyreqwestResponse(UpstreamResponse):
    """An answer that arrives through reqwest. See `router.ports.UpstreamResponse`."""

    sends = 1

    def __init__(self, name: str, request: StreamRequest, timeouts: Timeouts) -> None:
        self.status = 0
        self.headers: Sequence[tuple[bytes, bytes]] = ()
        self._name = name
        self._request = request
        self._timeouts = timeouts
        self._started_at = asyncio.get_running_loop().time()
        self._total_at = self._started_at + timeouts.total_seconds
        self._response: Response | None = None
        self._error: UpstreamError | None = None
        self._ended = False

    async def begin(self) -> None:
        """Send the request and wait for the head."""
        timeouts = self._timeouts
        # Dialling is inside this wait, and has its own limit in the client.
        response = await self._limited(
            self._request.__aenter__(),
            timeouts.connect_seconds + timeouts.first_byte_seconds,
            "first_byte_timeout",
            "no answer began in time",
        )
        self._response = response
        self.status = response.status
        self.headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in response.headers.items()]

    async def read(self, limit: int) -> bytes:
        """The whole body. Raises `UpstreamError`."""
        parts: list[bytes] = []
        size = 0
        while data := await self.chunk():
            parts.append(data)
            size += len(data)
            if size > limit:
                self.abort()
                raise UpstreamError("too_large", f"{self._name}: the answer is larger than {limit} bytes", sent=True)
        return b"".join(parts)

    async def chunk(self) -> bytes:
        """What has arrived; empty at the clean end. Raises `UpstreamError`."""
        while not self._ended:
            if self._error is not None:
                raise self._error
            if self._response is None:
                raise UpstreamError("reset", f"{self._name}: the call was given up", sent=True)
            idle = self._timeouts.idle_seconds
            message = f"nothing came for {idle:g} s in the middle of the answer"
            data = await self._limited(self._response.body_reader.read_chunk(), idle, "idle_timeout", message)
            if data is None:
                self._ended = True
                await self._request.__aexit__(None, None, None)
            elif len(data):
                return bytes(data)
        return b""

    def abort(self) -> None:
        """Close the stream (HTTP/2) or the connection (HTTP/1.1) now; harmless after the end."""
        if self._response is not None and not self._ended:
            self._response = None
            # It drops the response at its first step and has nothing to wait for.
            _run_now(self._request.__aexit__(None, None, None))

    async def _limited(self, work: Awaitable[T], seconds: float, fault: UpstreamFault, message: str) -> T:
        loop = asyncio.get_running_loop()
        limit = min(loop.time() + seconds, self._total_at)
        try:
            async with asyncio.timeout_at(limit):
                return await work
        except TimeoutError as exc:
            if isinstance(exc, PyreqwestError):
                self._fail_from(exc)
            if limit >= self._total_at:
                fault, message = "total_timeout", "the answer did not end within its total time"
            self._fail(fault, message, sent=True, cause=exc)
        except PyreqwestError as exc:
            self._fail_from(exc)
        except asyncio.CancelledError:
            self.abort()
            raise

    def _fail_from(self, exc: PyreqwestError) -> NoReturn:
        early = asyncio.get_running_loop().time() < self._started_at + self._timeouts.connect_seconds + GRACE_SECONDS
        fault, sent = _fault(exc, begun=bool(self.status), early=early)
        self._fail(fault, f"{exc.message}{_causes(exc)}", sent=sent, cause=exc)

    def _fail(self, fault: UpstreamFault, message: str, *, sent: bool, cause: BaseException) -> NoReturn:
        self.abort()
        self._error = UpstreamError(fault, f"{self._name}: {message}", sent=sent)
        raise self._error from cause


def _fault(exc: PyreqwestError, *, begun: bool, early: bool) -> tuple[UpstreamFault, bool]:
    """Which fault it is, and whether the request may have been sent.

    pyreqwest 0.15 reports as `ConnectError` also what breaks while it waits for the head, and as
    `ConnectTimeoutError` every timeout until then; so only what can happen before sending alone counts as unsent.
    """
    text = f"{exc.message}{_causes(exc)}".lower()
    if isinstance(exc, (ConnectTimeoutError, PoolTimeoutError)):
        return ("connect_timeout", False) if early else ("first_byte_timeout", True)
    if isinstance(exc, ConnectError):
        for fault, words in UNSENT:
            if "fatal alert" not in text and any(word in text for word in words):
                return fault, False
    if isinstance(exc, BuilderError):
        return "connect", False
    if begun and any(word in text for word in SHORT_WORDS):
        return "truncated", True
    if any(word in text for word in BAD_WORDS):
        return "protocol", True
    return "reset", True


def _causes(exc: PyreqwestError) -> str:
    details: Any = getattr(exc, "details", None)
    causes = (details or {}).get("causes") or []
    # The outermost says what failed, the innermost why.
    return f" ({causes[-1]['message']})" if causes else ""


def _run_now(work: Awaitable[None]) -> None:
    """Run an awaitable that has nothing to wait for, without a turn of the loop."""
    with contextlib.suppress(StopIteration):
        next(work.__await__())


def _build(endpoint: Endpoint, timeouts: Timeouts, pem: bytes) -> Client:
    limit = timedelta(seconds=timeouts.connect_seconds)
    silence = max(timeouts.connect_seconds + timeouts.first_byte_seconds, timeouts.idle_seconds) + GRACE_SECONDS
    builder = (
        ClientBuilder()
        .no_proxy()
        .follow_redirects(False)
        .referer(False)
        .gzip(False)
        .deflate(False)
        .brotli(False)
        .zstd(False)
        .http1_lower_case_headers()
        .http2(endpoint.http2)
        .user_agent(USER_AGENT)
        .connect_timeout(limit)
        .pool_timeout(limit)
        .read_timeout(timedelta(seconds=silence))
        .max_connections(endpoint.max_connections)
        .pool_idle_timeout(timedelta(seconds=endpoint.keepalive_seconds))
        .danger_accept_invalid_certs(not endpoint.verify)
    )
    if endpoint.proxy:
        builder = builder.proxy(ProxyBuilder.all(endpoint.proxy))
    for certificate in CERTIFICATE.findall(pem):
        builder = builder.add_root_certificate_pem(certificate)
    return builder.build()


def _url(endpoint: Endpoint, path: str) -> str:
    host = in_url(endpoint.host)
    return f"{endpoint.scheme}://{host}:{endpoint.port}{endpoint.base_path}{path}"
