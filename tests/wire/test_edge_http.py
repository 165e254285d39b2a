"""Bytes on the client's connection that no SDK sends: each must be refused and the connection closed, or be bounded."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from router.edge import gate
from router.edge.protocol import BODY_SECONDS, HEAD_SECONDS, IDLE_SECONDS, GateProtocol
from tests.gateway import KEY
from tests.running import Running, chat, running
from tests.scripted_behaviours import Gate, Json, Stream

CONFIG = """
version: 1
server: {store: "STORE", max_body: 1MiB}
providers:
  up: {kind: openai, base_url: "UP", api_key: $PROVIDER_KEY}
models:
  m: {at: up/m, price: {input: 1, output: 10}, default_max_output: 100}
keys:
  tester: {secret: $TEST_KEY}
"""
BODY = json.dumps(chat()).encode()
AUTH = b"authorization: Bearer " + KEY.encode() + b"\r\n"


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path, CONFIG) as served:
        yield served


def head(*lines: bytes, start: bytes = b"POST /v1/chat/completions HTTP/1.1", host: bytes = b"host: a\r\n") -> bytes:
    return start + b"\r\n" + host + AUTH + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def call(body: bytes = BODY, *lines: bytes) -> bytes:
    """A whole call."""
    return head(b"content-length: %d" % len(body), *lines) + body


async def talk(app: Running, *parts: bytes) -> bytes:
    """Send, and read until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", app.port)
    for part in parts:
        writer.write(part)
    async with asyncio.timeout(30):
        try:
            said = await reader.read()
        except ConnectionResetError:
            said = b""
    writer.close()
    return said


SMUGGLED = call()
SMUGGLING = {
    "length and chunked": head(b"content-length: 4", b"transfer-encoding: chunked") + b"0\r\n\r\n" + SMUGGLED,
    "chunked and length": head(b"transfer-encoding: chunked", b"content-length: 4") + b"0\r\n\r\n" + SMUGGLED,
    "two lengths": head(b"content-length: %d" % len(BODY), b"content-length: 0") + BODY + SMUGGLED,
    "two equal lengths": head(b"content-length: %d" % len(BODY), b"content-length: %d" % len(BODY)) + BODY,
    "list of lengths": head(b"content-length: %d, %d" % (len(BODY), len(BODY))) + BODY,
    "signed length": head(b"content-length: +%d" % len(BODY)) + BODY,
    "negative length": head(b"content-length: -1") + SMUGGLED,
    "hexadecimal length": head(b"content-length: 0x10") + SMUGGLED,
    "empty length": head(b"content-length: ") + SMUGGLED,
    "overflowing length": head(b"content-length: 18446744073709551617") + BODY,
    "space before colon": head(b"content-length : 4") + SMUGGLED,
    "other coding": head(b"transfer-encoding: gzip") + SMUGGLED,
    "two codings": head(b"transfer-encoding: gzip, chunked") + b"0\r\n\r\n" + SMUGGLED,
    "chunked twice": head(b"transfer-encoding: chunked", b"transfer-encoding: chunked") + b"0\r\n\r\n" + SMUGGLED,
    "chunked then identity": head(b"transfer-encoding: chunked", b"transfer-encoding: identity") + b"0\r\n\r\n" + SMUGGLED,
    "disguised chunked": head(b"transfer-encoding: xchunked") + b"0\r\n\r\n" + SMUGGLED,
    "chunk size overflow": head(b"transfer-encoding: chunked") + b"fffffffffffffffff\r\nabc\r\n0\r\n\r\n",
    "negative chunk": head(b"transfer-encoding: chunked") + b"-1\r\nabc\r\n0\r\n\r\n",
    "chunk without end": head(b"transfer-encoding: chunked") + b"3\r\nabcdef\r\n0\r\n\r\n",
    "bare CR": head(b"x-a: b\rcontent-length: 4") + SMUGGLED,
    "bare LF": b"POST /v1/chat/completions HTTP/1.1\nhost: a\ncontent-length: 0\n\n",
    "NUL in a value": head(b"x-a: b\x00c", b"content-length: 0"),
    "NUL in a name": head(b"x\x00a: b", b"content-length: 0"),
    "folded header": head(b"x-a: b", b" content-length: 4") + SMUGGLED,
    "folded first": b"POST /v1/chat/completions HTTP/1.1\r\n host: a\r\n\r\n",
    "two hosts": head(b"host: b", b"content-length: %d" % len(BODY)) + BODY,
    "no host": head(b"content-length: %d" % len(BODY), host=b"") + BODY,
    "space in the path": head(b"content-length: 0", start=b"POST /v1/chat completions HTTP/1.1"),
    "unknown method": head(b"content-length: 0", start=b"SMUGGLE /v1/chat/completions HTTP/1.1"),
    "ancient version": head(b"content-length: %d" % len(BODY), start=b"POST /v1/chat/completions HTTP/0.9") + BODY,
    "CONNECT": head(start=b"CONNECT 127.0.0.1:22 HTTP/1.1"),
    "next version": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
}


