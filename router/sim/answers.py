"""What the simulator answers: a pure function of seed, model, request and how often it was asked before."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from router.sim.profiles import Profile
from router.sim.requests import ChatRequest, CompletionRequest, Function, SimError, bad_request, images_of, text_of
from router.sim.words import canned, count_tokens, smallest_instance, task_of, to_json, tokenize

IMAGE_TOKENS: Final = 765
"""Billed per image, whatever its size."""
MAX_CHOICES: Final = 128
_MESSAGE_OVERHEAD: Final = 4
_REPLY_OVERHEAD: Final = 3
_TOOL_WORDS: Final = ("tool", "look up", "lookup", "search", "call", "use ", "weather", "run ")


@dataclass(frozen=True, slots=True)
class Answer:
    """One choice, as the tokens it is made of."""

    tokens: tuple[str, ...]
    finish_reason: str
    tool: str | None = None
    """Name of the function to call; then the tokens are its arguments."""

    @property
    def text(self) -> str:
        """All tokens, joined."""
        return "".join(self.tokens)

    @property
    def output_tokens(self) -> int:
        """What is billed: the tokens, and the function's name."""
        return len(self.tokens) + (0 if self.tool is None else count_tokens(self.tool))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a call will go: when, how fast, whether it fails, and with which text."""

    first_token_seconds: float
    token_seconds: float
    fault: SimError | None
    input_tokens: int
    answers: tuple[Answer, ...]

    @property
    def output_tokens(self) -> int:
        """Of all choices."""
        return sum(answer.output_tokens for answer in self.answers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A chat or completion request, reduced to what an answer depends on."""

    prompt: str
    """All text of the request, in order; its beginning decides what is cached."""
    question: str
    """The last message of the user."""
    input_tokens: int
    output_cap: int | None
    choices: int
    stop: tuple[str, ...]
    function: Function | None = None
    """The function to call instead of answering in words."""
    schema: Mapping[str, object] | None = None
    """The JSON schema that the answer must fit."""


