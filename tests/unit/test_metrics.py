"""Metrics: what is counted, under which labels, and how it reads."""

from __future__ import annotations

import math
import subprocess
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from router.domain.prices import Price, Rates
from router.domain.usage import Usage
from router.errors import StoreUnavailable
from router.metrics import Metrics, merge, render
from router.metrics_families import FAMILIES
from router.metrics_gauges import process_gauges
from router.metrics_ledger import MeteredStore
from router.metrics_store import Family, Scrape, Store
from tests.metrics_samples import attempt, configured, everything, request, samples, snapshot, value


@pytest.fixture
def metrics() -> Metrics:
    return configured()


def test_a_charge_is_shown_in_usd_exactly(metrics: Metrics) -> None:
    """Money is summed as integers: a million charges of 0.1 nano-USD-sized float steps would drift."""
    for _ in range(1_000):
        attempt(metrics, charge_nusd=3, baseline_nusd=None)
    assert value(metrics.render(), "faregate_cost_usd_total", rule="code") == 3e-6
    assert value(metrics.render(), "gen_ai_client_cost_usd_total") == 3e-6


def test_saving_and_extra_cost_are_two_counters(metrics: Metrics) -> None:
    """A counter must not fall: a call dearer than the baseline may not be taken off what was avoided."""
    attempt(metrics, charge_nusd=1_000, baseline_nusd=5_000)
    attempt(metrics, charge_nusd=1_000, baseline_nusd=400)
    text = metrics.render()
    assert value(text, "faregate_avoided_cost_usd_total") == 4_000 / 1e9
    assert value(text, "faregate_extra_cost_usd_total") == 600 / 1e9


def test_token_classes_do_not_overlap(metrics: Metrics) -> None:
    """Usage counts are inclusive; whoever sums the classes must get all tokens, not the cached ones twice."""
    attempt(metrics)
    by_class = {labels["class"]: v for name, labels, v in samples(metrics.render()) if name == "faregate_tokens_total"}
    assert by_class == {"input": 70, "cache_read": 30, "output": 30, "reasoning": 20}


def test_overlapping_parts_never_exceed_the_whole(metrics: Metrics) -> None:
    """Cached audio is in two parts at once; the sum must stay what was billed."""
    attempt(metrics, usage=Usage(input_tokens=10, cache_read_tokens=8, audio_input_tokens=6, output_tokens=0, evidence="exact"))
    by_class = {labels["class"]: v for name, labels, v in samples(metrics.render()) if name == "faregate_tokens_total"}
    assert by_class == {"cache_read": 8, "audio_input": 2, "input": 0, "output": 0}


def test_estimated_usage_is_counted_apart(metrics: Metrics) -> None:
    """The share of estimates says how far the money can be trusted."""
    attempt(metrics)
    attempt(metrics, usage=Usage(input_tokens=5, output_tokens=5, evidence="partial"))
    assert value(metrics.render(), "faregate_estimated_usage_total", deployment="sim/a", evidence="partial") == 1


def test_an_attempt_without_usage_or_charge_counts_no_money(metrics: Metrics) -> None:
    """A refused connection cost nothing; it must not appear as a zero-token call."""
    attempt(metrics, usage=None, charge_nusd=0, baseline_nusd=None, first_token_seconds=None, outcome="voided")
    text = metrics.render()
    assert value(text, "faregate_attempts_total", outcome="voided") == 1
    names = {name for name, _, _ in samples(text)}
    assert "gen_ai_client_token_usage_count" not in names
    assert "faregate_reserved_to_charged_ratio_count" not in names


@pytest.mark.parametrize("field", ["route", "rule", "model", "deployment", "provider", "team"])
def test_a_name_that_the_configuration_lacks_becomes_unknown(metrics: Metrics, field: str) -> None:
    """A client could otherwise make a new series with every request."""
    attempt(metrics, **{field: "made up by a client"})
    assert value(metrics.render(), "faregate_attempts_total", **{field: "unknown"}) == 1


