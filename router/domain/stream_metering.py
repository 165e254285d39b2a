"""Event streams of the OpenAI wire: passed on, cleaned of what the client did not ask for, and counted."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import islice
from typing import Final

import msgspec

from router.domain import stream_reading as reading
from router.domain.counting import Dialect, Limits, Metered, estimate_tokens, own_output_tokens, plain_usage, resolve
from router.domain.extras import answered_tier
from router.domain.json_metering import meter_json
from router.domain.openai_usage import Counts, Doubt
from router.domain.sse import BOUNDARY, PAYLOAD, StreamHead, events_around, last_boundary, latest_events, split_events
from router.domain.usage import Evidence

MAX_EVENT_BYTES: Final = 1024 * 1024
"""A longer event is passed on but not looked into, so that memory stays bounded."""
MAX_JSON_BYTES: Final = 16 * MAX_EVENT_BYTES
"""A longer JSON body in place of a stream is passed on but not looked into."""

_WHOLE: Final = (b"\n\n", b"\r\n\r\n")
SHORTEST_EVENT_BYTES: Final = 10
"""No event with choices is shorter."""
_NEAR_BYTES: Final = 2048
"""The end of a stream, its usage and its last finish reason are almost always within so many bytes."""
_MEASURED_EVENTS: Final = 2
"""So many events with text tell the envelope: the first one may come with more around it than all others."""
_USUAL_ENVELOPE: Final = 512
"""So many bytes around its text are believed of the first event alone."""
_ENOUGH_EVENTS: Final = 16
"""So many events have an average: the first few may be shorter than those with text."""
_LATE_EVENTS: Final = 2
"""Events that may follow the one with the usage (a finish event, an empty one) without making it old."""
_FOLD_BYTES: Final = 64 * 1024
"""Bytes after which the events that came are counted and all but the last are let go."""
_FOLD_PIECES: Final = 64
_UNDECIDED_BYTES: Final = 3
"""The end of an event can begin this many bytes before the end of what has arrived."""

# Quotes inside text that a model wrote are escaped, so these bytes can only be keys (or a whole string that is no key).
_COUNT_KEY: Final = b'_tokens"'
_USAGE_KEY: Final = b'"usage"'
_CHOICES_KEY: Final = b'"choices":'
# An event ends at a blank line: no line end may be between a key and its value, or chunking would matter.
_USAGE_OBJECT: Final = re.compile(rb'"usage"[ \t]*:[ \t]*[^n\s]')
_ENDED_CHOICE: Final = re.compile(rb'"finish_reason"[ \t]*:[ \t]*"')
_CONTENT: Final = re.compile(
    rb'"(?:content|text|reasoning|reasoning_content|arguments|refusal|name|transcript)"[ \t]*:[ \t]*"[^"]',
)


class StreamMeter:
    """Passes an event stream on and counts what it consumed, with as little work per chunk as can be.

    With `strip_usage` (we asked for usage, the client did not) the event that carries nothing but usage is
    left out, and an unfinished event waits for its end; else every byte passes at once. Chunks may be cut
    anywhere: what is relayed in total and what is counted do not depend on it. A JSON body in place of a
    stream passes untouched and is counted as one. Nothing raises, whatever arrives.

    `input_likely` and `input_bound` are our count of the prompt and its certain bound, `output_cap_total` the
    forwarded cap over all `choices`, in tokens.
    """

    # Defaults stand in the class: most streams never change them.
    total_bytes = 0
    """Bytes received."""
    content_seen = False
    """Whether text, reasoning or a tool call was received."""
    _events = 0
    _counted = 0
    _ahead: tuple[bytes, int] = b"", 0
    """What was looked at before it was fed, and its events with choices."""
    _fold_at = _FOLD_BYTES
    _fast = False
    """Whether whole events need no look: the envelope is known, nothing is held, and one choice needs no watching."""
    _json: bool | None = None
    _skipping = False
    _oversized = False
    _partly = False
    _first = b""
    _measured = 0
    """Events with text whose envelope was measured."""
    _smallest = 0
    """The smallest of their certain envelopes."""
    _envelope_likely = 0
    _told: tuple[bytes, int, int] | None = None
    """The last block of events with a usage in it, where to look for it, and the number of events with choices up to its end."""
    _tail: tuple[int, reading.Tail] | None = None
    _metered: Metered | None = None
    rate = 1.0
    """Tokens for each that could be in what has come, as far as it is known: our own count is not above it."""
    unread: Callable[[], bytes] | None = None
    """Gives what has arrived and will never be fed. It is on the provider's bill all the same, so `finish` counts it."""

    def __init__(
        self,
        *,
        strip_usage: bool,
        input_likely: int,
        input_bound: int,
        output_cap_total: int,
        quirks: Dialect | None = None,
        choices: int = 1,
        max_event_bytes: int = MAX_EVENT_BYTES,
    ) -> None:
        self._strip = strip_usage
        self._limits = Limits(input_likely=input_likely, input_bound=input_bound, output_cap_total=output_cap_total)
        self._beside = quirks is not None and quirks.reasoning_beside_output
        self._choices = choices
        self._max_event_bytes = max_event_bytes
        self._held = bytearray()
        self._pieces: list[bytes] = []
        self._finished: set[int] = set()

    def feed(self, chunk: bytes) -> bytes:
        """Take what arrived; answers what to relay now, mostly the same object."""
        if not self._fast or not chunk.endswith(_WHOLE) or len(chunk) > self._max_event_bytes:
            return self._feed_slowly(chunk)
        self.total_bytes += len(chunk)
        self._pieces.append(chunk)
        if self.total_bytes > self._fold_at:
            self._fold()
        # A count comes at the end of a read, if it comes.
        return self._without_usage(chunk) if self._strip and chunk.rfind(_COUNT_KEY) >= 0 else chunk

    def flush(self) -> bytes:
        """The upstream ended: what was held back and is to be relayed. Call it once, before `finish`.

        An event that only lacks its blank line is; half an event is not, because no client can read it.
        """
        if not self._held:
            return b""
        if self._json is not False:
            return bytes(self._held) if self._json is None and self._strip else b""
        readable = reading.is_readable(bytes(self._held))
        self._partly = self._skipping or readable or not self._strip
        relayed = self._drain()
        return relayed if self._strip and readable else b""

    def finish(self, *, complete: bool) -> Metered:
        """What the stream consumed. `complete`: the upstream ended it; else it broke, was cut, or nobody listens.

        Evidence is `exact` if the provider's usage came and can be believed, `partial` if the stream did not
        come to its end, else `estimated`. A second call answers the same.
        """
        if self._metered is None:
            unread, self.unread = self.unread, None
            if unread is not None and not complete:
                self.feed(unread())
            self._metered = self._finish_json(complete) if self._json else self._finish_stream(complete)
        return self._metered

    @property
    def events(self) -> int:
        """Events with choices so far, whole ones only."""
        self._fold()
        return self._events

    @property
    def tail(self) -> reading.Tail:
        """What its last events say."""
        return self._read_tail()

    @property
    def ended(self) -> bool:
        """Whether the stream itself said that it is over: `[DONE]`, or a choice with a finish reason. Always true for JSON."""
        return bool(self._json) or self._read_tail().ended

    @property
    def is_json(self) -> bool:
        """Whether one JSON body came in place of events."""
        return bool(self._json)

    @property
    def error_seen(self) -> bool:
        """Whether the upstream sent an error event."""
        return self._read_tail().error

    @property
    def gap(self) -> bytes:
        """What must be sent before an event of our own: nothing if the client has only whole events."""
        # While one is skipped, its end is held.
        partly_relayed = self._partly or (self._held and (self._skipping or not self._strip))
        return b"\n\n" if partly_relayed else b""

    @property
    def head(self) -> StreamHead:
        """What the stream's events repeat; defaults if none came."""
        return reading.read_head(self._first)

    @property
    def output_tokens_likely(self) -> int:
        """Our own count of the output so far, for what was received: at least one token per event with choices."""
        events = self.events
        if not events:
            # Nothing of the form we know: count the bytes rather than nothing.
            return estimate_tokens(self.total_bytes)
        if not self.content_seen:
            return 0
        return max(events - 1, estimate_tokens(max(0, self.total_bytes - events * self._envelope_likely)))

    @property
    def output_tokens_bound(self) -> int:
        """No tokenizer counts more in what was received: one token per byte that is not envelope.

        The envelope is the smallest that was measured, and of the first event with text alone no more than is usual.
        Reasoning that the provider does not show is not in it; the forwarded cap bounds that.
        """
        return self._bound(self.events, self.total_bytes, self._envelope)

    def output_tokens_bound_with(self, chunk: bytes) -> int:
        """What `output_tokens_bound` will be at most when this has been fed."""
        return self._bound(self.events_with(chunk), self.total_bytes + len(chunk), self._envelope_with(chunk))

    def events_with(self, chunk: bytes) -> int:
        """What `events` will be at least when this has been fed: one that is cut by the chunking may not count."""
        new = chunk.count(_CHOICES_KEY)
        self._ahead = chunk, new
        return self.events + (new if new == 0 or chunk.endswith(_WHOLE) else new - 1)

    @property
    def _envelope(self) -> int:
        return self._smallest if self._measured >= _MEASURED_EVENTS else min(self._smallest, _USUAL_ENVELOPE)

    def _envelope_with(self, chunk: bytes) -> int:
        """What the envelope will be at most when this has been fed."""
        if self._held or len(chunk) > self._max_event_bytes:
            return self._envelope
        whole = chunk if chunk.endswith(_WHOLE) else chunk[: chunk.rfind(b"\n\n") + 2]
        here = [certain for certain, _ in _envelopes(whole, _MEASURED_EVENTS)]
        self.content_seen = self.content_seen or bool(here)
        if self._measured >= _MEASURED_EVENTS:
            # Looked at now and then only, but whatever is smaller holds for all.
            self._smallest = min(self._smallest, *here) if here else self._smallest
            return self._smallest
        known = [self._smallest] * self._measured + here
        return min(known if len(known) >= _MEASURED_EVENTS else [*known, _USUAL_ENVELOPE]) if known else 0

    @staticmethod
    def _bound(events: int, total_bytes: int, envelope: int) -> int:
        # An envelope larger than the average event is none: the first texts came with more around them than the others.
        beyond = total_bytes - events * envelope
        if beyond < 0 and events >= _ENOUGH_EVENTS:
            return total_bytes
        return beyond if beyond > events else events

    @property
    def service_tier(self) -> str:
        """The service tier that the answer names, if it is not the usual one."""
        if self._json:
            return answered_tier(bytes(self._held))
        return answered_tier(self._first + b"".join(self._pieces[-3:]))

    def open_choices(self) -> tuple[int, ...]:
        """Indices of the choices that have not ended."""
        if self._choices == 1:
            return () if self._read_tail().finish_reason is not None else (0,)
        return tuple(index for index in range(self._choices) if index not in self._finished)

    def _feed_slowly(self, chunk: bytes) -> bytes:
        """For what the short way cannot take: the beginning, events cut by the chunking, huge ones, several choices."""
        self.total_bytes += len(chunk)
        if self._json is None and not self._held and chunk.startswith(b"data:"):
            self._json = False
        if self._json is False:
            relayed = self._advance(chunk)
            self._fast = self._measured >= _MEASURED_EVENTS and self._choices == 1 and not self._held
            return relayed if self._strip else chunk
        if self._json is None:
            return self._begin(chunk)
        self._keep_json(chunk)
        return chunk

    def _begin(self, chunk: bytes) -> bytes:
        """Tell a JSON body from a stream by its first character."""
        start = bytes(self._held) + chunk if self._held else chunk
        first = start.lstrip()[:1]
        if not first:
            self._held += chunk
            return b"" if self._strip else chunk
        self._held.clear()
        self._json = first in b"{["
        if self._json:
            self._keep_json(start)
            relayed = start
        else:
            relayed = self._advance(start)
            self._fast = self._measured >= _MEASURED_EVENTS and self._choices == 1 and not self._held
        return relayed if self._strip else chunk

    def _keep_json(self, chunk: bytes) -> None:
        if len(self._held) + len(chunk) > MAX_JSON_BYTES:
            self._oversized = True
            self._held.clear()
        elif not self._oversized:
            self._held += chunk

    def _advance(self, chunk: bytes) -> bytes:
        """Join with what is held, take all whole events, hold the rest. Answers what may be relayed if usage is stripped."""
        held = self._held
        if not held and chunk.endswith(_WHOLE):
            return self._take(chunk)
        known = len(held)
        held += chunk
        passed = b""
        if self._skipping:
            boundary = BOUNDARY.search(held)
            if boundary is None:
                del held[:-_UNDECIDED_BYTES]
                return chunk
            passed = bytes(held[known : boundary.end()])
            del held[: boundary.end()]
            self._skipping = False
            known = 0
        end = last_boundary(held, max(0, known - _UNDECIDED_BYTES))
        if end:
            piece = bytes(held[:end])
            del held[:end]
            passed += self._take(piece)
        if len(held) > self._max_event_bytes:
            self._skipping = self._oversized = True
            passed += bytes(held)
            del held[:-_UNDECIDED_BYTES]
        return passed

    def _take(self, piece: bytes) -> bytes:
        """Look into whole events."""
        if len(piece) > self._max_event_bytes:
            events = split_events(piece)
            if len(events) > 1:
                return b"".join([self._take(event) for event in events])
            self._oversized = True
            return piece
        if PAYLOAD.search(piece) is not None:
            self._pieces.append(piece)
        if not self._first and _CHOICES_KEY in piece:
            self._first = piece
        if self._measured < _MEASURED_EVENTS:
            self._measure(piece)
        if self._choices > 1 and _ENDED_CHOICE.search(piece) is not None:
            self._finished |= reading.ended_choices(piece)
        return self._without_usage(piece) if self._strip and piece.rfind(_COUNT_KEY) >= 0 else piece

    def _measure(self, piece: bytes) -> None:
        """Measure the envelope on the first events with text, if they are here."""
        found = _envelopes(piece, _MEASURED_EVENTS - self._measured)
        if found:
            self.content_seen = True
            known, self._measured = self._measured, self._measured + len(found)
            if known:
                found.append((self._smallest, self._envelope_likely))
            self._smallest, self._envelope_likely = map(min, zip(*found, strict=True))

    def _without_usage(self, piece: bytes) -> bytes:
        found = _USAGE_OBJECT.search(piece, max(0, piece.find(_USAGE_KEY)))
        if found is None:
            return piece
        # Most often the first event with usage is the last but one; `find` is there sooner than a pattern.
        before = piece.rfind(b"\n\n", 0, found.start()) + 2 if b"\r" not in piece else 0
        start = before if before > 1 else 0
        return piece[:start] + b"".join([reading.without_usage_only(event) for event in split_events(piece[start:])])

    def _fold(self) -> None:
        """Count the events of the pieces that have come since, and let go of all but the last."""
        pieces = self._pieces
        new = pieces[self._counted :]
        if new:
            block = new[0] if len(new) == 1 else b"".join(new)
            ahead, count = self._ahead
            self._events += count if block is ahead else block.count(_CHOICES_KEY)
            if block.rfind(_COUNT_KEY) >= 0:
                self._remember(block)
            if len(pieces) > _FOLD_PIECES or self.total_bytes > self._fold_at:
                pieces[:] = _last_with_payload(pieces)
                self._fold_at = self.total_bytes + _FOLD_BYTES
            self._counted = len(pieces)

    def _remember(self, block: bytes) -> None:
        """Keep the last block with a usage: more events may follow it than are kept."""
        start = max(0, block.rfind(b"\n\n", 0, block.rfind(_USAGE_KEY)))
        if _USAGE_OBJECT.search(block, start) is not None:
            self._told = block, start, self._events

    def _told_before(self, tail: reading.Tail) -> reading.Tail:
        """The tail with the usage of an event from long before it, if there was one."""
        events = self.events
        if self._told is None:
            return tail
        block, start, up_to = self._told
        event = events_around(block[start:], _USAGE_OBJECT)[-1]
        after = block.count(_CHOICES_KEY, block.rfind(event) + len(event))
        return reading.with_usage(tail, event, events - up_to + after)

    def _recent(self) -> list[bytes]:
        """The last events that carry data."""
        return _last_with_payload(split_events(b"".join(_last_with_payload(self._pieces))))

    def _read_tail(self) -> reading.Tail:
        """The last events, decoded; again only if more has come."""
        if self._tail is None or self._tail[0] != self.total_bytes:
            pieces = self._pieces
            end = pieces[-1] if pieces and len(pieces[-1]) > _NEAR_BYTES else b"".join(pieces[-3:])
            self._tail = (self.total_bytes, reading.usual_tail(end) or reading.read_tail(latest_events(pieces)))
        return self._tail[1]

    def _drain(self) -> bytes:
        """Take what is held as if it were whole: an event at the end of a stream may lack its blank line."""
        rest = b"" if self._skipping else bytes(self._held)
        self._held.clear()
        return self._take(rest) if rest else b""

    def _finish_json(self, complete: bool) -> Metered:
        limits = self._limits
        if self._oversized:
            return resolve(Counts(doubt="oversized"), limits, lambda: estimate_tokens(self.total_bytes))
        metered = meter_json(
            bytes(self._held),
            input_likely=limits.input_likely,
            input_bound=limits.input_bound,
            output_cap_total=limits.output_cap_total,
            quirks=reading.KnownDialect(reasoning_beside_output=self._beside),
        )
        if complete or metered.usage.evidence == "exact":
            return metered
        usage = msgspec.structs.replace(metered.usage, evidence="partial", doubt="truncated")
        return msgspec.structs.replace(metered, usage=usage)

    def _finish_stream(self, complete: bool) -> Metered:
        if self._held:
            self._partly = self.gap != b""
            self._drain()
        tail = self._read_tail()
        if not tail.usages:
            tail = self._told_before(tail)
        return self._plainly_told(tail) or self._weighed(tail, complete=complete)

    def _plainly_told(self, tail: reading.Tail) -> Metered | None:
        """The usual end: one usage, where it should be, that adds up. None: it needs a closer look."""
        if len(tail.usages) != 1 or tail.error or not tail.ended:
            return None
        raw, doubt, after = tail.usages[0]
        if doubt is not None or after > _LATE_EVENTS:
            return None
        limits = self._limits
        usage = plain_usage(raw, limits.input_bound, limits.output_cap_total)
        if usage is None:
            return None
        return Metered(usage=usage, served_model=tail.model or self.head.model, finish_reason=tail.finish_reason)

    def _weighed(self, tail: reading.Tail, *, complete: bool) -> Metered:
        """What the provider told, as far as it can be believed."""
        counts, after = reading.best_counts(tail.usages, beside=self._beside)
        doubt: Doubt | None = None
        evidence: Evidence | None = None
        if tail.error or (not tail.ended and (not complete or counts is None)):
            doubt, evidence = "error_event" if tail.error else "truncated", "partial"
        elif counts is None:
            doubt = "oversized" if self._oversized else "missing"
        elif after > _LATE_EVENTS:
            doubt = "stale"
        counts = counts or Counts()
        if doubt is not None and counts.doubt is None:
            counts = msgspec.structs.replace(counts, doubt=doubt)
        return resolve(
            counts,
            self._limits,
            self._own_output,
            served_model=tail.model or self.head.model,
            finish_reason=tail.finish_reason,
            evidence=evidence,
            lower_bound=doubt is not None,
        )

    def _own_output(self) -> int:
        """Our own count of the whole stream."""
        events, recent = self.events, self._recent()
        if events > reading.RECENT_EVENTS:
            recent.append(reading.first_with_choices(self._first))
        seen = reading.survey(recent)
        if not events:
            return estimate_tokens(self.total_bytes) if seen.unknown or seen.texts or self._oversized else 0
        with_text = max(0, events - seen.empty)
        written = self.total_bytes - seen.empty_bytes - with_text * self._envelope_likely if self.content_seen or self._oversized else 0
        own = own_output_tokens(max(0, written), at_least=with_text, cap_total=self._limits.output_cap_total)
        return own if self.rate == 1.0 else max(min(own, int(self.output_tokens_bound * self.rate)), with_text)


def _envelopes(piece: bytes, most: int) -> list[tuple[int, int]]:
    """(certain, likely) envelope of the first events with text."""
    # A line end before one may belong to the event before: that depends on the chunking.
    return [reading.envelope_bytes(event.lstrip(b"\r\n")) for event in events_around(piece, _CONTENT, holding=_CHOICES_KEY, most=most)]


def _last_with_payload(pieces: list[bytes]) -> list[bytes]:
    """The last few that carry more than comments and heartbeats, in their order."""
    return list(islice((piece for piece in reversed(pieces) if PAYLOAD.search(piece) is not None), reading.RECENT_EVENTS))[::-1]
