"""Limits, freezes and drains: what is in force, and changes of it that count at once for all replicas."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Annotated, Final

from fastapi import Query, Request

from router.admin.roles import OPERATOR, VIEWER, Endpoint
from router.admin.shapes import (
    ApprovalGiven,
    Approved,
    Bucket,
    BudgetCard,
    Budgets,
    ControlCard,
    ControlCards,
    ControlGiven,
    LimitChanged,
    LimitControl,
    LimitGiven,
    ResetGiven,
)
from router.admin.views import View, moment
from router.admin.words import amount, moment_or_none, until_ms, wrong
from router.budget_watch import MANY
from router.controls import MAX_TARGET, How, LimitChange, find_budget
from router.domain.budgets import BucketState
from router.domain.controls import Control, ControlKind, ControlState, change_text, limit_in_force
from router.errors import NOT_FOUND, RouterError
from router.inputs import parse_amount
from router.live_controls import LiveControls
from router.runaway import approve

MOST_INSTANCES: Final = 1000

Instances = Annotated[int, Query(ge=0, le=MOST_INSTANCES, description="Most instances to show of each budget.")]
Reason = Annotated[str, Query(max_length=500, description="Why; goes into the audit log.")]


def add(endpoint: Endpoint) -> None:
    """Add the endpoints."""
    _add_reads(endpoint)
    _add_limits(endpoint)
    for kind in ("freeze", "drain", "stop"):
        _add_controls(endpoint, kind)
    _add_approval(endpoint)


def _add_reads(endpoint: Endpoint) -> None:
    @endpoint.get("/budgets", VIEWER)
    async def budgets(request: Request, instances: Instances = 20) -> Budgets:
        """Every budget and rate limit: configured, in force, spent, held, left."""
        state = await endpoint.desk(request).state()
        found = await _fullest(endpoint, instances)
        return Budgets(budgets=[_card(state, name, *found.get(name, ([], 0))) for name in state.base])

    @endpoint.get("/budgets/{budget:path}", VIEWER)
    async def budget(request: Request, budget: str, instances: Instances = 100) -> BudgetCard:
        """One budget; `search` also finds that of team or key `search`."""
        state = await endpoint.desk(request).state()
        name, _ = find_budget(state, budget)
        found = await _fullest(endpoint, instances, name)
        return _card(state, name, *found.get(name, ([], 0)))


async def _fullest(endpoint: Endpoint, most: int, budget: str | None = None) -> dict[str, tuple[list[BucketState], int]]:
    """The fullest instances of each budget, and how many it has. Many are read some at a time, for one request after the other."""
    books = endpoint.office.service.ledger
    found: dict[str, list[BucketState]] = defaultdict(list)
    count: Counter[str] = Counter()

    def add(states: Sequence[BucketState]) -> None:
        for name in {each.budget for each in states if budget in (None, each.budget)}:
            here = [each for each in states if each.budget == name]
            count[name] += len(here)
            found[name] = heapq.nlargest(most, found[name] + here, key=_fullness)

    if await books.bucket_count() <= MANY:
        add(await books.bucket_states(budget=budget))
    else:
        async with endpoint.office.reading:
            async for page in books.bucket_pages():
                add(page)
    return {name: (states, count[name]) for name, states in found.items()}


def _card(state: ControlState, name: str, states: list[BucketState], total: int) -> BudgetCard:
    base = state.base[name]
    return BudgetCard(
        name=name,
        kind="rate_limit" if ":" in name else "budget",
        unit=base.unit,
        each=list(base.each),
        configured_limit=amount(base.limit, base.unit),
        limit=amount(limit_in_force(state, name), base.unit),
        changes=[_change(state, control) for control in state.of_kind("limit") if control.target == name],
        instances=[_bucket(each) for each in states],
        instances_total=total,
    )


def _fullness(state: BucketState) -> float:
    return (state.spent_nusd + state.held_nusd) / max(1, state.limit_nusd or 1)


def _bucket(state: BucketState) -> Bucket:
    left = None if state.limit_nusd is None else max(0, state.limit_nusd - state.spent_nusd - state.held_nusd)
    return Bucket(
        scope=state.scope,
        window=state.window,
        limit=None if state.limit_nusd is None else amount(state.limit_nusd, state.unit),
        spent=amount(state.spent_nusd, state.unit),
        held=amount(state.held_nusd, state.unit),
        debt=amount(state.debt_nusd, state.unit),
        left=None if left is None else amount(left, state.unit),
        resets_at=View.reset_of(state),
    )


def _change(state: ControlState, control: Control) -> LimitControl:
    unit = state.base[control.target].unit
    return LimitControl(
        scope=control.scope,
        change=change_text(control, unit),
        limit=amount(limit_in_force(state, control.target, control.scope), unit),
        by=control.by,
        at=moment(control.at_ms),
        until=moment_or_none(control.until_ms),
        reason=control.reason,
    )


def _add_limits(endpoint: Endpoint) -> None:
    async def change(request: Request, how: How, budget: str, given: LimitGiven) -> LimitChanged:
        desk = endpoint.desk(request)
        name, base = find_budget(await desk.state(), budget)
        try:
            wanted = parse_amount(given.amount, base.unit)
        except (ValueError, OverflowError) as error:
            raise wrong("amount", error) from None
        made = await desk.change_limit(name, how, wanted, scope=given.scope, reason=given.reason, until_ms=until_ms(given.until))
        return _changed(made)

    @endpoint.post("/budgets/{budget:path}/raise", OPERATOR)
    async def raise_limit(request: Request, budget: str, given: LimitGiven) -> LimitChanged:
        """Raise a limit by an amount."""
        return await change(request, "raise", budget, given)

    @endpoint.post("/budgets/{budget:path}/lower", OPERATOR)
    async def lower_limit(request: Request, budget: str, given: LimitGiven) -> LimitChanged:
        """Lower a limit by an amount, at most to nothing."""
        return await change(request, "lower", budget, given)

    @endpoint.post("/budgets/{budget:path}/set", OPERATOR)
    async def set_limit(request: Request, budget: str, given: LimitGiven) -> LimitChanged:
        """Set a limit to an amount."""
        return await change(request, "set", budget, given)

    @endpoint.post("/budgets/{budget:path}/reset", OPERATOR)
    async def reset_limit(request: Request, budget: str, given: ResetGiven) -> LimitChanged:
        """Take changes of a limit back: the configuration's holds again."""
        return _changed(await endpoint.desk(request).reset_limit(budget, scope=given.scope or None, reason=given.reason))