@pytest.mark.parametrize("attack", SMUGGLING)
async def test_what_two_parsers_could_read_differently_is_refused_and_closed(app: Running, attack: str) -> None:
    """Behind a load balancer, one request that is two for us is somebody else's request."""
    said = await talk(app, SMUGGLING[attack])
    assert said.startswith(b"HTTP/1.1 400 "), said
    assert b"connection: close" in said
    assert b'"code":"bad_http"' in said
    assert said.count(b"content-length:") == 1
    assert app.up.requests == []


async def test_an_honest_call_in_the_same_form_is_served(app: Running) -> None:
    """The refusals above are for what differs, not for the form of these tests."""
    said = await talk(app, call(BODY, b"connection: close"))
    assert said.startswith(b"HTTP/1.1 200 ")
    chunked = head(b"transfer-encoding: Chunked", b"connection: close") + b"%x;ext=1\r\n%b\r\n0\r\ntrailer: x\r\n\r\n" % (len(BODY), BODY)
    assert (await talk(app, chunked)).startswith(b"HTTP/1.1 200 ")
    assert [seen.body["messages"] for seen in app.up.requests] == [chat()["messages"]] * 2


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (lambda: head(*[b"x-%d: y" % n for n in range(120)]), 431),
        (lambda: head(b"x-large: " + b"x" * 40_000), 431),
        (lambda: b"POST /" + b"x" * 40_000 + b" HTTP/1.1\r\nhost: a\r\n\r\n", 431),
        (lambda: b"POST /" + b"x" * 40_000, 431),
        (lambda: head(b"x-large: " + b"x" * 900_000)[:-4], 431),
        (lambda: head(b"transfer-encoding: chunked") + b"1\r\nx\r\n0\r\nx-t: " + b"x" * 200_000, 431),
        (lambda: head(b"transfer-encoding: chunked") + b"1;" + b"x" * 200_000, 431),
        (lambda: head(b"content-length: 2000000"), 413),
        (lambda: head(b"transfer-encoding: chunked") + b"100000\r\n" + b"x" * 0x100000 + b"\r\n1\r\nx\r\n", 413),
    ],
    ids=[
        "number of headers",
        "size of headers",
        "path",
        "endless path",
        "endless header",
        "endless trailer",
        "endless extension",
        "announced body",
        "chunked body",
    ],
)
async def test_what_is_too_large_is_refused_before_it_is_kept(app: Running, data: Callable[[], bytes], status: int) -> None:
    """Memory must not follow the sender's wish."""
    said = await talk(app, data())
    # A sender that does not stop may see the connection reset before it has read why.
    assert said == b"" or (said.startswith(b"HTTP/1.1 %d " % status) and b"connection: close" in said), said[:200]
    assert app.up.requests == []


async def test_headers_after_the_body_count_for_nothing(app: Running) -> None:
    """A load balancer that checks the head never sees a trailer: it must not be able to bring a key or a tag."""
    start = head(b"transfer-encoding: chunked", b"connection: close").replace(AUTH, b"")
    said = await talk(app, start + b"%x\r\n%b\r\n0\r\n%b\r\n" % (len(BODY), BODY, AUTH))
    assert said.startswith(b"HTTP/1.1 401 ")
    start = head(b"transfer-encoding: chunked", b"connection: close")
    said = await talk(app, start + b"%x\r\n%b\r\n0\r\nx-faregate-use: nothing\r\n\r\n" % (len(BODY), BODY))
    assert said.startswith(b"HTTP/1.1 200 ")


async def test_a_body_in_chunks_of_one_byte_is_a_body(app: Running) -> None:
    """Odd, but allowed: framing is bounded in proportion to what it carries."""
    body = json.dumps(chat(messages=[{"role": "user", "content": "y" * 30_000}])).encode()
    chunks = b"".join(b"00000001\r\n%c\r\n" % byte for byte in body)
    said = await talk(app, head(b"transfer-encoding: chunked", b"connection: close"), chunks, b"0\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 200 ")
    assert len(app.up.requests[-1].body["messages"][0]["content"]) == 30_000


