"""What calls would have cost at other prices."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from router import cli
from router.books.rerate import REASON, Rerating
from router.domain.prices import Price, Rates
from router.domain.rerate import charge_at, price_of
from router.errors import ConfigError
from tests.unit.test_export import book
from tests.unit.test_spend import NOW_MS, record

DOUBLE = Price(rates=Rates(input=2_000_000, output=4_000_000), source="config")
"""2 and 4 nano-USD a token."""
USED = {
    "input_tokens": 10,
    "output_tokens": 5,
    "price_source": "config",
    "price_input": 1_000_000,
    "price_output": 2_000_000,
    "charge_nusd": 20,
}
BOTH = ("--prices", "a", "--apply", "--dry-run", "--reason", "x")


def rerated(*lines: dict[str, object], price: Price | None = DOUBLE) -> Rerating:
    made = Rerating(price_of=lambda _: price, by=("model",))
    for number, line in enumerate(lines):
        made.add(record(**({"attempt_id": f"a{number}"} | line)))
    made.compare()
    return made


def test_every_call_is_charged_anew() -> None:
    """Twice the rates, twice the bill."""
    made = rerated(USED, USED)
    assert (made.total.calls, made.total.charged_nusd, made.total.rerated_nusd) == (2, 40, 80)
    assert [change.by_nusd for change in made.changes] == [20, 20]


def test_what_has_no_price_keeps_its_charge() -> None:
    """Unknown is not zero."""
    made = rerated(USED, price=None)
    assert (made.total.rerated_nusd, made.total.kept, made.changes) == (20, 1, [])


def test_what_was_not_billed_stays_so() -> None:
    """A provider that refused billed nothing, at whatever price."""
    assert rerated({**USED, "outcome": "refused_upstream", "charge_nusd": 0}).total.rerated_nusd == 0


def test_a_corrected_call_is_charged_for_what_it_used() -> None:
    """Its charge is the sweep's and the difference; only the late record says what was used. An unclear sweep stays."""
    swept = {"attempt_id": "a", "outcome": "swept", "charge_nusd": 100}
    made = rerated(swept, {**USED, "attempt_id": "a", "outcome": "corrected", "charge_nusd": -80})
    assert (made.total.calls, made.total.charged_nusd, made.total.rerated_nusd) == (1, 20, 40)
    assert rerated(swept).total.rerated_nusd == 100
    never_left = rerated(swept, {"attempt_id": "a", "outcome": "corrected", "charge_nusd": -100})
    assert never_left.total.rerated_nusd == 0


def test_a_record_without_a_price_or_a_count_cannot_be_charged_again() -> None:
    """Unknown is not zero."""
    assert price_of(record()) is None
    assert charge_at(record(outcome="swept", charge_nusd=5), DOUBLE) is None


def test_a_correction_that_was_booked_is_not_booked_again() -> None:
    """Re-rated twice at the same prices, nothing is left to change."""
    again = {"attempt_id": "a", "outcome": "corrected", "reason": REASON, "charge_nusd": 20}
    assert rerated({**USED, "attempt_id": "a"}, again).changes == []


def test_what_was_charged_before_the_span_is_not_known() -> None:
    """A correction says by how much a charge changed, not what it was: the call is left as it is."""
    made = rerated({**USED, "outcome": "corrected", "charge_nusd": -80})
    assert (made.total.kept, made.total.rerated_nusd, made.changes) == (1, -80, [])


def test_the_command_books_when_it_is_told_to(tmp_path: Path) -> None:
    """Without --apply nothing is changed; a second run finds nothing to do; the audit log says who and why."""
    store, prices = str(tmp_path / "ledger.sqlite"), tmp_path / "prices.yaml"
    asyncio.run(book(store, [record(attempt_id="a", at_ms=NOW_MS, deployment="one/0", **USED)]))
    prices.write_text("one/0: {input: 0.003, output: 0.006}\n")
    common = ["rerate", "--store", store, "--prices", str(prices)]

    def run(*more: str) -> str:
        done = CliRunner().invoke(cli.load("ledger"), [*common, *more])
        assert done.exit_code == 0, done.output
        return done.stdout

    assert "--apply books 1 corrections" in run()
    assert "--apply books 1 corrections" in run("--dry-run")
    assert json.loads(run("--apply", "--reason", "wrong price", "--json"))["booked"] == 1
    assert "0 corrections were booked" in run("--apply", "--reason", "wrong price")
    told = CliRunner().invoke(cli.load("audit"), ["--store", store]).stdout
    assert "ledger.rerate" in told
    assert "wrong price" in told
    spent = CliRunner().invoke(cli.load("spend"), ["--store", store, "--json"])
    assert json.loads(spent.stdout)["total"]["cost_nusd"] == 60


def test_what_was_avoided_falls_by_what_a_correction_adds(tmp_path: Path) -> None:
    """The baseline would have cost what it would have. A call without one stays without."""
    store, prices = str(tmp_path / "ledger.sqlite"), tmp_path / "prices.yaml"
    calls = {"a": 500, "b": None}
    asyncio.run(
        book(store, [record(attempt_id=name, at_ms=NOW_MS, deployment="one/0", baseline_nusd=calls[name], **USED) for name in calls])
    )

    def avoided() -> tuple[int, int]:
        total = json.loads(CliRunner().invoke(cli.load("spend"), ["--store", store, "--json"]).stdout)["total"]
        return total["cost_nusd"], total["avoided_estimate_nusd"]

    cost, before = avoided()
    prices.write_text("one/0: {input: 0.003, output: 0.006}\n")
    done = CliRunner().invoke(cli.load("ledger"), ["rerate", "--store", store, "--prices", str(prices), "--apply", "--reason", "x"])
    assert done.exit_code == 0, done.output
    assert before == 500 - cost // 2
    assert avoided() == (120, 500 - 60)


