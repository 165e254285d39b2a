"""A body that is handed on where it arrives: what a sink gets, and when."""

from __future__ import annotations

import asyncio
import fcntl
import sys
import termios

from router.adapters.upstream.http1_connection import Connection, Http1Response
from tests.scripted_upstream import Gate, Stream
from tests.wire.helpers import PATH, TIMEOUTS, fault_of, on_both_loops, request, world


class Taker:
    """A sink that takes so many reads at a time."""

    def __init__(self) -> None:
        self.reads: list[bytes] = []
        self.room = 0

    def __call__(self, data: bytes) -> bool:
        assert data
        self.reads.append(data)
        self.room -= 1
        return self.room > 0


@on_both_loops
async def test_a_sink_gets_each_event_when_it_comes() -> None:
    """Nobody has to be woken for it, and nothing is left out at the end."""
    async with world() as (up, client, endpoint):
        pacer, taker = Gate(), Taker()
        taker.room = 100
        up.on("m", Stream(tokens=5, pacer=pacer))
        response = await client.post(endpoint, PATH, request(stream=True), timeouts=TIMEOUTS)
        pump = asyncio.ensure_future(response.pump(taker))
        for count in range(1, 6):
            pacer.step()
            while b"".join(taker.reads).count(b'" word"') < count:
                await asyncio.sleep(0)
            assert b"".join(taker.reads).count(b'" word"') == count
        assert await pump
        assert b"".join(taker.reads).endswith(b"data: [DONE]\n\n")
        assert await response.pump(taker)
        assert response.pending() == b""


@on_both_loops
async def test_a_sink_that_is_full_gets_the_rest_when_it_asks() -> None:
    """What comes meanwhile waits, the end of the body too."""
    async with world() as (up, client, endpoint):
        taker = Taker()
        up.on("m", Stream(tokens=5))
        response = await client.post(endpoint, PATH, request(stream=True), timeouts=TIMEOUTS)
        ended, calls = False, 0
        while not ended:
            taker.room, calls = 1, calls + 1
            ended = await response.pump(taker)
        assert calls == len(taker.reads) + 1
        assert b"".join(taker.reads).count(b'" word"') == 5
        assert b"".join(taker.reads).endswith(b"data: [DONE]\n\n")


@on_both_loops
async def test_a_sink_gets_all_that_came_before_a_fault() -> None:
    """It is on the bill."""
    async with world() as (up, client, endpoint):
        taker = Taker()
        taker.room = 100
        up.on("m", Stream(tokens=5, end="truncate"))
        response = await client.post(endpoint, PATH, request(stream=True), timeouts=TIMEOUTS)
        assert (await fault_of(response.pump(taker))).fault == "truncated"
        assert b"".join(taker.reads).count(b'" word"') == 5


@on_both_loops
async def test_what_nobody_asked_for_can_be_counted_after_the_call_was_given_up() -> None:
    """A client that leaves does not undo what the provider wrote."""
    async with world() as (up, client, endpoint):
        pacer, taker = Gate(), Taker()
        up.on("m", Stream(tokens=5, pacer=pacer, end="hang"))
        response = await client.post(endpoint, PATH, request(stream=True), timeouts=TIMEOUTS)
        pump = asyncio.ensure_future(response.pump(taker))
        while not taker.reads:
            await asyncio.sleep(0)
        assert not await pump
        again = asyncio.ensure_future(response.pump(taker))
        await asyncio.sleep(0)
        again.cancel()
        await asyncio.wait([again])
        pacer.open()
        assert isinstance(response, Http1Response)
        while b"".join(response.parts).count(b'" word"') < 5:
            await asyncio.sleep(0)
        response.abort()
        assert response.pending().count(b'" word"') == 5
        assert response.pending() == b""


@on_both_loops
async def test_what_waits_in_the_socket_can_be_counted_too() -> None:
    """Reading stops where nobody wants more, and the provider writes on until the machines' buffers are full: that is on its bill."""
    async with world() as (up, client, endpoint):
        taker = Taker()
        up.on("m", Stream(tokens=1500, end="hang"))
        response = await client.post(endpoint, PATH, request(stream=True), timeouts=TIMEOUTS)
        pump = asyncio.ensure_future(response.pump(taker))
        assert not await pump
        assert isinstance(response, Http1Response)
        connection = response.connection
        while not connection.paused or _queued(connection) < 20_000:
            await asyncio.sleep(0)
        assert response.ahead() >= response.size + 20_000
        seen = b"".join(taker.reads).count(b'" word"')
        kept = b"".join(response.parts).count(b'" word"')
        response.abort()
        counted = response.pending().count(b'" word"')
        assert seen + kept < 1500
        assert counted > kept
        assert seen + counted <= 1500
        assert response.pending() == b""


def _queued(connection: Connection) -> int:
    """Bytes that wait in the socket."""
    count = fcntl.ioctl(connection.transport.get_extra_info("socket").fileno(), termios.FIONREAD, bytes(4))
    return int.from_bytes(count, sys.byteorder)
