"""What was spent: sums that agree with the ledger, and how they are shown."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from typer.testing import CliRunner

from router import cli
from router.adapters.choose import open_ledger
from router.domain.budgets import NEVER_MS, Bucket, BucketSet, Refusal, WindowMoved
from router.domain.records import SpendRecord
from router.errors import ConfigError
from router.spend import Report, parse_dimensions, parse_filters, parse_moment

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
NOW_MS = int(NOW.timestamp() * 1000)


def record(**changes: Any) -> SpendRecord:
    values: dict[str, Any] = {"attempt_id": "a1", "request_id": "r1", "at_ms": NOW_MS, "team": "search", "model": "small"}
    return SpendRecord(**(values | changes))


def report(*records: SpendRecord, by: str = "team", zone: str = "UTC") -> Report:
    made = Report(by=parse_dimensions(by), zone=ZoneInfo(zone))
    for one in records:
        made.add(one)
    return made


def test_rows_add_up_to_the_total_exactly() -> None:
    """Whoever checks the table with a calculator must find it right, to the nano-dollar."""
    made = report(*[record(attempt_id=str(n), team=f"t{n % 3}", charge_nusd=10**15 + n) for n in range(100)])
    assert sum(sums.charge_nusd for sums in made.rows.values()) == made.total.charge_nusd == 100 * 10**15 + 4950


def test_retries_and_fallbacks_are_calls_of_one_request() -> None:
    """Counting them as requests would make an unreliable provider look popular."""
    made = report(record(attempt_id="a1"), record(attempt_id="a2", outcome="upstream_error"))
    assert (len(made.total.requests), made.total.calls) == (1, 2)


def test_a_correction_adds_the_difference_and_no_call() -> None:
    """The counters were moved by the difference; the table must follow them, also downwards."""
    made = report(
        record(outcome="swept", evidence="estimated", charge_nusd=100),
        record(outcome="corrected", charge_nusd=-30, input_tokens=7, output_tokens=3),
    )
    total = made.total
    assert (total.calls, len(total.requests), total.charge_nusd, total.input_tokens, total.output_tokens) == (1, 1, 70, 7, 3)


def test_a_corrected_guess_is_no_longer_an_estimate() -> None:
    """The estimated share says how far the sum can be trusted; the truth has come."""
    swept = record(outcome="swept", evidence="estimated", charge_nusd=100)
    assert report(swept).total.estimated_share == 1.0
    made = report(swept, record(at_ms=NOW_MS + 86_400_000, outcome="corrected", charge_nusd=-30), by="day")
    assert made.total.estimated_nusd == 0
    assert [sums.estimated_nusd for _, sums in made.sorted_rows()] == [0, 0]


def test_a_correction_that_is_itself_estimated_stays_one() -> None:
    """A late count of our own is better than the sweep's guess, and still not the provider's."""
    swept = record(outcome="swept", evidence="estimated", charge_nusd=100)
    made = report(swept, record(outcome="corrected", evidence="partial", charge_nusd=-30))
    assert made.total.estimated_nusd == 70


def test_avoided_cost_counts_the_whole_charge_of_a_corrected_call() -> None:
    """Its last record holds only the difference; compared with the baseline it would look nearly free."""
    swept = record(outcome="swept", evidence="estimated", charge_nusd=100)
    corrected = record(outcome="corrected", charge_nusd=-30, baseline_nusd=200)
    assert report(swept, corrected).total.avoided_nusd == 130
    assert report(corrected).total.avoided_nusd is None, "the sweep lies outside: the whole charge is not known"


def test_a_dearer_call_counts_against_what_was_avoided() -> None:
    """Only the net saving is honest."""
    made = report(record(charge_nusd=10, baseline_nusd=50), record(attempt_id="a2", charge_nusd=90, baseline_nusd=50))
    assert made.total.avoided_nusd == 0


def test_without_a_baseline_nothing_is_said_to_be_avoided() -> None:
    """Unknown is not zero."""
    assert report(record(charge_nusd=5)).total.avoided_nusd is None


def test_without_a_charge_there_is_no_estimated_share() -> None:
    """Nothing divided by nothing is not 0 %."""
    assert report(record()).total.estimated_share is None


def test_days_are_those_of_the_time_zone() -> None:
    """A bill for Seoul's Monday must not begin on Monday at nine."""
    late = record(at_ms=int(datetime(2026, 11, 22, 15, 30, tzinfo=UTC).timestamp() * 1000))
    assert list(report(late, by="day").rows) == [("2026-11-22",)]
    assert list(report(late, by="day", zone="Asia/Seoul").rows) == [("2026-11-23",)]


