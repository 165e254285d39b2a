"""The simulated provider as an ASGI application: OpenAI's wire in front of `answers.plan`."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import msgspec

from router.sim import wire
from router.sim.answers import Asked, Plan, draws, plan, read_chat, read_completion
from router.sim.bill import Bill, BilledCall, bill_nusd
from router.sim.cache import PromptCache
from router.sim.controls import Order, Trouble, apply
from router.sim.profiles import PROFILES, Profile
from router.sim.requests import ChatRequest, CompletionRequest, EmbeddingRequest, SimError, bad_request
from router.sim.words import count_tokens

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
T = TypeVar("T")

_MAX_BODY_BYTES: Final = 64 * 1024 * 1024
_DEFAULT_DIMENSIONS: Final = 256
_REMEMBERED_PROMPTS: Final = 50_000
# Shorter waits are collected: a timer of the event loop is no more exact than this.
_SHORTEST_WAIT_SECONDS: Final = 0.001


class ClientLeft(Exception):
    """The connection was closed before the answer was complete."""


@dataclass(slots=True)
class _Call:
    """One call in progress: its connection and its clock."""

    send: Send
    left: asyncio.Task[None]
    """Ends when the client does."""
    started: float
    factor: float
    """Seconds of the wall per second of the simulation."""

    async def until(self, seconds: float) -> None:
        """Wait until so much simulated time has passed since the call came. Raises `ClientLeft`."""
        delay = self.started + seconds * self.factor - time.monotonic()
        if delay >= _SHORTEST_WAIT_SECONDS:
            await asyncio.wait((self.left,), timeout=delay)
        if self.left.done():
            raise ClientLeft

    async def reply(self, status: int, body: bytes, *headers: tuple[bytes, bytes]) -> None:
        """Send a whole JSON answer."""
        fixed = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await self.send({"type": "http.response.start", "status": status, "headers": [*fixed, *headers]})
        await self.send({"type": "http.response.body", "body": body})


class SimApp:
    """A provider with the models of `profiles`; the same seed and requests give the same answers.

    Latencies are those of the profiles divided by `speed`. With `control` it also serves `POST /sim/control`
    and `GET /sim/billed`.
    """

    def __init__(self, *, seed: int = 0, profiles: Mapping[str, Profile] = PROFILES, speed: float = 1.0, control: bool = False) -> None:
        if not speed > 0:
            raise ValueError("speed must be above 0")
        self.seed = seed
        self.profiles = profiles
        self.speed = speed
        self.billed = Bill()
        self.troubles = {name: Trouble() for name in profiles}
        self._cache = PromptCache()
        self._asked: Counter[tuple[str, int]] = Counter()
        self._number = 0
        self._routes: dict[tuple[str, str], Callable[[_Call, bytes], Awaitable[None]]] = {
            ("POST", "/v1/chat/completions"): self._chat,
            ("POST", "/v1/completions"): self._completions,
            ("POST", "/v1/embeddings"): self._embeddings,
            ("GET", "/v1/models"): self._models,
        }
        if control:
            self._routes[("POST", "/sim/control")] = self._control
            self._routes[("GET", "/sim/billed")] = self._bill

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        body = await _read_body(receive)
        # The body is complete, so the next message can only be the client's leaving.
        left = asyncio.create_task(_wait_for_disconnect(receive))
        call = _Call(send, left, time.monotonic(), 1 / self.speed)
        try:
            await self._handler(scope["method"], scope["path"])(call, body)
        except SimError as error:
            wait = error.retry_after_seconds
            await call.reply(error.status, error.body(), *([] if wait is None else [(b"retry-after", b"%d" % wait)]))
        except ClientLeft:
            return
        finally:
            left.cancel()

    def _handler(self, method: str, path: str) -> Callable[[_Call, bytes], Awaitable[None]]:
        found = self._routes.get((method, path))
        if found is not None:
            return found
        if any(path == known for _, known in self._routes):
            raise SimError(405, "invalid_request_error", "method_not_allowed", f"{method} is not allowed on {path}")
        raise SimError(404, "invalid_request_error", "unknown_url", f"no such path: {path}")

    async def _chat(self, call: _Call, body: bytes) -> None:
        request = _decode(body, ChatRequest)
        profile = self._profile(request.model, "chat")
        options = request.stream_options
        await self._generate(call, profile, read_chat(request), "chat", bool(request.stream), bool(options and options.include_usage))

    async def _completions(self, call: _Call, body: bytes) -> None:
        request = _decode(body, CompletionRequest)
        profile = self._profile(request.model, "completions")
        options = request.stream_options
        asked = read_completion(request)
        await self._generate(call, profile, asked, "completions", bool(request.stream), bool(options and options.include_usage))

    async def _generate(
        self, call: _Call, profile: Profile, asked: Asked, operation: wire.Operation, stream: bool, with_usage: bool
    ) -> None:
        trouble = self.troubles[profile.id]
        fault = trouble.next_error(profile.id)
        if fault is not None:
            raise fault
        call.factor *= trouble.slow
        # The same question asked again gets another answer, whatever else is asked in between.
        key = (profile.id, hash(asked.prompt))
        if len(self._asked) > _REMEMBERED_PROMPTS:
            self._asked.clear()
        planned = plan(self.seed, profile, asked, self._asked[key])
        self._asked[key] += 1
        if planned.fault is not None:
            raise planned.fault
        running = _Running(self, profile, planned, self._head(profile, operation), self._cache.lookup(profile.id, asked.prompt))
        running.cut_after = trouble.cut_after
        await (running.stream(call, with_usage=with_usage) if stream else running.whole(call))

    async def _embeddings(self, call: _Call, body: bytes) -> None:
        request = _decode(body, EmbeddingRequest)
        profile = self._profile(request.model, "embeddings")
        fault = self.troubles[profile.id].next_error(profile.id)
        if fault is not None:
            raise fault
        texts = _embedding_inputs(request)
        dimensions = _DEFAULT_DIMENSIONS if request.dimensions is None else request.dimensions
        if not 1 <= dimensions <= 4096:
            raise bad_request("dimensions must be from 1 to 4096")
        tokens = max(1, sum(count for _, count in texts))
        vectors = [self._vector(profile, text, dimensions) for text, _ in texts]
        answer = wire.embeddings_body(profile.id, vectors, input_tokens=tokens, as_base64=request.encoding_format == "base64")
        await call.until(profile.first_token_ms / 10_000)
        self.bill(profile, self._id("emb"), input_tokens=tokens, cached_tokens=0, output_tokens=0, complete=True)
        await call.reply(200, answer)

    def _vector(self, profile: Profile, text: str, dimensions: int) -> list[float]:
        draw = draws(self.seed, profile.id, "embedding", text)
        raw = [draw.gauss(0.0, 1.0) for _ in range(dimensions)]
        length = math.sqrt(sum(x * x for x in raw)) or 1.0
        return [x / length for x in raw]

    async def _models(self, call: _Call, body: bytes) -> None:
        listed = [{"id": name, "object": "model", "created": 0, "owned_by": "sim"} for name in self.profiles]
        await call.reply(200, msgspec.json.encode({"object": "list", "data": listed}))

    async def _control(self, call: _Call, body: bytes) -> None:
        order = _decode(body, Order)
        apply(order, self.troubles[self._profile(order.model, "chat").id])
        await call.reply(200, b"{}")

    async def _bill(self, call: _Call, body: bytes) -> None:
        await call.reply(200, msgspec.json.encode({"nusd": self.billed.nusd, "models": self.billed.models}))

    def bill(self, profile: Profile, call_id: str, *, input_tokens: int, cached_tokens: int, output_tokens: int, complete: bool) -> None:
        """Charge one call."""
        nusd = bill_nusd(profile.price, input_tokens=input_tokens, cached_tokens=cached_tokens, output_tokens=output_tokens)
        self.billed.add(
            BilledCall(
                id=call_id,
                model=profile.id,
                input_tokens=input_tokens,
                cached_tokens=cached_tokens,
                output_tokens=output_tokens,
                nusd=nusd,
                complete=complete,
            )
        )

    def _profile(self, model: str, operation: str) -> Profile:
        profile = self.profiles.get(model)
        if profile is None:
            raise SimError(404, "invalid_request_error", "model_not_found", f"the model {model!r} does not exist")
        if operation not in profile.capabilities:
            raise bad_request(f"{model} does not serve {operation}")
        return profile

    def _head(self, profile: Profile, operation: wire.Operation) -> wire.Head:
        prefix = "chatcmpl" if operation == "chat" else "cmpl"
        return wire.Head(id=self._id(prefix), created=int(time.time()), model=profile.id, operation=operation)

    def _id(self, prefix: str) -> str:
        self._number += 1
        return f"{prefix}-sim{self._number:012d}"


@dataclass(slots=True)
class _Running:
    """A planned answer on its way out. It is billed exactly once, for what was produced."""

    app: SimApp
    profile: Profile
    plan: Plan
    head: wire.Head
    cached_tokens: int
    cut_after: int | None = None

    async def whole(self, call: _Call) -> None:
        """One JSON object, after the time that all its tokens take."""
        longest = max(len(answer.tokens) for answer in self.plan.answers)
        try:
            await call.until(self.plan.first_token_seconds + longest * self.plan.token_seconds)
        except ClientLeft:
            seconds = (time.monotonic() - call.started) / call.factor - self.plan.first_token_seconds
            made = min(self.plan.output_tokens, max(0, int(seconds / self.plan.token_seconds)) * len(self.plan.answers))
            self._bill(made, complete=False)
            raise
        self._bill(self.plan.output_tokens, complete=True)
        await call.reply(200, wire.json_body(self.head, self.plan, cached_tokens=self.cached_tokens))

    async def stream(self, call: _Call, *, with_usage: bool) -> None:
        """Events as their tokens come into being."""
        sent, complete = 0, False
        try:
            await call.until(self.plan.first_token_seconds)
            await call.send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
            for event, tokens in wire.events(self.head, self.plan):
                await call.until(self.plan.first_token_seconds + sent * self.plan.token_seconds / len(self.plan.answers))
                if self.cut_after is not None and sent >= self.cut_after:
                    # Returning without a last body part makes the server break the connection off.
                    return
                await call.send({"type": "http.response.body", "body": event, "more_body": True})
                sent += tokens
            complete = True
        finally:
            self._bill(sent, complete=complete)
        await call.send({"type": "http.response.body", "body": self._closing(with_usage=with_usage)})

    def _closing(self, *, with_usage: bool) -> bytes:
        if not with_usage:
            return wire.DONE
        counts = wire.usage(self.plan, cached_tokens=self.cached_tokens, output_tokens=self.plan.output_tokens)
        return wire.usage_event(self.head, counts) + wire.DONE

    def _bill(self, output_tokens: int, *, complete: bool) -> None:
        self.app.bill(
            self.profile,
            self.head.id,
            input_tokens=self.plan.input_tokens,
            cached_tokens=self.cached_tokens,
            output_tokens=output_tokens,
            complete=complete,
        )


_STREAM_HEADERS: Final = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]


def _decode(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise bad_request(str(error)) from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise bad_request(f"the body is not JSON: {error}", code="invalid_json") from error


def _embedding_inputs(request: EmbeddingRequest) -> list[tuple[str, int]]:
    """(text, tokens) of each input; a list of token numbers is one input, or a list of such lists many."""
    if isinstance(request.input, str):
        return [(request.input, count_tokens(request.input))]
    if not request.input:
        raise bad_request("input must not be empty")
    if all(isinstance(item, int) for item in request.input):
        return [(str(request.input), len(request.input))]
    return [
        (str(item), count_tokens(item) if isinstance(item, str) else len(item) if isinstance(item, list) else 1) for item in request.input
    ]


async def _read_body(receive: Receive) -> bytes:
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        part = message.get("body", b"")
        size += len(part)
        if size <= _MAX_BODY_BYTES:
            parts.append(part)
        more = message.get("more_body", False)
    return b"".join(parts) if size <= _MAX_BODY_BYTES else b""


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue
