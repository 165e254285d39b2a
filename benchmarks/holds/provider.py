"""A simulated provider and client, in the process of the service: no socket between them, everything else is real."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final

from router.adapters.lanes import Lanes
from router.dispatch import Dispatcher
from router.ports import Endpoint, Timeouts, Upstream, UpstreamResponse
from router.snapshot import Snapshot

MEDIAN_TOKENS: Final = 300
SIGMA: Final = 1.1
TOKENS_PER_SECOND: Final = 150.0
FIRST_TOKEN_SECONDS: Final = 0.3
CHUNKS_PER_SECOND: Final = 4.0
"""Of a stream: the provider's time, not ours."""
PROMPT_BYTES_PER_TOKEN: Final = 4.5

_JSON: Final = [(b"content-type", b"application/json")]
_SSE: Final = [(b"content-type", b"text/event-stream")]
_TOKEN: Final = b'data: {"id":"c","object":"chat.completion.chunk","model":"m","choices":[{"index":0,"delta":{"content":" word"}}]}\n\n'


@dataclass
class Tally:
    """What the provider has been asked."""

    answers: int = 0
    """That were begun."""
    limited: int = 0
    """Of those, the ones that the forwarded cap makes shorter."""


class Provider:
    """Draws the length of each answer, and takes the time for it. See `router.ports.Upstream`."""

    def __init__(self, seed: int, faster: float) -> None:
        """`faster`: so many seconds of the provider pass in one of ours."""
        self._random = random.Random(seed)
        self._faster = faster
        self.tally = Tally()

    async def post(
        self, endpoint: Endpoint, path: str, body: bytes, *, headers: Sequence[tuple[bytes, bytes]] = (), timeouts: Timeouts
    ) -> UpstreamResponse:
        asked = json.loads(body)
        cap = asked.get("max_completion_tokens", asked.get("max_tokens"))
        drawn = max(1, round(self._random.lognormvariate(0, SIGMA) * MEDIAN_TOKENS))
        length = min(drawn, cap)
        self.tally.answers += 1
        self.tally.limited += drawn > cap
        prompt = int(len(asked["messages"][0]["content"]) / PROMPT_BYTES_PER_TOKEN) + 10
        usage = {"prompt_tokens": prompt, "completion_tokens": length, "total_tokens": prompt + length}
        finish = "stop" if length == drawn else "length"
        if asked.get("stream"):
            await asyncio.sleep(FIRST_TOKEN_SECONDS / self._faster)
            return _Stream(length, finish, usage, self._faster)
        await asyncio.sleep((FIRST_TOKEN_SECONDS + length / TOKENS_PER_SECOND) / self._faster)
        choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": "word " * 8}}
        return _Whole(json.dumps({"id": "c", "object": "chat.completion", "model": "m", "choices": [choice], "usage": usage}).encode())

    async def close(self) -> None:
        return


class _Whole(UpstreamResponse):
    """An answer in one piece."""

    def __init__(self, body: bytes) -> None:
        self.status = 200
        self.headers: Sequence[tuple[bytes, bytes]] = _JSON
        self._body = body

    async def read(self, limit: int) -> bytes:
        return self._body

    async def chunk(self) -> bytes:
        body, self._body = self._body, b""
        return body

    def abort(self) -> None:
        return


class _Stream(UpstreamResponse):
    """An answer word by word, some to a chunk. Stands still while nobody reads."""

    def __init__(self, length: int, finish: str, usage: Mapping[str, int], faster: float) -> None:
        self.status = 200
        self.headers: Sequence[tuple[bytes, bytes]] = _SSE
        self._left = length
        self._at_once = max(1, round(TOKENS_PER_SECOND / CHUNKS_PER_SECOND))
        self._pause = 1 / CHUNKS_PER_SECOND / faster
        end = {"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}
        told = {"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": [], "usage": usage}
        self._end = b"data: %b\n\ndata: %b\n\ndata: [DONE]\n\n" % (json.dumps(end).encode(), json.dumps(told).encode())

    async def read(self, limit: int) -> bytes:
        return b""

    async def chunk(self) -> bytes:
        if self._left:
            count = min(self._left, self._at_once)
            await asyncio.sleep(self._pause)
            self._left -= count
            return _TOKEN * count
        end, self._end = self._end, b""
        return end

    def abort(self) -> None:
        return


class Client:
    """One request and what came of it. See `router.edge.exchange.Exchange`."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.method = "POST"
        self.path = "/v1/chat/completions"
        self.headers: Mapping[bytes, bytes] = {}
        self.gone = False
        self.started = False
        self.status = 0

    async def body(self) -> bytes:
        return self._body

    async def respond(self, status: int, headers: bytes, body: bytes) -> None:
        self.started, self.status = True, status

    async def start(self, status: int, headers: bytes) -> None:
        self.started, self.status = True, status

    def write(self, data: bytes) -> Awaitable[None] | None:
        return None

    async def finish(self) -> None:
        return

    def abort(self) -> None:
        return


class InProcess(Lanes):
    """The only lane leads to a provider in the process of the service."""

    def __init__(self, stack: AsyncExitStack, upstream: Upstream) -> None:
        super().__init__(stack)
        self._upstream = upstream

    async def dispatcher(self, snapshot: Snapshot) -> Dispatcher:
        return Dispatcher(wire=self._upstream)