async def test_compressed_bodies_are_refused_unread(app: Running) -> None:
    """A few kilobytes that become gigabytes."""
    bomb = gzip.compress(b"\0" * 10_000_000)
    said = await talk(app, call(bomb, b"content-encoding: gzip", b"connection: close"))
    assert said.startswith(b"HTTP/1.1 415 ")
    said = await talk(app, call(BODY, b"content-encoding: identity", b"connection: close"))
    assert said.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"m","messages":[{"role":"user","content":' + b"[" * 100_000 + b"]" * 100_000 + b"}]}",
        b'{"model":"m","messages":' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"}",
        b"[" * 400_000,
        b'{"a":' * 100_000,
    ],
    ids=["lists", "objects", "open lists", "open objects"],
)
async def test_deep_nesting_is_refused(app: Running, body: bytes) -> None:
    """Parsers that recurse crash; ours says no."""
    said = await talk(app, call(body, b"connection: close"))
    assert said.startswith(b"HTTP/1.1 400 ")
    assert b'"code":"invalid_json"' in said


async def test_brackets_inside_text_are_no_nesting(app: Running) -> None:
    """Programs are full of brackets, and people ask about programs."""
    content = '[{"\\"[' * 500
    answer = await app.ask(messages=[{"role": "user", "content": content}])
    assert answer.status_code == 200
    assert app.up.requests[-1].body["messages"][0]["content"] == content


async def test_a_wrong_key_is_refused_before_its_large_body_is_read(app: Running) -> None:
    """Whoever has no key must not be able to fill our memory."""
    begun = head(b"content-length: 900000").replace(AUTH, b"authorization: Bearer sk-wrong-0123456789\r\n")
    said = await talk(app, begun)
    assert said.startswith(b"HTTP/1.1 401 ")
    assert b"connection: close" in said


async def test_a_good_key_may_send_its_large_body(app: Running) -> None:
    """`Expect: 100-continue` is answered once the head was found good."""
    body = json.dumps(chat(messages=[{"role": "user", "content": "x" * 300_000}])).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", app.port)
    writer.write(head(b"content-length: %d" % len(body), b"expect: 100-continue", b"connection: close"))
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(body)
    assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
    writer.close()


@pytest.mark.parametrize("before", [b"", call()], ids=["alone", "behind another"])
async def test_an_offer_to_upgrade_is_declined_by_an_ordinary_answer(app: Running, before: bytes) -> None:
    """Java's client offers HTTP/2 with every plain call and expects HTTP/1.1 if the server does not know it."""
    offer = (b"connection: upgrade, http2-settings", b"upgrade: h2c", b"http2-settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA")
    said = await talk(app, before + call(BODY, *offer) + call(BODY, b"connection: close"))
    count = 3 if before else 2
    assert said.count(b"HTTP/1.1 200 ") == len(app.up.requests) == count
    assert [seen.body["messages"] for seen in app.up.requests] == [chat()["messages"]] * count
    assert not {"upgrade", "http2-settings"} & set(app.up.requests[-1].headers)
    plain = head(b"connection: upgrade", b"upgrade: websocket", start=b"GET /livez HTTP/1.1")
    assert (await talk(app, plain + head(b"connection: close", start=b"GET /livez HTTP/1.1"))).count(b"HTTP/1.1 200 ") == 2


EARLY = head(b"transfer-encoding: chunked").replace(AUTH, b"authorization: Bearer sk-wrong-0123456789\r\n")
"""Refused by its head alone."""


async def test_a_request_refused_early_waits_for_the_one_before_it(app: Running) -> None:
    """The answers have no numbers: the refusal must neither overtake a call nor be lost behind one."""
    said = await talk(app, call() + EARLY)
    assert [part[:3] for part in said.split(b"HTTP/1.1 ")[1:]] == [b"200", b"401"]
    gate = Gate()
    app.up.on("m", Json(before=gate))
    talking = asyncio.ensure_future(talk(app, call(), EARLY))
    await app.up.until_seen(2)
    gate.open()
    assert (await talking).count(b"HTTP/1.1 401 ") == 1


async def test_nothing_is_said_in_the_middle_of_an_answer(app: Running) -> None:
    """A `100 Continue` for the next request would stand between two events of a stream."""
    gate = Gate()
    app.up.on("m", Stream(before=gate))
    body = json.dumps(chat(stream=True)).encode()
    talking = asyncio.ensure_future(
        talk(app, call(body), head(b"content-length: %d" % len(BODY), b"expect: 100-continue", b"connection: close"), BODY)
    )
    await app.up.until_seen(1)
    gate.open()
    said = await talking
    assert said.count(b"HTTP/1.1 200 ") == 2
    assert b"100 Continue" not in said


