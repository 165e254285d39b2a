"""The HTTP/1.1 client against a real server that behaves, and one that does not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Generator
from typing import Any

import pytest

from router.adapters.upstream.http1 import PoolState
from router.ports import Endpoint
from tests.scripted_upstream import Close, Fail, Gate, Hang, Json, Raw, Sequence, Stream
from tests.wire.helpers import LIMIT, PATH, TIMEOUTS, drain, fault_of, on_both_loops, request, world


@on_both_loops
async def test_the_body_arrives_as_sent_with_the_fixed_fields() -> None:
    """Providers sign, log and bill what they get: not one byte may change, and no field may be there twice."""
    async with world(headers=(("authorization", "Bearer k"), ("X-Region", "eu"))) as (up, client, endpoint):
        body = request() + b" " * 70_000
        for sent in (request(), body):
            response = await client.post(endpoint, PATH, sent, headers=[(b"traceparent", b"00-ab-cd-01")], timeouts=TIMEOUTS)
            assert response.status == 200
            assert json.loads(await response.read(LIMIT))["object"] == "chat.completion"
            assert up.requests[-1].raw == sent
        seen = up.requests[0]
        assert (seen.method, seen.path) == ("POST", "/v1/chat/completions")
        assert len(seen.fields) == len(seen.headers)
        assert seen.headers == {
            "host": f"127.0.0.1:{up.port}",
            "user-agent": seen.headers["user-agent"],
            "accept": "*/*",
            "accept-encoding": "identity",
            "content-type": "application/json",
            "authorization": "Bearer k",
            "x-region": "eu",
            "content-length": str(len(request())),
            "traceparent": "00-ab-cd-01",
        }


@on_both_loops
async def test_events_pass_one_by_one() -> None:
    """A token that waits for the next one makes every stream look slow."""
    async with world() as (up, client, endpoint):
        pacer = Gate()
        up.on("m", Stream(tokens=5, pacer=pacer))
        response = await client.post(endpoint, PATH, request(stream=True), timeouts=TIMEOUTS)
        assert b'"role"' in await response.chunk()
        for _ in range(5):
            pacer.step()
            assert (await response.chunk()).count(b'" word"') == 1
        assert (await drain(response)).endswith(b"data: [DONE]\n\n")


@on_both_loops
async def test_framing_does_not_change_the_body() -> None:
    """A body is a body, whether it comes byte by byte, chunked, until the close, or compressed against our wish."""
    async with world() as (up, client, endpoint):
        up.on("plain", Json())
        up.on("bytes", Json(pieces="bytes"))
        up.on("chunked", Json(framing="chunked"))
        up.on("close", Json(framing="close"))
        up.on("gzip", Json(encoding="gzip"))
        up.on("deflate", Json(encoding="deflate", framing="chunked", pieces="bytes"))
        up.on("raw", Json(encoding="raw-deflate"))
        answers = set()
        for model in ("plain", "bytes", "chunked", "close", "gzip", "deflate", "raw"):
            for whole in (True, False):
                response = await client.post(endpoint, PATH, request(model), timeouts=TIMEOUTS)
                body = await response.read(LIMIT) if whole else await drain(response)
                assert not [name for name, _ in response.headers if name == b"content-encoding"]
                answers.add(body.replace(b'"%b"' % model.encode(), b'"m"'))
        assert len(answers) == 1


@on_both_loops
async def test_a_compressed_stream_is_metered_like_a_plain_one() -> None:
    """Usage is found in bytes: compressed ones would book every stream as unknown."""
    async with world() as (up, client, endpoint):
        up.on("m", Stream(encoding="gzip"))
        response = await client.post(endpoint, PATH, request(stream=True), timeouts=TIMEOUTS)
        assert (await drain(response)).count(b"data: ") == 6


@on_both_loops
async def test_an_unreadable_encoding_is_refused() -> None:
    """Nobody could meter brotli; passing it on would book nothing."""
    async with world() as (up, client, endpoint):
        up.on("br", Json(headers={"content-encoding": "br"}))
        up.on("liar", Json(headers={"content-encoding": "gzip"}))
        up.on("cut", Json(encoding="gzip", framing="close", end="truncate"))
        assert (await fault_of(client.post(endpoint, PATH, request("br"), timeouts=TIMEOUTS))).fault == "protocol"
        response = await client.post(endpoint, PATH, request("liar"), timeouts=TIMEOUTS)
        assert (await fault_of(response.read(LIMIT))).fault == "protocol"
        for take in ("read", "chunk"):
            response = await client.post(endpoint, PATH, request("cut"), timeouts=TIMEOUTS)
            assert (await fault_of(response.read(LIMIT) if take == "read" else drain(response))).fault == "truncated"


@on_both_loops
async def test_a_decompression_bomb_is_cut_off() -> None:
    """A kilobyte from a provider must not become a gigabyte here."""
    async with world() as (up, client, endpoint):
        up.on("m", Json(body=b"0" * 5_000_000, encoding="gzip"))
        response = await client.post(endpoint, PATH, request(), timeouts=TIMEOUTS)
        assert (await fault_of(response.read(LIMIT))).fault == "too_large"
        response = await client.post(endpoint, PATH, request(), timeouts=TIMEOUTS)
        first = await response.chunk()
        assert len(first) <= 256 * 1024
        assert len(first + await drain(response)) == 5_000_000


@on_both_loops
async def test_errors_of_the_provider_are_answers() -> None:
    """Status, body and Retry-After belong to the client, and the connection is still good."""
    async with world() as (up, client, endpoint):
        up.on("m", Fail(status=429, code="slow_down", headers={"Retry-After": "7"}))
        response = await client.post(endpoint, PATH, request(), timeouts=TIMEOUTS)
        assert response.status == 429
        assert (b"retry-after", b"7") in response.headers
        assert json.loads(await response.read(LIMIT))["error"]["code"] == "slow_down"
        assert client.state(endpoint) == PoolState(open=1, idle=1, waiting=0)


@on_both_loops
async def test_a_redirect_is_not_followed() -> None:
    """A provider must not send our key to another host."""
    async with world() as (up, client, endpoint):
        up.on("m", Json(status=307, headers={"location": "http://127.0.0.1:1/"}))
        response = await client.post(endpoint, PATH, request(), timeouts=TIMEOUTS)
        assert response.status == 307
        await response.read(LIMIT)


@on_both_loops
async def test_informational_answers_and_bodiless_ones_are_understood() -> None:
    """A 103 before the 200 is not the answer; a 204 has no body to wait for."""
    async with world() as (up, client, endpoint):
        head = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
        up.on("hints", Raw([b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n", head], close=False))
        up.on("none", Raw([b"HTTP/1.1 204 No Content\r\nx: y\r\n\r\n"], close=False))
        up.on("old", Raw([b"HTTP/1.0 200 OK\r\n\r\n", b"until the end"]))
        up.on("trailers", Raw([b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-a: b\r\n\r\n"], close=False))
        for model, status, body in (("hints", 200, b"ok"), ("none", 204, b""), ("trailers", 200, b"ok"), ("old", 200, b"until the end")):
            response = await client.post(endpoint, PATH, request(model), timeouts=TIMEOUTS)
            assert response.status == status
            assert await response.read(LIMIT) == body
            assert not [name for name, _ in response.headers if name in (b"link", b"x-a")]
        response = await client.post(endpoint, PATH, request("plain"), timeouts=TIMEOUTS)
        assert {name for name, _ in response.headers} == {b"content-type", b"content-length"}
        await response.read(LIMIT)
        assert up.connections == 2


@on_both_loops
async def test_what_clients_may_see_is_found_in_any_case_of_letters() -> None:
    """A head is taken apart only where it holds something for somebody; then nothing of it may be missed."""
    async with world() as (up, client, endpoint):
        start = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nServer: a:b\r\n"
        up.on("plain", Raw([start + b"\r\nok"], close=False))
        up.on("notable", Raw([start + b"X-REQUEST-Id:req-1\r\nRetry-After: \t7\r\n\r\nok"], close=False))
        response = await client.post(endpoint, PATH, request("plain"), timeouts=TIMEOUTS)
        assert not response.shown
        assert response.headers == [(b"content-length", b"2"), (b"server", b"a:b")]
        await response.read(LIMIT)
        response = await client.post(endpoint, PATH, request("notable"), timeouts=TIMEOUTS)
        assert (b"x-request-id", b"req-1") in response.shown
        assert (b"retry-after", b"7") in response.shown


async def test_a_connection_is_used_again_but_never_with_bytes_left_over() -> None:
    """Keep-alive saves a handshake per call; a connection with stray bytes would hand them to the next client."""
    async with world() as (up, client, endpoint):
        for _ in range(3):
            await (await client.post(endpoint, PATH, request(), timeouts=TIMEOUTS)).read(LIMIT)
        assert up.connections == 1
        for stray in (b"HTTP/1.1 2", b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", b"garbage"):
            up.on("stray", Raw([b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok" + stray], close=False))
            assert await (await client.post(endpoint, PATH, request("stray"), timeouts=TIMEOUTS)).read(LIMIT) == b"ok"
            assert client.state(endpoint).idle == 0


@on_both_loops
async def test_a_fresh_connection_that_closes_is_not_tried_again() -> None:
    """The provider may have begun to work: a second try could be billed twice. The same on one that was used before."""
    async with world() as (up, client, endpoint):
        up.on("m", Sequence([Json(), Close(), Close()]))
        await (await client.post(endpoint, PATH, request(), timeouts=TIMEOUTS)).read(LIMIT)
        error = await fault_of(client.post(endpoint, PATH, request(), timeouts=TIMEOUTS))
        assert (error.fault, error.sent, error.sends, len(up.requests)) == ("reset", True, 1, 2)
        up.requests.clear()
        error = await fault_of(client.post(endpoint, PATH, request(), timeouts=TIMEOUTS))
        assert (error.fault, error.sent, len(up.requests)) == ("reset", True, 1)


@on_both_loops
async def test_an_idle_connection_that_was_closed_is_not_used() -> None:
    """The close is known before the next call: no retry is needed."""
    async with world() as (up, client, endpoint):
        await (await client.post(endpoint, PATH, request(), timeouts=TIMEOUTS)).read(LIMIT)
        up.drop_connections()
        await up.until(lambda: up.open_connections == 0)
        await (await client.post(endpoint, PATH, request(), timeouts=TIMEOUTS)).read(LIMIT)
        assert [seen.connection for seen in up.requests] == [1, 2]


@on_both_loops
async def test_a_broken_body_is_never_a_clean_end() -> None:
    """A client that takes half an answer for a whole one acts on it."""
    async with world() as (up, client, endpoint):
        cases = {
            "length": (Json(end="truncate"), "truncated"),
            "chunked": (Json(end="truncate", framing="chunked"), "truncated"),
            "reset": (Json(end="reset"), "reset"),
            "stream": (Stream(end="truncate"), "truncated"),
            "stream-reset": (Stream(end="reset"), "reset"),
            "stream-bytes": (Stream(end="truncate", pieces="bytes"), "truncated"),
            "bad-chunk": (Raw([b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nno\r\n"]), "protocol"),
        }
        for model, (behaviour, fault) in cases.items():
            up.on(model, behaviour)
            for whole in (True, False):
                response = await client.post(endpoint, PATH, request(model, stream=model.startswith("stream")), timeouts=TIMEOUTS)
                error = await fault_of(response.read(LIMIT) if whole else drain(response))
                assert (error.fault, error.sent) == (fault, True), model
        assert client.state(endpoint).open == 0


@on_both_loops
async def test_what_came_before_the_break_is_still_handed_out() -> None:
    """What the client saw is what is charged, so it must see all that came."""
    async with world() as (up, client, endpoint):
        gate = Gate()
        up.on("m", Stream(tokens=3, pacer=gate, end="truncate"))
        response = await client.post(endpoint, PATH, request(stream=True), timeouts=TIMEOUTS)
        gate.open()
        await up.until(lambda: up.open_connections == 0)
        assert (await response.chunk()).count(b"data: ") == 4
        assert (await fault_of(response.chunk())).fault == "truncated"


@on_both_loops
async def test_what_is_not_http_is_a_protocol_fault() -> None:
    """A wrong port or a sick proxy must not pass for an answer, and must not fill the memory."""
    async with world() as (up, client, endpoint):
        many = b"".join(b"x-%d: y\r\n" % number for number in range(300))
        cases = {
            "text": b"hello\r\n",
            "upgrade": b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
            "smuggled": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n",
            "twice": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n",
            "many": b"HTTP/1.1 200 OK\r\n" + many + b"content-length: 0\r\n\r\n",
            "large": b"HTTP/1.1 200 OK\r\nx: " + b"y" * 70_000,
        }
        for model, data in cases.items():
            up.on(model, Raw([data], close=False))
            error = await fault_of(client.post(endpoint, PATH, request(model), timeouts=TIMEOUTS))
            assert (error.fault, error.sent) == ("protocol", True), model
        await up.until(lambda: up.open_connections == 0)


@on_both_loops
async def test_a_body_over_the_limit_is_cut_off_as_it_comes() -> None:
    """The limit protects the memory, so it must bite before everything is here."""
    async with world() as (up, client, endpoint):
        gate = Gate()
        up.on("m", Stream(tokens=50, pacer=gate))
        gate.step(10)
        response = await client.post(endpoint, PATH, request(stream=True), timeouts=TIMEOUTS)
        assert (await fault_of(response.read(500))).fault == "too_large"
        await up.requests[0].gone.wait()
        up.on("n", Json())
        response = await client.post(endpoint, PATH, request("n"), timeouts=TIMEOUTS)
        assert (await fault_of(response.read(10))).fault == "too_large"


@on_both_loops
async def test_nobody_reading_stops_the_sender() -> None:
    """A slow client must not make us hold its whole answer in memory."""
    async with world() as (up, client, endpoint):
        up.on("m", Stream(tokens=20, text="x" * 100_000))
        response = await client.post(endpoint, PATH, request(stream=True), timeouts=TIMEOUTS)
        seen = up.requests[0]
        largest = 0
        while data := await response.chunk():
            largest = max(largest, len(data))
            # Whoever sends can be at most one buffer here and the kernel's two ahead.
            await asyncio.sleep(0)
        assert largest < 600_000
        assert seen.answered


@on_both_loops
async def test_cancelling_a_call_closes_its_connection_at_once() -> None:
    """A client that left must not make the provider work on, before the head or after it."""
    async with world() as (up, client, endpoint):
        up.on("silent", Hang())
        up.on("m", Stream(end="hang"))
        task = asyncio.create_task(client.post(endpoint, PATH, request("silent"), timeouts=TIMEOUTS))
        seen = await up.until_seen(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await seen.gone.wait()
        response = await client.post(endpoint, PATH, request(stream=True), timeouts=TIMEOUTS)
        await response.chunk()
        response.abort()
        response.abort()
        await up.requests[1].gone.wait()
        assert (await fault_of(drain(response))).fault == "reset"
        await up.until(lambda: up.open_connections == 0)
        assert client.state(endpoint).open == 0


@on_both_loops
async def test_abort_after_the_end_harms_nobody() -> None:
    """The connection may already carry another call."""
    async with world() as (up, client, endpoint):
        first = await client.post(endpoint, PATH, request(), timeouts=TIMEOUTS)
        await first.read(LIMIT)
        second = await client.post(endpoint, PATH, request(stream=True), timeouts=TIMEOUTS)
        first.abort()
        assert (await drain(second)).endswith(b"[DONE]\n\n")
        assert up.connections == 1


@on_both_loops
async def test_what_fails_before_sending_says_so() -> None:
    """`sent=False` gives the whole hold back, so it must be true, and only then."""
    async with world() as (up, client, endpoint):
        await up.stop_listening()
        closed = await fault_of(client.post(endpoint, PATH, request(), timeouts=TIMEOUTS))
        assert (closed.fault, closed.sent) == ("connect", False)
        nowhere = Endpoint(name="n", scheme="http", host="no-such-host.invalid", port=80, base_path="")
        unknown = await fault_of(client.post(nowhere, PATH, request(), timeouts=TIMEOUTS))
        assert (unknown.fault, unknown.sent) == ("dns", False)
        assert client.state(endpoint).open == 0


@on_both_loops
async def test_the_second_address_is_tried() -> None:
    """`localhost` is often ::1 first, where nothing listens."""
    async with world(host="localhost") as (up, client, endpoint):
        assert (await client.post(endpoint, PATH, request(), timeouts=TIMEOUTS)).status == 200
        assert up.requests[0].headers["host"] == f"localhost:{up.port}"


@on_both_loops
async def test_nothing_can_break_out_of_its_line() -> None:
    """A header value with a line break would be a second request."""
    async with world() as (up, client, endpoint):
        for field in ((b"x-request-id", b"a\r\nb: c"), (b"x\n", b"y"), (b"x", b"a\0b")):
            with pytest.raises(ValueError, match="line break"):
                await client.post(endpoint, PATH, request(), headers=[field], timeouts=TIMEOUTS)
        for path in ("/a b", "/a\r\nx: y", "/ü"):
            with pytest.raises(ValueError, match="not a request target"):
                await client.post(endpoint, path, request(), timeouts=TIMEOUTS)
        assert not up.requests


@on_both_loops
async def test_get_reads_what_a_server_offers() -> None:
    """Discovery of local servers and health probes use the same connections."""
    async with world() as (up, client, endpoint):
        response = await client.get(endpoint, "/models", timeouts=TIMEOUTS)
        assert json.loads(await response.read(LIMIT))["data"][0]["id"] == "scripted"
        assert (up.requests[0].method, up.requests[0].raw) == ("GET", b"")
        assert "content-length" not in up.requests[0].headers


@on_both_loops
async def test_close_ends_everything() -> None:
    """After it no connection, timer or call is left."""
    async with world() as (up, client, endpoint):
        up.on("m", Hang())
        call = asyncio.create_task(client.post(endpoint, PATH, request(), timeouts=TIMEOUTS))
        await up.until_seen(1)
        await client.close()
        assert (await fault_of(call)).fault == "reset"
        await up.until(lambda: up.open_connections == 0)
        error = await fault_of(client.post(endpoint, PATH, request(), timeouts=TIMEOUTS))
        assert (error.fault, error.sent) == ("connect", False)


@on_both_loops
async def test_a_json_answer_costs_one_wake_up() -> None:
    """Every further turn of the loop costs microseconds on every call."""
    async with world() as (_, client, endpoint):
        await (await client.post(endpoint, PATH, request(), timeouts=TIMEOUTS)).read(LIMIT)
        call = Steps(client.post(endpoint, PATH, request(), timeouts=TIMEOUTS))
        body = Steps((await call).read(LIMIT))
        assert await body
        assert (call.count, body.count) == (1, 0)


class Steps:
    """Counts how often a coroutine gives way to the loop."""

    def __init__(self, work: Coroutine[Any, Any, Any]) -> None:
        self.count = 0
        self._work = work

    def __await__(self) -> Generator[Any, None, Any]:
        work = self._work.__await__()
        while True:
            try:
                step = next(work)
            except StopIteration as stop:
                return stop.value
            self.count += 1
            yield step
