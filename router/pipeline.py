"""The life of a request: every stage in its order. What each one does stands in its own module."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, MutableMapping, Sequence
from typing import Final

from tenacity import AsyncRetrying, RetryCallState, retry_if_result, stop_after_attempt

from router.admission import Admission
from router.call import Attempt, Call
from router.dispatch import Dispatcher, Failure, is_json, of_status, of_upstream_error
from router.domain.budgets import Refusal, Reservation, WindowMoved
from router.domain.limits import rate_headers
from router.domain.metering import Metered
from router.domain.request import Operation, parse_request
from router.domain.shortage import OnShort
from router.edge.exchange import Exchange
from router.edge.replies import error_reply
from router.errors import CLIENT_CLOSED, DRAINING, NO_DEPLOYMENT, STORE_UNAVAILABLE, RouterError, StoreUnavailable
from router.fleet import Fleet
from router.limits import RateLimits
from router.lines import log_line, ways_of
from router.live_controls import LiveControls, refuse_frozen
from router.logs import RequestLog
from router.metrics import Metrics
from router.metrics_ledger import MeteredStore
from router.metrics_series import RequestSeries
from router.outcome import answer_headers, with_ids
from router.ports import UpstreamError, UpstreamResponse
from router.relay import Answer, Stream, break_off, meter_body, read_answer
from router.reservation import Reservations
from router.routing import route_call
from router.runaway import Runaway
from router.settlement import Settlements
from router.shortage import Shortages, teach
from router.slices import IGNORED_STREAM, Slices
from router.snapshot import Deployment, Snapshot
from router.steering import Steering
from router.unanswered import limited_answer, of_no_answer, unanswered

LONGEST_BACKOFF_SECONDS: Final = 8.0
FIRST_BACKOFF_SECONDS: Final = 0.25


class Pipeline:
    """Serves calls for models under one configuration."""

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
        self._slices = Slices(fleet, store, metrics)
        self.steering = Steering(snapshot, metrics)
        self.runaway = None if snapshot.runaway is None else Runaway(snapshot.runaway, metrics, self.steering, clock_ms)
        self._limits = RateLimits(metrics, clock=clock, clock_ms=clock_ms)
        self._limited: dict[str, Failure] = {}
        """The last 429 of each deployment that has not answered since."""

    async def serve(self, exchange: Exchange, operation: Operation) -> None:
        """Answer one call. Every failure becomes an answer; the money is settled when this returns."""
        call = Call(request_id=self._new_id(), operation=operation, headers=exchange.headers, snapshot=self.snapshot, began=self._clock())
        self._in_flight.value += 1
        try:
            known = self.admission.identify(exchange.headers)
            call.principal = known if known is not None else await self.admission.admit(exchange.headers)
            failure = self._route(call, await exchange.body())
            if call.delay_seconds:
                await asyncio.sleep(call.delay_seconds)
            failure = failure or await self._try_in_order(call, exchange)
            if failure is not None:
                await self._give_up(call, exchange, failure)
        except RouterError as error:
            await self._refuse(call, exchange, error)
        except StoreUnavailable as exc:
            message = f"The budget store does not answer ({exc}), and budgets are not spent unguarded. Try again shortly."
            await self._refuse(call, exchange, RouterError(STORE_UNAVAILABLE, message, retry_after_seconds=1.0))
        except asyncio.CancelledError:
            await self._cancelled(call, exchange)
            raise
        finally:
            self._in_flight.value -= 1
            self._report(call)
            # Attempts point back at their call: a cycle would keep the body until the garbage collector comes by.
            call.winner = None

    async def _cancelled(self, call: Call, exchange: Exchange) -> None:
        """The client has left, or the service ends: then a client whose answer has not begun is told to come back."""
        if exchange.gone:
            call.outcome, call.status, call.error_code = "client_left", CLIENT_CLOSED.http_status, CLIENT_CLOSED.code
            return
        message = "The service is shutting down and the answer took too long; send the request again."
        error = RouterError(DRAINING, message, retry_after_seconds=1.0)
        await (break_off(call, exchange, error) if exchange.started else self._refuse(call, exchange, error))
        call.outcome, call.error_code = "cancelled", DRAINING.code

    def _route(self, call: Call, body: bytes) -> Failure | None:
        """Decide where the call goes. A failure: nowhere now, and this is what its client is told."""
        call.request = request = parse_request(body, call.operation)
        call.stream = request.stream
        freezes = self._controls.freezes
        if freezes is not None:
            refuse_frozen(call, freezes)
        if self.steering.levels:
            call.steering = self.steering
        if self.runaway is not None:
            self.runaway.check(call)
        before = self._clock()
        try:
            decision = route_call(call, self._fleet, self._random())
        except RouterError as error:
            limited = limited_answer(call, self._limited) if error.spec is NO_DEPLOYMENT else None
            if limited is None:
                raise
            return limited
        call.decision_seconds = self._clock() - before
        for rejection in decision.rejected:
            self._metrics.rejected(deployment=rejection.deployment, reason=rejection.reason)
        self._fleet.request_started()
        return None

    async def _try_in_order(self, call: Call, exchange: Exchange) -> Failure | None:
        """Call one candidate after the other until one answers. None: the client has its answer."""
        decision = call.decision
        # Set by routing, or routing has raised.
        assert decision is not None  # noqa: S101
        failure: Failure | None = None
        refusals: dict[str, Refusal] = {}
        reason, last = decision.kind, len(decision.order) - 1
        for place, ranked in enumerate(decision.order):
            deployment = call.snapshot.deployments[ranked.deployment]
            if not self._fleet.claim_probe(deployment.name):
                continue
            outcome = await self._try(call, exchange, deployment, reason)
            if isinstance(outcome, Refusal):
                refusals[deployment.name] = outcome
                reason = self._limits.passed_over(call, deployment.name, outcome)
                if self.shortages.plan(outcome).cheaper:
                    continue
                break
            if outcome is not None and place == last:
                outcome = await self._try_again(call, exchange, deployment, outcome)
            if outcome is None:
                self.shortages.found_cheaper(refusals)
                return None
            failure = outcome
            if not failure.fall_back or call.attempts >= (call.max_attempts or call.route.fallback.max_attempts):
                break
            if place < last:
                following = decision.order[place + 1].deployment
                self._metrics.fell_back(from_deployment=deployment.name, to_deployment=following, reason=failure.cause)
            reason = f"fallback:{failure.cause}"
        if failure is None and refusals:
            return await self._try_short(call, exchange, refusals)
        return failure or Failure(
            cause="cooldown",
            error=RouterError(NO_DEPLOYMENT, f"Every deployment of '{call.route.name}' is being probed; try again.", retry_after_seconds=1),
        )

    async def _try_short(self, call: Call, exchange: Exchange, refusals: dict[str, Refusal]) -> Failure | None:
        """No candidate fits into its budgets as it is: do what the budget says is done then."""
        for way, name in self.shortages.last_ways(refusals):
            if self._fleet.claim_probe(name):
                outcome = await self._try(call, exchange, call.snapshot.deployments[name], "fallback:budget", (way,))
                if not isinstance(outcome, Refusal):
                    return outcome
                refusals[name] = outcome
        self.shortages.refused(refusals)
        raise self._limits.no_room(call, list(refusals.values()))

    async def _try_again(self, call: Call, exchange: Exchange, deployment: Deployment, failure: Failure) -> Failure | None:
        """Call the last candidate again, after a pause: exponential with full jitter, or what the provider asks."""
        fallback = call.route.fallback
        retries = min(fallback.retries, (call.max_attempts or fallback.max_attempts) - call.attempts)
        latest: list[Failure | None] = [failure]

        async def again() -> Failure | None:
            self._metrics.retried(deployment=deployment.name, reason=failure.cause)
            outcome = await self._try(call, exchange, deployment, f"retry:{failure.cause}")
            if not isinstance(outcome, Refusal):
                latest[0] = outcome
            return latest[0]

        def pause(state: RetryCallState) -> float:
            asked = latest[0].retry_after_seconds if latest[0] is not None else None
            return asked if asked is not None else self._random() * FIRST_BACKOFF_SECONDS * 2**state.attempt_number

        if retries < 1 or not self._worth_retrying(failure):
            return failure
        await asyncio.sleep(failure.retry_after_seconds or self._random() * FIRST_BACKOFF_SECONDS)
        retrying = AsyncRetrying(
            stop=stop_after_attempt(retries),
            wait=pause,
            retry=retry_if_result(lambda outcome: outcome is not None and self._worth_retrying(outcome)),
            retry_error_callback=lambda state: latest[0],
        )
        return await retrying(again)

    def _worth_retrying(self, failure: Failure) -> bool:
        wait = failure.retry_after_seconds
        return failure.retry_same and (wait is None or wait <= LONGEST_BACKOFF_SECONDS) and self._fleet.retry_allowed()

    def prices_changed(self) -> None:
        """Forget what was worked out with the prices before."""
        self._ways = ways_of(self.snapshot, self._fleet.learned)

    async def _try(
        self, call: Call, exchange: Exchange, deployment: Deployment, reason: str, ways: Sequence[OnShort] | None = None
    ) -> Failure | Refusal | None:
        """One attempt: hold, call, relay, settle. None: the client has its answer.

        `ways`: what to try if a budget has too little room; None: what it says is tried first.
        """
        if self._limits.full and (full := self._limits.refusal_of(deployment.name)) is not None:
            self._fleet.release_probe(deployment.name)
            return full
        attempt = Attempt(call, deployment, reason, self._ways.of(call, deployment, reason), whole=self._slices.fail_for(deployment.name))
        held: Reservation | Refusal | WindowMoved | None = None
        asked = self._clock()
        try:
            held = self.shortages.behind(attempt.way.buckets) if self.shortages.lines else None
            held = held or await self.reservations.hold(attempt)
            attempt.began = now = self._clock()
            self._reserved(now - asked)
            if isinstance(held, WindowMoved):
                held = await self.reservations.hold_in_next_window(attempt, held)
                attempt.began = self._clock()
            if isinstance(held, Refusal) or self.shortages.streams:
                held = await self.shortages.relieve(attempt, held, ways)
                attempt.began = self._clock()
        except StoreUnavailable:
            if held is None:
                self._store.failed("reserve", asked)
            raise
        finally:
            # If that leads to no call, the next request may probe the deployment.
            if not isinstance(held, Reservation):
                self._fleet.release_probe(deployment.name)
        if isinstance(held, Refusal):
            return held
        attempt.held = held
        failure = await self._call(attempt, exchange)
        self._learn(deployment.name, failure)
        return failure

    async def _call(self, attempt: Attempt, exchange: Exchange) -> Failure | None:
        """Call the provider with the money that is held. Whatever happens, the hold is settled or voided when this returns."""
        call = attempt.call
        response: UpstreamResponse | None = None
        self._begin(attempt)
        try:
            response = await self._dispatcher.send(attempt)
            attempt.status = response.status
            attempt.sends = response.sends
            if 200 <= response.status < 300:
                attempt.first_byte_at = self._clock()
                # Some providers answer a wish for a stream with plain JSON; clients take it as it comes.
                relay = self._relay_stream if call.stream and not is_json(response.headers) else self._relay_body
                return await relay(attempt, response, exchange)
            failure = await of_status(response, attempt, call.route.fallback)
            await self._settlements.settle(attempt, usage=None, outcome="refused_upstream")
            return self._waited(attempt, failure)
        except UpstreamError as exc:
            return await self._lost(attempt, exc)
        except RouterError:
            await self._settlements.void(attempt)
            raise
        finally:
            if response is not None:
                response.abort()
            self._fleet.ended(attempt.deployment.name)
            try:
                if attempt.state != "closed":
                    await self._abandon(attempt, exchange)
            finally:
                self._end(attempt)

    def _begin(self, attempt: Attempt) -> None:
        call = attempt.call
        call.attempts = attempt.number
        call.budget_left_nusd = attempt.held.tightest_left_nusd
        if attempt.held.left:
            call.rate_lines = rate_headers(attempt.held.left, self._clock_ms())
            self.steering.note(attempt.held)
            if attempt.held.shadowed is not None:
                self._metrics.refused(budget=attempt.held.shadowed.budget, action="shadow")
        self._live[attempt.attempt_id] = attempt
        self._fleet.began(attempt.deployment.name)
        if call.stream and self.shortages.waits:
            self.shortages.began(attempt)

    def _end(self, attempt: Attempt) -> None:
        del self._live[attempt.attempt_id]
        if self.shortages.waits:
            self.shortages.ended(attempt)

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
        usage = unanswered(attempt, "client_left", self._fleet)
        if attempt.state == "held":
            attempt.call.winner, attempt.call.usage = attempt, usage
        await self._settlements.settle(attempt, usage=usage, outcome="client_left" if exchange.gone else "upstream_lost")

    def _learn(self, name: str, failure: Failure | None) -> None:
        """Remember what the attempt says of its deployment."""
        if failure is None:
            if self._limited:
                self._limited.pop(name, None)
            return
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
        self._won(attempt, metered, arrived)
        if attempt.way.habits is not None and unpaid is None:
            teach(attempt, metered, self._metrics)
        cause = IGNORED_STREAM if unpaid is not None else self._slices.cause(attempt, metered)
        outcome = "ok" if unpaid is None else "cut"
        self._settlements.book(attempt, usage=metered.usage, outcome=outcome, served_model=metered.served_model, cause=cause, ended=arrived)
        if unpaid is not None:
            await self._settlements.commit(attempt)
            raise unpaid
        call.first_byte_at = arrived
        call.outcome, call.status = "ok", 200
        overhead = self._clock() - call.began - call.upstream_seconds
        await exchange.respond(200, answer_headers(attempt, response.headers, stream=False, overhead_seconds=overhead), body)
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
        await exchange.start(200, answer_headers(attempt, response.headers, stream=True, overhead_seconds=overhead))
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

    def _won(self, attempt: Attempt, metered: Metered, arrived: float) -> None:
        call = attempt.call
        call.winner = attempt
        call.usage = metered.usage
        first = attempt.first_byte_at if call.request.stream else None
        self._fleet.succeeded(
            attempt.deployment.name,
            first_token_ms=None if first is None else (first - attempt.began) * 1000,
            total_ms=(arrived - attempt.began) * 1000,
            output_tokens=metered.usage.output_tokens // call.request.choices,
            input_tokens=call.request.shape.tokens_likely,
        )

    def _ended(self, attempt: Attempt, answer: Answer) -> None:
        call = attempt.call
        call.outcome, call.error_code = answer.outcome, answer.error_code
        if answer.refused_by:
            self._metrics.refused(budget=answer.refused_by, action="cut")
        if answer.outcome in ("ok", "cut"):
            self._won(attempt, answer.metered, self._clock())
            if attempt.way.habits is not None and answer.outcome == "ok":
                teach(attempt, answer.metered, self._metrics)
        else:
            call.usage = answer.metered.usage
            self._fleet.failed(attempt.deployment.name, cause="reset")

    async def _give_up(self, call: Call, exchange: Exchange, failure: Failure) -> None:
        if failure.error is not None:
            error = failure.error
            if error.retry_after_seconds is None:
                error.retry_after_seconds = failure.retry_after_seconds
            raise error
        reply = failure.reply
        # A failure has one of the two.
        assert reply is not None  # noqa: S101
        call.outcome, call.status, call.error_code = "upstream_error", reply.status, failure.cause
        if not exchange.started:
            headers = with_ids(call, [*reply.headers, *failure.headers], failure.upstream_id)
            await exchange.respond(reply.status, headers, reply.body)

    async def _refuse(self, call: Call, exchange: Exchange, error: RouterError) -> None:
        status = call.snapshot.server.budget_status if error.spec.http_status == 402 else error.spec.http_status
        outcome = "upstream_error" if error.spec.source == "upstream" else "refused"
        self._metrics.rejected_request(code=error.spec.code)
        reply = error_reply(error, status=status)
        call.outcome, call.status, call.error_code = outcome, reply.status, error.spec.code
        if not exchange.started:
            await exchange.respond(reply.status, with_ids(call, reply.headers), reply.body)

    def _report(self, call: Call) -> None:
        now = self._clock()
        if call.guarded is not None:
            self._metrics.guarded(guard=call.guarded[0], action=call.guarded[1])
        if self.runaway is not None and call.charge_nusd and call.session:
            self.runaway.spent(call)
        total = now - call.began
        overhead = (call.first_byte_at or now) - call.began - call.upstream_seconds
        winner = call.winner
        series = winner.way.served if winner is not None and call.outcome == "ok" else None
        if series is None:
            series = self._request_series(call)
        series.observe((overhead, total, call.attempts, call.decision_seconds))
        if self._metrics.fold_due():
            self._metrics.fold()
        if self._log is not None:
            self._log.append(log_line(call, at_ms=self._clock_ms(), overhead_seconds=overhead, total_seconds=total))

    def _request_series(self, call: Call) -> RequestSeries:
        series = self._metrics.request_series(
            route=call.route.name if call.routed else "",
            team=call.principal.team,
            operation=call.operation,
            stream=call.stream,
            outcome=call.outcome,
            status=call.status,
        )
        if call.winner is not None and call.outcome == "ok":
            call.winner.way.served = series
        return series
