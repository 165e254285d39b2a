"""Carries out what a policy kind asks for beside trying one candidate after the other, and keeps deadlines."""

from __future__ import annotations

import asyncio

import msgspec

from policies.plans import Hedge, Plan
from router.bounds import BEYOND
from router.call import Call
from router.dispatch import Failure
from router.domain.budgets import Refusal
from router.domain.estimate import worst_case_nusd
from router.doors import Doors, following
from router.edge.exchange import Exchange
from router.errors import DEADLINE_EXCEEDED, NO_DEPLOYMENT, RouterError
from router.hedge import Leg, Race, account, merge, race
from router.relay import break_off


class Plans:
    """Carries plans out."""

    def __init__(self, doors: Doors) -> None:
        self._doors = doors

    async def carry_out(self, call: Call, exchange: Exchange) -> Failure | None:
        """Serve a call that has a plan or a deadline. None: the client has its answer."""
        try:
            return await (self._follow(call, exchange) if call.deadline is None else self._in_time(call, exchange, call.deadline))
        finally:
            # It points back at the call: see `Pipeline.serve`.
            call.kept = None

    async def _in_time(self, call: Call, exchange: Exchange, deadline: float) -> Failure | None:
        try:
            async with asyncio.timeout(max(0.0, deadline - self._doors.clock())) as limit:
                return await self._follow(call, exchange)
        except TimeoutError:
            if not limit.expired():
                raise
        if call.kept is not None and not exchange.started:
            await call.kept()
            return None
        made = {0: "no call had been made by then", 1: "one call did not do that"}.get(
            call.attempts, f"{call.attempts} calls did not do that"
        )
        error = RouterError(DEADLINE_EXCEEDED, f"The request was to be answered within {call.deadline_ms:,.0f} ms, and {made}.")
        if not exchange.started:
            raise error
        await break_off(call, exchange, error)
        call.outcome, call.error_code = "upstream_lost", DEADLINE_EXCEEDED.code
        return None

    async def _follow(self, call: Call, exchange: Exchange) -> Failure | None:
        plan = call.plan
        if plan is None:
            return await self._doors.try_in_order(call, exchange)
        call.results = []
        try:
            if plan.shadow is None:
                return await self._by_kind(call, exchange, plan)
            from router.shadow import serve_and_copy

            return await serve_and_copy(self._doors, call, exchange, plan.shadow, lambda client: self._by_kind(call, client, plan))
        finally:
            self._doors.fleet.memory.learn(call, plan, call.results, self._doors.metrics)
            # They point back at their call: see `Pipeline.serve`.
            call.results = []

    async def _by_kind(self, call: Call, exchange: Exchange, plan: Plan) -> Failure | None:
        if plan.cascade is not None:
            from router.cascade import Chain

            return await Chain(self._doors, call, exchange, plan.cascade).run()
        if plan.hedge is not None:
            return await self._hedge(call, exchange, plan.hedge)
        return await self._doors.try_in_order(call, exchange)

    async def _hedge(self, call: Call, exchange: Exchange, plan: Hedge) -> Failure | None:
        doors, decision = self._doors, call.decision
        # Set by routing, or routing has raised.
        assert decision is not None  # noqa: S101
        first, second = decision.order[:2]
        held = worst_case_nusd(call.request, call.snapshot.deployments[first.deployment], call.route.timeouts)
        legs = [self._leg(first.deployment, decision.kind), self._leg(second.deployment, f"hedge:{plan.name}", held or 0)]
        run = Race(exchange)
        try:
            await race(run, call, plan, legs)
        finally:
            account(call, run)
        if len(run.tasks) > 1 and not _unsent(run):
            doors.fleet.memory.hedged(call, plan.name)
            doors.metrics.hedged(hedge=plan.name, outcome="none" if run.winner is None else ("first", "second")[run.winner])
        if run.winner is not None:
            merge(call, run.parts[run.winner])
            won = run.result(run.winner)
            return won if isinstance(won, Failure) else None
        outcomes = [run.result(index) for index in range(len(run.tasks))]
        failure = next((each for each in outcomes if isinstance(each, Failure)), None)
        if failure is not None and not failure.fall_back:
            return failure
        # A refusal leaves no trace: it is asked again, and what the budget says is done then is done.
        failed = {decision.order[index].deployment for index, each in enumerate(outcomes) if isinstance(each, Failure)}
        left = tuple([ranked for ranked in decision.order if ranked.deployment not in failed])
        if not left:
            return failure
        return await following(doors, call, exchange, msgspec.structs.replace(decision, order=left))

    def _leg(self, name: str, reason: str, beside_nusd: int = 0) -> Leg:
        async def leg(part: Call, lane: Exchange) -> Failure | Refusal | None:
            doors, part.beside_nusd = self._doors, beside_nusd
            if not doors.fleet.claim_probe(name):
                error = RouterError(NO_DEPLOYMENT, f"Deployment '{name}' is being probed; try again.", retry_after_seconds=1)
                return Failure(cause="cooldown", error=error)
            return await doors.try_one(part, lane, part.snapshot.deployments[name], reason)

        return leg


def _unsent(run: Race) -> bool:
    """Whether the second call was not made, for the bounds of its request."""
    task = run.tasks[1]
    if task.cancelled() or task.exception() is not None:
        return False
    told = task.result()
    return isinstance(told, Failure) and told.cause in BEYOND
