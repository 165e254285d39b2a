"""Server-sent events as the OpenAI wire uses them: where events end, what they carry, and the few we write ourselves."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Final

import msgspec

from router.domain.usage import Usage

DONE: Final = b"data: [DONE]\n\n"

BOUNDARY: Final = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r(?=[^\n]))")
"""The two line ends that close an event. A CR at the very end of the input is undecided: an LF may follow.

Source: HTML standard, section 9.2.6 "Interpreting an event stream", read 2026-11.
"""

PAYLOAD: Final = re.compile(rb"(?:\A|[\r\n])data:(?: [^\r\n]|[^\r\n ])")
"""Found in a piece of a stream that carries more than comments and heartbeats."""

FEW_EVENTS: Final = 4
MANY: Final = 1_000_000_000

_encode: Final = msgspec.json.Encoder().encode


class StreamHead(msgspec.Struct, frozen=True, kw_only=True):
    """What every event of one stream repeats; read from the stream's first event."""

    id: str = "chatcmpl-cut"
    object: str = "chat.completion.chunk"
    created: int = 0
    """Unix seconds."""
    model: str = ""


def iter_events(data: bytes) -> Iterator[bytes]:
    """The same as `split_events`, one after the other: for who needs only the first."""
    start = 0
    for boundary in BOUNDARY.finditer(data):
        yield data[start : boundary.end()]
        start = boundary.end()
    if start < len(data):
        yield data[start:]


def split_events(data: bytes) -> list[bytes]:
    """Cut a piece of a stream into its events, terminators included; an unfinished rest is the last item."""
    if b"\r" not in data:
        *whole, rest = data.split(b"\n\n")
        return [event + b"\n\n" for event in whole] + ([rest] if rest else [])
    events = []
    start = 0
    for boundary in BOUNDARY.finditer(data):
        events.append(data[start : boundary.end()])
        start = boundary.end()
    if start < len(data):
        events.append(data[start:])
    return events


def events_around(data: bytes, found: re.Pattern[bytes], *, holding: bytes = b"", most: int = MANY) -> list[bytes]:
    """The first events in which a pattern is found and that hold this, in their order; terminators included if they have come."""
    if b"\r" in data:
        return list(islice((event for event in iter_events(data) if found.search(event) is not None and holding in event), most))
    events: list[bytes] = []
    match = found.search(data)
    while match is not None:
        at = match.start()
        before, end = data.rfind(b"\n\n", 0, at), data.find(b"\n\n", at)
        event = data[0 if before < 0 else before + 2 : len(data) if end < 0 else end + 2]
        if holding in event:
            events.append(event)
        if end < 0 or len(events) >= most:
            break
        match = found.search(data, end + 2)
    return events


def latest_events(pieces: Sequence[bytes]) -> Iterator[bytes]:
    """The events of pieces that hold whole ones, the last one first; some without their terminators."""
    for piece in reversed(pieces):
        if b"\r" in piece:
            yield from reversed(split_events(piece))
            continue
        # Whoever asks wants a few: most of a long piece stays in one.
        parts = piece.rsplit(b"\n\n", FEW_EVENTS)
        while len(parts) > FEW_EVENTS:
            yield from reversed(parts[1:])
            parts = parts[0].rsplit(b"\n\n", FEW_EVENTS)
        yield from reversed(parts)


def last_boundary(data: bytearray, start: int) -> int:
    """Where the last whole event ends, or 0."""
    if b"\r" not in data:
        return data.rfind(b"\n\n", start) + 2 if data.find(b"\n\n", start) >= 0 else 0
    end = 0
    for boundary in list(BOUNDARY.finditer(data, start)):
        end = boundary.end()
    return end


def event_data(event: bytes) -> bytes:
    """The payload of one event: its data lines joined, comments and other fields left out. Empty if it has none."""
    line = event.rstrip(b"\r\n")
    if line.startswith(b"data: ") and b"\n" not in line and b"\r" not in line:
        return line[6:]
    lines = [line[5:].removeprefix(b" ") for line in event.splitlines() if line.startswith(b"data:")]
    return lines[0] if len(lines) == 1 else b"\n".join(lines)


def payloads(events: Iterable[bytes]) -> Iterator[bytes]:
    """The payloads of events that have one."""
    for event in events:
        data = event_data(event)
        if data:
            yield data


def clean_cut_events(head: StreamHead, *, open_choices: Iterable[int] = (0,), usage: Usage | None = None) -> bytes:
    """The last events of a stream that a budget cut: every open choice ends with `length`, then `[DONE]`.

    `usage` is written as a usage event; None if the client did not ask for one. Must follow a whole event
    (see `StreamMeter.gap`).
    """
    chat = head.object != "text_completion"
    parts = [_event(head, [_last_choice(index, chat=chat)]) for index in open_choices]
    if usage is not None:
        parts.append(_event(head, [], usage=_wire_usage(usage)))
    return b"".join(parts) + DONE


def error_event(error: dict[str, Any]) -> bytes:
    """The event that tells a client of a failure half-way. No `[DONE]` follows: the stream did not end well.

    `error` is the object that stands under `error` in a JSON answer.
    """
    return b"data: " + _encode({"error": error}) + b"\n\n"


def _event(head: StreamHead, choices: list[dict[str, Any]], **more: object) -> bytes:
    body = {"id": head.id, "object": head.object, "created": head.created, "model": head.model, "choices": choices, **more}
    return b"data: " + _encode(body) + b"\n\n"


def _last_choice(index: int, *, chat: bool) -> dict[str, Any]:
    body: dict[str, Any] = {"delta": {}} if chat else {"text": ""}
    return {"index": index, **body, "logprobs": None, "finish_reason": "length"}


def _wire_usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cache_read_tokens, "audio_tokens": usage.audio_input_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens, "audio_tokens": usage.audio_output_tokens},
    }
