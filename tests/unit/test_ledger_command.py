"""`faregate ledger`, and which store a command opens."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from pathlib import Path

import pytest
from typer.testing import CliRunner

from router.adapters.choose import choose_store, default_store, open_ledger, visiting
from router.adapters.redis.ledger import RedisLedger
from router.adapters.sqlite.ledger import SqliteLedger
from router.commands.ledger import app
from router.errors import ConfigError
from tests.contract.stores import bucket, buckets, held


@pytest.fixture
def store(tmp_path: Path) -> str:
    """Books with one charge of 1.50 USD and a hold of 0.25 USD, limit 10 USD."""
    path = str(tmp_path / "ledger.sqlite")

    async def fill() -> None:
        async with visiting(path) as ledger:
            where = buckets(bucket(limit=10_000_000_000, scope="team=search"))
            await ledger.publish_limits({"company": 10_000_000_000}, version="v")
            await ledger.settle(await held(ledger, 2_000_000_000, where), charge_nusd=1_500_000_000, record=b"{}")
            await held(ledger, 250_000_000, where)

    asyncio.run(fill())
    return path


def run(*args: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(args), catch_exceptions=False)
    return result.exit_code, result.stdout


def test_show_prints_where_every_budget_stands(store: str) -> None:
    """Money in USD for people."""
    code, out = run("show", "--store", store)
    assert code == 0
    assert out.splitlines()[1].split() == ["company", "team=search", "all", "10.00", "1.50", "0.25", "8.25", "never"]


def test_the_lifetime_of_a_session_never_resets(tmp_path: Path) -> None:
    """The store notes until when it keeps an idle session; shown as a reset, people would wait for money that does not come."""
    path = str(tmp_path / "ledger.sqlite")

    async def fill() -> None:
        async with visiting(path) as ledger:
            await ledger.publish_limits({"company": 10}, version="v")
            await held(ledger, 5, buckets(bucket(limit=10, scope="session=s1")))

    asyncio.run(fill())
    assert run("show", "--store", path)[1].splitlines()[1].split()[1:3] == ["session=s1", "all"]
    assert run("show", "--store", path)[1].splitlines()[1].split()[-1] == "never"


def test_show_gives_integers_to_programs(store: str) -> None:
    """nano-USD, as it is kept."""
    (row,) = json.loads(run("show", "--store", store, "--json")[1])
    assert (row["limit_nusd"], row["spent_nusd"], row["held_nusd"], row["left_nusd"], row["resets"]) == (
        10_000_000_000,
        1_500_000_000,
        250_000_000,
        8_250_000_000,
        None,
    )


def test_verify_says_that_the_books_agree(store: str) -> None:
    """Exit 0."""
    assert run("verify", "--store", store) == (0, "Counters and log agree.\n")


def test_verify_names_a_counter_that_was_changed_by_hand(store: str) -> None:
    """Exit 1, with both values."""
    with sqlite3.connect(store) as connection:
        connection.execute("UPDATE bucket SET spent=spent+5, held=0, debt=1")
    connection.close()
    code, out = run("verify", "--store", store)
    assert code == 1
    assert [line.split()[1:] for line in out.splitlines()[1:]] == [
        ["spent", "1.500000005", "1.50"],
        ["held", "0.00", "0.25"],
        ["debt", "0.000000001", "0.00"],
    ]
    assert [d["field"] for d in json.loads(run("verify", "--store", store, "--json")[1])] == ["spent", "held", "debt"]


def test_the_store_is_chosen_by_option_then_configuration_then_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `serve` does, so that a command looks at the same books."""
    for name in ("FAREGATE_CONFIG", "REDIS_URL", "FAREGATE_STORE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert choose_store(None, None) == str(tmp_path / "faregate" / "ledger.sqlite")
    monkeypatch.setenv("FAREGATE_STORE", "mine.sqlite")
    assert (choose_store(None, None), default_store()) == ("mine.sqlite", "mine.sqlite")
    monkeypatch.setenv("REDIS_URL", "redis://r")
    assert choose_store(None, None) == "redis://r"
    assert choose_store("given", None) == "given"


def test_the_kind_of_ledger_follows_from_the_address() -> None:
    """A path is SQLite."""
    assert isinstance(open_ledger("redis://localhost"), RedisLedger)
    assert isinstance(open_ledger("unix:///run/redis.sock", timeout_seconds=1), RedisLedger)
    assert isinstance(open_ledger("books.sqlite"), SqliteLedger)
    assert isinstance(open_ledger("sqlite:///tmp/books.sqlite", timeout_seconds=1), SqliteLedger)


async def test_a_file_that_is_no_ledger_is_refused_with_the_way_out(tmp_path: Path) -> None:
    """A text file, a folder, or a ledger of another version."""
    text = tmp_path / "text"
    text.write_text("hello, this is not a database, but it is long enough to look at" * 20)
    for path in (text, tmp_path):
        with pytest.raises(ConfigError, match=r"server\.store"):
            await SqliteLedger(str(path)).open(replica_id="r", lease_seconds=1)
    newer = tmp_path / "newer"
    with sqlite3.connect(newer) as connection:
        connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(ConfigError, match="another version"):
        await SqliteLedger(str(newer)).open(replica_id="r", lease_seconds=1)


def test_what_is_left_of_removed_budgets_is_shown_on_request_only(store: str) -> None:
    """Whoever looks for a limit must not find one that holds nothing back any more."""

    async def replace() -> None:
        async with visiting(store) as ledger:
            await ledger.publish_limits({"other": 10_000_000_000}, version="w")

    asyncio.run(replace())
    result = CliRunner().invoke(app, ["show", "--store", store])
    assert result.stdout.splitlines()[1:] == []
    assert "Not shown: company." in result.stderr
    for args in (("--all",), ("--budget", "company")):
        assert run("show", "--store", store, *args)[1].splitlines()[1].split() == [
            "company", "team=search", "all", "removed", "1.50", "0.25", "-", "never",
        ]  # fmt: skip
