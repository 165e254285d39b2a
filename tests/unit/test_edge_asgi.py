"""The same pipeline behind any ASGI server, and the parts of the edge that need no socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from router.domain.request import Operation
from router.edge import gate as gate_module
from router.edge.asgi import AsgiExchange
from router.edge.exchange import Exchange
from router.edge.gate import Gate
from router.edge.headers import clean_value, decode, encode, find, safe_id
from router.edge.replies import MAX_RETRY_AFTER_SECONDS, error_reply
from router.errors import BUDGET_EXCEEDED, RATE_LIMITED, RouterError
from router.snapshot import ServerSettings

Serve = Callable[[Exchange], Awaitable[None]]


class Server:
    """An ASGI server: one request in parts, and what was sent back."""

    def __init__(self, *parts: bytes, leave: bool = False) -> None:
        self.parts = list(parts) or [b""]
        self.gone = asyncio.Event()
        self.leave = leave
        self.sent: list[dict[str, Any]] = []

    async def receive(self) -> dict[str, Any]:
        if self.parts:
            part = self.parts.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(self.parts) or self.leave}
        if not self.leave:
            await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(dict(message))

    @property
    def body(self) -> bytes:
        return b"".join(message["body"] for message in self.sent if message["type"] == "http.response.body")


async def taken(exchange: Exchange, data: bytes) -> None:
    """Send a part of the body; an ASGI server says when it has taken it, if there is any."""
    full = exchange.write(data)
    assert (full is None) == (data == b"")
    if full is not None:
        await full


def scope(path: str = "/v1/chat/completions", method: str = "POST", **more: object) -> dict[str, Any]:
    return {"type": "http", "method": method, "path": path, "headers": [(b"content-type", b"application/json")], **more}


async def other(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})


def gate(serve: Serve, **settings: Any) -> Gate:
    async def call(exchange: Exchange, operation: Operation) -> None:
        assert operation == "chat"
        await serve(exchange)

    return Gate(call=call, refuses_early=lambda headers: False, asgi=other, settings=ServerSettings(**settings))


async def run(serve: Serve, server: Server, *, asked: dict[str, Any] | None = None, **settings: Any) -> Server:
    await gate(serve, **settings)(asked or scope(), server.receive, server.send)
    return server


async def echo(exchange: Exchange) -> None:
    await exchange.respond(200, b"x-a: b\r\n", await exchange.body())


async def test_a_body_in_parts_arrives_whole() -> None:
    """However the server cuts it."""
    server = await run(echo, Server(b"ab", b"", b"cd"))
    assert server.sent[0] == {"type": "http.response.start", "status": 200, "headers": [(b"x-a", b"b"), (b"content-length", b"4")]}
    assert server.body == b"abcd"


async def test_other_requests_go_to_the_application() -> None:
    """Pages, health and metrics, websockets and the life of the server."""
    for asked in (scope("/v1/models"), scope(method="GET"), {"type": "lifespan"}, scope("/v1/caf\u00e9")):
        server = await run(echo, Server(), asked=asked)
        assert server.sent[0]["status"] == 204


async def test_a_body_above_the_limit_is_not_kept() -> None:
    """413 comes from the pipeline like any other refusal."""

    async def read(exchange: Exchange) -> None:
        with pytest.raises(RouterError) as caught:
            await exchange.body()
        assert caught.value.spec.http_status == 413
        await exchange.respond(413, b"", b"")

    assert (await run(read, Server(b"x" * 6, b"x" * 6), max_body_bytes=10)).sent[0]["status"] == 413


async def test_a_client_that_leaves_before_its_body_is_whole_is_not_served() -> None:
    """And the server above sees no error."""
    server = await run(echo, Server(b"ab", leave=True))
    assert server.sent == []


async def test_a_client_that_leaves_cancels_its_call() -> None:
    """ASGI tells only who asks: somebody must."""
    began = asyncio.Event()
    seen: list[bool] = []

    async def wait(exchange: Exchange) -> None:
        await exchange.body()
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            seen.append(exchange.gone)
            assert exchange.write(b"late") is None
            await exchange.finish()

    server = Server(b"{}")
    serving = asyncio.ensure_future(run(wait, server))
    await began.wait()
    server.gone.set()
    await serving
    assert seen == [True]
    assert server.sent == []


async def test_a_stream_is_sent_as_it_comes() -> None:
    """Empty pieces are not: some servers take them for the end."""

    async def stream(exchange: Exchange) -> None:
        await exchange.body()
        await exchange.start(200, encode([(b"content-type", b"text/event-stream")]))
        for piece in (b"a", b"", b"b"):
            await taken(exchange, piece)
        await exchange.finish()

    server = await run(stream, Server(b"{}"))
    assert [message.get("more_body") for message in server.sent] == [None, True, True, False]
    assert server.body == b"ab"


async def test_a_call_that_is_cancelled_from_outside_stays_cancelled() -> None:
    """A server that shuts down must be able to."""
    began = asyncio.Event()

    async def wait(exchange: Exchange) -> None:
        began.set()
        await asyncio.Event().wait()

    serving = asyncio.ensure_future(run(wait, Server(b"{}")))
    await began.wait()
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving


async def test_a_defect_becomes_an_answer_or_a_broken_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first byte a 500; after it nothing that could be taken for a whole answer."""

    async def early(exchange: Exchange) -> None:
        raise ZeroDivisionError

    async def late(exchange: Exchange) -> None:
        await exchange.start(200, b"")
        await taken(exchange, b"half")
        raise ZeroDivisionError

    logged: list[dict[str, Any]] = []
    monkeypatch.setattr(gate_module, "log", SimpleNamespace(error=lambda event, **more: logged.append(more)))
    server = await run(early, Server())
    assert server.sent[0]["status"] == 500
    assert json.loads(server.body)["error"]["code"] == "internal_error"
    server = await run(late, Server())
    assert server.sent[-1]["more_body"] is True
    assert [type(one["exc_info"]) for one in logged] == [ZeroDivisionError] * 2


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([(b"content-type", b"application/json; charset=utf-8")], 200),
        ([(b"content-type", b"application/vnd.api+JSON")], 200),
        ([], 200),
        ([(b"content-encoding", b"identity")], 200),
        ([(b"content-encoding", b"gzip")], 415),
        ([(b"content-encoding", b"br, gzip")], 415),
        ([(b"content-type", b"text/plain")], 415),
        ([(b"content-type", b"multipart/form-data; boundary=x")], 415),
    ],
)
async def test_what_may_be_in_a_body(headers: list[tuple[bytes, bytes]], status: int) -> None:
    """JSON, as it is."""
    asked = {**scope(), "headers": headers}
    assert (await run(echo, Server(b"{}"), asked=asked)).sent[0]["status"] == status


