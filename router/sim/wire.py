"""The simulator's answers as bytes: OpenAI's JSON and server-sent events."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from router.sim.answers import Answer, Plan

Operation = Literal["chat", "completions"]
DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What every object of one call repeats."""

    id: str
    created: int
    model: str
    operation: Operation

    def envelope(self, *, chunk: bool) -> dict[str, Any]:
        """The fields beside `choices` and `usage`."""
        name = "text_completion" if self.operation == "completions" else "chat.completion.chunk" if chunk else "chat.completion"
        return {"id": self.id, "object": name, "created": self.created, "model": self.model, "system_fingerprint": "fp_sim"}


def usage(plan: Plan, *, cached_tokens: int, output_tokens: int) -> dict[str, Any]:
    """The usage object: cached tokens are inside the prompt's."""
    return {
        "prompt_tokens": plan.input_tokens,
        "completion_tokens": output_tokens,
        "total_tokens": plan.input_tokens + output_tokens,
        "prompt_tokens_details": {"cached_tokens": cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }


def json_body(head: Head, plan: Plan, *, cached_tokens: int) -> bytes:
    """The whole answer at once."""
    choices = [_choice(head, index, answer) for index, answer in enumerate(plan.answers)]
    tail = {"choices": choices, "usage": usage(plan, cached_tokens=cached_tokens, output_tokens=plan.output_tokens)}
    return msgspec.json.encode(head.envelope(chunk=False) | tail)


def _choice(head: Head, index: int, answer: Answer) -> dict[str, Any]:
    end = {"logprobs": None, "finish_reason": answer.finish_reason}
    if head.operation == "completions":
        return {"index": index, "text": answer.text, **end}
    message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
    if answer.tool is not None:
        call = {"id": f"call_{head.id[-12:]}", "type": "function", "function": {"name": answer.tool, "arguments": answer.text}}
        message |= {"content": None, "tool_calls": [call]}
    return {"index": index, "message": message, **end}


def events(head: Head, plan: Plan) -> Iterator[tuple[bytes, int]]:
    """Server-sent events and the tokens that each is billed for; usage and `[DONE]` are not among them."""
    for index, answer in enumerate(plan.answers):
        yield from _opening(head, index, answer)
    for position in range(max(len(answer.tokens) for answer in plan.answers)):
        for index, answer in enumerate(plan.answers):
            if position < len(answer.tokens):
                yield _event(head, index, _delta(head, answer, answer.tokens[position])), 1
    for index, answer in enumerate(plan.answers):
        yield _event(head, index, {"text": ""} if head.operation == "completions" else {"delta": {}}, answer.finish_reason), 0


def usage_event(head: Head, counts: dict[str, Any]) -> bytes:
    """The last event before `[DONE]`, for those who asked for it."""
    return _sse(head.envelope(chunk=True) | {"choices": [], "usage": counts})


def _opening(head: Head, index: int, answer: Answer) -> Iterator[tuple[bytes, int]]:
    if head.operation == "completions":
        return
    yield _event(head, index, {"delta": {"role": "assistant", "content": None if answer.tool else "", "refusal": None}}), 0
    if answer.tool is not None:
        function = {"name": answer.tool, "arguments": ""}
        call = {"index": 0, "id": f"call_{head.id[-12:]}", "type": "function", "function": function}
        yield _event(head, index, {"delta": {"tool_calls": [call]}}), answer.output_tokens - len(answer.tokens)


def _delta(head: Head, answer: Answer, token: str) -> dict[str, Any]:
    if head.operation == "completions":
        return {"text": token}
    if answer.tool is not None:
        return {"delta": {"tool_calls": [{"index": 0, "function": {"arguments": token}}]}}
    return {"delta": {"content": token}}


def _event(head: Head, index: int, part: dict[str, Any], finish_reason: str | None = None) -> bytes:
    choice = {"index": index, **part, "logprobs": None, "finish_reason": finish_reason}
    return _sse(head.envelope(chunk=True) | {"choices": [choice]})


def _sse(value: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"


def embeddings_body(model: str, vectors: Sequence[Sequence[float]], *, input_tokens: int, as_base64: bool) -> bytes:
    """Vectors as numbers, or as base64 of little-endian 32-bit floats."""
    data = [
        {"object": "embedding", "index": index, "embedding": _packed(vector) if as_base64 else list(vector)}
        for index, vector in enumerate(vectors)
    ]
    counts = {"prompt_tokens": input_tokens, "total_tokens": input_tokens}
    return msgspec.json.encode({"object": "list", "data": data, "model": model, "usage": counts})


def _packed(vector: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
