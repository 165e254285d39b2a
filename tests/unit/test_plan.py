"""`faregate plan` and `faregate drill`: what a change would do, on requests whose answer is known beforehand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner, Result

from router.cli import load
from router.domain.budgets import Budget
from router.domain.records import SpendRecord
from router.replay.budgets import LedgerModel
from router.replay.compare import compare
from router.replay.observed import Observed
from router.replay.report import notes_of
from router.replay.requests import read_requests
from router.replay.simulate import World, reproduced, simulate
from router.replay.statistics import Sums, ratio
from router.replay.thresholds import parse_threshold
from router.snapshot import Snapshot
from tests.replay_logs import DAY_MS, made_up, write_log
from tests.running import compiled

CONFIG = """
version: 1
providers:
  one: {kind: openai, base_url: "http://127.0.0.1:9/v1", api_key: "${PROVIDER_KEY:-k}"}
  two: {kind: openai, base_url: "http://127.0.0.1:9/v1", api_key: "${PROVIDER_KEY:-k}"}
models:
  big: {at: [one/big, two/big], size: large, price: {input: 10, output: 30}}
  small: {at: one/small, size: small, price: {input: 1, output: 2}}
routes:
  auto: {default: {use: [big, small], by: {kind: weighted, weights: {one/big: BIG, two/big: 0, small: SMALL}}}}
budgets:
  per-team: {limit: LIMIT, each: team}