def test_made_up_names_take_no_memory(metrics: Metrics) -> None:
    """Neither the series nor the cache in front of them may grow with what clients send."""
    for n in range(50):
        attempt(metrics, route=f"made-up-{n}")
        request(metrics, route=f"made-up-{n}", status=n)
    assert len(metrics._attempts) == 1
    assert len(metrics._requests) == 1
    assert value(metrics.render(), "faregate_attempts_total") == 50
    assert value(metrics.render(), "faregate_requests_total", status="unknown") == 50


def test_an_empty_name_is_shown_as_none(metrics: Metrics) -> None:
    """An empty label is an absent one in Prometheus, and drops out of every match."""
    request(metrics, team="")
    assert value(metrics.render(), "faregate_requests_total", team="none") == 1


def test_words_of_the_program_are_bounded_too(metrics: Metrics) -> None:
    """A reason built from an upstream's text by mistake must not flood the metrics."""
    for n in range(200):
        metrics.retried(deployment="sim/a", reason=f"reason_{n}")
    metrics.retried(deployment="sim/a", reason="free text\n")
    series = [labels for name, labels, _ in samples(metrics.render()) if name == "faregate_retries_total"]
    assert len(series) == 65


def test_series_beyond_the_cap_are_counted_under_overflow() -> None:
    """Too large a configuration may cost detail, never memory without end, and no event is lost."""
    store = Store(Family(name="x_total", kind="counter", help="", labels=("a", "b")), max_series=3)
    for n in range(10):
        store.cell((str(n), "b")).value += 1
    store.cell(("0", "b")).value += 1
    assert dict(store.points()) == {("0", "b"): 2, ("1", "b"): 1, ("2", "b"): 1, ("overflow", "overflow"): 7}


def test_label_values_survive_quotes_and_line_ends() -> None:
    """A deployment may be called anything; one bad name must not break the whole scrape."""
    odd = 'a"b\\c\nd%s'
    times = Store(FAMILIES["faregate_store_seconds"])
    times.histogram((odd,)).observe_all([0.1])
    text = render({"faregate_retries_total": [((odd, "5xx"), 3)], "faregate_store_seconds": times.points()})
    assert value(text, "faregate_retries_total", deployment=odd) == 3
    assert value(text, "faregate_store_seconds_count", call=odd) == 1


def test_buckets_count_values_up_to_and_including_their_bound(metrics: Metrics) -> None:
    """`le` means lower or equal; off by one here shifts every quantile."""
    metrics.store_call(call="settle", seconds=0.001, ok=True)
    metrics.store_call(call="settle", seconds=99.0, ok=True)
    text = metrics.render()
    assert value(text, "faregate_store_seconds_bucket", call="settle", le="0.00075") == 0
    assert value(text, "faregate_store_seconds_bucket", call="settle", le="0.001") == 1
    assert value(text, "faregate_store_seconds_bucket", call="settle", le="+Inf") == 2
    assert value(text, "faregate_store_seconds_sum", call="settle") == 99.001


def test_aliases_show_the_same_series(metrics: Metrics) -> None:
    """Dashboards that ask for the server's names must see what those for the client's names see."""
    attempt(metrics, outcome="upstream_error")
    text = metrics.render()
    own = {(tuple(sorted(labels.items())), v) for n, labels, v in samples(text) if n == "gen_ai_client_operation_duration_seconds_bucket"}
    alias = {(tuple(sorted(labels.items())), v) for n, labels, v in samples(text) if n == "gen_ai_server_request_duration_seconds_bucket"}
    assert own == alias
    assert own


def test_time_per_output_token_is_what_follows_the_first(metrics: Metrics) -> None:
    """The first token's wait is another metric; counting it twice makes a slow start look like slow tokens."""
    attempt(metrics, upstream_seconds=1.3, first_token_seconds=0.3, usage=Usage(input_tokens=1, output_tokens=11, evidence="exact"))
    attempt(metrics, first_token_seconds=None)
    attempt(metrics, usage=Usage(input_tokens=1, output_tokens=1, evidence="exact"))
    assert value(metrics.render(), "gen_ai_server_time_per_output_token_seconds_sum") == pytest.approx(0.1)
    assert value(metrics.render(), "gen_ai_server_time_per_output_token_seconds_count") == 1


