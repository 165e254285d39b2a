"""The life of a request: every stage in its order. What each one does stands in its own module."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Final, Literal, Self

from tenacity import AsyncRetrying, RetryCallState, retry_if_result, stop_after_attempt

from policies.types import Decision, MissingSignal
from router.attempts import Attempts
from router.bounds import BEYOND
from router.call import Call
from router.dispatch import Failure
from router.domain.budgets import Refusal
from router.domain.request import Operation, parse_request
from router.edge.exchange import Exchange
from router.edge.replies import error_reply
from router.errors import CLIENT_CLOSED, DRAINING, NO_DEPLOYMENT, STORE_UNAVAILABLE, RouterError, StoreUnavailable
from router.lines import log_line
from router.live_controls import refuse_frozen
from router.metrics_series import RequestSeries
from router.outcome import refused_by, with_ids
from router.relay import break_off
from router.replay import SPREAD
from router.routing import route_call
from router.signals_named import signals_named
from router.snapshot import Deployment
from router.unanswered import limited_answer

if TYPE_CHECKING:
    from router.plans import Plans
    from router.signals import PromptSignals

LONGEST_BACKOFF_SECONDS: Final = 8.0
FIRST_BACKOFF_SECONDS: Final = 0.25

Passed = Literal["passed"]
"""A candidate was not called, because another call probes it."""


class Pipeline(Attempts):
    """Serves calls for models under one configuration."""

    _signals: PromptSignals | None = None
    """Once a rule has asked for one."""
    _plans: Plans | None = None
    """Once a call had one, or a deadline."""

    def in_place_of(self, before: Pipeline) -> Self:
        """Know of sessions that run away what the one before knew."""
        if self.runaway is not None and before.runaway is not None:
            self.runaway.take_over(before.runaway)
        return self

    async def warm_up(self) -> None:
        """Load what rules read of prompts, before there is a request that would wait for it."""
        names = signals_named(self.snapshot)
        if names:
            self._signals = self._new_signals()
            await self._signals.warm(names)

    def _new_signals(self) -> PromptSignals:
        from router.signals import PromptSignals

        return PromptSignals(self.snapshot.signals, self._metrics, clock=self._clock, lengths=self._fleet.likely_length)

    async def serve(self, exchange: Exchange, operation: Operation) -> None:
        """Answer one call. Every failure becomes an answer; the money is settled when this returns."""
        call = Call(request_id=self._new_id(), operation=operation, headers=exchange.headers, snapshot=self.snapshot, began=self._clock())
        self._in_flight.value += 1
        try:
            known = self.admission.identify(exchange.headers)
            call.principal = known if known is not None else await self.admission.admit(exchange.headers)
            try:
                failure = self._route(call, await exchange.body())
            except MissingSignal as missing:
                failure = await self._route_by_signals(call, missing)
            if call.delay_seconds:
                left = call.delay_seconds if call.deadline is None else max(0.0, call.deadline - self._clock())
                await asyncio.sleep(min(call.delay_seconds, left))
            failure = failure or await (self._by_plan(call, exchange) if call.special else self._try_in_order(call, exchange))
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
        if self.moments is not None:
            call.moments = self.moments
        call.regular = self._regulars.of(call)
        return self._decide(call)

    async def _route_by_signals(self, call: Call, missing: MissingSignal) -> Failure | None:
        """Decide again with the signal that was missing, as often as one is."""
        if self._signals is None:
            self._signals = self._new_signals()
        while True:
            await self._signals.find(call, missing.name)
            # With the signal it is not plain any more.
            call.regular = None
            try:
                return self._decide(call)
            except MissingSignal as another:
                missing = another

    def _decide(self, call: Call) -> Failure | None:
        before, draw = self._clock(), self._random()
        try:
            decision = route_call(call, self._fleet, draw)
        except RouterError as error:
            limited = limited_answer(call, self._limited) if error.spec is NO_DEPLOYMENT else None
            if limited is None:
                raise
            return limited
        call.decision_seconds = self._clock() - before
        if decision.plan is not None:
            call.plan, call.special, call.results = decision.plan, True, []
        # By bits of the draw that choices hardly use, so that the sample says nothing about the choice.
        if draw * SPREAD % 1.0 < call.snapshot.server.record_decisions:
            from router.replay.trace import trace_of

            call.trace = trace_of(call, self._fleet, draw)
        for rejection in decision.rejected:
            self._metrics.rejected(deployment=rejection.deployment, reason=rejection.reason)
        self._fleet.request_started()
        return None

    def _by_plan(self, call: Call, exchange: Exchange) -> Awaitable[Failure | None]:
        if self._plans is None:
            # Imported only where a policy or a request asks for it.
            from router.doors import Doors
            from router.plans import Plans

            doors = Doors(try_in_order=self._try_in_order, try_one=self._try, fleet=self._fleet, metrics=self._metrics, clock=self._clock)
            self._plans = Plans(doors)
        return self._plans.carry_out(call, exchange)

    async def _try_in_order(self, call: Call, exchange: Exchange) -> Failure | None:
        """Call one candidate after the other until one answers. None: the client has its answer."""
        fleet, decision = self._fleet, call.decision
        # Set by routing, or routing has raised.
        assert decision is not None  # noqa: S101
        name = decision.order[0].deployment
        if not (fleet.calm or fleet.claim_probe(name)):
            return await self._go_on(call, exchange, decision, "passed")
        outcome = await self._try(call, exchange, call.snapshot.deployments[name], decision.kind)
        # Nearly every call ends here.
        return None if outcome is None else await self._go_on(call, exchange, decision, outcome)

    async def _go_on(self, call: Call, exchange: Exchange, decision: Decision, first: Failure | Refusal | Passed) -> Failure | None:
        """What follows if the first candidate did not answer. `first`: what came of it."""
        failure: Failure | None = None
        refusals: dict[str, Refusal] = {}
        reason, last = decision.kind, len(decision.order) - 1
        for place, ranked in enumerate(decision.order):
            deployment = call.snapshot.deployments[ranked.deployment]
            outcome = first if place == 0 else await self._try_unless_probed(call, exchange, deployment, reason)
            if outcome == "passed":
                continue
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
            # What a call that was made has said, says more than that another was not made.
            failure = failure if failure is not None and outcome.cause in BEYOND else outcome
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

    def _is_too_late(self, call: Call, deployment: Deployment, wait_seconds: float = 0.0) -> bool:
        """Whether a further call, after a wait, usually ends after the deadline: it would be paid for nothing. The first is made anyhow."""
        if call.deadline is None or not call.attempts:
            return False
        usual_ms = self._fleet.usual_ms(deployment.name)
        late = usual_ms is not None and usual_ms > (call.deadline - self._clock() - wait_seconds) * 1000
        if late:
            self._metrics.rejected(deployment=deployment.name, reason="too_late")
        return late

    async def _try_unless_probed(
        self, call: Call, exchange: Exchange, deployment: Deployment, reason: str
    ) -> Failure | Refusal | Passed | None:
        if self._is_too_late(call, deployment) or not self._fleet.claim_probe(deployment.name):
            return "passed"
        return await self._try(call, exchange, deployment, reason)

    async def _try_short(self, call: Call, exchange: Exchange, refusals: dict[str, Refusal]) -> Failure | None:
        """No candidate fits into its budgets as it is: do what the budget says is done then."""
        for way, name in self.shortages.last_ways(refusals):
            if self._fleet.claim_probe(name):
                outcome = await self._try(call, exchange, call.snapshot.deployments[name], "fallback:budget", (way,))
                if not isinstance(outcome, Refusal):
                    return outcome
                refusals[name] = outcome
        self.shortages.refused(refusals)
        raise self._limits.no_room(call, refusals)

    async def _try_again(self, call: Call, exchange: Exchange, deployment: Deployment, failure: Failure) -> Failure | None:
        """Call the last candidate again, after a pause: exponential with full jitter, or what the provider asks."""
        fallback = call.route.fallback
        retries = min(fallback.retries, (call.max_attempts or fallback.max_attempts) - call.attempts)
        latest: list[Failure | None] = [failure]

        async def again() -> Failure | None:
            self._metrics.retried(deployment=deployment.name, reason=failure.cause)
            outcome = await self._try(call, exchange, deployment, f"retry:{failure.cause}")
            if outcome is None or not (isinstance(outcome, Refusal) or outcome.cause in BEYOND):
                latest[0] = outcome
            return latest[0]

        def pause(state: RetryCallState) -> float:
            asked = latest[0].retry_after_seconds if latest[0] is not None else None
            return asked if asked is not None else self._random() * FIRST_BACKOFF_SECONDS * 2**state.attempt_number

        wait_seconds = failure.retry_after_seconds or self._random() * FIRST_BACKOFF_SECONDS
        if retries < 1 or not self._worth_retrying(failure) or self._is_too_late(call, deployment, wait_seconds):
            return failure
        await asyncio.sleep(wait_seconds)
        retrying = AsyncRetrying(
            stop=stop_after_attempt(retries),
            wait=pause,
            retry=retry_if_result(
                lambda outcome: outcome is not None and self._worth_retrying(outcome) and not self._is_too_late(call, deployment)
            ),
            retry_error_callback=lambda state: latest[0],
        )
        return await retrying(again)

    def _worth_retrying(self, failure: Failure) -> bool:
        wait = failure.retry_after_seconds
        return failure.retry_same and (wait is None or wait <= LONGEST_BACKOFF_SECONDS) and self._fleet.retry_allowed()

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
        call.refused_by = refused_by(error)
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
        if self._prompts is not None and call.outcome == "ok":
            self._prompts.keep(call)

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
