"""What single events of a stream say: read at the end, or once per stream, never per chunk."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from router.domain.counting import choice_list, text_bytes
from router.domain.openai_usage import Counts, Doubt, RawUsage, decode_usage, to_counts
from router.domain.sse import PAYLOAD, StreamHead, event_data, iter_events, payloads, split_events

RECENT_EVENTS: Final = 8
"""So many of the last events with a payload may say how a stream ended."""
MOST_USAGES: Final = 2

_NULL: Final = msgspec.Raw(b"null")
_SOME: Final = msgspec.Raw(b"{}")
_USUAL_END: Final = b"\n\ndata: [DONE]\n\n"
_NEXT_DATA: Final = b"\n\ndata: "


class KnownDialect(msgspec.Struct, frozen=True):
    """A dialect whose one quirk is known."""

    reasoning_beside_output: bool


FoundUsage = tuple[RawUsage, Doubt | None, int]
"""A usage, what is wrong with it, and the number of events with choices that came after it."""


class Tail(msgspec.Struct, frozen=True, kw_only=True):
    """What the last events of a stream say."""

    done: bool = False
    error: bool = False
    finish_reason: str | None = None
    model: str = ""
    usages: tuple[FoundUsage, ...] = ()
    """Latest first, two at most."""

    @property
    def ended(self) -> bool:
        """Whether the stream itself said that it is over."""
        return self.done or self.finish_reason is not None


class _Event(msgspec.Struct):
    id: Any = None
    object: Any = None
    created: Any = None
    model: Any = None
    choices: Any = None
    usage: msgspec.Raw = _NULL
    error: Any = None


class _LastChoice(msgspec.Struct):
    finish_reason: str | None = None
    usage: RawUsage | None = None


class _LastGroq(msgspec.Struct):
    usage: RawUsage | None = None


class _LastEvent(msgspec.Struct):
    """What counts of one of the last events; decoding refuses what is not shaped as it should be."""

    model: str | None = None
    choices: list[_LastChoice] | None = None
    usage: RawUsage | None = None
    error: msgspec.Raw = _NULL
    x_groq: _LastGroq | None = None


class _Delta(msgspec.Struct):
    delta: dict[str, msgspec.Raw] | None = None
    text: msgspec.Raw = msgspec.Raw(b"")


class _Text(msgspec.Struct, forbid_unknown_fields=True):
    content: msgspec.Raw
    role: msgspec.Raw = _NULL


class _PlainChoice(msgspec.Struct):
    delta: _Text


class _Plain(msgspec.Struct):
    """An event with nothing but text, as almost all are; decoding refuses any other."""

    choices: tuple[_PlainChoice]
    obfuscation: msgspec.Raw = msgspec.Raw(b"")


class _Wrapped(msgspec.Struct):
    choices: list[_Delta] = []
    obfuscation: msgspec.Raw = msgspec.Raw(b"")


class _Usage(msgspec.Struct):
    usage: msgspec.Raw = _NULL


class _Nested(msgspec.Struct):
    x_groq: _Usage | None = None
    choices: list[_Usage] | None = None


_decode_event: Final = msgspec.json.Decoder(_Event).decode
_decode_last: Final = msgspec.json.Decoder(_LastEvent).decode
_decode_plain: Final = msgspec.json.Decoder(_Plain).decode
_decode_wrapped: Final = msgspec.json.Decoder(_Wrapped).decode
_decode_nested: Final = msgspec.json.Decoder(_Nested).decode
_decode_any: Final = msgspec.json.Decoder().decode


def read_head(piece: bytes) -> StreamHead:
    """Identity of the stream, from a piece that begins with one of its events."""
    for data in payloads(iter_events(piece)):
        event = _event(data)
        if event is not None and event.choices is not None:
            return StreamHead(
                id=_text(event.id) or "chatcmpl-cut",
                object=_text(event.object) or "chat.completion.chunk",
                created=event.created if isinstance(event.created, int) else 0,
                model=_text(event.model),
            )
    return StreamHead()


def usual_tail(end: bytes) -> Tail | None:
    """What `read_tail` says of the usual end: an event with a finish reason, one with the usage, `[DONE]`. None for another."""
    if not end.endswith(_USUAL_END):
        return None
    done = len(end) - len(_USUAL_END)
    second = end.rfind(_NEXT_DATA, 0, done)
    first = end.rfind(_NEXT_DATA, 0, second) if second > 0 else -1
    if first < 0:
        return None
    try:
        finish, told = _decode_last(end[first + len(_NEXT_DATA) : second]), _decode_last(end[second + len(_NEXT_DATA) : done])
    except (ValueError, RecursionError):
        return None
    reason = _last_reason(finish.choices)
    if not reason or told.usage is None or told.choices or finish.usage is not None or _nested_usage(finish) is not None:
        return None
    if told.error != _NULL or finish.error != _NULL:
        return None
    return Tail(done=True, finish_reason=reason, model=told.model or finish.model or "", usages=((told.usage, None, 0),))


def read_tail(events: Iterable[bytes]) -> Tail:
    """Read the last events, the last one first, until both a usage and a finish reason are found."""
    done = error = False
    finish_reason: str | None = None
    model = ""
    usages: list[FoundUsage] = []
    read = after = 0
    for raw_event in events:
        if PAYLOAD.search(raw_event) is None:
            continue
        read += 1
        data = event_data(raw_event)
        if data == b"[DONE]":
            done = True
        elif (found := _last_event(data)) is not None:
            event, usage, doubt = found
            error = error or event.error != _NULL
            model = model or event.model or ""
            finish_reason = finish_reason or _last_reason(event.choices)
            if usage is not None and len(usages) < MOST_USAGES:
                usages.append((usage, doubt, after))
            if usages and finish_reason is not None:
                break
            after += event.choices is not None
        if read == RECENT_EVENTS:
            break
    return Tail(done=done, error=error, finish_reason=finish_reason, model=model, usages=tuple(usages))


def with_usage(tail: Tail, event: bytes, after: int) -> Tail:
    """The tail with the usage of an event from before it. `after`: events with choices that came after that one."""
    found = _last_event(event_data(event))
    if found is None or found[1] is None:
        return tail
    return msgspec.structs.replace(tail, usages=((found[1], found[2], after),))


class Survey(msgspec.Struct):
    """Which events carry no text that a model wrote."""

    empty: int = 0
    """Events with choices but without text."""
    empty_bytes: int = 0
    """Their size, and that of all other known events without text."""
    unknown: bool = False
    """There is a payload that is no event we know."""
    texts: int = 0
    """Events with text."""


def survey(events: Iterable[bytes]) -> Survey:
    """Look at events for what is not text: the role, the end, usage, errors, `[DONE]`."""
    seen = Survey()
    for raw_event in events:
        data = event_data(raw_event)
        event = _event(data)
        if event is not None and event.choices is not None:
            if _relays_text(event.choices):
                seen.texts += 1
                continue
            seen.empty += 1
        elif data != b"[DONE]" and (event is None or (event.error is None and event.usage == _NULL)):
            seen.unknown = True
            continue
        # A line end before an event may belong to the one before: that depends on the chunking.
        seen.empty_bytes += len(raw_event.lstrip(b"\r\n"))
    return seen


def first_with_choices(piece: bytes) -> bytes:
    """The stream's first event with choices: most often it only names the role."""
    return next((event for event in iter_events(piece) if b'"choices":' in event), b"")


