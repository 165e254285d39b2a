"""The ASGI application for whatever is no call for a model.

Pages are answered at once. FastAPI, which describes them and refuses the rest, takes half a second and 20 MB to load:
it is loaded by the first request that needs it, in a thread, while the others go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from router.admin.feedback import MAX_BYTES, FeedbackDesk
from router.admin.pages import Pages
from router.edge.asgi import AsgiApp, Message, Receive, Scope, Send
from router.edge.headers import OWN_REQUEST_ID, REQUEST_ID, safe_id
from router.edge.replies import Reply
from router.edge.routes import FEEDBACK

ADMIN: Final = "/admin/"
READING: Final = frozenset({"GET", "HEAD"})
"""Methods that pages answer; whoever carries the answer to HEAD leaves its body out."""


class Front:
    """Answers pages; hands everything else to FastAPI. Every answer carries the ids of its request."""

    def __init__(self, pages: Pages, *, new_id: Callable[[], str], feedback: FeedbackDesk | None = None) -> None:
        """`new_id` gives ids of requests: those that calls for models have, too. `feedback` takes what clients say of answers."""
        self._pages = pages
        self._feedback = feedback
        self._new_id = new_id
        self.admin: AsgiApp | None = None
        """What answers administrators below `/admin`; None: nothing does."""
        self._loading: asyncio.Future[AsgiApp] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await (await self._framework())(scope, receive, send)
            return
        headers = dict(scope["headers"])
        own = self._new_id()
        ids = [(REQUEST_ID, (safe_id(headers.get(REQUEST_ID)) or own).encode()), (OWN_REQUEST_ID, own.encode())]
        if self.admin is not None and scope["path"].startswith(ADMIN):
            await self.admin(scope, receive, _adding(ids, send))
            return
        if self._feedback is not None and scope["method"] == "POST" and scope["path"] == FEEDBACK:
            reply: Reply | None = await self._feedback.take(headers, await _body(receive))
        else:
            reply = await self._pages.answer(scope["path"], headers) if scope["method"] in READING else None
        if reply is None:
            await (await self._framework())(scope, receive, _adding(ids, send))
            return
        length = (b"content-length", b"%d" % len(reply.body))
        await send({"type": "http.response.start", "status": reply.status, "headers": [*reply.headers, length, *ids]})
        await send({"type": "http.response.body", "body": reply.body, "more_body": False})

    async def _framework(self) -> AsgiApp:
        if self._loading is None:
            self._loading = asyncio.ensure_future(asyncio.to_thread(self._load))
        # A client that leaves must not take the loading with it: others wait for it, too.
        return await asyncio.shield(self._loading)

    def _load(self) -> AsgiApp:
        from router.admin.app import make_app

        return make_app(self._pages)


async def _body(receive: Receive) -> bytes | None:
    """The body of a small request; None: it is larger."""
    parts, size = [], 0
    while True:
        message = await receive()
        part = message.get("body", b"")
        size += len(part)
        if size > MAX_BYTES:
            return None
        parts.append(part)
        if not message.get("more_body"):
            return b"".join(parts)


def _adding(ids: list[tuple[bytes, bytes]], send: Send) -> Send:
    async def with_ids(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *ids]
        await send(message)

    return with_ids
