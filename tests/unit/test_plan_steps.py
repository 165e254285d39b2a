"""`faregate plan` and `faregate drill` on a log of requests that were charged by several records each."""

from __future__ import annotations

from router.domain.records import SpendRecord
from router.domain.rerate import charge_at
from router.replay.compare import Comparison, compare
from router.replay.drill import Drill, drill
from router.replay.observed import Observed
from router.replay.report import notes_of
from router.replay.requests import read_requests
from router.replay.simulate import World, reproduced, simulate
from router.replay.thresholds import broken, parse_threshold
from router.snapshot import Snapshot
from tests.replay_logs import START_MS
from tests.running import compiled

CONFIG = """
version: 1
providers:
  edge: {kind: openai, base_url: "http://127.0.0.1:9/v1", api_key: k}
  mid: {kind: openai, base_url: "http://127.0.0.1:9/v1", api_key: k}
  top: {kind: openai, base_url: "http://127.0.0.1:9/v1", api_key: k}
models:
  pocket: {at: edge/pocket, price: {input: 0.1, output: 0.2}}
  solar: {at: mid/solar, price: {input: 2, output: 4}}
  frontier: {at: top/frontier, price: {input: 10, output: 30}}
routes:
  auto: {default: {use: USE}}
"""
CASCADE = "[pocket, solar, frontier], by: {kind: cascade, steps: [pocket, frontier], verify: {judge: {model: solar}}}"
STEPS = (("edge/pocket", ""), ("mid/solar", "cascade:judge"), ("top/frontier", "cascade"))
REQUESTS = 40


def config(use: str) -> Snapshot:
    return compiled(CONFIG.replace("USE", use))


def log(snapshot: Snapshot) -> list[SpendRecord]:
    """Each request asks the small model, its judge, and the large one."""
    made = []
    for number in range(REQUESTS):
        for step, (name, reason) in enumerate(STEPS):
            provider, model = name.split("/")
            record = SpendRecord(
                attempt_id=f"r{number}.{step}",
                request_id=f"r{number}",
                at_ms=START_MS + number * 60_000 + step * 1000,
                route="auto",
                rule="default",
                reason=reason,
                model=model,
                deployment=name,
                provider=provider,
                input_tokens=100,
                output_tokens=50,
                duration_ms=500,
                config_version=snapshot.version,
            )
            price = snapshot.deployments[name].price
            assert price is not None
            record.charge_nusd = charge_at(record, price) or 0
            made.append(record)
    return made


def planned(old: Snapshot, new: Snapshot, records: list[SpendRecord]) -> Comparison:
    requests = read_requests(records)
    worlds = World(old, Observed(requests)), World(new, Observed(requests))
    return compare(worlds, requests, (simulate(worlds[0], requests), simulate(worlds[1], requests)), reproduced(worlds, requests))


def drilled(snapshot: Snapshot, without: str) -> Drill:
    requests = read_requests(log(snapshot))
    observed = Observed(requests)
    return drill(snapshot, [without], requests, World(snapshot, observed), World(snapshot, observed, without=frozenset((without,))))


def test_a_cascade_that_stays_costs_what_all_its_records_cost() -> None:
    """Every step and judge counts, under the model that it was charged by."""
    snapshot = config(CASCADE)
    told = planned(snapshot, snapshot, log(snapshot))
    months = (told.until_ms - told.since_ms) / (365.25 / 12 * 86_400_000)
    assert round(told.total.cost_per_month_nusd.old * months) == told.recorded_nusd
    assert told.total.cost_per_month_nusd.change == 0
    assert {row.name for row in told.models} == {"pocket", "solar", "frontier"}
    assert told.unknown_steps == 0


def test_the_last_step_alone_is_cheaper_than_all_of_them() -> None:
    """Of three records only the last one's is left."""
    old = config(CASCADE)
    records = log(old)
    told = planned(old, config("[frontier]"), records)
    last = sum(one.charge_nusd for one in records if one.model == "frontier")
    change = told.total.cost_per_month_nusd.change
    assert change is not None
    assert abs(change - (last / told.recorded_nusd - 1)) < 1e-9
    assert broken(told, [parse_threshold("cost:+0%")]) == []


