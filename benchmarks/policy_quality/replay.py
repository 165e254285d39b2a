"""A provider that replays recorded answers, and what comes of a configuration in front of it.

The service is real but for its sockets: routing, reservation, settlement and books, with a ledger in a file.
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, Final

from benchmarks.holds.provider import Client, InProcess
from benchmarks.policy_quality.recorded import Recorded
from policies.answers import said_in_body, said_in_events
from router.app import Service
from router.edge.headers import OWN_REQUEST_ID
from router.ports import Endpoint, Timeouts, UpstreamResponse
from router.settings.load import load_text, price_book
from router.snapshot import Snapshot

_JSON: Final = [(b"content-type", b"application/json")]
_EVENTS: Final = [(b"content-type", b"text/event-stream")]


Times = Mapping[str, float] | Mapping[str, Mapping[str, float]]
"""Milliseconds by model, or by prompt and model."""


class Replayed(UpstreamResponse):
    """One recorded answer."""

    def __init__(self, body: bytes, headers: Sequence[tuple[bytes, bytes]]) -> None:
        self.status = 200
        self.headers = headers
        self._body = body

    async def read(self, limit: int) -> bytes:
        return self._body

    async def chunk(self) -> bytes:
        body, self._body = self._body, b""
        return body

    def abort(self) -> None:
        return


class Replaying:
    """Answers each model's prompts as it once did. See `router.ports.Upstream`."""

    def __init__(self, recorded: Sequence[Recorded], first_token_ms: Times, *, caches: bool = False) -> None:
        """`first_token_ms`: after which time a model begins to stream, those that are not named at once; or that of each prompt by itself.
        `caches`: a model has in its cache what it was asked last in a session."""
        self._recorded = {one.prompt: one for one in recorded}
        self._first_token_ms = first_token_ms
        self._caches = caches
        self._cached: dict[tuple[str, str], int] = {}
        """Tokens that a model has of a session."""
        self.asked: dict[str, set[str]] = {}
        """Prompts that each model was asked."""

    async def post(
        self, endpoint: Endpoint, path: str, body: bytes, *, headers: Sequence[tuple[bytes, bytes]] = (), timeouts: Timeouts
    ) -> UpstreamResponse:
        wish = json.loads(body)
        model, prompt = wish["model"], wish["messages"][-1]["content"]
        said = self._recorded[prompt].answers[model]
        self.asked.setdefault(model, set()).add(prompt)
        wait = self._wait_ms(prompt, model)
        if wait and wish.get("stream"):
            await asyncio.sleep(wait / 1000)
        usage: dict[str, Any] = {"prompt_tokens": said.input_tokens, "completion_tokens": said.output_tokens}
        usage["total_tokens"] = said.input_tokens + said.output_tokens
        if self._caches:
            session = model, wish.get("metadata", {}).get("session_id", "")
            usage["prompt_tokens_details"] = {"cached_tokens": min(self._cached.get(session, 0), said.input_tokens)}
            self._cached[session] = said.input_tokens
        if not wish.get("stream"):
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": said.text}}
            return Replayed(_bytes({"object": "chat.completion", "choices": [choice]}, model, usage), _JSON)
        delta = {"index": 0, "finish_reason": "stop", "delta": {"role": "assistant", "content": said.text}}
        events = [_bytes({"object": "chat.completion.chunk", "choices": [delta]}, model, None)]
        events.append(_bytes({"object": "chat.completion.chunk", "choices": []}, model, usage))
        return Replayed(b"".join(b"data: %b\n\n" % event for event in [*events, b"[DONE]"]), _EVENTS)

    def _wait_ms(self, prompt: str, model: str) -> float | None:
        own = self._first_token_ms.get(prompt, self._first_token_ms.get(model))
        return own.get(model) if isinstance(own, Mapping) else own

    async def close(self) -> None:
        return


def _bytes(answer: dict[str, Any], model: str, usage: Mapping[str, Any] | None) -> bytes:
    return json.dumps({"id": "r", "model": model, **answer, **({} if usage is None else {"usage": usage})}).encode()


class Asking(Client):
    """One prompt, and who has answered it."""

    def __init__(self, body: bytes) -> None:
        super().__init__(body)
        self.request_id = ""
        self.answer = bytearray()

    async def respond(self, status: int, headers: bytes, body: bytes) -> None:
        await self.start(status, headers)
        self.answer += body

    async def start(self, status: int, headers: bytes) -> None:
        await super().start(status, headers)
        told = dict(line.partition(b": ")[::2] for line in headers.lower().split(b"\r\n"))
        self.request_id = told.get(OWN_REQUEST_ID, b"").decode()

    def write(self, data: bytes) -> Awaitable[None] | None:
        self.answer += data
        return None

    @property
    def model(self) -> str:
        """Whose answer the client has; empty: nobody's."""
        if self.status != 200:
            return ""
        data = bytes(self.answer)
        if data.startswith(b"data:"):
            data = data[5 : data.index(b"\n")]
        return str(json.loads(data).get("model", ""))

    @property
    def text(self) -> str:
        """What was answered."""
        data = bytes(self.answer)
        events = [line[5:].strip() for line in data.splitlines() if line.startswith(b"data:")]
        return (said_in_events(events) if events else said_in_body(data)).text


