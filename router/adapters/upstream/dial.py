"""How a connection to a provider is made: names, addresses, a proxy in between, TLS."""

from __future__ import annotations

import asyncio
import base64
import re
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar
from urllib.parse import unquote, urlsplit

from router.domain.addresses import in_url
from router.ports import Endpoint, UpstreamError

ADDRESS_SECONDS: Final = 1.0
"""Time for an address to answer when there are others to try."""
TUNNEL_BYTES: Final = 16 * 1024
"""The longest head that a proxy may answer CONNECT with."""
TUNNEL_STATUS: Final = re.compile(rb"HTTP/1\.[01] (\d{3})(?: [^\r\n]*)?\r?\n")

T = TypeVar("T", bound=asyncio.BaseProtocol)


@dataclass(frozen=True, slots=True)
class Proxy:
    """A plain HTTP proxy on the way to a provider."""

    host: str
    port: int
    credentials: str
    """Value of `proxy-authorization`; empty: it wants none."""


def proxy_of(endpoint: Endpoint) -> Proxy | None:
    """The proxy of an endpoint; None: it has none."""
    if not endpoint.proxy:
        return None
    parts = urlsplit(endpoint.proxy)
    credentials = ""
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        credentials = f"Basic {base64.b64encode(pair.encode()).decode()}"
    return Proxy(parts.hostname or "", parts.port or 80, credentials)


async def connect(endpoint: Endpoint, loop: asyncio.AbstractEventLoop, context: ssl.SSLContext | None, make: Callable[[], T]) -> T:
    """Resolve, connect and shake hands. Every address gets its share of the time that the caller allows.

    Through a proxy, TLS is spoken with the provider in a tunnel. Returns what `make` made, connected. Raises `UpstreamError`
    (`dns`, `connect`, `tls`), never `sent`.
    """
    proxy = proxy_of(endpoint)
    host, port = (endpoint.host, endpoint.port) if proxy is None else (proxy.host, proxy.port)
    where = f"{host}:{port}" if proxy is None else f"the proxy {in_url(host)}:{port}"
    addresses = await _resolve(endpoint.name, loop, host, port)
    failure = UpstreamError("dns", f"{endpoint.name}: {host} has no address", sent=False)
    for position, address in enumerate(addresses):
        last = position == len(addresses) - 1
        try:
            # A dead first address, often IPv6, must not use up the time of the others.
            async with asyncio.timeout(None if last else ADDRESS_SECONDS):
                return await _connect(endpoint, loop, address, context, make, proxy)
        except ssl.SSLError as exc:
            raise UpstreamError(
                "tls", f"{endpoint.name}: no TLS with {endpoint.host}:{endpoint.port}: {_tls_reason(exc)}", sent=False
            ) from exc
        except TimeoutError:
            failure = UpstreamError("connect", f"{endpoint.name}: {where} did not answer", sent=False)
        except OSError as exc:
            failure = UpstreamError("connect", f"{endpoint.name}: no connection to {where}: {os_reason(exc)}", sent=False)
    raise failure


async def _resolve(name: str, loop: asyncio.AbstractEventLoop, host: str, port: int) -> list[str]:
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as exc:
        reason = os_reason(exc) if isinstance(exc, OSError) else "not a host name"
        raise UpstreamError("dns", f"{name}: {host} cannot be resolved: {reason}", sent=False) from exc
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


async def _connect(
    endpoint: Endpoint,
    loop: asyncio.AbstractEventLoop,
    address: str,
    context: ssl.SSLContext | None,
    make: Callable[[], T],
    proxy: Proxy | None,
) -> T:
    server_hostname = endpoint.host if context is not None else None
    if proxy is None:
        return (await loop.create_connection(make, address, endpoint.port, ssl=context, server_hostname=server_hostname))[1]
    if context is None:
        return (await loop.create_connection(make, address, proxy.port))[1]
    tunnel = await _tunnel(endpoint, loop, address, proxy)
    try:
        return (await loop.create_connection(make, sock=tunnel, ssl=context, server_hostname=server_hostname))[1]
    except BaseException:
        tunnel.close()
        raise


async def _tunnel(endpoint: Endpoint, loop: asyncio.AbstractEventLoop, address: str, proxy: Proxy) -> socket.socket:
    """A socket whose other end is the provider's: the proxy was asked by CONNECT. Raises `OSError`, `UpstreamError`."""
    tunnel = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    try:
        tunnel.setblocking(False)
        tunnel.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await loop.sock_connect(tunnel, (address, proxy.port))
        where = f"{in_url(endpoint.host)}:{endpoint.port}"
        credentials = f"proxy-authorization: {proxy.credentials}\r\n" if proxy.credentials else ""
        await loop.sock_sendall(tunnel, f"CONNECT {where} HTTP/1.1\r\nhost: {where}\r\n{credentials}\r\n".encode())
        await _opened(endpoint.name, loop, tunnel, f"{in_url(proxy.host)}:{proxy.port}")
    except BaseException:
        tunnel.close()
        raise
    return tunnel


async def _opened(name: str, loop: asyncio.AbstractEventLoop, tunnel: socket.socket, proxy: str) -> None:
    """Wait until the proxy has opened the tunnel. Nothing of what follows its answer is read: that is TLS."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        # A byte at a time: whatever comes behind the head is not ours. It is a hundred bytes, once a connection.
        byte = await loop.sock_recv(tunnel, 1)
        head += byte
        if not byte or len(head) > TUNNEL_BYTES:
            raise UpstreamError("connect", f"{name}: the proxy {proxy} did not answer CONNECT as a proxy does", sent=False)
    found = TUNNEL_STATUS.match(head)
    status = int(found[1]) if found else 0
    if not 200 <= status < 300:
        why = " (it wants other credentials)" if status == 407 else ""
        told = f"answered {status} to CONNECT{why}" if found else "did not answer CONNECT as a proxy does"
        raise UpstreamError("connect", f"{name}: the proxy {proxy} {told}", sent=False)


def _tls_reason(exc: ssl.SSLError) -> str:
    if isinstance(exc, ssl.SSLCertVerificationError):
        return exc.verify_message
    return exc.reason or type(exc).__name__


def os_reason(exc: OSError) -> str:
    return exc.strerror or str(exc) or type(exc).__name__


class TlsContexts:
    """TLS settings by (CA file, verification), shared by all endpoints: loading the system's CAs takes 20 ms."""

    def __init__(self) -> None:
        self._contexts: dict[tuple[str | None, bool], ssl.SSLContext] = {}

    async def get(self, endpoint: Endpoint) -> ssl.SSLContext:
        """The context of an endpoint; read from disk off the loop. Raises `UpstreamError` (`tls`)."""
        key = (endpoint.ca_file, endpoint.verify)
        context = self._contexts.get(key)
        if context is None:
            try:
                context = await asyncio.to_thread(make_context, endpoint.ca_file, endpoint.verify)
            except (OSError, ssl.SSLError) as exc:
                message = f"{endpoint.name}: the CA file {endpoint.ca_file} cannot be used: {os_reason(exc)}"
                raise UpstreamError("tls", message, sent=False) from exc
            self._contexts[key] = context
        return context


def make_context(ca_file: str | None, verify: bool) -> ssl.SSLContext:
    """TLS 1.2 or later, HTTP/1.1 only, certificates and names verified unless `verify` is false."""
    context = ssl.create_default_context(cafile=ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
