"""Metrics are counted in bulk: the numbers are those of counting one by one."""

from __future__ import annotations

import time
from collections.abc import Callable

import prometheus_client
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from router.domain.usage import Usage
from router.metrics import FOLD_EVERY, Metrics
from router.metrics_families import FAMILIES
from tests.metrics_samples import USAGE, attempt, configured, request, samples, value


@pytest.fixture
def metrics() -> Metrics:
    return configured()


@pytest.mark.parametrize("together", [1, 7, 200], ids=["one by one", "a few", "many"])
def test_the_client_library_counts_the_same(metrics: Metrics, together: int) -> None:
    """The library that everybody uses is the oracle for buckets, sums and cumulation, however many values are counted at once."""
    family = FAMILIES["faregate_store_seconds"]
    registry = CollectorRegistry()
    oracle = prometheus_client.Histogram(family.name, family.help, family.labels, buckets=family.bounds, registry=registry)
    for n in range(600):
        # Rising and falling, and now and then a bound itself.
        seconds = family.bounds[n % 16] if n % 5 == 0 else 0.00004 * 1.06 ** (n * 37 % 200)
        metrics.store_call(call=f"call{n % 3}", seconds=seconds, ok=True)
        oracle.labels(f"call{n % 3}").observe(seconds)
        if n % together == 0:
            metrics.fold()

    def read(text: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        return {(n, tuple(sorted(labels.items()))): v for n, labels, v in samples(text) if n in family_names}

    family_names = {f"{family.name}{suffix}" for suffix in ("_bucket", "_sum", "_count")}
    expected = read(generate_latest(registry))
    # Sums of floats differ in the last digit between releases of Python.
    assert read(metrics.render()) == pytest.approx(expected, rel=1e-12)
    assert len(expected) == 3 * (len(family.bounds) + 3)


def test_it_does_not_matter_how_many_attempts_are_counted_at_once() -> None:
    """What waits to be counted must come out as if each had been counted when it happened."""
    at_once, one_by_one = Metrics(), Metrics()
    usages = (
        USAGE,
        None,
        Usage(input_tokens=10, cache_read_tokens=8, audio_input_tokens=6, output_tokens=4, audio_output_tokens=4, evidence="partial"),
        Usage(input_tokens=70_000, cache_write_tokens=9, output_tokens=1, evidence="estimated"),
    )
    for n in range(100):
        usage = usages[n % 4]
        changes = {
            "usage": usage,
            "charge_nusd": 0 if usage is None else n * 7,
            "baseline_nusd": None if usage is None else n * (n % 13),
            "first_token_seconds": 0.01 * n if n % 3 else None,
            "upstream_seconds": 0.02 * n,
            "outcome": "ok" if n % 10 else "voided",
        }
        for metrics in (at_once, one_by_one):
            attempt(metrics, **changes)
            request(metrics, decision_seconds=0.00001 * n if n % 4 else None)
        one_by_one.fold()
    together, apart = (
        {(name, tuple(labels.items())): v for name, labels, v in samples(metrics.render())} for metrics in (at_once, one_by_one)
    )
    assert together == pytest.approx(apart, rel=1e-12)
    assert len(together) > 100


def test_what_waits_to_be_counted_is_bounded(metrics: Metrics) -> None:
    """A service that nobody scrapes must not keep a number for every request it has served."""
    series = metrics.attempt_series(
        **dict.fromkeys(("route", "rule", "model", "deployment", "provider", "team", "operation", "outcome"), "x")
    )
    most = 0
    for _ in range(3 * FOLD_EVERY):
        series.observe((USAGE, 1, 1, None, 1.0, None))
        if metrics.fold_due():
            metrics.fold()
        most = max(most, len(series._values))
    assert most == 6 * (FOLD_EVERY - 1)
    most = 0
    for _ in range(2 * FOLD_EVERY):
        metrics.store_call(call="settle", seconds=0.001, ok=True)
        most = max(most, len(metrics.store_times("settle")._values))
    assert most == FOLD_EVERY - 1
    assert value(metrics.render(), "faregate_attempts_total") == 3 * FOLD_EVERY
    assert value(metrics.render(), "faregate_store_seconds_count", call="settle") == 2 * FOLD_EVERY


def test_a_scrape_costs_a_fraction_of_the_client_librarys(metrics: Metrics) -> None:
    """Rendering blocks the event loop: the library's 60 ms for 9,000 lines are seen as p99 on every scrape."""
    family = FAMILIES["faregate_store_seconds"]
    registry = CollectorRegistry()
    oracle = prometheus_client.Histogram(family.name, family.help, family.labels, buckets=family.bounds, registry=registry)
    for n in range(300):
        metrics._stores[family.name].histogram((str(n),)).observe_all([0.01])
        oracle.labels(str(n)).observe(0.01)

    def cpu_seconds(work: Callable[[], object]) -> float:
        def once() -> float:
            began = time.process_time()
            work()
            return time.process_time() - began

        return min(once() for _ in range(5))

    assert cpu_seconds(metrics.render) * 8 < cpu_seconds(lambda: generate_latest(registry))