async def test_an_exchange_that_nobody_watches_can_end() -> None:
    """Nothing was asked of the server, so there is nothing to stop; aborting says nothing."""
    server = Server()
    exchange = AsgiExchange(scope(), server.receive, server.send, max_body_bytes=1)
    exchange.unwatch()
    exchange.abort()
    assert server.sent == []


# Headers and replies


def test_header_lines_read_back() -> None:
    """What is written as lines is what was meant, colons included."""
    pairs = [(b"a", b"b: c"), (b"empty", b""), (b"x-y", b"1")]
    assert decode(encode(pairs)) == pairs


@pytest.mark.parametrize("text", ["a\r\nb: c", "a\nb", "\x00", "caf\u00e9", "\u2028", "\x7f"])
def test_a_header_value_cannot_break_out(text: str) -> None:
    """Names come from the configuration, and configurations from people."""
    assert all(32 <= byte < 127 for byte in clean_value(text))
    assert len(clean_value(text)) == len(text)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(b"abc-1", "abc-1"), (None, None), (b"", None), (b"a b", None), (b"\xff", None), (b"a\x1bb", None), (b"x" * 129, None)],
)
def test_a_clients_id_is_taken_over_if_it_is_harmless(value: bytes | None, shown: str | None) -> None:
    """It goes into headers and logs."""
    assert safe_id(value) == shown


def test_the_first_of_equal_headers_is_found() -> None:
    """And nothing of a name that is not there."""
    assert find([(b"a", b"1"), (b"a", b"2")], b"a") == b"1"
    assert find([], b"a") is None


@pytest.mark.parametrize(("seconds", "shown"), [(0.2, b"1"), (1.0, b"1"), (1.1, b"2"), (3600.0, b"%d" % MAX_RETRY_AFTER_SECONDS)])
def test_retry_after_is_whole_positive_and_short(seconds: float, shown: bytes) -> None:
    """Some clients sleep for all of it without a word."""
    headers = dict(error_reply(RouterError(RATE_LIMITED, "m", retry_after_seconds=seconds)).headers)
    assert headers[b"retry-after"] == shown
    assert b"x-should-retry" not in headers


def test_a_refusal_for_money_never_says_when_to_come_back() -> None:
    """A header that some clients obey for a month."""
    reply = error_reply(RouterError(BUDGET_EXCEEDED, "m", retry_after_seconds=5, details={"budget": "b"}), status=429)
    assert reply.status == 429
    assert dict(reply.headers) == {b"content-type": b"application/json", b"x-should-retry": b"false"}
    assert json.loads(reply.body)["error"]["budget"] == "b"
