"""Time limits, connection limits and the life of connections of the HTTP/1.1 client."""

from __future__ import annotations

import asyncio

from router.adapters.upstream.http1 import Http1Upstream, PoolState
from router.ports import Timeouts
from tests.scripted_upstream import Close, Gate, Hang, Json, ScriptedUpstream, Stream
from tests.wire.helpers import LIMIT, PATH, TIMEOUTS, drain, endpoint_of, fault_of, on_both_loops, request, world


@on_both_loops
async def test_each_time_limit_has_its_own_fault() -> None:
    """Dispatch decides by the fault whether another try is safe. Time is passed in: nothing waits."""
    async with world() as (up, client, endpoint):
        up.on("silent", Hang())
        up.on("m", Stream(end="hang"))
        now = asyncio.get_running_loop().time()

        async def at(seconds: float, call: asyncio.Task[bytes]) -> tuple[str, bool]:
            client.sweep(now + seconds - 1)
            await asyncio.sleep(0)
            assert not call.done()
            client.sweep(now + seconds + 1)
            error = await fault_of(call)
            return error.fault, error.sent

        async def whole(model: str, timeouts: Timeouts, *, stream: bool = True) -> bytes:
            response = await client.post(endpoint, PATH, request(model, stream=stream), timeouts=timeouts)
            return await response.read(LIMIT) if model == "m" else b""

        slow = Timeouts(first_byte_seconds=50, idle_seconds=500, total_seconds=100)
        for number, (model, timeouts, seconds, fault) in enumerate(
            (("silent", TIMEOUTS, 20, "first_byte_timeout"), ("m", TIMEOUTS, 10, "idle_timeout"), ("m", slow, 100, "total_timeout"))
        ):
            call = asyncio.create_task(whole(model, timeouts))
            seen = await up.until_seen(number + 1)
            if model == "m":
                while not client.state(endpoint).open or not any(c.response and c.response.parts for c in client.connections(endpoint)):
                    await asyncio.sleep(0)
            assert await at(seconds, call) == (fault, True)
            await seen.gone.wait()


@on_both_loops
async def test_a_slow_reader_is_not_an_idle_provider() -> None:
    """The silence is ours while nobody asks for more."""
    async with world() as (up, client, endpoint):
        gate = Gate()
        up.on("m", Stream(tokens=1, pacer=gate))
        response = await client.post(endpoint, PATH, request(stream=True), timeouts=TIMEOUTS)
        await response.chunk()
        client.sweep(asyncio.get_running_loop().time() + 50)
        gate.open()
        assert (await drain(response)).endswith(b"[DONE]\n\n")


@on_both_loops
async def test_the_sweep_runs_by_itself() -> None:
    """Limits must hold without anybody calling for them."""
    async with ScriptedUpstream(default=Hang()) as up:
        client = Http1Upstream(sweep_seconds=0.01)
        timeouts = Timeouts(first_byte_seconds=0.02)
        assert (await fault_of(client.post(endpoint_of(up), PATH, request(), timeouts=timeouts))).fault == "first_byte_timeout"
        await client.close()


@on_both_loops
async def test_idle_connections_are_closed_in_time() -> None:
    """Before the provider closes them, so that none is stale."""
    async with world(keepalive_seconds=30) as (up, client, endpoint):
        await (await client.post(endpoint, PATH, request(), timeouts=TIMEOUTS)).read(LIMIT)
        now = asyncio.get_running_loop().time()
        client.sweep(now + 29)
        assert client.state(endpoint).open == 1
        client.sweep(now + 31)
        await up.until(lambda: up.open_connections == 0)
        assert client.state(endpoint) == PoolState(open=0, idle=0, waiting=0)


@on_both_loops
async def test_the_connection_limit_holds_and_the_line_is_fair() -> None:
    """A provider's limit is kept, first come first served, and who gives up leaves the line."""
    async with world(max_connections=2) as (up, client, endpoint):
        gate = Gate()
        up.on("m", Hang(gate=gate))
        order: list[int] = []

        async def call(number: int) -> None:
            response = await client.post(endpoint, PATH, request(number=number), timeouts=TIMEOUTS)
            order.append(number)
            await response.read(LIMIT)

        calls = [asyncio.create_task(call(number)) for number in range(6)]
        await up.until_seen(2)
        while client.state(endpoint).waiting < 4:
            await asyncio.sleep(0)
        calls[3].cancel()
        gate.open()
        await asyncio.gather(*calls, return_exceptions=True)
        seen = [seen.body["number"] for seen in up.requests]
        # Two at a time are on their way, and either may be read first.
        assert [sorted(seen[:2]), sorted(seen[2:4]), seen[4:]] == [[0, 1], [2, 4], [5]]
        assert up.connections == 2
        assert client.state(endpoint) == PoolState(open=2, idle=2, waiting=0)


@on_both_loops
async def test_a_full_pool_is_a_connect_timeout_and_nothing_was_sent() -> None:
    """Its hold is given back, and another deployment may be tried."""
    async with world(max_connections=1) as (up, client, endpoint):
        up.on("m", Hang())
        busy = asyncio.create_task(client.post(endpoint, PATH, request(), timeouts=TIMEOUTS))
        await up.until_seen(1)
        error = await fault_of(client.post(endpoint, PATH, request(), timeouts=Timeouts(connect_seconds=0.02)))
        assert (error.fault, error.sent) == ("connect_timeout", False)
        assert "1 of 1 open" in str(error)
        busy.cancel()
        await asyncio.gather(busy, return_exceptions=True)
        up.on("m", Json())
        assert (await client.post(endpoint, PATH, request(), timeouts=TIMEOUTS)).status == 200


@on_both_loops
async def test_a_closed_connection_lets_the_next_in_line_dial() -> None:
    """Otherwise the line would wait for ever after a failure."""
    async with world(max_connections=1) as (up, client, endpoint):
        gate = Gate()
        up.on("bad", Hang(gate=gate, then=Close()))
        first = asyncio.create_task(client.post(endpoint, PATH, request("bad"), timeouts=TIMEOUTS))
        await up.until_seen(1)
        second = asyncio.create_task(client.post(endpoint, PATH, request(), timeouts=TIMEOUTS))
        while not client.state(endpoint).waiting:
            await asyncio.sleep(0)
        gate.open()
        assert (await fault_of(first)).fault == "reset"
        assert (await second).status == 200


@on_both_loops
async def test_a_connection_is_not_used_for_ever() -> None:
    """A provider that moves to another address must not keep the old one busy."""
    async with world() as (up, client, endpoint):
        await (await client.post(endpoint, PATH, request(), timeouts=TIMEOUTS)).read(LIMIT)
        for connection in client.connections(endpoint):
            connection.born_at -= 601
        for _ in range(2):
            await (await client.post(endpoint, PATH, request(), timeouts=TIMEOUTS)).read(LIMIT)
        assert [seen.connection for seen in up.requests] == [1, 1, 2]


@on_both_loops
async def test_a_connection_that_is_idle_too_long_is_not_taken() -> None:
    """The sweep may be late; the provider's own limit is not."""
    async with world(keepalive_seconds=0) as (up, client, endpoint):
        for _ in range(2):
            await (await client.post(endpoint, PATH, request(), timeouts=TIMEOUTS)).read(LIMIT)
        assert [seen.connection for seen in up.requests] == [1, 2]
