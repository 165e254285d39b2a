"""The front switch: calls for models go straight to the pipeline, everything else to the ASGI application."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final

import structlog

from router.domain.request import Operation
from router.edge.asgi import AsgiApp, AsgiExchange, Receive, Scope, Send
from router.edge.exchange import Exchange
from router.edge.headers import Headers, encode
from router.edge.heads import RequestHead
from router.edge.replies import SERVING_FAILED, error_reply
from router.edge.routes import OPERATIONS
from router.errors import OVERLOADED, UNSUPPORTED_MEDIA_TYPE, ErrorSpec, RouterError
from router.snapshot import ServerSettings

log = structlog.get_logger("faregate.edge")

ENCODINGS: Final = frozenset({b"identity", b""})
UNPROVEN_BODY_BYTES: Final = 64 * 1024
"""A longer body is read only after its key was found good."""

Serve = Callable[[Exchange, Operation], Coroutine[Any, Any, None]]
"""The pipeline, as the edge knows it."""


class Gate:
    """What every connection needs to know, and an ASGI application for servers other than ours."""

    overloaded: ErrorSpec = OVERLOADED
    draining = False
    """The service ends: each connection is closed after its next answer."""

    def __init__(self, *, call: Serve, refuses_early: Callable[[Headers], bool], asgi: AsgiApp, settings: ServerSettings) -> None:
        """`refuses_early` tells from the headers alone whether a request will certainly be refused."""
        self._call = call
        self.refuses_early = refuses_early
        self.asgi = asgi
        self.operations: Mapping[bytes, Operation] = OPERATIONS
        self.max_body_bytes = settings.max_body_bytes
        self.unproven_body_bytes = min(UNPROVEN_BODY_BYTES, settings.max_body_bytes)
        self.max_header_bytes = settings.max_header_bytes
        self.max_connections = settings.max_connections

    def most_body(self, head: RequestHead) -> int:
        """Longest body of a request, bytes. One that calls no model is read before anybody looks who sends it: it must be short."""
        return self.unproven_body_bytes if head.operation is None else self.max_body_bytes

    def switch(self, call: Serve) -> None:
        """Serve calls that come from now on by another pipeline."""
        self._call = call

    def work(self, exchange: Exchange, head: RequestHead, operation: Operation) -> Coroutine[Any, Any, None]:
        """What serves a call for a model. It fails only by a bug: then the caller answers and reports."""
        if not head.sound:
            problem = _bad_head(head.headers)
            if problem is not None:
                return _reply(exchange, problem)
            head.sound = True
        return self._call(exchange, operation)

    async def serve(self, exchange: Exchange, operation: Operation) -> None:
        """The same for other servers; whatever goes wrong becomes an answer or a closed connection."""
        try:
            problem = _bad_head(exchange.headers)
            if problem is not None:
                await _reply(exchange, problem)
                return
            await self._call(exchange, operation)
        except asyncio.CancelledError:
            if not exchange.gone:
                raise
        # The last line of defence: a bug must not take the connection's other requests with it.
        except Exception as exc:  # noqa: BLE001
            self.report(exc)
            if exchange.started:
                exchange.abort()
            else:
                await _reply(exchange, SERVING_FAILED)

    def report(self, problem: BaseException) -> None:
        """Log a bug, without anything of the request."""
        log.error("unexpected failure", exc_info=problem)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The same switch for any ASGI server."""
        operation = None
        if scope["type"] == "http" and scope["method"] == "POST":
            operation = self.operations.get(scope["path"].encode("latin-1", "replace"))
        if operation is None:
            await self.asgi(scope, receive, send)
            return
        exchange = AsgiExchange(scope, receive, send, max_body_bytes=self.max_body_bytes)
        task = asyncio.current_task()
        # A coroutine that runs has a task.
        assert task is not None  # noqa: S101
        exchange.task = task
        try:
            await self.serve(exchange, operation)
            await exchange.sent()
        finally:
            exchange.unwatch()


def _bad_head(headers: Headers) -> RouterError | None:
    encoding = headers.get(b"content-encoding")
    if encoding is not None and encoding.strip().lower() not in ENCODINGS:
        return RouterError(UNSUPPORTED_MEDIA_TYPE, "Compressed request bodies are not accepted; send the JSON as it is.")
    kind = headers.get(b"content-type")
    if kind is not None and kind != b"application/json" and b"json" not in kind.lower():
        return RouterError(UNSUPPORTED_MEDIA_TYPE, "The content type must be application/json.")
    return None


async def _reply(exchange: Exchange, error: RouterError) -> None:
    reply = error_reply(error)
    await exchange.respond(reply.status, encode(reply.headers), reply.body)
