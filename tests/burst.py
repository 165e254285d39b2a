"""Many calls at once, each on a connection of its own, by a client that costs next to nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.gateway import KEY
from tests.scripted_upstream import ScriptedUpstream

BURST = 200
WAIT_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back until the connection was closed."""

    status: int
    headers: dict[str, str]
    """By lower-case name."""
    body: bytes
    """As it came: in chunks, if it was streamed."""

    def json(self) -> Any:
        return json.loads(self.body)


async def call(port: int, body: bytes, *, key: str) -> Answer:
    """One chat call on a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\ncontent-type: application/json\r\n"
            b"authorization: Bearer %b\r\ncontent-length: %d\r\n\r\n%b" % (key.encode(), len(body), body)
        )
        head, _, rest = (await reader.read(-1)).partition(b"\r\n\r\n")
    finally:
        writer.close()
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Answer(int(first.split(" ")[1]), headers, rest)


async def burst(
    port: int, body: dict[str, object], *, key: str = KEY, count: int = BURST, ended: Callable[[object], object] | None = None
) -> list[Answer]:
    """All at once; every answer read whole. `ended` is called after each."""
    raw = json.dumps(body).encode()
    calls = [asyncio.ensure_future(call(port, raw, key=key)) for _ in range(count)]
    for one in calls:
        if ended is not None:
            one.add_done_callback(ended)
    async with asyncio.timeout(WAIT_SECONDS):
        return await asyncio.gather(*calls)


async def race(
    port: int, upstream: ScriptedUpstream, let_answer: Callable[[], None], body: dict[str, object], *, key: str = KEY
) -> list[Answer]:
    """A burst against a provider that answers only when each call has either reached it or was answered without it."""
    before = len(upstream.requests)
    answered: list[object] = []
    running = asyncio.ensure_future(burst(port, body, key=key, ended=answered.append))
    async with asyncio.timeout(WAIT_SECONDS):
        # Two events of two sources, of which the last decides.
        while len(answered) + len(upstream.requests) - before < BURST:
            await asyncio.sleep(0.005)
    let_answer()
    return await running
