"""What single events of a stream say: read at the end, or once per stream, never per chunk."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from router.domain.counting import choice_list, text_bytes
from router.domain.openai_usage import Counts, decode_usage, to_counts
from router.domain.sse import StreamHead, event_data, iter_events, payloads, split_events

_NULL: Final = msgspec.Raw(b"null")


class KnownDialect(msgspec.Struct, frozen=True):
    """A dialect whose one quirk is known."""

    reasoning_beside_output: bool


class Tail(msgspec.Struct, frozen=True, kw_only=True):
    """What the last events of a stream say."""

    done: bool = False
    error: bool = False
    finish_reason: str | None = None
    model: str = ""
    usages: tuple[tuple[bytes, int], ...] = ()
    """(usage object, number of events with choices that came after it), latest first, two at most."""

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


class _Delta(msgspec.Struct):
    delta: dict[str, msgspec.Raw] | None = None
    text: msgspec.Raw = msgspec.Raw(b"")


class _Wrapped(msgspec.Struct):
    choices: list[_Delta] = []
    obfuscation: msgspec.Raw = msgspec.Raw(b"")


class _Usage(msgspec.Struct):
    usage: msgspec.Raw = _NULL


class _Nested(msgspec.Struct):
    x_groq: _Usage | None = None
    choices: list[_Usage] | None = None


_decode_event: Final = msgspec.json.Decoder(_Event).decode
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


def read_tail(events: Sequence[bytes]) -> Tail:
    """Read the last events, backwards, until both a usage and a finish reason are found."""
    done = error = False
    finish_reason: str | None = None
    model = ""
    usages: list[tuple[bytes, int]] = []
    after = 0
    for raw_event in reversed(events):
        data = event_data(raw_event)
        if data == b"[DONE]":
            done = True
            continue
        event = _event(data)
        if event is None:
            continue
        error = error or event.error is not None
        model = model or _text(event.model)
        finish_reason = finish_reason or _finish_reason(event.choices)
        usage = _raw_usage(event, data)
        if usage is not None and len(usages) < 2:
            usages.append((usage, after))
        if usages and finish_reason is not None:
            break
        after += event.choices is not None
    return Tail(done=done, error=error, finish_reason=finish_reason, model=model, usages=tuple(usages))


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
        seen.empty_bytes += len(raw_event)
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
        wrapped = _decode_wrapped(event_data(event))
    except (ValueError, RecursionError):
        return 0, 0
    certain = likely = len(event) - len(bytes(wrapped.obfuscation))
    for choice in wrapped.choices:
        for name, raw in {"text": choice.text, **(choice.delta or {})}.items():
            value = bytes(raw)
            if name == "role" or value in (b"", b"null"):
                continue
            if value[:1] == b'"':
                certain -= len(value) - 2
                likely -= len(value) - 2
            else:
                certain -= len(value)
                likely -= text_bytes(_decode_any(value))
    return certain, likely


def without_usage_only(event: bytes) -> bytes:
    """The event as it came, or nothing but the line ends before it if it carries usage and no choices."""
    data = event_data(event)
    decoded = _event(data) if b'_tokens"' in data else None
    if decoded is None or decoded.choices or decoded.error is not None or bytes(decoded.usage)[:1] != b"{":
        return event
    return event[: len(event) - len(event.lstrip(b"\r\n"))]


def best_counts(usages: Sequence[tuple[bytes, int]], *, beside: bool) -> tuple[Counts | None, int]:
    """The provider's counts from the last usages, and how many events with choices came after them.

    The last one holds: counts in a stream are running totals. If the one before it says more, that is
    taken and doubted: a total does not shrink. None if there is no usage.
    """
    found = []
    for raw, after in usages:
        usage, doubt = decode_usage(raw)
        found.append((to_counts(usage, reasoning_beside_output=beside, doubt=doubt), after))
    if not found:
        return None, 0
    last, after = found[0]
    if len(found) > 1:
        before = found[1][0]
        if (before.output_tokens or 0) > (last.output_tokens or 0) and before.doubt is None:
            return msgspec.structs.replace(before, doubt=last.doubt or "twice"), after
    return last, after


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
