"""One request and its answer, as the pipeline sees them, whatever server carries them."""

from __future__ import annotations

import http
from collections.abc import Awaitable
from typing import Final, Protocol

from router.edge.headers import Headers

REASONS: Final[dict[int, bytes]] = {status.value: status.phrase.encode() for status in http.HTTPStatus} | {499: b"Client Closed Request"}


class Exchange(Protocol):
    """Carries one request in and one answer out.

    If the client leaves, the task that serves the exchange is cancelled once; after that, writes do nothing.
    """

    @property
    def gone(self) -> bool:
        """The client has left."""
        ...

    started: bool
    """The head of the answer has been sent."""

    @property
    def method(self) -> str: ...

    @property
    def headers(self) -> Headers:
        """By lower-case name, without `content-length`: it says nothing of what is asked. Of a name that came twice, the last."""
        ...

    @property
    def path(self) -> str:
        """Decoded, without the query."""
        ...

    async def body(self) -> bytes:
        """The whole request body. Raises `RouterError` (413) above the limit."""
        ...

    async def respond(self, status: int, headers: bytes, body: bytes) -> None:
        """Send the whole answer, without waiting for a slow client. `headers` are header lines; `content-length` is added."""
        ...

    async def start(self, status: int, headers: bytes) -> None:
        """Send the head of an answer of unknown length."""
        ...

    def write(self, data: bytes) -> Awaitable[None] | None:
        """Send a part of the body. What it answers is to be awaited before the next one: the client is slower than we are."""
        ...

    async def finish(self) -> None:
        """End the body cleanly."""
        ...

    def abort(self) -> None:
        """Close the connection so that the client sees that the answer is not whole. It is `gone` then."""
        ...


STATUS_LINES: Final[dict[int, bytes]] = {status: b"HTTP/1.1 %d %b\r\n" % (status, REASONS.get(status, b"")) for status in range(200, 600)}