def test_days_are_in_order_and_the_dearest_first_within() -> None:
    """The order in which one reads a bill."""
    day = 86_400_000
    made = report(
        record(attempt_id="1", at_ms=NOW_MS + day, team="x", charge_nusd=9),
        record(attempt_id="2", at_ms=NOW_MS, team="b", charge_nusd=1),
        record(attempt_id="3", at_ms=NOW_MS, team="c", charge_nusd=5),
        by="team,day",
    )
    assert [group for group, _ in made.sorted_rows()] == [("c", "2026-11-22"), ("b", "2026-11-22"), ("x", "2026-11-23")]


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("7d", NOW - timedelta(days=7)),
        (" 36H ", NOW - timedelta(hours=36)),
        ("2w", NOW - timedelta(weeks=2)),
        ("2026-11-01", datetime(2026, 10, 31, 15, tzinfo=UTC)),
        ("2026-11-01T09:30", datetime(2026, 11, 1, 0, 30, tzinfo=UTC)),
        ("2026-11-01T09:30+00:00", datetime(2026, 11, 1, 9, 30, tzinfo=UTC)),
        ("0001-01-01T00:00:00+23:59", datetime(1970, 1, 2, tzinfo=UTC)),
        ("99999w", datetime(1970, 1, 2, tzinfo=UTC)),
        ("9999-12-31T23:59:59-23:59", datetime(9999, 1, 1, tzinfo=UTC)),
    ],
)
def test_moments_are_read_as_people_write_them(text: str, moment: datetime) -> None:
    """A date without a zone means the report's zone, as its days do."""
    assert parse_moment(text, now=NOW, zone=ZoneInfo("Asia/Seoul")) == moment


@pytest.mark.parametrize("text", ["yesterday", "7", "d", "2026-13-01", ""])
def test_a_moment_that_is_none_is_named(text: str) -> None:
    """A silent default would show the wrong month."""
    with pytest.raises(ValueError, match="is not a moment"):
        parse_moment(text, now=NOW, zone=UTC)


@pytest.mark.parametrize("text", ["", "day,day", "colour", ","])
def test_a_split_that_makes_no_sense_is_refused(text: str) -> None:
    """The message lists what there is."""
    with pytest.raises(ValueError, match="day, team, model, route, deployment, provider, key, user"):
        parse_dimensions(text)


async def _fill(path: str, records: Sequence[SpendRecord]) -> None:
    ledger = open_ledger(path)
    await ledger.open(replica_id="test", lease_seconds=20)
    bucket = Bucket(budget="all", scope="", window="all", starts_ms=0, ends_ms=NEVER_MS, limit_nusd=10**15, hard=True)
    buckets = BucketSet(buckets=(bucket,), valid_until_ms=NEVER_MS)
    for one in records:
        held = await ledger.reserve(attempt_id=one.attempt_id, amount_nusd=max(one.charge_nusd, 1), buckets=buckets)
        assert not isinstance(held, Refusal | WindowMoved)
        await ledger.settle(held, charge_nusd=one.charge_nusd, record=msgspec.json.encode(one))
    (state,) = await ledger.bucket_states()
    assert state.spent_nusd == sum(one.charge_nusd for one in records)
    await ledger.release()
    await ledger.close()


@pytest.fixture
def store(tmp_path: Path) -> str:
    """A ledger with three calls of two requests."""
    path = str(tmp_path / "ledger.sqlite")
    now_ms = int(datetime.now(UTC).timestamp() * 1000)
    calls = [
        record(attempt_id="1", at_ms=now_ms, charge_nusd=123_456_789, baseline_nusd=200_000_000, input_tokens=1_000, output_tokens=50),
        record(attempt_id="2", at_ms=now_ms, charge_nusd=1, evidence="estimated"),
        record(attempt_id="3", at_ms=now_ms, request_id="r2", team="", user="=1+1\x1b[31m[bold]", charge_nusd=10**9),
    ]
    asyncio.run(_fill(path, calls))
    return path


def test_any_dimension_and_any_tag_can_be_split_by() -> None:
    """Whatever a record says, somebody is asked for it; rows that are split by time are in its order."""
    one = record(tags={"Project": "x"}, session="s", rule="r", outcome="ok", charge_nusd=1)
    assert list(report(one, by="hour,week,month,session,rule,outcome,tag:Project,tag:none,org").rows) == [
        ("2026-11-22T12:00", "2026-W47", "2026-11", "s", "r", "ok", "x", "", "")
    ]
    later = record(attempt_id="2", at_ms=NOW_MS + 40 * 86_400_000, charge_nusd=9)
    assert [group[0] for group, _ in report(one, later, by="month").sorted_rows()] == ["2026-11", "2027-01"]


def test_filters_keep_what_fits_all_of_them() -> None:
    """Values of one name are alternatives, names are conditions; an empty value means none."""
    made = Report(by=("team",), only=parse_filters(["team=a", "team=b", "tag:k=v"]))
    for team, tags in (("a", {"k": "v"}), ("b", {"k": "v"}), ("c", {"k": "v"}), ("a", {})):
        made.add(record(team=team, tags=tags, charge_nusd=1))
    assert {group[0] for group in made.rows} == {"a", "b"}
    assert made.total.charge_nusd == 2
    with pytest.raises(ValueError, match="is not a filter"):
        parse_filters(["team"])
    with pytest.raises(ValueError, match="tag:NAME"):
        parse_filters(["tag:=x"])


