"""Relay: the provider's bytes to the client, metered on the way; a stream that outgrows its money is cut."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from router.call import Attempt, Call
from router.dispatch import Failure, invalid_answer, is_event_stream, says_error
from router.domain.budgets import Refusal, Reservation
from router.domain.counting import BYTES_PER_TOKEN
from router.domain.estimate import worst_of
from router.domain.extras import answered_tier
from router.domain.json_metering import meter_json
from router.domain.metering import Metered
from router.domain.sse import BOUNDARY, clean_cut_events, error_event, payloads, split_events
from router.domain.stream_metering import SHORTEST_EVENT_BYTES, StreamMeter
from router.edge.exchange import Exchange
from router.edge.headers import find
from router.edge.replies import error_object
from router.errors import STORE_UNAVAILABLE, UPSTREAM_FAILED, UPSTREAM_TIMEOUT, RouterError, StoreUnavailable
from router.ports import BudgetStore, UpstreamError, UpstreamResponse
from router.quoted import QuotedInStream, without_secrets

MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
MAX_FIRST_BYTES: Final = 64 * 1024
"""So much of a first event is waited for before any of it is passed on."""
EXTEND_AT: Final = 0.75
"""A stream asks for its next slice when so much of the held output may have been produced."""
SPARE_SHARE: Final = 1.25
SPARE_EVENTS: Final = 16
"""Events beyond the cap, per choice, before a provider is taken to ignore it."""
STREAM_HEADERS: Final = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)

ExtendShort = Callable[[Attempt, int, int, Refusal, Callable[[], bool]], Awaitable[tuple[Reservation | Refusal, int]]]
"""(attempt, tokens wanted, tokens that may have come, refusal, whether the hold still covers what the provider wrote) -> what
came of it, and tokens that are held then."""


class Answer(msgspec.Struct, kw_only=True):
    """What came of an attempt that reached the client, for settlement."""

    metered: Metered
    outcome: str
    """A member of `router.domain.records.Outcome`."""
    error_code: str = ""
    refused_by: str = ""
    """The budget that had no room for the next slice, if that is why the stream was cut."""


def meter_of(attempt: Attempt) -> StreamMeter:
    """A meter for a stream of this attempt."""
    request = attempt.call.request
    return StreamMeter(
        strip_usage=not request.wants_usage,
        input_likely=request.shape.tokens_likely,
        input_bound=request.shape.tokens_bound,
        output_cap_total=attempt.estimate.output_tokens,
        quirks=attempt.deployment.provider.quirks,
        choices=request.choices,
    )


def meter_body(attempt: Attempt, body: bytes) -> Metered:
    """Count a whole JSON answer."""
    shape = attempt.call.request.shape
    if attempt.deployment.has_services:
        attempt.answered_tier = answered_tier(body)
    return meter_json(
        body,
        input_likely=shape.tokens_likely,
        input_bound=shape.tokens_bound,
        output_cap_total=attempt.estimate.output_tokens,
        quirks=attempt.deployment.provider.quirks,
    )


async def read_answer(attempt: Attempt, response: UpstreamResponse) -> bytes | Failure:
    """The whole body of a JSON answer, or why it is none. Raises `UpstreamError`."""
    body = await response.read(MAX_ANSWER_BYTES)
    if body[:1] == b"{" and not says_error(body):
        return body
    if not body:
        return invalid_answer(attempt, "an empty body")
    if body.lstrip()[:1] != b"{":
        kind = (find(response.headers, b"content-type") or b"no content type").decode("latin-1")[:60]
        return invalid_answer(attempt, f"a body that is not a JSON object ({kind})", body)
    return invalid_answer(attempt, "an error object", body) if says_error(body) else body


class Stream:
    """One event stream on its way to the client.

    Reads go from the provider's socket to the client's in one callback, `_pass`; the task that serves the call sleeps
    meanwhile. It is woken for what takes time: a client that is slower than the provider, and money to be held.
    """

    # Defaults stand in the class: most streams never change them.
    _look_at = 0
    """So many bytes may come before it matters again how much is held."""
    _quoted: QuotedInStream | None = None
    """Takes out credentials, once anything may hold some."""
    _full: Awaitable[None] | None = None
    """Ends when the client can take more."""
    _short_of = ""
    """Why no more could be held, if so."""
    _refused_by = ""
    """The budget that had no room, if it was one."""
    _spare = 0
    """What the next read may add, where the last of what is held must not be waited for."""
    _may_extend = False
    """Whether more may have to be held."""
    _held_bound = 0
    """What the meter's bound may reach before more than is held can have come; known where more may have to be held."""
    _written = 0
    """Output tokens that the provider had likely written when it was last asked, in a wait for money."""
    _check_at = 0
    """Where it asks for the next slice; the same."""

    def __init__(
        self,
        attempt: Attempt,
        response: UpstreamResponse,
        exchange: Exchange,
        *,
        store: BudgetStore,
        clock: Callable[[], float],
        extend_short: ExtendShort | None = None,
    ) -> None:
        """`clock` gives monotonic seconds; `extend_short` finds money that the store had no room for."""
        self.attempt = attempt
        estimate = attempt.estimate
        self.meter = meter = meter_of(attempt)
        meter.unread = self._unread
        self._rate = meter.rate = estimate.written_rate
        self._response = response
        self._exchange = exchange
        self._write = exchange.write
        # Then events pass before they have ended.
        self._in_parts = attempt.call.request.wants_usage
        self._store = store
        self._clock = clock
        self._extend_short = extend_short
        self._held_tokens = estimate.held_output_tokens
        if self._held_tokens < estimate.output_tokens:
            self._may_extend = True
            self._held_bound = int(self._held_tokens / self._rate)
            self._check_at = self._extend_at()
        self._waiting: list[bytes] = []
        """Events that have come, and are neither counted nor passed on yet."""

    async def first(self) -> bytes | Failure:
        """The first bytes of the body, for `relay`, or why this is no answer. Nothing has reached the client yet."""
        attempt, response = self.attempt, self._response
        if not is_event_stream(response.headers):
            body = await read_answer(attempt, response)
            return body if isinstance(body, Failure) else invalid_answer(attempt, "a JSON body where a stream was asked for", body)
        chunk = await response.chunk()
        attempt.first_byte_at = self._clock()
        if not chunk:
            return invalid_answer(attempt, "an empty stream")
        self._waiting = [chunk]
        # Only a whole event says whether this is an answer, and it may come in pieces.
        while BOUNDARY.search(chunk) is None and len(chunk) < MAX_FIRST_BYTES:
            more = await response.chunk()
            if not more:
                break
            chunk += more
            self._waiting = [chunk]
        if chunk.rfind(b'"error"') >= 0 and _begins_with_error(attempt, chunk):
            return Failure(cause="error_event", error=_event_error(attempt, chunk), retry_same=True)
        return chunk

    async def relay(self, first: bytes) -> Answer:
        """Pass the stream on until it ends, is cut, or the provider is lost."""
        self._waiting = []
        try:
            going = self._pass(first) or await self._catch_up()
            while going and not await self._response.pump(self._pass):
                going = await self._catch_up()
        except UpstreamError as exc:
            return await self._lost(exc)
        return await (self._end() if going else self._cut())

    def _pass(self, chunk: bytes) -> bool:
        """Count a read and pass it on. False: `_catch_up` has something to wait for before the next one."""
        meter = self.meter
        if meter.total_bytes + len(chunk) >= self._look_at and not self._is_covered(chunk):
            self._waiting = [chunk]
            return False
        shown = meter.feed(chunk)
        if shown:
            # Reads of whole events are seen as they are; once one has cut an event, all are looked at.
            # `rfind` takes half the time of `in` and `find`, for long reads and for short ones.
            if shown.rfind(b"error") >= 0 or (self._in_parts and (self._quoted is not None or not shown.endswith(b"\n\n"))):
                shown = self._without_secrets(shown)
            full = self._write(shown)
            if full is not None:
                self._full = full
                return False
        return True

    def _is_covered(self, chunk: bytes) -> bool:
        """Whether what is held certainly covers a read; if so, remember for how long none has to be looked at."""
        if self._may_extend:
            left = self._check_at - self.meter.output_tokens_bound_with(chunk)
            if self._rate < 1.0:
                # An event is a token at least, however few bytes a token has had so far.
                left = min(left, (int(self._check_at * self._rate) - self.meter.events_with(chunk)) * SHORTEST_EVENT_BYTES)
        else:
            left = self._bytes_to_cap(chunk)
        if left <= 0:
            return False
        self._look_at = self.meter.total_bytes + len(chunk) + left
        return True

    def _bytes_to_cap(self, chunk: bytes) -> int:
        """How many bytes may follow this read before the provider can be said to ignore the cap that was forwarded.

        An event carries at least one token, but for a few that open, close or keep alive: those are allowed for,
        so that an answer that keeps its cap is never cut. None left: the read itself is beyond it.
        """
        allowed = int(self.attempt.estimate.output_tokens * SPARE_SHARE) + SPARE_EVENTS * self.attempt.call.request.choices
        events = self.meter.events_with(chunk)
        if events:
            return (allowed - events + 1) * SHORTEST_EVENT_BYTES
        return (allowed + 1) * BYTES_PER_TOKEN - self.meter.total_bytes - len(chunk)

    async def _catch_up(self) -> bool:
        """Hold money for a read that waits for it, pass it on, and wait for the client. False: the stream is to be cut."""
        going = True
        if self._waiting:
            going = await self._pass_what_is_held()
        await self._drain()
        return going

    async def _drain(self) -> None:
        full, self._full = self._full, None
        if full is None:
            return
        attempt = self.attempt
        left = attempt.began + attempt.way.timeouts.total_seconds - self._clock()
        try:
            async with asyncio.timeout(max(0.0, left)):
                await full
        except TimeoutError:
            # The client is the slow one: as if it had hung up.
            self._exchange.abort()
            raise asyncio.CancelledError from None

    async def _pass_what_is_held(self) -> bool:
        """Pass a read on that may need more money than is held, or as many of its events as the money covers."""
        waiting, meter = self._waiting, self.meter
        covered = await self._hold_for(waiting[0])
        if not covered:
            waiting[:] = split_events(waiting[0])
        while waiting and (covered or self._fits(waiting[0])):
            self._full = self._write(self._without_secrets(meter.feed(waiting.pop(0))))
            await self._drain()
        # What is held is used up: the next event would be beyond it.
        used_up = self._short_of and meter.output_tokens_bound >= self._held_bound - self._spare
        return not waiting and not used_up

    def _fits(self, event: bytes) -> bool:
        if self._may_extend:
            return self._bound_with(event) <= self._held_bound
        return self._bytes_to_cap(event) > 0

    async def _send(self, data: bytes) -> None:
        self._full = self._write(self._without_secrets(data))
        await self._drain()

    def _without_secrets(self, data: bytes) -> bytes:
        if self._quoted is None:
            self._quoted = QuotedInStream(self.attempt.deployment.provider)
        return self._quoted.clean(data)

    def _unread(self) -> bytes:
        """What the provider has written and nobody will see."""
        return b"".join(self._waiting) + self._response.pending()

    async def _end(self) -> Answer:
        meter, exchange = self.meter, self._exchange
        rest = meter.flush()
        if rest:
            await self._send(rest)
        if self._quoted is not None:
            self._write(self._quoted.flush())
        tail = meter.tail
        if tail.error:
            await exchange.finish()
            return Answer(metered=meter.finish(complete=False), outcome="upstream_error", error_code="upstream_error_event")
        if not tail.ended and not meter.is_json:
            return await self._lost(UpstreamError("truncated", "the stream ended without a finish reason", sent=True))
        await exchange.finish()
        return Answer(metered=meter.finish(complete=True), outcome="ok")

    async def _lost(self, exc: UpstreamError) -> Answer:
        spec = UPSTREAM_TIMEOUT if exc.fault in ("idle_timeout", "total_timeout") else UPSTREAM_FAILED
        error = RouterError(spec, f"Deployment '{self.attempt.deployment.name}' was lost while it answered: {exc}.")
        self._response.abort()
        exchange, meter = self._exchange, self.meter
        if meter.ended:
            # The answer is whole; only the end of the transfer is missing.
            await exchange.finish()
            return Answer(metered=meter.finish(complete=True), outcome="ok")
        await self._send(meter.gap + error_event(error_object(error)))
        await exchange.finish()
        return Answer(metered=meter.finish(complete=False), outcome="upstream_lost", error_code=spec.code)

    async def _hold_for(self, chunk: bytes) -> bool:
        """Hold the next slice if this read comes near the end of what is held. False: the read is beyond it."""
        if not self._may_extend:
            return self._bytes_to_cap(chunk) > 0
        attempt, meter = self.attempt, self.meter
        bound = self._bound_with(chunk)
        if bound < self._check_at or (not meter.content_seen and meter.events_with(chunk) <= attempt.call.request.choices):
            # Events that only name a role: without a text beside it, all of them would count as output.
            return True
        estimate = attempt.estimate
        written = int(bound * self._rate)
        # Where slices are known to be short, long answers hold little more than they need; else few slices are to do.
        grown = self._held_tokens * 2 if self._rate == 1.0 else self._held_tokens * 17 // 16
        wanted = min(estimate.output_tokens, max(grown, written + estimate.slice_tokens))
        # What it grew by is seen anew in each wait.
        self._written = 0
        try:
            answer: Reservation | Refusal | None = await extend_to(self._store, self.attempt, wanted)
            if isinstance(answer, Refusal) and self._extend_short is not None:
                answer, wanted = await self._extend_short(attempt, wanted, written, answer, lambda: self._still_covers(bound, chunk))
        except StoreUnavailable:
            answer = None
        if not isinstance(answer, Reservation):
            # What is held still covers what may have been produced: go on until it does not.
            self._short_of = "budget_cut" if answer is not None else STORE_UNAVAILABLE.code
            self._refused_by = answer.bucket.budget if answer is not None else ""
            self._check_at = self._held_bound
            if self._rate < 1.0:
                # What the provider has written is billed, whether it is passed on or not: leave room for a read like this one.
                self._spare = bound - meter.output_tokens_bound
                self._check_at -= self._spare
            return bound <= self._held_bound
        self._short_of = self._refused_by = ""
        self._held_tokens = wanted
        self._held_bound = int(wanted / self._rate)
        self._may_extend = wanted < estimate.output_tokens
        self._check_at = self._extend_at()
        return self._may_extend or self._bytes_to_cap(chunk) > 0

    def _still_covers(self, bound: int, chunk: bytes) -> bool:
        """Whether what is held likely covers what the provider has written, also while nobody reads it: it writes on, and bills it.

        `bound` is the meter's after `chunk`; what nobody has read is taken to hold as much a byte as what was passed on,
        and as much is taken to come until it is asked again as came since it was asked last.
        """
        meter = self.meter
        come = meter.total_bytes + len(chunk)
        likely, read = (meter.output_tokens_likely, meter.total_bytes) if meter.total_bytes else (bound, come)
        written = likely * (come + self._response.ahead()) // read
        grown = written - self._written if self._written else 0
        self._written = written
        return written + grown < self._held_tokens

    def _extend_at(self) -> int:
        """The bound at which more is to be held: early enough that the stream need not stand still."""
        early = int(self._held_bound * EXTEND_AT)
        return early if self._rate == 1.0 else max(early, self._held_bound - int(self.attempt.estimate.slice_tokens / 4 / self._rate))

    def _bound_with(self, chunk: bytes) -> int:
        """The meter's bound after this read; an event counts as a token at least."""
        bound = self.meter.output_tokens_bound_with(chunk)
        return bound if self._rate == 1.0 else max(bound, int(self.meter.events_with(chunk) / self._rate))

    async def _cut(self) -> Answer:
        """End the stream cleanly: the client sees `finish_reason: length`, and usage if it asked."""
        self._response.abort()
        meter, exchange = self.meter, self._exchange
        # As the client has it; then all that has come is counted.
        gap, open_choices = meter.gap, meter.open_choices()
        metered = meter.finish(complete=False)
        usage = metered.usage if self.attempt.call.request.wants_usage else None
        await self._send(gap + clean_cut_events(meter.head, open_choices=open_choices, usage=usage))
        await exchange.finish()
        return Answer(metered=metered, outcome="cut", error_code=self._short_of or "budget_cut", refused_by=self._refused_by)


