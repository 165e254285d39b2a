"""Numbers of single budgets, providers, models and deployments that rules read, as a log knows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from policies.figures import Figure
from router.moment_figures import Number, least, of_budget, room
from router.replay.budgets import LedgerModel
from router.replay.requests import Asked
from router.snapshot import Snapshot, Watch


def numbers_of(asked: Asked, watch: Watch, ledger: LedgerModel | None, dims: Mapping[str, str], snapshot: Snapshot) -> dict[str, Number]:
    """Budgets as they are simulated; of providers what was read then, else what the deployments that were offered tell."""
    numbers: dict[str, Number] = {}
    budgets = {budget.name: budget for budget in snapshot.budgets}
    for figure, names in watch.figures.items():
        if figure.section == "budget":
            budget = budgets[figure.name]
            found = (0, budget.limit_nusd) if ledger is None else ledger.used_of(budget, dims, asked.facts.tags, asked.starts_ms)
            numbers[figure.key] = None if found is None else of_budget(figure.field, budget, *found, asked.starts_ms)
        elif figure.key in asked.facts.moment.numbers:
            numbers[figure.key] = asked.facts.moment.numbers[figure.key]
        else:
            numbers[figure.key] = _of_states(figure, names, asked.health or {}, snapshot)
    return numbers


def _of_states(figure: Figure, names: Sequence[str], health: Mapping[str, Mapping[str, Any]], snapshot: Snapshot) -> Number:
    """A number by the states of deployments that were kept; None: they do not tell."""
    known = [name for name in names if name in health]
    if not known:
        return None
    if figure.field == "in_flight":
        under_way: int = sum(health[name]["in_flight"] for name in known)
        return under_way
    if figure.field == "headroom":
        return room((snapshot.deployments[name].max_in_flight, health[name]["in_flight"]) for name in known)
    times: list[float | None] = [health[name].get(figure.field) for name in known]
    return least(times)