def _changed(made: LimitChange) -> LimitChanged:
    return LimitChanged(
        budget=made.budget,
        scope=made.scope,
        unit=made.unit,
        before=amount(made.before, made.unit),
        after=amount(made.after, made.unit),
        until=moment_or_none(made.until_ms),
    )


_MEANINGS: Final = {
    "freeze": ("Who is refused now, and why.", "Refuse `team=...`, `key=...`, `user=...`, `model=...` or `all`.", "End a freeze."),
    "drain": ("Who is called no more, and why.", "Call a provider, or a deployment (`provider/id`), no more.", "End a drain."),
    "stop": ("Which canaries were taken back, and why.", "", "Let a canary that was taken back begin anew: `route/rule/name`."),
}


def _add_controls(endpoint: Endpoint, kind: ControlKind) -> None:
    path, (shown, begin, end) = f"/{kind}s", _MEANINGS[kind]

    def controls() -> LiveControls:
        """Of this worker: it must not be the last to know what it was told itself."""
        return endpoint.office.service.controls

    async def in_force(request: Request) -> ControlCards:
        state = await endpoint.desk(request).state()
        return ControlCards(data=[_control(control) for control in state.of_kind(kind)])

    async def put(request: Request, given: ControlGiven) -> ControlCards:
        desk = endpoint.desk(request)
        make = desk.freeze if kind == "freeze" else desk.drain
        await make(given.target, reason=given.reason, until_ms=until_ms(given.until))
        await controls().poll()
        return await in_force(request)

    async def take_back(request: Request, target: str, reason: Reason = "") -> ControlCards:
        if len(target) > MAX_TARGET or not reason.isprintable():
            raise wrong("target", ValueError("too long, or the reason is not printable"))
        desk = endpoint.desk(request)
        back = {"freeze": desk.unfreeze, "drain": desk.undrain}.get(kind, desk.resume)
        await back(target, reason=reason)
        await controls().poll()
        return await in_force(request)

    endpoint.get(path, VIEWER, summary=shown, name=f"{kind}s")(in_force)
    if begin:
        endpoint.post(path, OPERATOR, summary=begin, name=kind)(put)
    endpoint.delete(path + "/{target:path}", OPERATOR, summary=end, name=f"un{kind}")(take_back)


def _control(control: Control) -> ControlCard:
    return ControlCard(
        target=control.target, reason=control.reason, by=control.by, at=moment(control.at_ms), until=moment_or_none(control.until_ms)
    )


def _add_approval(endpoint: Endpoint) -> None:
    @endpoint.post("/sessions/approve", OPERATOR)
    async def approve_session(request: Request, given: ApprovalGiven) -> Approved:
        """Let a session go on that was paused because it ran away: `token` is the field `approval` of the refusal."""
        name = await approve(endpoint.office.service.ledger.alert_store(), given.token)
        if name is None:
            raise RouterError(NOT_FOUND, "No session is paused under this token.")
        key, _, session = name.partition("|")
        await endpoint.desk(request).note_approval(name)
        return Approved(session=session, key_id=key)