async def extend_to(store: BudgetStore, attempt: Attempt, output_tokens: int) -> Reservation | Refusal:
    """Hold as much as so much output could cost, if that is not held yet. Raises `StoreUnavailable`."""
    if attempt.deployment.price is None:
        return attempt.held
    needed = worst_of(attempt.call.request, attempt.deployment, output_tokens, attempt.way.timeouts, attempt.estimate.input_tokens)
    by = needed - attempt.held.amount_nusd
    if by <= 0:
        return attempt.held
    answer = await store.extend(attempt.held, by_nusd=by)
    if isinstance(answer, Reservation):
        attempt.held = answer
    return answer


async def break_off(call: Call, exchange: Exchange, error: RouterError) -> None:
    """Tell the client of a stream that we end it before its end."""
    meter = None if call.winner is None else call.winner.meter
    if meter is not None and not meter.ended:
        exchange.write(meter.gap + error_event(error_object(error)))
        await exchange.finish()


def _begins_with_error(attempt: Attempt, chunk: bytes) -> bool:
    """Whether the first events of a stream are an error and no text."""
    probe = meter_of(attempt)
    probe.feed(chunk)
    return probe.error_seen and not probe.content_seen


def _event_error(attempt: Attempt, chunk: bytes) -> RouterError:
    """The error of a stream that begins with one."""
    message = f"Deployment '{attempt.deployment.name}' began its stream with an error."
    for data in payloads(split_events(chunk)):
        try:
            decoded = msgspec.json.decode(data)
        except (msgspec.MsgspecError, RecursionError):
            continue
        error = decoded.get("error", decoded) if isinstance(decoded, dict) else decoded
        said = error.get("message") if isinstance(error, dict) else error
        return RouterError(UPSTREAM_FAILED, f"{message[:-1]}: {without_secrets(str(said)[:500], attempt.deployment.provider)}")
    return RouterError(UPSTREAM_FAILED, message)
