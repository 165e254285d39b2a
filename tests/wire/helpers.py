"""What the tests of the upstream clients share."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop

from router.adapters.upstream.http1 import Http1Upstream
from router.ports import Endpoint, Timeouts, UpstreamError, UpstreamResponse
from tests.scripted_upstream import ScriptedUpstream

PATH = "/chat/completions"
LIMIT = 1 << 20
TIMEOUTS = Timeouts(connect_seconds=5, first_byte_seconds=20, idle_seconds=10, total_seconds=100)


def on_both_loops(scenario: Callable[[], Awaitable[None]]) -> Callable[[str], None]:
    """Run the scenario on asyncio's loop and on uvloop: their transports differ in what they call and when."""

    @pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
    @functools.wraps(scenario)
    def test(loop: str) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop if loop == "uvloop" else None) as runner:
            # Every scenario is a coroutine function; `Awaitable` keeps the decorator's type short.
            runner.run(scenario())  # type: ignore[arg-type]

    # Otherwise pytest reads the signature of the scenario.
    del test.__wrapped__  # type: ignore[attr-defined]
    return test


def endpoint_of(up: ScriptedUpstream, **options: Any) -> Endpoint:
    """An endpoint at a scripted upstream."""
    given: dict[str, Any] = {"name": "scripted", "scheme": "http", "host": "127.0.0.1", "port": up.port, "base_path": "/v1"}
    return Endpoint(**{**given, **options})


def request(model: str = "m", **more: object) -> bytes:
    """A request body."""
    return json.dumps({"model": model, "messages": [{"role": "user", "content": "Hi"}], **more}).encode()


@asynccontextmanager
async def world(**options: Any) -> AsyncIterator[tuple[ScriptedUpstream, Http1Upstream, Endpoint]]:
    """A scripted upstream, a client and an endpoint between them. Nothing may be left open at the end."""
    async with ScriptedUpstream() as up:
        client = Http1Upstream()
        try:
            yield up, client, endpoint_of(up, **options)
        finally:
            await client.close()


async def drain(response: UpstreamResponse) -> bytes:
    """All chunks of a response."""
    parts = []
    while data := await response.chunk():
        parts.append(data)
    return b"".join(parts)


async def fault_of(call: Awaitable[object]) -> UpstreamError:
    """The error that a call raises."""
    with pytest.raises(UpstreamError) as caught:
        await call
    return caught.value