def run(*args: str) -> str:
    done = CliRunner().invoke(cli.load("spend"), args)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_table_shows_what_the_counters_say(store: str) -> None:
    """From the real log: the total is the bucket's spent amount, exactly, and no figure is cut in a pipe."""
    lines = run("--store", store, "--by", "team").splitlines()
    total = next(text for text in lines if "total" in text).split()
    assert total == ["total", "2", "3", "1,000", "0", "50", "1.12345679", "0.076543211", "0.0%"]
    assert any(text.split()[0] == "search" and "0.12345679" in text for text in lines if text.strip())


def test_names_from_clients_cannot_write_on_the_terminal(store: str) -> None:
    """A user's name is whatever a client sent: neither escape sequences nor markup may act."""
    text = run("--store", store, "--by", "user")
    assert "\x1b" not in text
    assert "=1+1?[31m[bold]" in text


def test_options_filter_the_real_log(store: str) -> None:
    """The sum is that of the records that fit, and what was avoided is called an estimate."""
    whole = json.loads(run("--store", store, "--by", "team", "--team", "search", "--outcome", "ok", "--json"))
    assert (whole["total"]["cost_nusd"], whole["total"]["avoided_estimate_nusd"]) == (123_456_790, 76_543_211)
    assert json.loads(run("--store", store, "--tag", "a=b", "--json"))["rows"] == []


def test_json_has_exact_money(store: str) -> None:
    """Integers of nano-USD for programs, decimal strings for people; floats for neither."""
    whole = json.loads(run("--store", store, "--by", "model", "--json"))
    assert whole["total"]["cost_nusd"] == 1_123_456_790
    assert whole["total"]["cost_usd"] == "1.12345679"
    assert [row["model"] for row in whole["rows"]] == ["small"]


def test_csv_cannot_carry_a_formula(store: str) -> None:
    """A spreadsheet runs what begins like one; the name came from a client."""
    rows = list(csv.DictReader(io.StringIO(run("--store", store, "--by", "user", "--csv"))))
    assert {row["user"] for row in rows} == {"", "'=1+1?[31m[bold]"}
    assert sum(int(row["cost_nusd"]) for row in rows) == 1_123_456_790


def test_a_span_without_records_says_so(store: str) -> None:
    """An empty table looks like a broken one."""
    assert "No records in this time." in run("--store", store, "--since", "2020-01-01", "--until", "2020-02-01")


def test_the_configuration_names_the_store(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same file that serves is enough to look at the books."""
    monkeypatch.delenv("REDIS_URL", raising=False)
    config = tmp_path / "router.yaml"
    config.write_text(
        f"version: 1\nserver: {{store: {store}}}\nproviders: {{sim: {{kind: sim, base_url: 'http://127.0.0.1:9/v1'}}}}\n"
        "models: {small: {at: sim/small-edge}}\nroutes: {auto: [small]}\n"
    )
    assert "1.12345679" in run("--config", str(config))
    assert "1.12345679" in run("--store", f"sqlite://{store}")


def test_the_environment_names_the_store_otherwise(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for `serve`: what is served by default is what is shown by default."""
    monkeypatch.delenv("REDIS_URL", raising=False)
    monkeypatch.setenv("FAREGATE_STORE", store)
    assert "1.12345679" in run()


def test_a_ledger_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    """A typo must not be answered with an empty table, nor with a new file."""
    missing = tmp_path / "typo.sqlite"
    with pytest.raises(ConfigError, match="There is no ledger at"):
        CliRunner().invoke(cli.load("spend"), ["--store", str(missing)], catch_exceptions=False)
    assert not missing.exists()


def test_a_store_that_is_away_is_an_error() -> None:
    """With its address, and without a traceback."""
    with pytest.raises(ConfigError, match="cannot be read"):
        CliRunner().invoke(cli.load("spend"), ["--store", "redis://127.0.0.1:1"], catch_exceptions=False)


def test_records_of_another_form_are_counted_not_hidden(tmp_path: Path) -> None:
    """A sum that leaves something out must say so."""
    path = str(tmp_path / "ledger.sqlite")

    async def fill() -> None:
        ledger = open_ledger(path)
        await ledger.open(replica_id="test", lease_seconds=20)
        held = await ledger.reserve(attempt_id="1", amount_nusd=1, buckets=BucketSet(buckets=(), valid_until_ms=NEVER_MS))
        assert not isinstance(held, Refusal | WindowMoved)
        await ledger.settle(held, charge_nusd=1, record=b'{"attempt_id": "1", "request_id": "r", "at_ms": "yesterday", "buckets":[]}')
        await ledger.release()
        await ledger.close()

    asyncio.run(fill())
    done = CliRunner().invoke(cli.load("spend"), ["--store", path])
    assert "1 records could not be read" in done.stderr


@pytest.mark.parametrize(
    "args",
    [("--by", "colour"), ("--since", "yesterday"), ("--timezone", "Mars/Olympus"), ("--timezone", "../etc"), ("--json", "--csv")],
)
def test_a_wrong_option_is_explained(args: tuple[str, ...]) -> None:
    """Exit code 2, as for every wrong use of the command."""
    done = CliRunner().invoke(cli.load("spend"), list(args))
    assert done.exit_code == 2
    assert "Traceback" not in done.output
