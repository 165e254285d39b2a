"""Gauges that are read at a scrape: budgets, drift, deployments, configuration, process."""

from __future__ import annotations

import dataclasses

from router import __version__
from router.domain.budgets import NEVER_MS, BucketState, Budget
from router.metrics_families import FAMILIES
from router.metrics_gauges import process_gauges, set_budgets, set_configuration, set_deployments, set_drift
from router.metrics_store import Scrape
from router.ports import Drift


def bucket(budget: str, scope: str = "", *, spent: int = 0, held: int = 0, limit: int | None = 10, ends_ms: int = 5_000) -> BucketState:
    return BucketState(
        budget=budget, scope=scope, window="w", limit_nusd=limit, spent_nusd=spent, held_nusd=held, debt_nusd=0, ends_ms=ends_ms
    )


def shown(scrape: Scrape, name: str) -> dict[tuple[str, ...], float]:
    return scrape.values.get(f"faregate_{name}", {})


def test_a_budget_shows_limit_spent_held_and_reset() -> None:
    """The four numbers that tell whether the next call fits."""
    scrape = Scrape(FAMILIES)
    set_budgets(scrape, [Budget(name="all", limit_nusd=4, window="day")], [bucket("all", spent=6, held=2)])
    assert shown(scrape, "budget_limit_usd") == {("all",): 10e-9}, "the store's own limit decides"
    assert shown(scrape, "budget_spent_usd") == {("all",): 6e-9}
    assert shown(scrape, "budget_held_usd") == {("all",): 2e-9}
    assert shown(scrape, "budget_used_ratio") == {("all",): 0.8}
    assert shown(scrape, "budget_reset_timestamp_seconds") == {("all",): 5.0}


def test_a_split_budget_is_shown_without_a_label_per_instance() -> None:
    """Ten thousand keys must not become ten thousand series; the fullest one is what one is warned of."""
    scrape = Scrape(FAMILIES)
    states = [bucket("each", f"key={n}", spent=n) for n in range(12)]
    set_budgets(scrape, [Budget(name="each", limit_nusd=10, window="day", each="key")], states)
    assert shown(scrape, "budget_spent_usd") == {("each",): 66e-9}
    assert shown(scrape, "budget_used_ratio") == {("each",): 1.1}
    assert shown(scrape, "budget_instances") == {("each",): 11}
    assert shown(scrape, "budget_exhausted_instances") == {("each",): 2}


def test_a_budget_without_a_bucket_has_spent_nothing() -> None:
    """The store makes a bucket with the first hold of a window."""
    scrape = Scrape(FAMILIES)
    set_budgets(scrape, [Budget(name="all", limit_nusd=10, window="month")], [])
    assert shown(scrape, "budget_spent_usd") == {("all",): 0}
    assert shown(scrape, "budget_used_ratio") == {("all",): 0}
    assert shown(scrape, "budget_reset_timestamp_seconds") == {}


def test_the_lifetime_of_a_session_has_no_reset() -> None:
    """The store notes until when it keeps an idle session; shown as a reset, people would wait for money that does not come."""
    scrape = Scrape(FAMILIES)
    session = dataclasses.replace(bucket("agents", "session=s1", spent=9), window="all")
    set_budgets(scrape, [Budget(name="agents", limit_nusd=10, window="lifetime", each="session")], [session])
    assert shown(scrape, "budget_reset_timestamp_seconds") == {}


def test_a_lifetime_budget_has_no_reset() -> None:
    """A date in the year 287396 would be drawn as if it were one."""
    scrape = Scrape(FAMILIES)
    set_budgets(scrape, [Budget(name="all", limit_nusd=10, window="lifetime")], [bucket("all", ends_ms=NEVER_MS)])
    assert shown(scrape, "budget_reset_timestamp_seconds") == {}


def test_a_limit_of_nothing_is_used_up() -> None:
    """A budget of 0 USD refuses everything; its ratio must not divide by zero."""
    scrape = Scrape(FAMILIES)
    set_budgets(scrape, [Budget(name="all", limit_nusd=0, window="day")], [bucket("all", limit=None)])
    assert shown(scrape, "budget_used_ratio") == {("all",): 1.0}


def test_drift_is_shown_per_budget_and_zero_when_verified() -> None:
    """An alert needs the zero: an absent series looks like a verification that never ran."""
    scrape = Scrape(FAMILIES)
    budgets = [Budget(name="all", limit_nusd=1, window="day"), Budget(name="ok", limit_nusd=1, window="day")]
    drifts = [Drift("all||2026-11-22", 5, 9, "spent"), Drift("all||2026-11-21", 5, 4, "held"), Drift("gone||x", 1, 0, "spent")]
    drifts += [Drift("caf%C3%A9||all", 0, 7, "spent"), Drift("all||all~t", 0, 99, "spent")]
    set_drift(scrape, budgets, drifts)
    assert shown(scrape, "ledger_drift_usd") == {("all",): 4e-9, ("ok",): 0}


def test_a_deployment_is_in_one_state() -> None:
    """A state set: 1 for the state it is in and 0 for the others, so that a change is seen as one."""
    scrape = Scrape(FAMILIES)
    set_deployments(scrape, {"sim/a": ("cooldown", 3)})
    assert shown(scrape, "deployment_state") == {
        ("sim/a", "up"): 0,
        ("sim/a", "probe"): 0,
        ("sim/a", "cooldown"): 1,
        ("sim/a", "busy"): 0,
        ("sim/a", "drained"): 0,
        ("sim/a", "frozen"): 0,
    }
    assert shown(scrape, "deployment_in_flight") == {("sim/a",): 3}


def test_configuration_and_release_are_named() -> None:
    """What is in force is the first question after every incident."""
    scrape = Scrape(FAMILIES)
    set_configuration(scrape, version="abc", loaded_at_seconds=12.5, last_reload_ok=False)
    assert shown(scrape, "config_info") == {("abc",): 1}
    assert shown(scrape, "config_last_reload_successful") == {(): 0}
    assert shown(scrape, "config_last_reload_success_timestamp_seconds") == {(): 12.5}
    assert [labels[0] for labels in shown(scrape, "build_info")] == [__version__]


def test_the_process_shows_its_memory() -> None:
    """Memory per worker is one of the promises we can be held to."""
    scrape = Scrape(FAMILIES)
    process_gauges()(scrape)
    assert scrape.values["process_resident_memory_bytes"][()] > 1_000_000
    assert ("0",) in scrape.values["python_gc_collections_total"]