class Replay(Service):
    """The service with recorded answers behind it."""

    def __init__(self, snapshot: Snapshot, upstream: Replaying) -> None:
        super().__init__(snapshot, log_target=os.devnull)
        self._lanes = InProcess(self._stack, upstream)
        self.began = time.time()


@dataclass
class Outcome:
    """What came of all prompts."""

    quality: float
    """Mean score of what the clients got, 0 to 1; a refused request counts 0."""
    usd_per_1000: float
    """Of all calls in the books: second answers and steps that did not pass, too."""
    refused: int
    asked: Mapping[str, float]
    """Share of the prompts that each model was asked."""
    answered: Mapping[str, float]
    """Share of the prompts that each model's answer was given to the client for."""
    each: Sequence[tuple[float, int]] = field(default_factory=list)
    """Of each prompt: score, and charge in nano-USD."""
    models: Sequence[str] = ()
    """Whose answer the client of each prompt got; empty: nobody's."""
    texts: Sequence[str] = ()
    """What it said."""


Extra = Callable[[int, Recorded], Mapping[str, Any]]
"""What the body of a request has beside its prompt, by its number."""


def nothing(number: int, one: Recorded) -> Mapping[str, Any]:
    """No more than the prompt."""
    return {}


Before = Callable[[Replay, int], Awaitable[None]]
"""Called before each request, with its number."""


async def no_wait(service: Replay, number: int) -> None:
    """Nothing."""


async def replay(
    config: str,
    recorded: Sequence[Recorded],
    *,
    extra: Extra = nothing,
    first_token_ms: Times | None = None,
    parallel: int = 1,
    before: Before = no_wait,
    runs: int = 1,
    caches: bool = False,
) -> Outcome:
    """Ask the route `auto` of a configuration all prompts. `STORE` in it stands for the ledger's file.

    `parallel`: most at a time; `runs`: so many prompts that follow each other are asked one after the other.
    """
    upstream = Replaying(recorded, first_token_ms or {}, caches=caches)
    with tempfile.TemporaryDirectory() as folder:
        text = config.replace("STORE", str(Path(folder) / "ledger.sqlite"))
        snapshot = load_text(text, source="replay.yaml", environ={}, price_book=price_book()).snapshot
        async with Replay(snapshot, upstream) as service:
            clients = await _ask_all(service, recorded, extra, parallel, before, runs)
            charges: dict[str, int] = {}
            async for line in service.ledger.records():
                record = json.loads(line)
                charges[record["request_id"]] = charges.get(record["request_id"], 0) + record["charge_nusd"]
    scores = [one.score(client.model) if client.model else 0.0 for one, client in zip(recorded, clients, strict=True)]
    models = [client.model for client in clients]
    count = len(recorded)
    return Outcome(
        quality=fmean(scores),
        usd_per_1000=sum(charges.values()) / 1e6 / count,
        refused=models.count(""),
        asked={model: len(prompts) / count for model, prompts in sorted(upstream.asked.items())},
        answered={model: models.count(model) / count for model in sorted(set(models) - {""})},
        each=[(score, charges.get(client.request_id, 0)) for score, client in zip(scores, clients, strict=True)],
        models=models,
        texts=[client.text if model else "" for model, client in zip(models, clients, strict=True)],
    )


async def _ask_all(service: Replay, recorded: Sequence[Recorded], extra: Extra, parallel: int, before: Before, runs: int) -> list[Asking]:
    room = asyncio.Semaphore(parallel)

    async def ask(number: int, one: Recorded) -> Asking:
        body = {"model": "auto", "messages": [{"role": "user", "content": one.prompt}], **extra(number, one)}
        client = Asking(json.dumps(body).encode())
        await before(service, number)
        await service.pipeline.serve(client, "chat")
        if client.status >= 500 and client.status != 503:
            raise RuntimeError(f"status {client.status}: {client.answer[:500]!r}")
        return client

    async def run(begin: int) -> list[Asking]:
        async with room:
            return [await ask(number, one) for number, one in enumerate(recorded[begin : begin + runs], begin)]

    found = await asyncio.gather(*[run(begin) for begin in range(0, len(recorded), runs)])
    return [client for clients in found for client in clients]
