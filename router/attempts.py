"""One attempt: money is held for a call of one deployment, the call is made, its answer relayed, its charge settled."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping, Sequence
from typing import TYPE_CHECKING

from router.admission import Admission
from router.bounds import beyond
from router.call import Attempt, Call
from router.dispatch import Dispatcher, Failure, is_json, of_status, of_upstream_error
from router.domain.budgets import Refusal, Reservation, WindowMoved
from router.domain.limits import rate_headers
from router.domain.shortage import OnShort
from router.domain.usage import Usage
from router.edge.exchange import Exchange
from router.errors import RouterError, StoreUnavailable
from router.fleet import Fleet
from router.kept_prompts import KeptPrompts
from router.limits import RateLimits
from router.lines import ways_of
from router.live_controls import LiveControls
from router.logs import RequestLog
from router.metrics import Metrics
from router.metrics_ledger import MeteredStore
from router.outcome import answer_headers
from router.ports import UpstreamError, UpstreamResponse
from router.regulars import Regulars
from router.relay import Answer, Stream, meter_body, read_answer
from router.reservation import Reservations
from router.runaway import Runaway
from router.settlement import ABOVE_BOUND, Settlements
from router.shortage import Shortages, teach
from router.slices import IGNORED_STREAM, Slices
from router.snapshot import Deployment, Snapshot
from router.steering import Steering
from router.unanswered import of_no_answer, unanswered

if TYPE_CHECKING:
    from router.moments import Moments


class Attempts:
    """Makes attempts under one configuration. `router.pipeline` says which, and in which order."""

    def __init__(
        self,
        *,
        snapshot: Snapshot,
        admission: Admission,
        fleet: Fleet,
        reservations: Reservations,
        store: MeteredStore,
        dispatcher: Dispatcher,
        settlements: Settlements,
        metrics: Metrics,
        log: RequestLog | None,
        prompts: KeptPrompts | None = None,
        controls: LiveControls,
        live: MutableMapping[str, Attempt],
        clock: Callable[[], float],
        clock_ms: Callable[[], int],
        random: Callable[[], float],
        new_id: Callable[[], str],
    ) -> None:
        """`clock` gives monotonic seconds; `live` holds the attempts under way, for the lease."""
        self.snapshot = snapshot
        self.admission = admission
        self.reservations = reservations
        self._store = store
        self._fleet = fleet
        self._dispatcher = dispatcher
        self._settlements = settlements
        self._metrics = metrics
        self._in_flight = metrics.in_flight
        self._reserved = store.reserved
        self._log = log
        self._prompts = prompts
        self._controls = controls
        self._live = live
        self._clock = clock
        self._clock_ms = clock_ms
        self._random = random
        self._new_id = new_id
        self.shortages = Shortages(
            snapshot, reservations=reservations, store=store, void=settlements.give_back, metrics=metrics, clock=clock
        )
        self._ways = ways_of(snapshot, fleet.learned)
        self._regulars = Regulars(snapshot)
        self._slices = Slices(fleet, store, metrics)
        self.steering = Steering(snapshot, metrics, lambda: controls.limits)
        self.moments = _moments(snapshot, clock_ms, controls)
        """What rules read of the moment; None: none does."""
        self.runaway = None if snapshot.runaway is None else Runaway(snapshot.runaway, metrics, self.steering, clock_ms)
        self._limits = RateLimits(metrics, clock=clock, clock_ms=clock_ms)
        self._limited: dict[str, Failure] = {}
        """The last 429 of each deployment that has not answered since."""

    def prices_changed(self) -> None:
        """Forget what was worked out with the prices before."""
        self._ways = ways_of(self.snapshot, self._fleet.learned)
        self._fleet.offered.clear()

    async def _try(
        self, call: Call, exchange: Exchange, deployment: Deployment, reason: str, ways: Sequence[OnShort] | None = None
    ) -> Failure | Refusal | None:
        """One attempt: hold, call, relay, settle. None: the client has its answer.

        `ways`: what to try if a budget has too little room; None: what it says is tried first.
        """
        if (call.attempts or self._limits.full) and (barred := self._barred(call, deployment)) is not None:
            return barred
        whole = call.stream and self._slices.fail_for(deployment.name)
        attempt = Attempt(call, deployment, reason, self._ways.of(call, deployment, reason), whole=whole)
        held: Reservation | Refusal | WindowMoved | None = None
        asked = self._clock()
        try:
            if self.shortages.lines:
                held = self.shortages.behind(attempt.way.buckets)
            if held is None:
                held = await self.reservations.hold(attempt)
            attempt.began = now = self._clock()
            self._reserved(now - asked)
            if self.shortages.streams or not isinstance(held, Reservation):
                held = await self._hold_otherwise(attempt, held, ways)
        except BaseException as exc:
            if held is None and isinstance(exc, StoreUnavailable):
                self._store.failed("reserve", asked)
            self._fleet.release_probe(deployment.name)
            raise
        if not isinstance(held, Reservation):
            # It leads to no call: the next request may probe the deployment.
            self._fleet.release_probe(deployment.name)
            return held
        attempt.held = held
        failure = await self._call(attempt, exchange)
        if failure is not None or self._limited or call.plan is not None:
            self._learn(attempt, failure)
        return failure

    async def _hold_otherwise(
        self, attempt: Attempt, held: Reservation | Refusal | WindowMoved, ways: Sequence[OnShort] | None
    ) -> Reservation | Refusal:
        """What is done where the first try to hold was too early or too much, or others wait for room."""
        if isinstance(held, WindowMoved):
            held = await self.reservations.hold_in_next_window(attempt, held)
        if isinstance(held, Refusal) or self.shortages.streams:
            held = await self.shortages.relieve(attempt, held, ways)
        attempt.began = self._clock()
        return held

    def _barred(self, call: Call, deployment: Deployment) -> Failure | Refusal | None:
        """Why no money need be held, as the call is not made: the bounds of its request, or a rate limit that is full."""
        barred: Failure | Refusal | None = beyond(call, deployment) if call.attempts else None
        if barred is None and self._limits.full:
            barred = self._limits.refusal_of(deployment.name)
        if barred is not None:
            self._fleet.release_probe(deployment.name)
        return barred

    async def _call(self, attempt: Attempt, exchange: Exchange) -> Failure | None:
        """Call the provider with the money that is held. Whatever happens, the hold is settled or voided when this returns."""
        call, held, name = attempt.call, attempt.held, attempt.deployment.name
        response: UpstreamResponse | None = None
        call.attempts, call.budget_left_nusd = attempt.number, held.tightest_left_nusd
        self._live[attempt.attempt_id] = attempt
        self._fleet.began(name)
        if held.left or self.shortages.waits:
            self._begin(attempt)
        try:
            response = await self._dispatcher.send(attempt)
            attempt.status, attempt.sends = response.status, response.sends
            if 200 <= attempt.status < 300:
                attempt.first_byte_at = self._clock()
                # Some providers answer a wish for a stream with plain JSON; clients take it as it comes.
                relay = self._relay_stream if call.stream and not is_json(response.headers) else self._relay_body
                return await relay(attempt, response, exchange)
            return await self._refused(attempt, response)
        except UpstreamError as exc:
            return await self._lost(attempt, exc)
        except RouterError:
            await self._unsent(attempt)
            raise
        finally:
            if response is not None:
                response.abort()
            self._fleet.ended(name)
            if attempt.state != "closed":
                await self._abandon(attempt, exchange)
            elif self.shortages.waits:
                self._end(attempt)
            else:
                del self._live[attempt.attempt_id]

    def _begin(self, attempt: Attempt) -> None:
        """Tell those who look at what is left, or wait for it."""
        call = attempt.call
        if attempt.held.left:
            call.rate_lines = rate_headers(attempt.held.left, self._clock_ms())
            self.steering.note(attempt.held)
            if self.moments is not None:
                self.moments.note(attempt.held)
            if attempt.held.shadowed is not None:
                self._metrics.refused(budget=attempt.held.shadowed.budget, action="shadow")
        if call.stream and self.shortages.waits:
            self.shortages.began(attempt)

    def _end(self, attempt: Attempt) -> None:
        del self._live[attempt.attempt_id]
        if self.shortages.waits:
            self.shortages.ended(attempt)

    async def _refused(self, attempt: Attempt, response: UpstreamResponse) -> Failure:
        """The provider answers with an error."""
        failure = await of_status(response, attempt, attempt.call.route.fallback)
        await self._settlements.settle(attempt, usage=None, outcome="refused_upstream")
        return self._waited(attempt, failure)

    async def _unsent(self, attempt: Attempt) -> None:
        """It cannot be put into the provider's wire."""
        attempt.call.tried += ((attempt.deployment, attempt.way),)
        await self._settlements.void(attempt)

    async def _lost(self, attempt: Attempt, error: UpstreamError) -> Failure:
        """The provider cannot be reached, breaks off or is too slow."""
        attempt.sends = max(attempt.sends, error.sends)
        if error.sent:
            await self._settlements.settle(attempt, usage=unanswered(attempt, error.fault, self._fleet), outcome="upstream_lost")
        else:
            await self._settlements.void(attempt)
        return self._waited(attempt, of_upstream_error(error, attempt, attempt.call.route.fallback))

    async def _abandon(self, attempt: Attempt, exchange: Exchange) -> None:
        """Settle what nothing else has settled: the client left, the service ends, or a bug. Never 0 for what was sent."""
        call = attempt.call
        try:
            usage = unanswered(attempt, call.left_as or "client_left", self._fleet)
            if attempt.state == "held":
                call.winner, call.usage = attempt, usage
                if not exchange.started:
                    call.upstream_seconds += self._clock() - attempt.began
            outcome = call.left_as or ("client_left" if exchange.gone else "upstream_lost")
            await self._settlements.settle(attempt, usage=usage, outcome=outcome)
        finally:
            self._end(attempt)

    def _learn(self, attempt: Attempt, failure: Failure | None) -> None:
        """Remember what the attempt says of its deployment."""
        if attempt.call.plan is not None:
            attempt.call.results.append((attempt, "" if failure is None else failure.cause))
        if failure is None:
            if self._limited:
                self._limited.pop(attempt.deployment.name, None)
            return
        name = attempt.deployment.name
        attempt.call.tried += ((attempt.deployment, attempt.way),)
        if failure.cause == "429" and failure.reply is not None:
            self._limited[name] = failure
        self._fleet.failed(name, cause=failure.cause, retry_after_seconds=failure.retry_after_seconds)

    def _waited(self, attempt: Attempt, failure: Failure) -> Failure:
        attempt.call.upstream_seconds += self._clock() - attempt.began
        return failure

    async def _relay_body(self, attempt: Attempt, response: UpstreamResponse, exchange: Exchange) -> Failure | None:
        call = attempt.call
        unpaid = await self._slices.hold_all(attempt) if call.stream else None
        body = await read_answer(attempt, response)
        arrived = self._clock()
        call.upstream_seconds += arrived - attempt.began
        if isinstance(body, Failure):
            await self._settlements.settle(attempt, usage=of_no_answer(attempt, body, self._fleet), outcome="upstream_error")
            return body
        metered = meter_body(attempt, body)
        usage = metered.usage
        self._won(attempt, usage, arrived)
        if attempt.way.habits is not None and unpaid is None:
            teach(attempt, metered, self._metrics)
        outcome, cause = "ok", ABOVE_BOUND
        if unpaid is not None:
            outcome, cause = "cut", IGNORED_STREAM
        elif usage.reasoning_tokens or metered.over_cap or metered.over_bound:
            cause = self._slices.cause(attempt, metered)
        self._settlements.book(attempt, usage=usage, outcome=outcome, served_model=metered.served_model, cause=cause, ended=arrived)
        if unpaid is not None:
            await self._settlements.commit(attempt)
            raise unpaid
        call.first_byte_at = arrived
        call.outcome, call.status = "ok", 200
        overhead = self._clock() - call.began - call.upstream_seconds
        await exchange.respond(200, answer_headers(attempt, response.shown, stream=False, overhead_seconds=overhead), body)
        await self._settlements.commit(attempt)
        return None

    async def _relay_stream(self, attempt: Attempt, response: UpstreamResponse, exchange: Exchange) -> Failure | None:
        call = attempt.call
        stream = Stream(attempt, response, exchange, store=self._store, clock=self._clock, extend_short=self.shortages.extend)
        attempt.meter = stream.meter
        shown = await stream.first()
        arrived = self._clock()
        call.upstream_seconds += arrived - attempt.began
        if isinstance(shown, Failure):
            usage = of_no_answer(attempt, shown, self._fleet)
            if usage.evidence == "exact":
                self._slices.learn(attempt, IGNORED_STREAM)
            await self._settlements.settle(attempt, usage=usage, outcome="upstream_error", cause=IGNORED_STREAM)
            return shown
        call.first_byte_at = arrived
        call.status = 200
        call.winner = attempt
        overhead = arrived - call.began - call.upstream_seconds
        await exchange.start(200, answer_headers(attempt, response.shown, stream=True, overhead_seconds=overhead))
        answer = await stream.relay(shown)
        self._ended(attempt, answer)
        metered = answer.metered
        await self._settlements.settle(
            attempt,
            usage=metered.usage,
            outcome=answer.outcome,
            served_model=metered.served_model,
            cause=self._slices.cause(attempt, metered),
        )
        return None

    def _won(self, attempt: Attempt, usage: Usage, arrived: float) -> None:
        call, request = attempt.call, attempt.call.request
        call.winner, call.usage = attempt, usage
        first = attempt.first_byte_at if request.stream else None
        self._fleet.succeeded(
            attempt.deployment.name,
            first_token_ms=None if first is None else (first - attempt.began) * 1000,
            total_ms=(arrived - attempt.began) * 1000,
            output_tokens=usage.output_tokens // request.choices,
            input_tokens=request.shape.tokens_likely,
        )

    def _ended(self, attempt: Attempt, answer: Answer) -> None:
        call = attempt.call
        call.outcome, call.error_code = answer.outcome, answer.error_code
        if answer.refused_by:
            call.refused_by = answer.refused_by
            self._metrics.refused(budget=answer.refused_by, action="cut")
        if answer.outcome in ("ok", "cut"):
            self._won(attempt, answer.metered.usage, self._clock())
            if attempt.way.habits is not None and answer.outcome == "ok":
                teach(attempt, answer.metered, self._metrics)
        else:
            call.usage = answer.metered.usage
            self._fleet.failed(attempt.deployment.name, cause="reset")


def _moments(snapshot: Snapshot, clock_ms: Callable[[], int], controls: LiveControls) -> Moments | None:
    if all(route.watch is None for route in snapshot.routes.values()):
        return None
    from router.moments import Moments

    return Moments(snapshot, clock_ms, lambda: controls.limits)
