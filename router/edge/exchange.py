"""One request and its answer, as the pipeline sees them, whatever server carries them."""

from __future__ import annotations

import http
from collections.abc import Sequence
from typing import Final, Protocol

from router.edge.headers import RawHeaders

REASONS: Final[dict[int, bytes]] = {status.value: status.phrase.encode() for status in http.HTTPStatus} | {499: b"Client Closed Request"}


class Exchange(Protocol):
    """Carries one request in and one answer out.

    If the client leaves, the task that serves the exchange is cancelled once; after that, writes do nothing.
    """

    method: str
    headers: RawHeaders
    """Names in lower case."""
    gone: bool
    """The client has left."""
    started: bool
    """The head of the answer has been sent."""

    @property
    def path(self) -> str:
        """Decoded, without the query."""
        ...

    async def body(self) -> bytes:
        """The whole request body. Raises `RouterError` (413) above the limit."""
        ...

    async def respond(self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> None:
        """Send the whole answer. `content-length` is added."""
        ...

    async def start(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Send the head of an answer of unknown length."""
        ...

    async def write(self, data: bytes) -> None:
        """Send a part of the body; waits while the client is slower than we are."""
        ...

    async def finish(self) -> None:
        """End the body cleanly."""
        ...

    def abort(self) -> None:
        """Close the connection so that the client sees that the answer is not whole."""
        ...
