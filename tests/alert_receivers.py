"""Real receivers of alerts on loopback: a web server that remembers what was posted, and a mail server."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import Message
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session


@dataclass(slots=True)
class Posted:
    """One request that a hook got."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(slots=True)
class Hook:
    """A web server; `answers` are statuses to give first, 0 closes the connection; then 200."""

    url: str = ""
    posted: list[Posted] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    silent: bool = False
    """Take requests and never answer."""
    _more: asyncio.Event = field(default_factory=asyncio.Event)

    async def until(self, count: int, *, seconds: float = 20) -> list[Posted]:
        """Wait until so many requests have come."""
        async with asyncio.timeout(seconds):
            while len(self.posted) < count:
                self._more.clear()
                await self._more.wait()
        return self.posted

    def kinds(self) -> list[str]:
        """The events that came, by type."""
        return [posted.json["type"].removeprefix("faregate.") for posted in self.posted]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                first, *lines = head.decode().strip().split("\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
                body = await reader.readexactly(int(headers["content-length"]))
                self.posted.append(Posted(first.split()[1], headers, body))
                self._more.set()
                if self.silent:
                    await reader.read()
                    return
                status = self.answers.pop(0) if self.answers else 200
                if not status:
                    return
                writer.write(b"HTTP/1.1 %d x\r\ncontent-length: 2\r\n\r\nok" % status)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()


@asynccontextmanager
async def hook() -> AsyncIterator[Hook]:
    """A web server that takes alerts."""
    made = Hook()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/alerts"
    try:
        yield made
    finally:
        server.close()


@dataclass(slots=True)
class Mailbox:
    """A mail server."""

    port: int = 0
    mails: list[tuple[Envelope, Message]] = field(default_factory=list)
    encrypted: list[bool] = field(default_factory=list)
    refuse: str = ""
    """An answer such as `550 no`, instead of taking mail."""

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        if self.refuse:
            return self.refuse
        content = envelope.content
        assert isinstance(content, bytes)
        self.mails.append((envelope, message_from_bytes(content)))
        self.encrypted.append(session.ssl is not None)
        return "250 taken"


@asynccontextmanager
async def mailbox(tls: ssl.SSLContext | None = None, *, password: str | None = None) -> AsyncIterator[Mailbox]:
    """A mail server, with STARTTLS if it gets a certificate, and a login for `faregate` if it gets a password."""
    box = Mailbox()

    def check(server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: object) -> AuthResult:
        given = isinstance(data, LoginPassword) and data.login == b"faregate" and data.password.decode() == password
        return AuthResult(success=given)

    def make() -> SMTP:
        return SMTP(
            box,
            hostname="127.0.0.1",
            tls_context=tls,
            require_starttls=tls is not None,
            authenticator=check if password is not None else None,
            auth_required=password is not None,
        )

    factory: Callable[[], SMTP] = make
    server = await asyncio.get_running_loop().create_server(factory, "127.0.0.1", 0)
    box.port = server.sockets[0].getsockname()[1]
    try:
        yield box
    finally:
        server.close()
