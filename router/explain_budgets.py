"""Explain: the budgets that a candidate would fall under, what is left in them, and whether they would refuse it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from router.call import Call
from router.domain.budgets import NEVER_MS, BucketState, Budget, Unit
from router.domain.controls import Limit
from router.domain.estimate import Estimate, clamped
from router.domain.money import format_amount, format_usd
from router.domain.request import Operation
from router.domain.shortage import plan_of
from router.domain.windows import bucket_at, scope_of
from router.outcome import RAISE_IT, reset_time, smaller_text
from router.scopes import dims_of
from router.snapshot import Deployment


class Spent(msgspec.Struct, frozen=True, kw_only=True):
    """What the ledger held when it was asked."""

    states: Sequence[BucketState]
    """Of the current windows; what is not among them has not been used."""
    now_ms: int
    """Unix milliseconds."""
    limits: Mapping[str, Limit] = {}
    """In force, by budget; those of the configuration for what is not among them."""


class BudgetLine(msgspec.Struct, kw_only=True):
    """A budget that an attempt would fall under. Amounts are in its unit: nano-USD, calls or tokens."""

    name: str
    limit_nusd: int
    """The ledger's own if it was read, else the configuration's."""
    unit: Unit
    window: str
    hard: bool
    shadow: bool
    each: str | None
    needed: int = 0
    """What this candidate would hold in it."""
    scope: str = ""
    """`team=search`; empty for a budget that is not split."""
    spent: int | None = None
    """None: the ledger was not read."""
    held: int | None = None
    """By calls under way."""
    left: int | None = None
    resets_at: str | None = None
    """ISO 8601 in UTC; None: it does not, or the ledger was not read."""
    fits: bool = True
    """Whether it would let this candidate be called, if need be with a smaller cap or after a wait, as it says itself."""


_OPEN_ENDED: Final = ("requests", "concurrent")
"""Units of which a call needs one, whatever it asks for."""


def budget_lines(call: Call, deployment: Deployment, made: Estimate, spent: Spent | None) -> list[BudgetLine]:
    """Every budget that a call of this deployment would fall under. `made`: what it would hold."""
    dims = dims_of(call, deployment)
    lines = []
    for budget in call.snapshot.budgets:
        scope = scope_of(budget, dims=dims, tags=call.tags)
        if scope is None:
            continue
        line = BudgetLine(
            name=budget.name,
            limit_nusd=budget.limit_nusd,
            unit=budget.unit,
            window=f"last {budget.rolling_ms // 1000} s" if budget.rolling_ms else budget.window,
            hard=budget.hard,
            shadow=budget.shadow,
            each=", ".join(budget.dimensions) or None,
            scope=scope,
            needed=_needed(call, budget, made),
        )
        if spent is not None:
            _fill_in(line, budget, spent)
        line.fits = _fits(line, budget, call, deployment, made)
        lines.append(line)
    return lines


def _needed(call: Call, budget: Budget, made: Estimate) -> int:
    if budget.unit == "usd":
        return made.hold_nusd
    return 1 if budget.unit in _OPEN_ENDED else call.request.shape.tokens_bound + made.output_tokens


def _fill_in(line: BudgetLine, budget: Budget, spent: Spent) -> None:
    """Add what the ledger holds in the bucket of this call."""
    bucket = bucket_at(budget, line.scope, spent.now_ms)
    found = [s for s in spent.states if (s.budget, s.scope, s.window) == (bucket.budget, bucket.scope, bucket.window)]
    line.spent, line.held = (found[0].spent_nusd, found[0].held_nusd) if found else (0, 0)
    if found and found[0].limit_nusd is not None:
        line.limit_nusd = found[0].limit_nusd
    line.left = max(0, line.limit_nusd - line.spent - line.held)
    line.resets_at = None if bucket.ends_ms >= NEVER_MS else reset_time(bucket.ends_ms)


def _fits(line: BudgetLine, budget: Budget, call: Call, deployment: Deployment, made: Estimate) -> bool:
    room = line.limit_nusd if line.left is None else line.left
    if not budget.hard or budget.shadow or line.needed <= room:
        return True
    if budget.unit != "usd":
        return False
    plan = plan_of(budget.on_short)
    if plan.waits:
        room += line.held or 0
    if "clamp" not in (*plan.first, *plan.then):
        return line.needed <= room
    least = call.snapshot.server.least_output_tokens
    return clamped(call.request, deployment, made, room_nusd=room, least=least, timeouts=call.route.timeouts) is not None


def refusal_text(candidates: Sequence[tuple[str, Sequence[BudgetLine]]], operation: Operation) -> str:
    """What refuses the request whichever candidate is tried: the budget of the one that needs least. Empty: nothing does.

    `candidates`: the deployments to be tried, and their budgets.
    """
    short = [(name, next((line for line in lines if not line.fits), None)) for name, lines in candidates]
    refusing = [(name, line) for name, line in short if line is not None]
    if not refusing or len(refusing) < len(short):
        return ""
    name, line = min(refusing, key=lambda pair: (pair[1].unit != "usd", pair[1].needed))

    def amount(value: int) -> str:
        return format_amount(value, line.unit)

    whose = f" ({line.scope})" if line.scope else ""
    if line.left is None or line.spent is None or line.held is None:
        room = f"allows {amount(line.limit_nusd)}"
    else:
        room = f"has {amount(line.left)} left of {amount(line.limit_nusd)} (spent {amount(line.spent)}, held {amount(line.held)})"
    resets = f" It resets at {line.resets_at}." if line.resets_at else ""
    if line.unit != "concurrent" and line.needed > line.limit_nusd:
        resets = f" {RAISE_IT}."
    needs = f"the cheapest candidate, {name}, needs {amount(line.needed)} to be held"
    return f"402: budget '{line.name}'{whose} {room}, and {needs}.{resets}{smaller_text(line.unit, line.limit_nusd, operation)}"


def budget_text(line: BudgetLine) -> str:
    """A budget for people."""
    mode = ", on trial" if line.shadow else "" if line.hard else ", soft"
    whose = f" and {line.each}" if line.each else ""
    told = f"{format_amount(line.limit_nusd, line.unit)} per {line.window}{whose}{mode}"
    if line.left is None or line.spent is None or line.held is None:
        return f"{line.name} ({told})"
    shown = format_usd if line.unit == "usd" else "{:,}".format
    state = f"spent {shown(line.spent)}, held {shown(line.held)}, left {format_amount(line.left, line.unit)}"
    resets = f", resets {line.resets_at}" if line.resets_at else ""
    too_little = "" if line.fits else f", needs {format_amount(line.needed, line.unit)}: refused"
    return f"{line.name} ({told}; {state}{resets}{too_little})"