def test_the_command_compares_by_any_dimension(tmp_path: Path) -> None:
    """From the real log; prices by deployment win over those by model."""
    store, prices = str(tmp_path / "ledger.sqlite"), tmp_path / "prices.yaml"
    lines = [record(attempt_id=str(n), at_ms=NOW_MS, deployment=f"one/{n}", **USED) for n in range(2)]
    asyncio.run(book(store, lines))
    prices.write_text("one/0: {input: 0.003, output: 0.006}\nsmall: free\n")
    common = ["rerate", "--store", store, "--prices", str(prices)]
    done = CliRunner().invoke(cli.load("ledger"), [*common, "--by", "deployment,model", "--json"])
    assert done.exit_code == 0, done.output
    whole = json.loads(done.stdout)
    assert [(row["deployment"], row["difference_nusd"]) for row in whole["rows"]] == [("one/0", 40), ("one/1", -20)]
    table = CliRunner().invoke(cli.load("ledger"), common).stdout
    assert "0.00000004" in table
    config = tmp_path / "router.yaml"
    config.write_text(
        "version: 1\nproviders: {one: {kind: openai, base_url: 'http://127.0.0.1:9/v1', api_key: k}}\n"
        "models: {small: {at: one/1, price: {input: 0.001, output: 0.002}}}\nroutes: {auto: [small]}\n"
    )
    done = CliRunner().invoke(cli.load("ledger"), ["rerate", "--store", store, "--config", str(config), "--json"])
    assert json.loads(done.stdout)["total"] == {
        "calls": 2, "charged_nusd": 40, "rerated_nusd": 40, "difference_nusd": 0, "kept_calls": 1
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("small: {input: 1}", "output is missing"),
        ("[", "prices.yaml:"),
        ("small: cheap", "is not a price"),
        ("small: {input: 1, ouput: 2}", r'prices.yaml:1:19: small.ouput: unknown field; did you mean "output"\?'),
        ("small: {input: 1, output: a}", 'small.output: "a" is not an amount'),
        ("smal: free", r'prices.yaml: no model or deployment "smal"; did you mean "small"\?'),
    ],
)
def test_a_file_that_has_no_prices_is_explained(tmp_path: Path, text: str, said: str) -> None:
    """With the name of the entry, and no traceback."""
    store, prices = tmp_path / "ledger.sqlite", tmp_path / "prices.yaml"
    prices.write_text(text)
    asyncio.run(book(str(store), [record(attempt_id="a", at_ms=NOW_MS, deployment="one/0", **USED)]))
    with pytest.raises(ConfigError, match=said):
        CliRunner().invoke(cli.load("ledger"), ["rerate", "--store", str(store), "--prices", str(prices)], catch_exceptions=False)


@pytest.mark.parametrize("args", [(), ("--prices", "a", "--since", "soon"), ("--prices", "a", "--apply"), BOTH])
def test_a_wrong_option_is_explained(args: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 2."""
    monkeypatch.chdir(tmp_path)
    Path("a").write_text("{}")
    assert CliRunner().invoke(cli.load("ledger"), ["rerate", *args]).exit_code == 2


def test_a_price_of_a_model_that_is_only_known_is_no_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One price list serves all spans: its models were called at some time, or may be."""
    store, prices, config = str(tmp_path / "ledger.sqlite"), tmp_path / "prices.yaml", tmp_path / "router.yaml"
    asyncio.run(book(store, [record(attempt_id="a", at_ms=NOW_MS, deployment="one/0", **USED)]))
    config.write_text(
        "version: 1\nproviders: {one: {kind: openai, base_url: 'http://127.0.0.1:9/v1', api_key: $NEVER_SET}}\n"
        "models: {large: {at: one/1, price: free}}\nroutes: {auto: [large]}\n"
    )
    prices.write_text("small: free\nlarge: free\n")
    asked = ["rerate", "--store", store, "--prices", str(prices), "--since", "2099-01-01"]
    assert isinstance(CliRunner().invoke(cli.load("ledger"), asked).exception, ConfigError)
    monkeypatch.delenv("FAREGATE_CONFIG", raising=False)
    assert CliRunner().invoke(cli.load("ledger"), [*asked, "--config", str(config)]).exit_code == 0
    monkeypatch.setenv("FAREGATE_CONFIG", str(config))
    assert CliRunner().invoke(cli.load("ledger"), asked).exit_code == 0


def test_a_configuration_beside_prices_names_the_ledger(tmp_path: Path) -> None:
    """As it does for every other command. Its prices do not count then: `one/0` is not even in it."""
    store, prices, config = str(tmp_path / "ledger.sqlite"), tmp_path / "prices.yaml", tmp_path / "router.yaml"
    asyncio.run(book(store, [record(attempt_id="a", at_ms=NOW_MS, deployment="one/0", **USED)]))
    config.write_text(
        f"version: 1\nserver: {{store: {store}}}\nproviders: {{one: {{kind: openai, base_url: 'http://127.0.0.1:9/v1', api_key: k}}}}\n"
        "models: {large: {at: one/1, price: free}}\nroutes: {auto: [large]}\n"
    )
    prices.write_text("one/0: {input: 0.003, output: 0.006}\n")
    done = CliRunner().invoke(cli.load("ledger"), ["rerate", "--config", str(config), "--prices", str(prices), "--json"])
    assert json.loads(done.stdout)["total"]["rerated_nusd"] == 60, done.output
