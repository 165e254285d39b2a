"""Where a Redis is: its address as people write it, and the master that Sentinels name."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

import hiredis

from router.adapters.redis.scripts import command
from router.errors import ConfigError, StoreUnavailable

Place = tuple[str, int]
"""Host and port."""
SENTINEL: Final = "+sentinel"
_SCHEMES: Final = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel")
_PORT: Final = 6379
_NOTHING: Final = object()
"""What the reader answers when it needs more bytes."""
_SENTINEL_PORT: Final = 26379


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a Redis is and how to get in. Never log it: it holds a password."""

    hosts: tuple[Place, ...] = (("localhost", _PORT),)
    """The server, or several nodes of a cluster, or Sentinels."""
    master: str = ""
    """The name that Sentinels know it by; empty: `hosts` are servers themselves."""
    path: str | None = None
    """Unix socket."""
    tls: ssl.SSLContext | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    sentinel_login: tuple[str, ...] = field(default=(), repr=False)
    """User and password, or a password, for the Sentinels themselves."""
    db: int = 0
    shown: str = ""
    """For messages: without credentials."""

    def greeting(self) -> list[bytes]:
        """What a new connection begins with."""
        commands = []
        if self.password is not None:
            login = (self.username, self.password) if self.username else (self.password,)
            commands.append(command("AUTH", *login))
        if self.db:
            commands.append(command("SELECT", self.db))
        return commands


def parse_url(url: str) -> Address:
    """Read the address of a Redis.

    `redis://[user[:password]@]host[:port][,host[:port]...][/db]`, several hosts for a cluster;
    `redis+sentinel://[user[:password]@]host[:port][,...]/master-name[/db]`, with `sentinel_username` and `sentinel_password` if
    those of the Sentinels differ; `rediss` for TLS, with `ssl_ca_certs=FILE` and `ssl_cert_reqs=none`; `unix:///path[?db=n]`.

    Raises:
        ConfigError: not such an address.
    """
    try:
        split = urlsplit(url)
        query = {name: values[-1] for name, values in parse_qs(split.query).items()}
        sentinel = split.scheme.endswith(SENTINEL)
        path = unquote(split.path) if split.scheme == "unix" else None
        parts = [] if path else [unquote(part) for part in split.path.split("/") if part]
        master = parts.pop(0) if sentinel and parts else ""
        db = int(query.get("db") or (parts.pop(0) if parts else 0))
        if parts:
            raise ValueError("more than the number of a database")
        user, hosts = _netloc(split.netloc, _SENTINEL_PORT if sentinel else _PORT)
    except ValueError as error:
        raise ConfigError("store: this is not the address of a Redis: expected redis://host:port/db") from error
    if split.scheme not in _SCHEMES:
        raise ConfigError(f"store: {split.scheme!r} is not a scheme of Redis: expected {', '.join(_SCHEMES[:-1])} or {_SCHEMES[-1]}")
    if sentinel and not master:
        raise ConfigError("store: the name of the master is missing: expected redis+sentinel://host:port,host:port/master-name")
    shown = ",".join(f"{host}:{port}" for host, port in hosts)
    return Address(
        hosts=hosts,
        master=master,
        path=path,
        tls=_tls(query) if split.scheme.startswith("rediss") else None,
        username=user[0] or None,
        password=user[1],
        sentinel_login=tuple(query[name] for name in ("sentinel_username", "sentinel_password") if name in query),
        db=db,
        shown=path or (f"{shown}/{master}" if master else shown),
    )


def _netloc(netloc: str, port: int) -> tuple[tuple[str, str | None], tuple[Place, ...]]:
    """User and password, and the hosts."""
    credentials, _, places = netloc.rpartition("@")
    name, sign, password = credentials.partition(":")
    hosts = []
    for place in places.split(","):
        split = urlsplit(f"//{place}")
        hosts.append((split.hostname or "localhost", split.port or port))
    return (unquote(name), unquote(password) if sign else None), tuple(hosts)


def _tls(query: Mapping[str, str]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=query.get("ssl_ca_certs"))
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"store: ssl_ca_certs={query.get('ssl_ca_certs')} cannot be read: {error}") from error
    if query.get("ssl_cert_reqs") == "none":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def moved_to(reply: str, asked: Place | None) -> Place:
    """Where a cluster says that a slot is: `MOVED 3999 host:port`. An empty host means the one that was asked."""
    host, _, port = reply.split(" ")[2].rpartition(":")
    return host.strip("[]") or (asked or ("localhost", _PORT))[0], int(port)


async def find_master(address: Address) -> Place:
    """Ask all Sentinels at once; the first that knows the master is believed.

    Raises:
        StoreUnavailable: none knows it.
    """
    asking = [asyncio.ensure_future(_ask(place, address)) for place in address.hosts]
    try:
        for answer in asyncio.as_completed(asking):
            found = await answer
            if found is not None:
                return found
    finally:
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
    raise StoreUnavailable(f"no Sentinel knows the master '{address.master}'")


async def _ask(sentinel: Place, address: Address) -> Place | None:
    try:
        reader, writer = await asyncio.open_connection(*sentinel, ssl=address.tls)
    except OSError:
        return None
    try:
        login = [command("AUTH", *address.sentinel_login)] if address.sentinel_login else []
        writer.write(b"".join([*login, command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", address.master)]))
        replies = await _replies(reader, len(login) + 1)
    finally:
        writer.transport.abort()
    found = replies[-1] if len(replies) > len(login) else None
    return (found[0].decode(), int(found[1])) if isinstance(found, list) else None


async def _replies(reader: asyncio.StreamReader, count: int) -> Sequence[Any]:
    """As many replies, or fewer if the connection ends."""
    parser = hiredis.Reader(replyError=hiredis.ReplyError, notEnoughData=_NOTHING)
    replies: list[Any] = []
    while len(replies) < count:
        data = await reader.read(65536)
        if not data:
            break
        parser.feed(data)
        replies.extend(iter(parser.gets, _NOTHING))
    return replies