def is_readable(event: bytes) -> bool:
    """Whether an event without its blank line is whole otherwise."""
    data = event_data(event)
    return data in (b"", b"[DONE]") or _event(data) is not None


def ended_choices(piece: bytes) -> set[int]:
    """Indices of the choices that end in these events."""
    ended: set[int] = set()
    for data in payloads(split_events(piece)):
        event = _event(data)
        for choice in choice_list(event.choices if event is not None else None):
            index = choice.get("index")
            if isinstance(choice.get("finish_reason"), str) and isinstance(index, int):
                ended.add(index)
    return ended


def envelope_bytes(event: bytes) -> tuple[int, int]:
    """(certain, likely) bytes of an event with text that are not text.

    Certain: only what every event of this stream must repeat. Likely: the frame of a tool call too, which
    the certain one counts as text because later events may have a smaller one. Padding (`obfuscation`)
    varies and is in neither.
    """
    try:
        # White space may follow JSON; anything else that is no data is found by who looks closer.
        plain = _decode_plain(event[6:] if event.startswith(b"data: ") else event_data(event))
    except (ValueError, RecursionError):
        return _odd_envelope_bytes(event, event_data(event))
    envelope = len(event) + 2 - len(plain.obfuscation) - len(plain.choices[0].delta.content)
    return envelope, envelope