def test_gauges_that_are_no_longer_set_disappear(metrics: Metrics) -> None:
    """A budget that was removed must not stay on the dashboard with its last value."""
    names = ["old"]

    def show(scrape: Scrape) -> None:
        for name in names:
            scrape.set("faregate_budget_spent_usd", 1.0, budget=name)

    metrics.on_scrape(show)
    assert value(metrics.render(), "faregate_budget_spent_usd", budget="old") == 1
    names[:] = ["new"]
    assert [labels for n, labels, _ in samples(metrics.render()) if n == "faregate_budget_spent_usd"] == [{"budget": "new"}]


def test_an_unknown_gauge_value_is_not_shown(metrics: Metrics) -> None:
    """Unknown is not zero."""
    metrics.on_scrape(lambda scrape: scrape.set("faregate_store_up", None))
    assert b"faregate_store_up" not in metrics.render()


def test_a_gauge_with_wrong_labels_is_a_mistake_of_ours() -> None:
    """It would otherwise be written as a line that Prometheus refuses, and the whole scrape with it."""
    scrape = Scrape(FAMILIES)
    with pytest.raises(ValueError, match="has the labels"):
        scrape.set("faregate_store_up", 1, budget="x")
    with pytest.raises(KeyError):
        scrape.set("faregate_budget_spent_usd", 1, team="x")
    with pytest.raises(ValueError, match="not 1 of them"):
        Store(FAMILIES["faregate_retries_total"]).cell(("sim/a",))
    with pytest.raises(ValueError, match="not 0 of them"):
        Store(FAMILIES["faregate_store_seconds"]).histogram(())


def test_several_workers_add_up(metrics: Metrics) -> None:
    """A scrape meets one worker of several; it must see the work of all."""
    other = Metrics()
    other.configure(snapshot())
    for one in (metrics, other):
        everything(one)
    attempt(other, deployment="sim/b")
    single = {(n, tuple(sorted(labels.items()))): v for n, labels, v in samples(metrics.render())}
    merged = render(merge([metrics.dump(), other.dump()]))
    together = {(n, tuple(sorted(labels.items()))): v for n, labels, v in samples(merged)}
    assert value(merged, "faregate_attempts_total", deployment="sim/b") == 1
    assert value(merged, "faregate_workers") == 2
    # Everything that only both did is twice what one did.
    shared = [key for key in single if not any(label in ("gen_ai_response_model", "model") for label, _ in key[1])]
    assert shared
    assert all(math.isclose(together[key], 2 * single[key]) for key in shared)


def test_merging_one_worker_changes_nothing(metrics: Metrics) -> None:
    """The way over the wire loses neither a label nor a digit."""
    everything(metrics)
    assert render(merge([metrics.dump()])) == metrics.render()


def test_a_worker_that_ended_keeps_its_counts_but_measures_nothing() -> None:
    """A counter must not fall when a worker is replaced; its memory is free again all the same."""
    workers = [Metrics(), Metrics()]
    for worker in workers:
        worker.swept(2)
        worker.in_flight.value += 3
    text = render(merge([workers[0].dump()], ended=[workers[1].dump()]))
    assert value(text, "faregate_holds_swept_total") == 4
    assert value(text, "faregate_requests_in_flight") == 3
    assert value(text, "faregate_workers") == 1


class _Store:
    """Answers as told; `run_id` stands for what a store has beyond the port."""

    run_id = "abc"

    def __init__(self, *, up: bool) -> None:
        self.up = up

    def __getattr__(self, name: str) -> Callable[..., Any]:
        async def call(*args: object, **options: object) -> tuple[str, tuple[object, ...], dict[str, object]]:
            if not self.up:
                raise StoreUnavailable("away")
            return name, args, options

        return call


