"""Whoever starts last decides on the limits in a ledger that several share: what that changes is told."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from router.domain.budgets import BucketState, Budget
from router.domain.money import format_usd


def changed_limits(states: Iterable[BucketState], budgets: Sequence[Budget]) -> list[str]:
    """`name: old -> new` of every budget with a counter whose limit the ledger knows otherwise than the configuration."""
    own = {budget.name: budget.limit_nusd for budget in budgets}
    known = {state.budget: (state.limit_nusd, state.unit) for state in states if state.limit_nusd is not None}
    changes = []
    for name, (old, unit) in sorted(known.items()):
        new = own.get(name)
        if old is None or new == old or ":" in name:
            continue
        before, after = (None if limit is None else format_usd(limit) if unit == "usd" else f"{limit:,}" for limit in (old, new))
        word = "USD" if unit == "usd" else unit
        changes.append(f"{name}: {before} -> {'none, for it is not in this configuration' if after is None else f'{after} {word}'}")
    return changes
