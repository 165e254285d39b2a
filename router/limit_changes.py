"""Whoever starts last decides on the limits in a ledger that several share: what that changes is told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from router.domain.budgets import Budget
from router.domain.controls import BaseLimit, amount_text


def changed_limits(known: Mapping[str, BaseLimit], budgets: Iterable[Budget]) -> list[str]:
    """`name: old -> new` of every budget whose configured limit the ledger knows otherwise. What people changed of it does not count."""
    own = {budget.name: amount_text(budget.limit_nusd, budget.unit) for budget in budgets}
    changes = []
    for name, base in sorted(known.items()):
        before, after = amount_text(base.limit, base.unit), own.get(name, "none, for it is not in this configuration")
        # A name with a colon is that of a rate limit.
        if after != before and ":" not in name:
            changes.append(f"{name}: {before} -> {after}")
    return changes