async def test_half_a_head_does_not_take_the_answer_from_the_call_before(app: Running) -> None:
    """A client that only ends its own side has said all that it will, and reads on."""
    reader, writer = await asyncio.open_connection("127.0.0.1", app.port)
    writer.write(call() + b"POST /v1/chat")
    writer.write_eof()
    assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
    writer.close()


# Slow clients


def connections(app: Running) -> list[Any]:
    return [each for each in app.app._server.server_state.connections if isinstance(each, GateProtocol)]


async def until_phase(app: Running, phase: str) -> GateProtocol:
    async with asyncio.timeout(30):
        while True:
            for connection in connections(app):
                if connection.phase == phase and connection.active is None:
                    found: GateProtocol = connection
                    return found
            await asyncio.sleep(0.001)


@pytest.mark.parametrize(
    ("sent", "phase", "seconds"),
    [(head()[:-2], "head", HEAD_SECONDS), (head(b"content-length: 100") + b"{", "body", BODY_SECONDS)],
    ids=["head", "body"],
)
async def test_a_slow_request_is_told_off(app: Running, sent: bytes, phase: str, seconds: float) -> None:
    """One byte a minute on a thousand connections is the cheapest attack there is."""
    talking = asyncio.ensure_future(talk(app, sent))
    connection = await until_phase(app, phase)
    connection.sweep(connection.since + seconds - 1)
    assert not connection.closing
    connection.sweep(connection.since + seconds + 1)
    said = await talking
    assert said.startswith(b"HTTP/1.1 408 ")
    assert b"x-should-retry" not in said


async def test_an_idle_connection_is_closed_without_a_word(app: Running) -> None:
    """An answer to no question would be read as the answer to the next one."""
    talking = asyncio.ensure_future(talk(app))
    connection = await until_phase(app, "idle")
    connection.sweep(connection.since + IDLE_SECONDS - 1)
    assert not connection.closing
    connection.sweep(connection.since + IDLE_SECONDS + 1)
    assert await talking == b""


async def test_a_long_answer_is_not_idleness(app: Running) -> None:
    """A model that thinks for an hour has a client that waits."""
    gate = Gate()
    app.up.on("m", Json(before=gate))
    talking = asyncio.ensure_future(talk(app, call(BODY, b"connection: close")))
    await app.up.until_seen(1)
    (connection,) = connections(app)
    connection.sweep(connection.since + 3600)
    gate.open()
    assert (await talking).startswith(b"HTTP/1.1 200 ")


# Several requests on one connection


async def test_pipelined_requests_are_answered_in_order(app: Running) -> None:
    """The answers have no numbers: order is all there is."""
    bodies = [json.dumps(chat(seed=n)).encode() for n in range(5)]
    app.up.on("m", Echo())
    said = await talk(app, b"".join(call(body) for body in bodies[:-1]) + call(bodies[-1], b"connection: close"))
    seeds = [int(part.split(b"}")[0]) for part in said.split(b'"seed":')[1:]]
    assert seeds == [0, 1, 2, 3, 4]


class Echo:
    """Answers with the request's own seed."""

    async def __call__(self, exchange: Any) -> None:
        await Json(more={"seed": exchange.seen.body["seed"]})(exchange)


async def test_too_many_pipelined_requests_are_refused(app: Running) -> None:
    """What waits is memory; those that were taken are answered first, in their order."""
    gate = Gate()
    app.up.on("m", Json(before=gate))
    talking = asyncio.ensure_future(talk(app, call() * 40))
    await app.up.until_seen(1)
    gate.open()
    *answers, refusal = (await talking).split(b"HTTP/1.1 ")[1:]
    assert [answer[:4] for answer in answers] == [b"200 "] * 17
    assert refusal.startswith(b"400 ")
    assert b"connection: close" in refusal


async def test_nonsense_behind_a_request_does_not_take_its_answer(app: Running) -> None:
    """It is paid for."""
    said = await talk(app, call() + b"NONSENSE\r\n\r\n")
    assert [answer[:4] for answer in said.split(b"HTTP/1.1 ")[1:]] == [b"200 ", b"400 "]


async def test_http_1_0_gets_an_answer_that_ends_with_the_connection(app: Running) -> None:
    """Old health checks and scripts; chunks would be noise to them."""
    old = call().replace(b"HTTP/1.1", b"HTTP/1.0", 1)
    said = await talk(app, old)
    assert said.startswith(b"HTTP/1.1 200 ")
    assert b"connection: close" in said
    app.up.on("m", Stream())
    body = json.dumps(chat(stream=True)).encode()
    said = await talk(app, call(body).replace(b"HTTP/1.1", b"HTTP/1.0", 1))
    assert b"transfer-encoding" not in said.lower()
    assert said.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics"])
