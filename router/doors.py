"""Doors to the pipeline for plans: candidates in an order of their own, and calls beside the answer. Money is held for each."""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

import msgspec

from policies.types import Decision
from router.call import Call
from router.dispatch import Failure
from router.domain.budgets import Refusal
from router.domain.request import ParsedRequest
from router.edge.exchange import Exchange
from router.fleet import Fleet
from router.metrics import Metrics
from router.snapshot import Deployment


class TryOne(Protocol):
    """One attempt at one deployment. See `router.attempts`."""

    def __call__(self, call: Call, exchange: Exchange, deployment: Deployment, reason: str) -> Awaitable[Failure | Refusal | None]: ...


class Doors(msgspec.Struct, kw_only=True):
    """What plans need of the pipeline."""

    try_in_order: Callable[[Call, Exchange], Awaitable[Failure | None]]
    """Try the call's decision from its first candidate to its last."""
    try_one: TryOne
    fleet: Fleet
    metrics: Metrics
    clock: Callable[[], float]


async def following(doors: Doors, call: Call, exchange: Exchange, decision: Decision) -> Failure | None:
    """Try these in order, as if the decision had been this one, with as many calls as the route allows for one decision."""
    before, most = call.decision, call.max_attempts
    call.decision = decision
    allowed = call.attempts + call.route.fallback.max_attempts
    call.max_attempts = allowed if most is None else min(most, allowed)
    try:
        return await doors.try_in_order(call, exchange)
    finally:
        call.decision, call.max_attempts = before, most


async def beside(
    doors: Doors, call: Call, exchange: Exchange, request: ParsedRequest, names: Iterable[str], reason: str
) -> tuple[Failure | None, Call]:
    """A call of our own for the client's request: reserved, settled and in its books, but not its answer.

    Raises:
        RouterError: no room in a budget.
    """
    decision = call.decision
    # Set by routing, or routing has raised.
    assert decision is not None  # noqa: S101
    wanted = set(names)
    order = tuple([ranked for ranked in decision.order if ranked.deployment in wanted])
    part = copy.copy(call)
    part.request, part.stream, part.winner = request, request.stream, None
    part.decision, part.max_attempts = msgspec.structs.replace(decision, order=order, kind=reason), call.attempts + len(order)
    try:
        return await doors.try_in_order(part, exchange), part
    finally:
        call.attempts, call.charge_nusd, call.upstream_seconds = part.attempts, part.charge_nusd, part.upstream_seconds