def _odd_envelope_bytes(event: bytes, data: bytes) -> tuple[int, int]:
    """The same for an event with more than text: tool calls, several choices, another kind of delta."""
    try:
        wrapped = _decode_wrapped(data)
    except (ValueError, RecursionError):
        return 0, 0
    quoted = unquoted = inside = 0
    for choice in wrapped.choices:
        for name, raw in {"text": choice.text, **(choice.delta or {})}.items():
            value = bytes(raw)
            if value[:1] == b'"':
                quoted += len(value) - 2 if name != "role" else 0
            elif value not in (b"", b"null") and name != "role":
                unquoted += len(value)
                inside += text_bytes(_decode_any(value))
    around = len(event) - len(bytes(wrapped.obfuscation)) - quoted
    return around - unquoted, around - inside


def without_usage_only(event: bytes) -> bytes:
    """The event as it came, or nothing but the line ends before it if it carries usage and no choices."""
    data = event_data(event)
    decoded = _event(data) if b'_tokens"' in data else None
    if decoded is None or decoded.choices or decoded.error is not None or bytes(decoded.usage)[:1] != b"{":
        return event
    return event[: len(event) - len(event.lstrip(b"\r\n"))]


def best_counts(usages: Sequence[FoundUsage], *, beside: bool) -> tuple[Counts | None, int]:
    """The provider's counts from the last usages, and how many events with choices came after them.

    The last one holds: counts in a stream are running totals. If the one before it says more, that is
    taken and doubted: a total does not shrink. None if there is no usage.
    """
    if not usages:
        return None, 0
    usage, doubt, after = usages[0]
    last = to_counts(usage, reasoning_beside_output=beside, doubt=doubt)
    if len(usages) > 1:
        usage, doubt, _ = usages[1]
        before = to_counts(usage, reasoning_beside_output=beside, doubt=doubt)
        if (before.output_tokens or 0) > (last.output_tokens or 0) and before.doubt is None:
            return msgspec.structs.replace(before, doubt=last.doubt or "twice"), after
    return last, after


def _last_event(data: bytes) -> tuple[_LastEvent, RawUsage | None, Doubt | None] | None:
    """One of the last events, with the usage wherever it is and what is wrong with that; None if it is no object."""
    try:
        event = _decode_last(data)
    except (ValueError, RecursionError):
        return _last_event_loosely(data)
    return event, event.usage or _nested_usage(event), None


def _nested_usage(event: _LastEvent) -> RawUsage | None:
    """Where Groq (`x_groq`) and Moonshot (the choice) put it."""
    if event.x_groq is not None and event.x_groq.usage is not None:
        return event.x_groq.usage
    for choice in event.choices or ():
        if choice.usage is not None:
            return choice.usage
    return None


def _last_event_loosely(data: bytes) -> tuple[_LastEvent, RawUsage | None, Doubt | None] | None:
    """The same for an event that is not shaped as it should be: some field of a wrong type."""
    event = _event(data)
    if event is None:
        return None
    choices = None if event.choices is None else [_LastChoice(finish_reason=_finish_reason(event.choices))]
    read = _LastEvent(model=_text(event.model), choices=choices, error=_NULL if event.error is None else _SOME)
    raw = _raw_usage(event, data)
    return (read, None, None) if raw is None else (read, *decode_usage(raw))


def _last_reason(choices: list[_LastChoice] | None) -> str | None:
    """Of the last choice that has one."""
    for choice in reversed(choices or ()):
        if choice.finish_reason is not None:
            return choice.finish_reason
    return None


def _event(data: bytes) -> _Event | None:
    try:
        return _decode_event(data)
    except (ValueError, RecursionError):
        return None


def _raw_usage(event: _Event, data: bytes) -> bytes | None:
    """The usage in one event: at the top, or where Groq (`x_groq`) and Moonshot (the choice) put it."""
    if event.usage != _NULL:
        return bytes(event.usage)
    if data.count(b'"usage"') <= data.count(b'"usage":null'):
        return None
    try:
        nested = _decode_nested(data)
    except (ValueError, RecursionError):
        return None
    holders = [nested.x_groq or _Usage(), *(nested.choices or [])]
    return next((bytes(holder.usage) for holder in holders if holder.usage != _NULL), None)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _finish_reason(choices: object) -> str | None:
    reasons = [choice.get("finish_reason") for choice in choice_list(choices)]
    return next((reason for reason in reversed(reasons) if isinstance(reason, str)), None)


def _relays_text(choices: object) -> bool:
    for choice in choice_list(choices):
        delta = choice.get("delta")
        if choice.get("text") or (isinstance(delta, dict) and any(value for name, value in delta.items() if name != "role")):
            return True
    return False