@pytest.mark.parametrize(
    ("call", "args", "options"),
    [
        ("reserve", (), {"attempt_id": "a", "amount_nusd": 1, "buckets": None, "note": b"n", "tokens": 3}),
        ("extend", ("held",), {"by_nusd": 2}),
        ("settle", ("held",), {"charge_nusd": 1, "record": b"r", "tokens": 2}),
        ("void", ("held",), {}),
    ],
)
async def test_calls_of_the_store_are_timed_and_unchanged(
    metrics: Metrics, call: str, args: tuple[str, ...], options: dict[str, Any]
) -> None:
    """What is measured must not be altered, and a failure must reach whoever called."""
    ticks = iter([1.0, 1.5, 2.0, 2.25])
    up: Any = MeteredStore(_Store(up=True), metrics, clock=lambda: next(ticks))
    assert await getattr(up, call)(*args, **options) == (call, args, options)
    assert up.run_id == "abc"
    down: Any = MeteredStore(_Store(up=False), metrics, clock=lambda: next(ticks))
    with pytest.raises(StoreUnavailable):
        await getattr(down, call)(*args, **options)
    text = metrics.render()
    assert value(text, "faregate_store_seconds_sum", call=call) == 0.75
    assert value(text, "faregate_store_errors_total", call=call) == 1


@pytest.mark.parametrize(
    ("name", "labels", "merged"),
    [
        ("faregate_store_up", {}, 0),
        ("faregate_budget_spent_usd", {"budget": "everyone"}, 1),
        ("faregate_holds_open", {}, 1),
    ],
)
def test_gauges_of_workers_are_combined_as_declared(name: str, labels: dict[str, str], merged: float) -> None:
    """The store is down if one worker lost it; a budget that all see is not the sum of what they see."""
    dumps = []

    def show(seen: int, scrape: Scrape) -> None:
        scrape.set(name, seen, **labels)

    for seen in (1, 0):
        worker = Metrics()
        worker.on_scrape(partial(show, seen))
        dumps.append(worker.dump())
    assert value(render(merge(dumps)), name, **labels) == merged


def test_a_metric_of_another_release_is_left_out(metrics: Metrics) -> None:
    """During a rolling restart workers may differ; what cannot be declared cannot be shown."""
    from router.metrics_store import encode

    everything(metrics)
    foreign = encode({"faregate_of_tomorrow_total": [((), 1)]})
    assert b"of_tomorrow" not in render(merge([metrics.dump(), foreign]))


def test_budget_refusals_exist_before_the_first_one(metrics: Metrics) -> None:
    """`rate()` cannot see the first event of a counter that appears with it, and the first refusal pages somebody."""
    assert value(metrics.render(), "faregate_budget_refusals_total", budget="everyone", action="refuse") == 0


def test_prices_of_a_configuration_are_counted_by_how_they_were_found(metrics: Metrics) -> None:
    """A deployment without a price is not called; it should be seen before somebody asks for it."""
    priced = snapshot()
    rates = Rates(input=1, output=1)
    prices = {
        "sim/a": Price(rates=rates, source="config"),
        "sim/b": Price(rates=rates, source="assumed"),
        "sim/c": Price(rates=rates, source="config", free=True),
    }
    deployments = {name: replace(priced.deployments["sim/a"], name=name, price=price) for name, price in prices.items()}
    metrics.configure(replace(priced, deployments=deployments))
    counted = {labels["result"]: v for n, labels, v in samples(metrics.render()) if n == "faregate_price_lookups_total"}
    assert counted == {"missing": 2, "found": 1, "assumed": 1, "free": 1}


def test_promtool_finds_nothing_to_criticise(metrics: Metrics) -> None:
    """Names, units, types and the text form follow Prometheus' rules by its own tool."""
    everything(metrics)
    metrics.on_scrape(process_gauges())
    metrics.on_scrape(all_gauges)
    done = subprocess.run(["promtool", "check", "metrics"], input=metrics.render(), capture_output=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def all_gauges(scrape: Scrape) -> None:
    for family in FAMILIES.values():
        if family.name.startswith("faregate_") and (family.kind == "gauge" or "dropped" in family.name):
            scrape.set(family.name, 1, **dict.fromkeys(family.labels, "x"))


def test_every_declared_metric_can_be_produced(metrics: Metrics) -> None:
    """A name in the table that nothing fills is a promise that the documentation repeats."""
    everything(metrics)
    metrics.on_scrape(process_gauges())
    metrics.on_scrape(all_gauges)
    text = metrics.render().decode()
    assert [name for name in FAMILIES if f"# TYPE {name} " not in text] == []