def draws(seed: int, *parts: str) -> Random:
    """A generator that depends on nothing but its arguments."""
    digest = hashlib.blake2b("\x00".join((str(seed), *parts)).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    # Repeatable on purpose: this is scenery, not a secret.
    return Random(int.from_bytes(digest, "big"))  # noqa: S311


def read_chat(request: ChatRequest) -> Asked:
    """Raises `SimError` for what a real provider would refuse."""
    if not request.messages:
        raise bad_request("messages must not be empty")
    texts = [text_of(message) for message in request.messages]
    images = sum(images_of(message) for message in request.messages)
    extra = "" if not request.tools else to_json(request.tools)
    question = next((text for message, text in zip(request.messages[::-1], texts[::-1], strict=True) if message.role == "user"), "")
    overhead = _MESSAGE_OVERHEAD * len(texts) + _REPLY_OVERHEAD + IMAGE_TOKENS * images
    prompt = "\n".join([extra, *texts])
    calls = sum(count_tokens(to_json(message.tool_calls)) for message in request.messages if message.tool_calls)
    cap = request.max_tokens if request.max_completion_tokens is None else request.max_completion_tokens
    return Asked(
        prompt=prompt,
        question=question,
        input_tokens=count_tokens(extra) + sum(map(count_tokens, texts)) + overhead + calls,
        output_cap=_positive("max_completion_tokens", cap),
        choices=_choices(request.n),
        stop=_stops(request.stop),
        function=_function(request, question),
        schema=_schema(request),
    )


def read_completion(request: CompletionRequest) -> Asked:
    """Raises `SimError` for what a real provider would refuse."""
    parts = [request.prompt] if isinstance(request.prompt, str) else request.prompt
    texts = [part for part in parts if isinstance(part, str)]
    if not parts or len(texts) > 1 or (texts and len(parts) > 1):
        raise bad_request("prompt must be one text or one list of tokens")
    prompt = texts[0] if texts else " ".join(map(str, parts))
    return Asked(
        prompt=prompt,
        question=prompt,
        input_tokens=max(1, count_tokens(prompt) if texts else len(parts)),
        output_cap=_positive("max_tokens", 16 if request.max_tokens is None else request.max_tokens),
        choices=_choices(request.n),
        stop=_stops(request.stop),
    )


def plan(seed: int, profile: Profile, asked: Asked, occurrence: int) -> Plan:
    """Decide everything about a call; `occurrence` counts earlier calls with the same prompt, from 0.

    Raises `SimError` if prompt and cap do not fit the context.
    """
    room = profile.context_tokens - asked.input_tokens
    if room < 1 or (asked.output_cap or 0) > room:
        needs = asked.input_tokens + (asked.output_cap or 1)
        raise bad_request(f"needs {needs} tokens, the context of {profile.id} is {profile.context_tokens}", code="context_length_exceeded")
    draw = draws(seed, profile.id, asked.prompt, str(occurrence))
    first_ms = draw.lognormvariate(math.log(profile.first_token_ms), profile.first_token_sigma)
    speed = draw.lognormvariate(math.log(profile.tokens_per_second), profile.tokens_sigma)
    return Plan(
        first_token_seconds=first_ms / 1000,
        token_seconds=1 / speed,
        fault=_fault(profile, draw.random()),
        input_tokens=asked.input_tokens,
        answers=tuple(_answer(profile, asked, draw, min(room, profile.max_output_tokens)) for _ in range(asked.choices)),
    )


def _answer(profile: Profile, asked: Asked, draw: Random, room: int) -> Answer:
    cap = room if asked.output_cap is None else min(room, asked.output_cap)
    if asked.function is not None:
        arguments = tokenize(to_json(smallest_instance(asked.function.parameters or {"type": "object"})))
        left = max(1, cap - count_tokens(asked.function.name))
        return Answer(tuple(arguments[:left]), "tool_calls" if len(arguments) <= left else "length", asked.function.name)
    if asked.schema is not None:
        tokens, finished = tokenize(to_json(smallest_instance(asked.schema))), True
    else:
        wanted = int(draw.lognormvariate(math.log(profile.answer_tokens), 0.5))
        text = canned(task_of(asked.question), tokens=min(wanted, cap + 1), skip=draw.randrange(5))
        tokens, finished = tokenize(_until(text, asked.stop)), True
    if len(tokens) > cap:
        tokens, finished = tokens[:cap], False
    return Answer(tuple(tokens), "stop" if finished else "length")


def _fault(profile: Profile, chance: float) -> SimError | None:
    if chance < profile.error_rate:
        return SimError(500, "server_error", None, f"{profile.id} had an internal error")
    if chance < profile.error_rate + profile.rate_limit_rate:
        return SimError(429, "rate_limit_error", "rate_limit_exceeded", f"{profile.id} is busy", retry_after_seconds=1)
    return None


def _until(text: str, stops: Sequence[str]) -> str:
    ends = [at for at in (text.find(stop) for stop in stops) if at >= 0]
    return text[: min(ends)] if ends else text


def _stops(stop: str | list[str] | None) -> tuple[str, ...]:
    return () if stop is None else tuple(s for s in ([stop] if isinstance(stop, str) else stop) if s)


def _positive(name: str, value: int | None) -> int | None:
    if value is not None and value < 1:
        raise bad_request(f"{name} must be at least 1, not {value}")
    return value


def _choices(n: int | None) -> int:
    if n is not None and not 1 <= n <= MAX_CHOICES:
        raise bad_request(f"n must be from 1 to {MAX_CHOICES}, not {n}")
    return n or 1


def _function(request: ChatRequest, question: str) -> Function | None:
    if not request.tools or request.tool_choice == "none":
        return None
    functions = {tool.function.name: tool.function for tool in request.tools}
    if isinstance(request.tool_choice, dict):
        chosen = request.tool_choice.get("function")
        name = chosen.get("name") if isinstance(chosen, dict) else None
        return functions.get(str(name))
    named = next((function for name, function in functions.items() if name.lower() in question.lower()), None)
    if request.tool_choice == "required":
        return named or request.tools[0].function
    if request.messages[-1].role == "tool":
        return None
    asks = any(word in question.lower() for word in _TOOL_WORDS)
    return named or (request.tools[0].function if asks else None)


def _schema(request: ChatRequest) -> Mapping[str, object] | None:
    wanted = request.response_format
    if wanted is None or wanted.type == "text":
        return None
    if wanted.json_schema is None:
        return {"type": "object", "properties": {"answer": {"type": "string"}}}
    return wanted.json_schema.schema