async def test_head_requests_are_answered_as_get_without_a_body(app: Running, path: str) -> None:
    """`curl -I` and some balancers probe so; a body after HEAD would be read as the next answer."""
    said = await talk(app, head(b"connection: close", start=b"HEAD %b HTTP/1.1" % path.encode()))
    assert said.startswith(b"HTTP/1.1 200 ")
    assert b"\r\ncontent-length: 0" not in said
    assert said.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(("path", "allowed"), [("/v1/chat/completions", b"POST"), ("/v1/models", b"GET, HEAD")])
async def test_a_browsers_preflight_is_refused_in_words(app: Running, path: str, allowed: bytes) -> None:
    """Nobody's key belongs into a page, and a developer who tries must learn that it is no defect."""
    asks = (b"origin: https://a.example", b"access-control-request-method: POST", b"connection: close")
    said = await talk(app, head(*asks, start=b"OPTIONS %b HTTP/1.1" % path.encode()))
    assert said.startswith(b"HTTP/1.1 405 ")
    assert b"\r\nallow: %b\r\n" % allowed in said
    assert b"no CORS" in said
    assert b"access-control-allow" not in said


async def test_an_http_1_0_client_is_not_told_to_continue(app: Running) -> None:
    """It would take the interim answer for the answer."""
    said = await talk(app, call(BODY, b"expect: 100-continue").replace(b"HTTP/1.1", b"HTTP/1.0", 1))
    assert said.startswith(b"HTTP/1.1 200 ")


async def test_pages_may_come_in_parts(app: Running) -> None:
    """An ASGI application that streams keeps its own headers but for those that frame the body."""

    async def streaming(scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["body"] == b"asked"
        headers = [(b"X-Own", b"1"), (b"Transfer-Encoding", b"gzip"), (b"Content-Length", b"99")]
        await send({"type": "http.response.start", "status": 201, "headers": headers})
        for part in (b"a", b"", b"bc"):
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body"})

    app.app.service.gate.asgi = streaming
    said = await talk(app, head(b"content-length: 5", b"connection: close", start=b"POST /page HTTP/1.1") + b"asked")
    assert said.startswith(b"HTTP/1.1 201 ")
    assert b"x-own: 1\r\n" in said
    assert b"gzip" not in said
    assert b"99" not in said
    assert said.endswith(b"1\r\na\r\n2\r\nbc\r\n0\r\n\r\n")


async def test_a_page_whose_reader_left_is_cancelled(app: Running) -> None:
    """`receive` never says so twice: the task ends."""
    began, ended = asyncio.Event(), asyncio.Event()

    async def waiting(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        began.set()
        try:
            await receive()
        finally:
            ended.set()

    app.app.service.gate.asgi = waiting
    _, writer = await asyncio.open_connection("127.0.0.1", app.port)
    writer.write(head(start=b"GET /page HTTP/1.1"))
    async with asyncio.timeout(30):
        await began.wait()
        writer.close()
        await ended.wait()


async def test_a_page_that_fails_closes_its_connection_only(app: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the log says why."""
    logged: list[dict[str, Any]] = []
    monkeypatch.setattr(gate, "log", SimpleNamespace(error=lambda event, **more: logged.append(more)))

    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise ZeroDivisionError

    app.app.service.gate.asgi = broken
    assert await talk(app, head(start=b"GET /page HTTP/1.1")) == b""
    assert isinstance(logged[0]["exc_info"], ZeroDivisionError)
    assert (await app.ask()).status_code == 200


async def test_a_client_that_reads_slowly_slows_the_provider(app: Running) -> None:
    """What a client does not read stays with the provider, not in our memory; and nothing is lost."""
    app.up.on("m", Stream(tokens=3000, text="x" * 2000, pieces="events"))
    body = json.dumps(chat(stream=True, max_tokens=100_000)).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", app.port, limit=1 << 14)
    writer.write(call(body, b"connection: close"))
    await app.up.until_seen(1)
    async with asyncio.timeout(60):
        while not any(connection.paused is not None for connection in connections(app)):
            await asyncio.sleep(0.001)
        size = 0
        while part := await reader.read(1 << 16):
            size += len(part)
            tail = part
    writer.close()
    assert size > 3000 * 2000
    assert tail.endswith(b"0\r\n\r\n")
