"""The provider's own account beside the ledger: every gap is named, and none is made up."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from router import cli
from router.adapters.sqlite.ledger import SqliteLedger
from router.books.provider_files import read_account
from router.errors import ConfigError
from tests.unit.test_export import book
from tests.unit.test_spend import NOW_MS, record

DAY = "2026-11-22"
DAY_SECONDS = NOW_MS // 86_400_000 * 86_400


@pytest.fixture
def store(tmp_path: Path) -> str:
    """Three calls of one model at one provider, one of another model, one elsewhere, one that was not billed."""
    path = str(tmp_path / "ledger.sqlite")
    usual: dict[str, Any] = {"provider": "openai", "deployment": "openai/gpt-4o", "input_tokens": 100, "output_tokens": 10}
    lines = [record(attempt_id=f"a{n}", charge_nusd=10**8, served_model="gpt-4o-2024-08-06", **usual) for n in range(3)]
    lines.append(record(attempt_id="b", charge_nusd=10**9, **{**usual, "deployment": "openai/o3"}))
    lines.append(record(attempt_id="c", charge_nusd=10**9, **{**usual, "provider": "other"}))
    lines.append(record(attempt_id="d", outcome="refused_upstream", provider="openai", deployment="openai/gpt-4o"))
    asyncio.run(book(path, lines))
    return path


def openai_costs(*amounts: tuple[float, str | None], more: bool = False) -> dict[str, Any]:
    results = [{"object": "organization.costs.result", "amount": {"value": v, "currency": "usd"}, "line_item": item} for v, item in amounts]
    return {"object": "page", "data": [{"start_time": DAY_SECONDS, "end_time": DAY_SECONDS + 86_400, "results": results}], "has_more": more}


def run(store: str, file: Path, *args: str) -> Result:
    return CliRunner().invoke(cli.load("reconcile"), ["--provider", "openai", "--file", str(file), "--store", store, *args])


def put(folder: Path, data: object) -> Path:
    path = folder / "account"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def test_an_account_that_agrees_has_no_gap(store: str, tmp_path: Path) -> None:
    """Line items of one model add up, snapshots count as their model, other providers and unbilled calls do not count."""
    costs = openai_costs((0.2, "gpt-4o-2024-08-06, input"), (0.1, "gpt-4o-2024-08-06, output"), (1.0, "o3, input"))
    done = run(store, put(tmp_path, costs), "--all")
    assert done.exit_code == 0, done.output
    assert "2 figures compared, 0 gaps." in done.stdout


@pytest.mark.parametrize("days", [0, 40])
def test_calls_that_were_settled_late_are_no_gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days: int) -> None:
    """A store may be away for days, and calls wait in a file meanwhile: they are booked when it is back, on the day they were made."""
    late = str(tmp_path / "late.sqlite")
    then = NOW_MS + days * 86_400_000
    monkeypatch.setattr("tests.unit.test_export.open_ledger", lambda path: SqliteLedger(path, clock_ms=lambda: then))
    asyncio.run(book(late, [record(provider="openai", deployment="openai/o3", charge_nusd=10**9)]))
    done = run(late, put(tmp_path, openai_costs((1.0, "o3, input"))), "--all")
    assert done.exit_code == 0, done.output


def test_each_kind_of_gap_is_named(store: str, tmp_path: Path) -> None:
    """What they bill and we lack, what we booked and they do not know, and what differs by more than was allowed."""
    costs = openai_costs((0.25, "gpt-4o, input"), (0.7, "gpt-image"))
    done = run(store, put(tmp_path, costs), "--json")
    assert done.exit_code == 1
    lines = json.loads(done.stdout)["lines"]
    assert [(line["model"], line["gap"], line["theirs"], line["ours"]) for line in lines] == [
        ("gpt-4o", "difference", 250_000_000, 300_000_000),
        ("gpt-image", "missing", 700_000_000, 0),
        ("o3", "extra", 0, 10**9),
    ]
    assert "missing" in run(store, put(tmp_path, costs)).stdout


@pytest.mark.parametrize(("args", "code"), [((), 1), (("--tolerance", "17"), 0), (("--least", "0.05"), 0), (("--tolerance", "16"), 1)])
def test_small_differences_are_none_if_told_so(store: str, tmp_path: Path, args: tuple[str, ...], code: int) -> None:
    """A call at midnight stands on another day at the provider."""
    costs = openai_costs((0.25, "gpt-4o, input"), (1.0, "o3"))
    assert run(store, put(tmp_path, costs), *args).exit_code == code


def test_without_models_days_are_compared(store: str, tmp_path: Path) -> None:
    """A report that was not grouped names no model."""
    assert run(store, put(tmp_path, openai_costs((1.3, None)))).exit_code == 0


def test_openais_usage_is_compared_by_tokens_and_requests(store: str, tmp_path: Path) -> None:
    """Tokens differ less than money does: no discount changes them."""
    usage = {"input_tokens": 300, "output_tokens": 30, "num_model_requests": 3, "model": "gpt-4o-2024-08-06"}
    other = {"input_tokens": 100, "output_tokens": 10, "num_model_requests": 1, "model": "o3"}
    page = {"data": [{"start_time": DAY_SECONDS, "results": [usage, other]}], "has_more": False}
    done = run(store, put(tmp_path, [page]), "--tolerance", "0")
    assert done.exit_code == 0, done.output
    assert "6 figures compared" in done.stdout


def test_anthropics_reports_are_read(tmp_path: Path) -> None:
    """Its costs are cents as text; its usage has the parts of the input beside each other."""
    cost = {"currency": "USD", "amount": "123.78912", "model": "claude-x-20250514", "description": "Input"}
    usage = {
        "uncached_input_tokens": 5, "cache_read_input_tokens": 3, "output_tokens": 2, "model": "claude-x",
        "cache_creation": {"ephemeral_1h_input_tokens": 1, "ephemeral_5m_input_tokens": 4},
    }  # fmt: skip
    bucket = {"starting_at": f"{DAY}T00:00:00Z", "ending_at": "2026-11-23T00:00:00Z"}
    (told,) = read_account(put(tmp_path, {"data": [{**bucket, "results": [cost]}], "has_more": False}), {})
    assert (told.day, told.model, told.cost_nusd) == (DAY, "claude-x-20250514", 1_237_891_200)
    (told,) = read_account(put(tmp_path, {"data": [{**bucket, "results": [usage]}]}), {})
    assert (told.input_tokens, told.output_tokens, told.cost_nusd) == (13, 2, None)


def test_any_csv_can_be_mapped(store: str, tmp_path: Path) -> None:
    """Bills come as spreadsheets with names of their own."""
    text = f"Date,Model,Cost (USD),N\n{DAY},gpt-4o,$0.30,3\n{DAY}T05:00:00+00:00,o3,1.00,1\n"
    done = run(store, put(tmp_path, text), "--columns", "day=Date,model=Model,cost=Cost (USD),requests=N")
    assert done.exit_code == 0, done.output
    assert "4 figures compared" in done.stdout


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (openai_costs((1, "x"), more=True), "has_more"),
        ({"data": [{"start_time": 1, "results": [{"amount": {"value": 1, "currency": "eur"}}]}]}, "not USD"),
        ({"data": [{"start_time": 1, "results": [{}]}]}, "known form"),
        ("Date,Cost\n2026-11-22,1\n", "account: there is no column"),
        ("day,cost\n2026-11-22,much\n", "is not an amount"),
        ('day,cost\n2026-11-22,"1.234,56"\n', "'1.234,56' is not an amount: digits, thousands by commas, decimals after a point"),
        ("day,cost\n2026-11-22,1e400\n", "'1e400' is more than a ledger can hold"),
        ("day,cost\n", "has no lines"),
        ({"things": 1}, "known form: it has no 'data'"),
        ({"data": [{"start_time": 1, "results": 1}]}, "known form: 'int' object is not iterable"),
    ],
)
def test_an_account_that_cannot_be_trusted_is_refused(store: str, tmp_path: Path, data: object, said: str) -> None:
    """A part of a bill, or one in another currency, would show gaps that are none."""
    with pytest.raises(ConfigError, match=said):
        CliRunner().invoke(
            cli.load("reconcile"),
            ["--provider", "openai", "--file", str(put(tmp_path, data)), "--store", store],
            catch_exceptions=False,
        )


def test_a_provider_that_nobody_knows_is_refused(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of its account would be missing, as if its calls had passed us by; one that was called at other times is none of those."""
    monkeypatch.delenv("FAREGATE_CONFIG", raising=False)
    late = put(tmp_path, "day,cost\n2027-01-01,1\n")
    verb = ["--file", str(late), "--store", store]
    with pytest.raises(ConfigError, match="has a provider 'opnai'; did you mean"):
        CliRunner().invoke(cli.load("reconcile"), ["--provider", "opnai", *verb], catch_exceptions=False)
    assert "missing" in run(store, late).stdout
    config = tmp_path / "router.yaml"
    config.write_text(
        "version: 1\nproviders: {fresh: {kind: openai, base_url: 'http://127.0.0.1:1/v1', api_key: $ABSENT}}\n"
        "models: {m: {at: fresh/m, price: {input: 1, output: 1}}}\n"
    )
    done = CliRunner().invoke(cli.load("reconcile"), ["--provider", "fresh", *verb, "--config", str(config)])
    assert (done.exit_code, "missing" in done.stdout) == (1, True), done.output


def test_a_file_that_is_not_there_is_an_error(store: str, tmp_path: Path) -> None:
    """And so is a column that means nothing."""
    with pytest.raises(ConfigError, match="cannot be read"):
        read_account(tmp_path / "none", {})
    assert run(store, put(tmp_path, "day,cost\n"), "--columns", "colour=Red").exit_code == 2
