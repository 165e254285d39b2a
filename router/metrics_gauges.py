"""What is read when a scrape comes: budgets, deployments, configuration, process."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal, get_args

from router import __version__
from router.budget_watch import Sums
from router.domain.budgets import BucketState, Budget
from router.domain.controls import ControlKind, ControlState, limit_in_force
from router.domain.money import NUSD_PER_USD
from router.domain.windows import budget_of, unit_of
from router.memory import Memory
from router.metrics_store import Scrape
from router.ports import Drift

DeploymentState = Literal["up", "probe", "cooldown", "busy", "drained", "frozen"]
_KINDS: Final[tuple[ControlKind, ...]] = get_args(ControlKind)
_STATES: Final[tuple[DeploymentState, ...]] = get_args(DeploymentState)


NO_CONTROLS: Final = ControlState()


def set_budgets(
    scrape: Scrape,
    budgets: Sequence[Budget],
    states: Sequence[BucketState],
    controls: ControlState = NO_CONTROLS,
    many: Mapping[str, Sums] | None = None,
) -> None:
    """Show each budget by its name, and what people changed. `states` are the buckets of the current windows.

    A budget that is split, such as one per key, is shown as a whole: the sums and its fullest instance. One
    without a bucket has spent nothing in this window. With `many`, split budgets are shown by these sums, and not at all while
    there are none yet.
    """
    found = {budget.name: Sums() for budget in budgets if many is None or not budget.dimensions}
    limits: dict[str, int] = {}
    by_name = {budget.name: budget for budget in budgets}
    for state in states:
        if state.budget in found:
            limit = by_name[state.budget].limit_nusd if state.limit_nusd is None else state.limit_nusd
            limits.setdefault(state.budget, limit)
            found[state.budget].add(state, limit)
    for budget in budgets:
        limit = limits.get(budget.name, budget.limit_nusd)
        if budget.name in controls.base:
            limit = limit_in_force(controls, budget.name)
        sums = found.get(budget.name) or (many or {}).get(budget.name)
        if sums is not None:
            _set_budget(scrape, budget, limit, sums)
    for kind in _KINDS:
        scrape.set("faregate_controls", len(controls.of_kind(kind)), kind=kind)


def _set_budget(scrape: Scrape, budget: Budget, limit: int, sums: Sums) -> None:
    name = budget.name
    if budget.unit == "usd":
        scrape.set("faregate_budget_limit_usd", limit / NUSD_PER_USD, budget=name)
        scrape.set("faregate_budget_spent_usd", sums.spent_nusd / NUSD_PER_USD, budget=name)
        scrape.set("faregate_budget_held_usd", sums.held_nusd / NUSD_PER_USD, budget=name)
    scrape.set("faregate_budget_used_ratio", sums.fullest, budget=name)
    scrape.set("faregate_budget_instances", sums.used, budget=name)
    scrape.set("faregate_budget_exhausted_instances", sums.exhausted, budget=name)
    resets_ms = sums.resets_ms
    scrape.set("faregate_budget_reset_timestamp_seconds", None if resets_ms is None else resets_ms / 1000, budget=name)


def set_drift(scrape: Scrape, budgets: Sequence[Budget], drifts: Sequence[Drift]) -> None:
    """Show the result of the last verification of the ledger: 0 for a budget that agrees."""
    worst = {budget.name: 0 for budget in budgets}
    for drift in drifts:
        name = budget_of(drift.bucket)
        if name in worst and unit_of(drift.bucket) == "usd":
            worst[name] = max(worst[name], abs(drift.counter_nusd - drift.log_nusd))
    for name, nusd in worst.items():
        scrape.set("faregate_ledger_drift_usd", nusd / NUSD_PER_USD, budget=name)


def set_deployments(scrape: Scrape, states: Mapping[str, tuple[DeploymentState, int]]) -> None:
    """Show state and calls in progress of each deployment, by its name."""
    for deployment, (current, in_flight) in states.items():
        for state in _STATES:
            scrape.set("faregate_deployment_state", int(state == current), deployment=deployment, state=state)
        scrape.set("faregate_deployment_in_flight", in_flight, deployment=deployment)


def set_learned(scrape: Scrape, memory: Memory) -> None:
    """Show what this process has learned of cascades and vendors."""
    for cascade, share in memory.savings():
        scrape.set("faregate_cascade_saving_ratio", share, cascade=cascade)
    for cap, provider, share in memory.vendor_shares():
        scrape.set("faregate_vendor_spend_ratio", share, cap=cap, provider=provider)


def set_configuration(scrape: Scrape, *, version: str, loaded_at_seconds: float, last_reload_ok: bool) -> None:
    """Show which configuration is in force, since when (Unix time), and whether the last attempt to load one worked."""
    scrape.set("faregate_config_info", 1, version=version)
    scrape.set("faregate_config_last_reload_success_timestamp_seconds", loaded_at_seconds)
    scrape.set("faregate_config_last_reload_successful", int(last_reload_ok))
    scrape.set("faregate_build_info", 1, version=__version__, python=platform.python_version())


def process_gauges() -> Callable[[Scrape], None]:
    """A callback for `Metrics.on_scrape` that shows memory, CPU, descriptors and garbage collection of this process.

    Imports the Prometheus client library (about 50 ms): call it at start, not in the first scrape.
    """
    from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)

    def set_process(scrape: Scrape) -> None:
        for metric in registry.collect():
            for sample in metric.samples:
                if scrape.declares(sample.name):
                    scrape.set(sample.name, sample.value, **sample.labels)

    return set_process
