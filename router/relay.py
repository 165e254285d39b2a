"""Relay: the provider's bytes to the client, metered on the way; a stream that outgrows its money is cut."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from router.call import Attempt
from router.dispatch import Failure, invalid_answer, is_event_stream, says_error
from router.domain.budgets import Refusal, Reservation
from router.domain.estimate import worst_of
from router.domain.json_metering import meter_json
from router.domain.metering import Metered
from router.domain.sse import BOUNDARY, clean_cut_events, error_event, payloads, split_events
from router.domain.stream_metering import StreamMeter
from router.edge.exchange import Exchange
from router.edge.headers import find
from router.edge.replies import error_object
from router.errors import STORE_UNAVAILABLE, UPSTREAM_FAILED, UPSTREAM_TIMEOUT, RouterError, StoreUnavailable
from router.ports import BudgetStore, UpstreamError, UpstreamResponse

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


class Answer(msgspec.Struct, kw_only=True):
    """What came of an attempt that reached the client, for settlement."""

    metered: Metered
    outcome: str
    """A member of `router.domain.records.Outcome`."""
    error_code: str = ""


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
    if body[:1] == b"{" and (b'"error"' not in body or not says_error(body)):
        return body
    if not body:
        return invalid_answer(attempt, "an empty body")
    if body.lstrip()[:1] != b"{":
        kind = (find(response.headers, b"content-type") or b"no content type").decode("latin-1")[:60]
        return invalid_answer(attempt, f"a body that is not a JSON object ({kind})", body)
    return invalid_answer(attempt, "an error object", body) if says_error(body) else body


class Stream:
    """One event stream on its way to the client."""

    def __init__(
        self,
        attempt: Attempt,
        response: UpstreamResponse,
        exchange: Exchange,
        *,
        store: BudgetStore,
        clock: Callable[[], float],
    ) -> None:
        """`clock` gives monotonic seconds."""
        self.attempt = attempt
        self.meter = meter_of(attempt)
        self._response = response
        self._exchange = exchange
        self._store = store
        self._clock = clock
        estimate = attempt.estimate
        self._held_tokens = estimate.held_output_tokens
        self._check_at = int(self._held_tokens * EXTEND_AT)
        self._may_extend = self._held_tokens < estimate.output_tokens
        self._short_of = "budget_cut"
        """Why the stream is cut, if it is."""

    async def first(self) -> bytes | Failure:
        """The first bytes of the body, or why this is no answer. Nothing has reached the client yet."""
        attempt = self.attempt
        if not is_event_stream(self._response.headers):
            body = await read_answer(attempt, self._response)
            return body if isinstance(body, Failure) else invalid_answer(attempt, "a JSON body where a stream was asked for", body)
        chunk = await self._response.chunk()
        attempt.first_byte_at = self._clock()
        if not chunk:
            return invalid_answer(attempt, "an empty stream")
        shown = self.meter.feed(chunk)
        # Only a whole event says whether this is an answer, and it may come in pieces.
        while BOUNDARY.search(chunk) is None and len(chunk) < MAX_FIRST_BYTES:
            more = await self._response.chunk()
            if not more:
                break
            chunk += more
            shown += self.meter.feed(more)
        if self.meter.error_seen and not self.meter.content_seen:
            return Failure(cause="error_event", error=_event_error(attempt, chunk), retry_same=True)
        return shown

    async def relay(self, shown: bytes) -> Answer:
        """Pass the stream on until it ends, is cut, or the provider is lost."""
        exchange, response, meter = self._exchange, self._response, self.meter
        await exchange.write(shown)
        feed, write, chunk_of = meter.feed, exchange.write, response.chunk
        try:
            look_at = 0
            while True:
                if meter.total_bytes >= look_at:
                    if meter.output_tokens_bound >= self._check_at and not await self._may_go_on():
                        return await self._cut()
                    look_at = meter.safe_bytes(self._check_at)
                chunk = await chunk_of()
                if not chunk:
                    break
                shown = feed(chunk)
                if shown:
                    await write(shown)
        except UpstreamError as exc:
            return await self._lost(exc)
        return await self._end()

    async def _end(self) -> Answer:
        meter, exchange = self.meter, self._exchange
        await exchange.write(meter.flush())
        if meter.error_seen:
            await exchange.finish()
            return Answer(metered=meter.finish(complete=False), outcome="upstream_error", error_code="upstream_error_event")
        if not meter.ended:
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
        await exchange.write(meter.gap + error_event(error_object(error)))
        await exchange.finish()
        return Answer(metered=meter.finish(complete=False), outcome="upstream_lost", error_code=spec.code)

    async def _may_go_on(self) -> bool:
        """Hold the next slice. False: the money for what may come next is not there."""
        if not self._may_extend:
            return not self._over_its_cap()
        attempt, meter = self.attempt, self.meter
        if not meter.content_seen and meter.events <= attempt.call.request.choices:
            # Events that only name a role: without a text beside it, all of them would count as output.
            return True
        estimate = attempt.estimate
        wanted = min(
            estimate.output_tokens, max(self._held_tokens * 2, meter.output_tokens_bound + attempt.call.snapshot.server.slice_tokens)
        )
        try:
            answer: Reservation | Refusal | None = await self._extend_to(wanted)
        except StoreUnavailable:
            answer = None
        if not isinstance(answer, Reservation):
            # What is held still covers what may have been produced: go on until it does not.
            self._short_of = "budget_cut" if answer is not None else STORE_UNAVAILABLE.code
            self._check_at = self._held_tokens
            return meter.output_tokens_bound < self._held_tokens
        self._held_tokens = wanted
        self._may_extend = wanted < estimate.output_tokens
        self._check_at = int(wanted * EXTEND_AT) if self._may_extend else wanted
        return True

    async def _extend_to(self, output_tokens: int) -> Reservation | Refusal:
        attempt = self.attempt
        if attempt.deployment.price is None:
            return attempt.held
        timeouts = attempt.call.route.timeouts
        needed = worst_of(
            attempt.call.request,
            attempt.deployment,
            output_tokens,
            total_seconds=None if timeouts is None else timeouts.total_seconds,
        )
        by = needed - attempt.held.amount_nusd
        if by <= 0:
            return attempt.held
        answer = await self._store.extend(attempt.held, by_nusd=by)
        if isinstance(answer, Reservation):
            attempt.held = answer
        return answer

    def _over_its_cap(self) -> bool:
        """Whether the provider ignores the cap that was forwarded.

        An event carries at least one token, but for a few that open, close or keep alive: those are allowed for,
        so that an answer that keeps its cap is never cut.
        """
        self._check_at = max(self._check_at, self.meter.output_tokens_bound + 1)
        allowed = self.attempt.estimate.output_tokens * SPARE_SHARE + SPARE_EVENTS * self.attempt.call.request.choices
        meter = self.meter
        return (meter.events or meter.output_tokens_likely) > allowed

    async def _cut(self) -> Answer:
        """End the stream cleanly: the client sees `finish_reason: length`, and usage if it asked."""
        self._response.abort()
        meter, exchange = self.meter, self._exchange
        metered = meter.finish(complete=False)
        usage = metered.usage if self.attempt.call.request.wants_usage else None
        await exchange.write(meter.gap + clean_cut_events(meter.head, open_choices=meter.open_choices(), usage=usage))
        await exchange.finish()
        return Answer(metered=metered, outcome="cut", error_code=self._short_of)


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
        return RouterError(UPSTREAM_FAILED, f"{message[:-1]}: {str(said)[:500]}")
    return RouterError(UPSTREAM_FAILED, message)
