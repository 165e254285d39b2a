"""A head that came before is not parsed again: it must mean what the parser would have found in it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from uvicorn.server import ServerState

from router.domain.request import Operation
from router.edge.exchange import Exchange
from router.edge.gate import Gate
from router.edge.protocol import MAX_HEADS_KNOWN, GateProtocol
from router.snapshot import ServerSettings

Seen = tuple[str, dict[bytes, bytes], bytes]


class Wire:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed = False
        self.reading = True

    def set_write_buffer_limits(self, high: int) -> None: ...

    def get_extra_info(self, name: str) -> object:
        """Nobody is at the other end."""
        return None

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def close(self) -> None:
        self.closed = True

    abort = write_eof = close

    def is_closing(self) -> bool:
        return self.closed

    def is_reading(self) -> bool:
        return self.reading

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


class Watched(Gate):
    """Does not log a bug, which takes its time, but keeps it."""

    def __init__(self, bugs: list[BaseException], **more: Any) -> None:
        super().__init__(**more)
        self._bugs = bugs

    def report(self, problem: BaseException) -> None:
        self._bugs.append(problem)


class Talk:
    """One connection, and the calls that were found in its bytes."""

    def __init__(self, *, knows: bool = True, **settings: Any) -> None:
        self.seen: list[Seen] = []
        self.bugs: list[BaseException] = []
        self.state = ServerState()
        gate = Watched(
            self.bugs, call=self._serve, refuses_early=lambda headers: False, asgi=self._other, settings=ServerSettings(**settings)
        )
        # All that the protocol asks of uvicorn's configuration.
        self.protocol = GateProtocol(SimpleNamespace(app=gate), self.state, {})  # type: ignore[arg-type]
        self.protocol.heads_to_know = MAX_HEADS_KNOWN if knows else 0
        self.wire = Wire()
        # A transport that keeps what is written.
        self.protocol.connection_made(self.wire)  # type: ignore[arg-type]

    async def _serve(self, exchange: Exchange, operation: Operation) -> None:
        self.seen.append((operation, dict(exchange.headers), await exchange.body()))
        await exchange.respond(200, b"", b"%d" % len(self.seen))

    async def _other(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 404, "headers": []})
        await send({"type": "http.response.body", "body": scope["raw_path"]})

    async def send(self, *packets: bytes) -> None:
        for packet in packets:
            self.protocol.data_received(packet)
            while self.state.tasks:
                await asyncio.sleep(0)


def call(body: bytes = b"{}", *, start: bytes = b"POST /v1/chat/completions HTTP/1.1", lines: Sequence[bytes] = ()) -> bytes:
    return b"\r\n".join([start, b"Host: a", b"Authorization: Bearer k", b"Content-Length: %d" % len(body), *lines, b"", body])


HEADS = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer k1\r\nContent-Length: %b\r\nAccept: */*\r\n\r\n",
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer k2\r\nContent-Length: %b\r\nAccept: */*\r\n\r\n",
    b"POST /v1/embeddings HTTP/1.1\r\nhost:a\r\ncontent-length:%b\r\n\r\n",
    b"POST /v1/embeddings?x=1 HTTP/1.1\r\ncontent-LENGTH: \t%b\r\nhost: a\r\nx-empty:\r\nx-twice: 1\r\nx-twice: 2\r\n\r\n",
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %b\r\nExpect: 100-continue\r\n\r\n",
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %b\r\nConnection: close\r\n\r\n",
    b"POST /v1/chat/completions HTTP/1.0\r\nHost: a\r\nContent-Length: %b\r\n\r\n",
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %b\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: %b\r\n\r\n",
    b"\r\nPOST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %b\r\n\r\n",
    b"GET /elsewhere HTTP/1.1\r\nHost: a\r\nContent-Length: %b\r\n\r\n",
)
LENGTHS = (b"%d", b"00%d", b"+%d", b"-%d", b"%d ", b" %d", b"1%d", b"%d, %d", b"%d\r\nx: y", b"%d\r\nContent-Length: 0", b"%d\r", b"")
BODIES = (b"", b"{}", b"[1,2]", b"\r\n\r\n", b"x" * 70, HEADS[0] % b"3")


async def agree(*sent: bytes) -> None:
    """The same calls, the same bodies, the same answers, the same end, whether heads are known or not."""
    known, parsed = Talk(max_body_bytes=60), Talk(max_body_bytes=60, knows=False)
    await known.send(*sent)
    await parsed.send(*sent)
    assert not known.bugs + parsed.bugs
    assert known.seen == parsed.seen
    assert b"".join(known.wire.written) == b"".join(parsed.wire.written)
    assert (known.wire.closed, known.protocol.phase) == (parsed.wire.closed, parsed.protocol.phase)


@pytest.mark.parametrize("head", HEADS)
async def test_a_known_head_means_what_the_parser_finds_in_it(head: bytes) -> None:
    """Whatever stands for the length, whatever the body is, and whatever follows in the same packet."""
    first = head % b"2" + b"{}"
    for length, body, following in itertools.product(LENGTHS, BODIES, (b"", first, b"\r")):
        await agree(first, head % length.replace(b"%d", b"%d" % len(body)) + body + following, first)


@given(st.sampled_from(HEADS[:4]), st.lists(st.sampled_from(BODIES), min_size=1, max_size=4), st.lists(st.integers(0, 700), max_size=5))
def test_it_does_not_matter_where_a_known_head_is_cut(head: bytes, bodies: list[bytes], cuts: list[int]) -> None:
    """Packets end where the network wants."""
    sent = b"".join(head % (b"%d" % len(body)) + body for body in bodies)
    at = sorted({0, len(sent), *(cut for cut in cuts if cut < len(sent))})
    asyncio.run(agree(head % b"2" + b"{}", *[sent[begin:end] for begin, end in itertools.pairwise(at)]))


async def test_the_parser_does_not_see_a_known_head() -> None:
    """Otherwise the test above would compare the parser with itself."""
    talk = Talk()
    await talk.send(call(b"[1]"))
    # Nothing is left that could parse.
    talk.protocol.parser = None  # type: ignore[assignment]
    await talk.send(call(b"[2,2]"), call(b"[3]")[:-2], b"3]", call(b""))
    assert [body for _, _, body in talk.seen] == [b"[1]", b"[2,2]", b"[3]", b""]


async def test_another_credential_is_another_head() -> None:
    """Behind a proxy, clients with different keys share a connection."""
    talk = Talk()
    other = call().replace(b"Bearer k", b"Bearer l")
    await talk.send(call(), call(), other, call(), other)
    assert [headers[b"authorization"][-1:] for _, headers, _ in talk.seen] == [b"k", b"k", b"l", b"k", b"l"]


async def test_heads_that_always_differ_are_not_kept_for_ever() -> None:
    """To keep one costs time: after a few that never came again, none is."""
    talk = Talk()
    await talk.send(*[call(lines=[b"traceparent: %d" % number]) for number in range(20)])
    assert len(talk.seen) == 20
    assert talk.protocol.heads_to_know == 0


async def test_a_long_body_is_taken_behind_a_known_head_too_in_however_many_packets() -> None:
    """Long bodies are the ones that copies cost most of; a packet may have one byte."""
    talk = Talk()
    await talk.send(call())
    # Whoever asks it fails.
    talk.protocol.parser = None  # type: ignore[assignment]
    sent = call(bytes(range(256)) * 300)
    await talk.send(sent[:30_000], sent[30_000:74_000], *[sent[at : at + 1] for at in range(74_000, len(sent))])
    await talk.send(call())
    assert [body for _, _, body in talk.seen] == [b"{}", bytes(range(256)) * 300, b"{}"]


async def test_a_long_body_behind_a_known_head_is_not_read_once_its_key_is_bad() -> None:
    """Nobody without a key may have memory: it may have been revoked since the connection's first call."""
    talk = Talk()
    await talk.send(call())
    talk.protocol.gate.refuses_early = lambda headers: True
    await talk.send(call(b"x" * 70_000)[:1000])
    assert [len(body) for _, _, body in talk.seen] == [2, 0]
    assert talk.wire.closed