teams: {search: {}, ads: {}}
"""


def text(*, big: int = 1, small: int = 1, limit: str = "$1000/day") -> str:
    return CONFIG.replace("BIG", str(big)).replace("SMALL", str(small)).replace("LIMIT", limit)


def planned(old: Snapshot, new: Snapshot, records: list[SpendRecord]) -> Any:
    requests = read_requests(records)
    observed = Observed(requests)
    worlds = World(old, observed), World(new, observed)
    for asked in requests:
        worlds[0].remember(asked)
    return compare(worlds, requests, (simulate(worlds[0], requests), simulate(worlds[1], requests)), reproduced(worlds, requests))


def test_a_plan_foretells_what_another_split_costs() -> None:
    """The truth is a log made by the new split. Simulation and the estimate from chance both name it within their intervals."""
    old, new = compiled(text()), compiled(text(small=3))
    told = planned(old, new, made_up(old, 6000))
    truth = made_up(new, 6000, big=0.25, seed=8)
    cost, ms = (sum(values) / len(truth) for values in ([one.charge_nusd for one in truth], [one.duration_ms for one in truth]))
    assert told.as_recorded == told.requests == 6000
    simulated = told.total.cost_per_month_nusd
    low, high = simulated.between
    assert low < cost * 6000 / told.recorded_nusd - 1 < high
    assert low < simulated.change < high
    off = told.off_policy
    assert off.cost_between[0] * 0.97 < cost < off.cost_between[1] * 1.03
    assert off.ms_between[0] * 0.97 < ms < off.ms_between[1] * 1.03
    assert 3000 < off.effective < 6000
    assert told.total.changed == sum(count for _, _, count in told.moves) == pytest.approx(1500, abs=120)


def test_a_plan_without_a_change_changes_nothing() -> None:
    """Chance is the same on both sides, also where the log does not say what it was."""
    snapshot = compiled(text())
    told = planned(snapshot, snapshot, made_up(snapshot, 500))
    assert (told.total.changed, told.total.cost_per_month_nusd.change) == (0, 0)
    assert told.total.cost_per_month_nusd.between == (0, 0)
    assert told.recorded_nusd == pytest.approx(
        told.total.cost_per_month_nusd.new * (told.until_ms - told.since_ms) / (365.25 / 12 * DAY_MS)
    )


@pytest.mark.parametrize(
    ("exact", "reproduced", "says"),
    [
        (0, (0, 0), ["No decisions were kept: tools, caps and headers are not known."]),
        (20, (20, 20), ["All decisions were kept.", "20 of 20 kept decisions begin at the same deployment again."]),
        (
            15,
            (9, 10),
            [
                "Decisions were kept of 15 requests; of the other 5, tools, caps and headers are not known.",
                "9 of 10 kept decisions begin at the same deployment again.",
                "5 kept decisions were made under other versions of the configuration: whether they repeat is not known.",
            ],
        ),
    ],
)
def test_a_plan_says_how_much_of_the_log_is_known(exact: int, reproduced: tuple[int, int], says: list[str]) -> None:
    """Figures that do not add up make the others doubtful."""
    snapshot = compiled(text())
    told = planned(snapshot, snapshot, made_up(snapshot, 20))
    told.exact, told.reproduced, told.off_policy = exact, reproduced, None
    assert notes_of(told)[3:] == says


def test_budgets_refuse_over_the_time_of_the_log() -> None:
    """A day's budget is used up in the middle of each day, and is there again the next; calls under way count by their holds."""
    old, new = compiled(text(big=1, small=0)), compiled(text(big=1, small=0, limit="$1/day"))
    records = made_up(old, 2000, big=1.0)
    told = planned(old, new, records)
    assert told.total.refused_old == 0
    days = {(one.at_ms // DAY_MS, one.team) for one in records}
    spent = told.recorded_nusd * (1 + told.total.cost_per_month_nusd.change)
    assert len(days) * 0.9e9 < spent <= len(days) * 1e9
    assert told.refusals == [("budget:per-team", 0, told.total.refused_new)]


def test_a_rolling_window_and_calls_under_way_are_counted() -> None:
    """What leaves the window makes room; what is under way does not."""
    rolling = Budget(name="r", limit_nusd=10, window="rolling", rolling_ms=60_000)
    at_once = Budget(name="c", limit_nusd=2, window="lifetime", unit="concurrent")
    ledger = LedgerModel([rolling, at_once])

    def ask(at_ms: int, nusd: int, charge: int) -> str | None:
        ledger.until(at_ms)
        return ledger.reserve({}, {}, at_ms, at_ms + 1000, nusd=nusd, tokens=5, charge=(charge, 5))

    assert [ask(0, 6, 4), ask(1, 6, 4), ask(1500, 6, 6), ask(1600, 1, 1)] == [None, "r", None, "r"]
    assert ask(61_100, 4, 1) is None
    assert [ask(70_000, 1, 1), ask(70_000, 1, 1), ask(70_000, 1, 1)] == [None, None, "c"]


def test_what_too_few_blocks_hold_has_no_interval() -> None:
    """One busy session says nothing about how sure a figure is."""
    sums = Sums(2)
    sums.columns[0][3] = sums.columns[1][3] = 1000
    assert sums.interval(ratio(1, 0)) is None


def test_answers_of_another_model_take_its_time_and_length() -> None:
    """Latency and length come from what was seen of a model; of what was never seen nothing is said."""
    snapshot = compiled(text())
    requests = read_requests(made_up(snapshot, 800))
    observed = Observed(requests)
    assert observed.total_ms("one/big", 100) == pytest.approx(300 + 3000, rel=0.01)
    assert observed.total_ms("two/big", 100) is None
    assert observed.stretch("big", "small") == pytest.approx(1, abs=0.1)
    assert observed.stretch("big", "other") == 1


def run(verb: str, *words: str) -> Result:
    return CliRunner().invoke(load(verb), list(words))


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str, str]:
    for name, config in (("old.yaml", text()), ("new.yaml", text(small=3, limit="$0.05/day"))):
        (tmp_path / name).write_text(config)
    log = write_log(tmp_path / "log.jsonl", made_up(compiled(text()), 400))
    return str(tmp_path / "old.yaml"), str(tmp_path / "new.yaml"), str(log)


def test_the_verb_prints_tables_and_fails_on_a_stated_regression(files: tuple[str, str, str]) -> None:
    """For a terminal, for a pull request, for machines; a pipeline stops where a threshold is broken."""
    old, new, log = files
    words = (old, new, "--replay", log, "--since", "2026-01-01")
    shown = run("plan", *words, "--fail-on", "cost:+5%", "--fail-on", "changed:90%")
    assert shown.exit_code == 0, shown.output
    assert "USD per month" in shown.stdout
    markdown = run("plan", *words, "--markdown", "--fail-on", "refusals:+0")
    assert markdown.exit_code == 1
    assert "| budget:per-team | 0 |" in markdown.stdout
    assert "beyond refusals:+0" in markdown.stderr
    told = json.loads(run("plan", *words, "--json").stdout)["plan"]
    assert told["total"]["cost_per_month_nusd"]["change"] < 0
    assert told["off_policy"]["requests"] == 400
    assert run("plan", *words, "--fail-on", "quality:-1%").exit_code == 1
    assert run("plan", new, old, "--replay", log, "--since", "2026-01-01", "--fail-on", "cost:+5%").exit_code == 1
    assert run("plan", *words, "--fail-on", "cost").exit_code == 2
    empty = run("plan", old, new, "--replay", log, "--since", "2026-01-01", "--until", "2026-01-02")
    assert (empty.exit_code, empty.stdout) == (0, "The log has no requests in this time.\n")


@pytest.mark.parametrize("wrong", ["cost", "cost:5", "quality:+1%", "cost:-5%", "speed:+1%"])
def test_a_threshold_that_makes_no_sense_is_refused(wrong: str) -> None:
    """`cost:5` would be five what?"""
    with pytest.raises(ValueError, match="is no threshold"):
        parse_threshold(wrong)


def test_a_drill_says_what_has_nothing_left(files: tuple[str, str, str]) -> None:
    """`big` has a second provider, `small` has none: its own name leads nowhere, `auto` goes on at the second."""
    old, _, log = files
    words = ("--config", old, "--replay", log, "--since", "2026-01-01")
    told = json.loads(run("drill", "--without", "one", *words, "--json").stdout)
    assert told["gone"] == ["one/big", "one/small"]
    assert [(one["route"], one["deployments"]) for one in told["dependencies"]] == [("small", ["one/small"])]
    assert told["stranded"] == []
    assert [(one["provider"], one["recorded"], one["drilled"]) for one in told["shares"]] == [("one", 1.0, 0.0), ("two", 0.0, 1.0)]
    assert told["comparison"]["total"]["cost_per_month_nusd"]["change"] > 0.5
    both = run("drill", "--without", "one", "--without", "two", *words, "--fail-on-stranded")
    assert both.exit_code == 1
    assert "400 of 400 requests (100.0%) have no other deployment" in both.stdout
    assert run("drill", "--without", "two", *words, "--most", "one=60%").exit_code == 1
    assert run("drill", "--without", "two", *words, "--most", "one=100%", "--markdown").exit_code == 0
    assert run("drill", "--without", "three", *words).exit_code == 2


@pytest.mark.parametrize(
    ("most", "code", "says"),
    [
        ("one=0.6", 1, "one gets 100.0% of the spending, more than 60%"),
        ("two=0.6", 0, ""),
        ("oen=60%", 2, "there is no provider 'oen'; did you mean \"one\"?"),
        ("elsewhere=60%", 2, "there is no provider 'elsewhere'; known: one, two"),
        ("one/big=60%", 2, "there is no provider 'one/big'"),
        ("one=600%", 2, "'600%' is not a share of the spending, 0 to 1; write 60% or 0.6"),
        ("one=60", 2, "'60' is not a share"),
        ("one=much", 2, "'much' is not a share"),
        ("one", 2, "'one' is not provider=60%"),
    ],
)
def test_a_limit_that_could_never_be_broken_is_refused(files: tuple[str, str, str], most: str, code: int, says: str) -> None:
    """A check that runs every night passes for ever where its provider is misspelt."""
    told = run("drill", "--without", "two", "--config", files[0], "--replay", files[2], "--since", "2026-01-01", "--most", most)
    assert (told.exit_code, says in " ".join(told.stderr.replace("│", " ").split())) == (code, True), told.output


def test_a_line_that_is_no_record_is_named(files: tuple[str, str, str], tmp_path: Path) -> None:
    """A plan on half a log would mislead."""
    old, new, _ = files
    (tmp_path / "bad.jsonl").write_bytes(msgspec.json.encode({"attempt_id": 1}) + b"\n")
    result = run("plan", old, new, "--replay", str(tmp_path / "bad.jsonl"), "--since", "2026-01-01")
    assert "bad.jsonl:1: not a spend record" in str(result.exception)