def test_a_plan_that_the_log_has_not_seen_does_not_pass() -> None:
    """How often it goes on is unknown, so that a limit on cost cannot be told to hold."""
    new = config(CASCADE)
    told = planned(config("[frontier]"), new, [one for one in log(new) if one.model == "frontier"])
    assert told.unknown_steps == REQUESTS
    assert told.unknown_steps_nusd == told.recorded_nusd
    assert "not known" in broken(told, [parse_threshold("cost:+500%")])[0]


def test_a_drill_counts_who_only_judges() -> None:
    """A vendor that gets part of the money is used, whoever answered."""
    told = drilled(config(CASCADE), "mid")
    shares = {one.provider: (one.recorded, one.drilled) for one in told.shares}
    assert shares["mid"][0]
    assert shares["mid"][1] == 0
    assert told.comparison is not None
    assert told.comparison.unknown_steps == REQUESTS


def test_a_cascade_that_began_elsewhere_costs_what_its_records_cost() -> None:
    """The first step had no room or was cooling down then: what was made instead was paid for, and the plan is the same."""
    snapshot = config(CASCADE)
    records = log(snapshot)
    for record in records:
        record.reason = record.reason or "cascade:pocket"
    half = [one for one in records if int(one.request_id[1:]) % 2 or one.model == "frontier"]
    told = planned(snapshot, snapshot, half)
    months = (told.until_ms - told.since_ms) / (365.25 / 12 * 86_400_000)
    assert round(told.total.cost_per_month_nusd.old * months) == told.recorded_nusd
    assert (told.total.cost_per_month_nusd.change, told.unknown_steps) == (0, 0)


def test_retries_and_fallbacks_are_part_of_the_old_cost() -> None:
    """A call that broke off is charged, too; where nothing changes, the cost is what was paid."""
    snapshot = config("[pocket, frontier], by: fixed")
    records = [one for one in log(snapshot) if one.model != "solar"]
    for record in records:
        record.reason = "fixed" if record.model == "pocket" else "fallback:timeout"
        record.outcome = "upstream_lost" if record.model == "pocket" else "ok"
    told = planned(snapshot, snapshot, records)
    months = (told.until_ms - told.since_ms) / (365.25 / 12 * 86_400_000)
    assert round(told.total.cost_per_month_nusd.old * months) == told.recorded_nusd
    assert (told.total.changed, told.as_recorded) == (0, REQUESTS)
    moved = planned(snapshot, config("frontier"), records)
    assert round(moved.total.cost_per_month_nusd.new * months) == sum(one.charge_nusd for one in records if one.model == "frontier")


def test_a_new_cascade_costs_what_the_escalations_of_the_log_say() -> None:
    """Half of the small answers passed: a cascade without the judge is taken to go on as often, and costs a judge less."""
    old = config(CASCADE)
    records = [one for one in log(old) if one.model != "frontier" or int(one.request_id[1:]) % 2]
    for record in records:
        record.reason = record.reason or "cascade:pocket"
    cost = {model: next(one.charge_nusd for one in records if one.model == model) for model in ("pocket", "solar", "frontier")}
    told = planned(old, config("[pocket, frontier], by: {kind: cascade, steps: [pocket, frontier]}"), records)
    months = (told.until_ms - told.since_ms) / (365.25 / 12 * 86_400_000)
    assert (told.unknown_steps, told.estimated_steps) == (0, REQUESTS)
    assert round(told.total.cost_per_month_nusd.new * months) == REQUESTS * cost["pocket"] + REQUESTS // 2 * cost["frontier"]
    assert broken(told, [parse_threshold("cost:+0%")]) == []
    assert any("another cascade" in note for note in notes_of(told))