async def test_requests_of_the_same_head_in_one_packet_are_answered_in_order() -> None:
    """What follows in the packet is not part of the body."""
    talk = Talk()
    calls = [call(b"[%d]" % number) for number in range(7)]
    await talk.send(calls[0], calls[1] + calls[2], calls[3][:-2], calls[3][-2:] + calls[4] + calls[5], calls[6])
    assert [body for _, _, body in talk.seen] == [b"[%d]" % number for number in range(7)]
    assert b"".join(talk.wire.written).count(b"HTTP/1.1 200") == 7


async def test_calls_that_wait_are_served_by_one_task_and_none_is_left_when_the_client_goes() -> None:
    """A task for each would cost more than all of the edge; one that is cancelled before it begins must not stay for ever."""
    talk = Talk()
    for _ in range(2):
        for number in range(3):
            talk.protocol.data_received(call(b"[%d]" % number))
        assert len(talk.state.tasks) == 1
        await talk.send(b"")
    assert [body for _, _, body in talk.seen] == [b"[0]", b"[1]", b"[2]"] * 2
    talk.protocol.data_received(call())
    talk.protocol.connection_lost(None)
    await talk.send(b"")
    assert len(talk.seen) == 6
    assert talk.protocol.active is None


@pytest.mark.parametrize(
    "rest",
    [b"Content-Length: 65537\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n10001\r\n" + b"x" * 0x10001],
    ids=["announced", "chunked"],
)
@pytest.mark.parametrize("path", [b"/admin/v1/keys", b"/v1/feedback", b"/elsewhere"])
async def test_where_no_model_is_called_only_a_short_body_is_read(path: bytes, rest: bytes) -> None:
    """Nobody has looked yet who sends it: 20 MB of each connection would be kept for strangers."""
    talk = Talk()
    await talk.send(b"POST " + path + b" HTTP/1.1\r\nHost: a\r\n" + rest)
    said = b"".join(talk.wire.written)
    assert said.startswith(b"HTTP/1.1 413 ")
    assert b"larger than 65536 bytes; only calls for models" in said


async def test_a_short_body_in_chunks_is_read_where_no_model_is_called() -> None:
    """An administrator's credential is no client's key: it must not count as one that is refused early."""
    talk = Talk()
    talk.protocol.gate.refuses_early = lambda headers: True
    bodies: list[bytes] = []

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        bodies.append((await receive())["body"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    talk.protocol.gate.asgi = asgi
    await talk.send(b"POST /admin/v1/keys HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n")
    assert bodies == [b"{}"]


async def test_empty_lines_between_requests_begin_none() -> None:
    """Old clients send one behind a body: whoever waited for the rest of a head would say 408 to an idle connection."""
    talk = Talk()
    await talk.send(call(), b"\r\n", b"\r\n\r\n")
    assert talk.protocol.phase == "idle"
    await talk.send(call())
    assert [body for _, _, body in talk.seen] == [b"{}", b"{}"]
