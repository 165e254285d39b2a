"""Export: each record once, in whole files, whatever happens in between; in forms that other programs read."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import json
import shutil
import sqlite3
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pyarrow import parquet
from typer.testing import CliRunner

from router import cli
from router.adapters.choose import open_ledger
from router.adapters.sqlite import markers
from router.books import export as module
from router.books.columns import FOCUS, entry_id, plain_types
from router.books.export import CURSOR_FILE, Exported
from router.books.writers import Format, csv_cell, write_focus
from router.domain.budgets import NEVER_MS, BucketSet, Reservation
from router.domain.records import SpendRecord
from router.errors import ConfigError
from tests.unit.test_spend import NOW_MS, record

DAY_MS = 86_400_000


async def book(store: str, records: Sequence[SpendRecord]) -> None:
    ledger = open_ledger(store)
    await ledger.open(replica_id="test", lease_seconds=20)
    for one in records:
        held = await ledger.reserve(attempt_id=one.attempt_id, amount_nusd=1, buckets=BucketSet(buckets=(), valid_until_ms=NEVER_MS))
        assert isinstance(held, Reservation)
        await ledger.settle(held, charge_nusd=one.charge_nusd, record=msgspec.json.encode(one))
    await ledger.release()
    await ledger.close()


def calls(first: int, last: int, **more: Any) -> list[SpendRecord]:
    made = []
    for n in range(first, last):
        values = {"attempt_id": f"a{n}", "request_id": f"r{n}", "at_ms": NOW_MS + n % 2 * DAY_MS, "charge_nusd": n, **more}
        made.append(record(provider="openai", deployment="openai/x", input_tokens=n, **values))
    return made


def export(store: str, folder: Path, form: Format) -> Exported:
    return module.export(open_ledger(store), store, folder, form)


def rows(folder: Path) -> list[dict[str, str]]:
    found = []
    for path in sorted(folder.glob("*.csv")):
        with path.open(newline="") as file:
            found += list(csv.DictReader(file))
    return found


@pytest.fixture(params=["sqlite", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty ledger in a file, and in a real Redis."""
    if request.param == "redis":
        url: str = request.getfixturevalue("redis_url")
        return url
    return str(tmp_path / "ledger.sqlite")


def test_every_record_is_exported_once_over_many_runs(store: str, tmp_path: Path) -> None:
    """A bill that is loaded into another system must not be counted twice, nor miss what came in between."""
    out = tmp_path / "out"
    asyncio.run(book(store, calls(0, 5)))
    first = export(store, out, "csv")
    assert (first.records, sorted(first.files)) == (5, ["2026-11-22.000001.csv", "2026-11-23.000001.csv"])
    assert export(store, out, "csv").files == []
    asyncio.run(book(store, calls(5, 7)))
    assert export(store, out, "csv").records == 2
    found = rows(out)
    assert sorted(row["entry_id"] for row in found) == [f"a{n}" for n in range(7)]
    assert {row["day"] for row in found} == {"2026-11-22", "2026-11-23"}
    assert sum(int(row["charge_nusd"]) for row in found) == 21


@pytest.mark.parametrize("killed_at", range(4))
def test_a_run_that_is_killed_is_made_good_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: int) -> None:
    """Between any two files, and between the files and the cursor; meanwhile more was booked."""
    store, out = str(tmp_path / "ledger.sqlite"), tmp_path / "out"
    asyncio.run(book(store, calls(0, 4)))
    done = 0
    whole = Path.replace

    def replace(self: Path, target: Path) -> Path:
        nonlocal done
        if done == killed_at:
            raise KeyboardInterrupt
        done += 1
        return whole(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    if killed_at < 3:
        with pytest.raises(KeyboardInterrupt):
            export(store, out, "csv")
    monkeypatch.setattr(Path, "replace", whole)
    asyncio.run(book(store, calls(4, 6)))
    export(store, out, "csv")
    assert sorted(row["entry_id"] for row in rows(out)) == [f"a{n}" for n in range(6)]


def test_a_long_log_is_exported_in_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded, and each step has a cursor."""
    monkeypatch.setattr(module, "MOST_AT_ONCE", 1)
    store, out = str(tmp_path / "ledger.sqlite"), tmp_path / "out"
    asyncio.run(book(store, calls(0, 501)))
    assert export(store, out, "csv").records == 501
    assert json.loads((out / CURSOR_FILE).read_text())["runs"] == 2
    assert len(rows(out)) == 501


def test_a_ledger_that_was_restored_is_not_taken_for_read(tmp_path: Path) -> None:
    """Its numbers come a second time: without a word, what is new would be missing from all later files."""
    store, kept, out = tmp_path / "ledger.sqlite", tmp_path / "backup.sqlite", tmp_path / "out"
    asyncio.run(book(str(store), calls(0, 4)))
    shutil.copy(store, kept)
    asyncio.run(book(str(store), calls(4, 8)))
    assert export(str(store), out, "csv").records == 8
    shutil.copy(kept, store)
    for first, last in ((10, 12), (12, 20)):
        # Fewer lines than were read, and more.
        asyncio.run(book(str(store), calls(first, last)))
        with pytest.raises(ConfigError, match=r"not the one that was read up to line 8.*another folder"):
            export(str(store), out, "csv")
    assert export(str(store), tmp_path / "new", "csv").records == 14


def test_what_was_trimmed_is_no_other_log(tmp_path: Path) -> None:
    """The line that was read last is gone, as all before it."""
    store, out = str(tmp_path / "ledger.sqlite"), tmp_path / "out"
    asyncio.run(book(store, calls(0, 4)))
    assert export(store, out, "csv").records == 4
    asyncio.run(book(store, calls(4, 6)))
    with sqlite3.connect(store) as db:
        db.execute("DELETE FROM log WHERE seq <= 5")
    assert export(store, out, "csv").records == 1


def test_a_folder_belongs_to_one_format_and_one_ledger(tmp_path: Path) -> None:
    """Mixed up, records would be missing or doubled without a word."""
    store, out = str(tmp_path / "ledger.sqlite"), tmp_path / "out"
    asyncio.run(book(store, calls(0, 1)))
    export(store, out, "csv")
    with pytest.raises(ConfigError, match="another folder"):
        export(store, out, "focus")
    (out / CURSOR_FILE).write_text("{")
    with pytest.raises(ConfigError, match="cannot be read"):
        export(store, out, "csv")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        export(store, tmp_path / "file", "csv")


def test_parquet_keeps_the_types(tmp_path: Path) -> None:
    """Money is an integer of 64 bits; what is unknown is null, not zero."""
    store, out = str(tmp_path / "ledger.sqlite"), tmp_path / "out"
    asyncio.run(book(store, [record(charge_nusd=2**53 - 1, tags={"a": "b"}, price_input=None)]))
    (name,) = export(store, out, "parquet").files
    (row,) = parquet.read_table(out / name).to_pylist()
    assert list(row) == list(plain_types())
    assert (row["charge_nusd"], row["tags"], row["price_input"], row["stream"]) == (2**53 - 1, '{"a":"b"}', None, False)


def test_a_sweep_and_its_correction_are_two_lines_of_one_attempt() -> None:
    """Their ids differ, or a table that is keyed by them would lose one."""
    swept, corrected = record(outcome="swept"), record(outcome="corrected", at_ms=NOW_MS + 1)
    assert len({entry_id(record()), entry_id(swept), entry_id(corrected)}) == 3


def test_focus_has_its_columns_and_its_sums(tmp_path: Path) -> None:
    """All that FOCUS 1.0 demands, in its order of the alphabet, and money as exact decimals."""
    store, out = str(tmp_path / "ledger.sqlite"), tmp_path / "out"
    asyncio.run(book(store, calls(1, 3, team="search", tags={"project": "x"})))
    done = CliRunner().invoke(cli.load("spend"), ["export", "--store", store, "--format", "focus", "--out", str(out)])
    assert done.exit_code == 0, done.output
    found = rows(out)
    assert list(found[0]) == list(FOCUS) == sorted(FOCUS, key=str.lower)
    assert {row["BilledCost"] for row in found} == {"0.000000001", "0.000000002"}
    one = found[0]
    assert (one["SubAccountId"], one["BillingPeriodStart"], one["BillingPeriodEnd"]) == (
        "search",
        "2026-11-01T00:00:00Z",
        "2026-12-01T00:00:00Z",
    )
    assert json.loads(one["Tags"])["project"] == "x"


DRAFT = {"InvoiceIssuer": "InvoiceIssuerName", "Provider": "ProviderName", "Publisher": "PublisherName", "ChargeType": "ChargeCategory"}
NEVER_EMPTY = {
    *("BilledCost", "BillingAccountId", "BillingCurrency", "BillingPeriodEnd", "BillingPeriodStart", "ChargeCategory", "ChargeFrequency"),
    *("ChargePeriodEnd", "ChargePeriodStart", "ContractedCost", "EffectiveCost", "InvoiceIssuer", "ListCost", "Provider", "Publisher"),
    *("ServiceCategory", "ServiceName", "BillingAccountName", *DRAFT.values()),
}
ONE_OF = {
    "ChargeCategory": {"Usage", "Adjustment"},
    "ChargeFrequency": {"Usage-Based"},
    "PricingCategory": {"Standard", ""},
    "ServiceCategory": {"AI and Machine Learning"},
    "BillingCurrency": {"USD"},
    "ChargeClass": {""},
}


def test_focus_keeps_the_rules_of_its_columns(tmp_path: Path) -> None:
    """As focus-validator 1.0.0 checks them for FOCUS 1.0; it needs older libraries than this program, so its rules stand here."""
    used = {"provider": "openai", "deployment": "openai/x", "charge_nusd": 12_345, "input_tokens": 10}
    lines = [
        used,
        {"outcome": "voided"},
        {**used, "outcome": "corrected", "charge_nusd": -5},
        {"outcome": "swept", "tags": {"a": "\u00e9"}},
    ]
    write_focus(tmp_path / "f.csv", [record(**line) for line in lines])
    for row in rows(tmp_path):
        assert not {name for name in NEVER_EMPTY if not row[name]}
        assert not {name for name, allowed in ONE_OF.items() if row[name] not in allowed}
        assert all(row[draft] == row[released] for draft, released in DRAFT.items())
        assert not {
            name for name in row if name.endswith(("Cost", "Price", "Quantity")) and row[name] and not Decimal(row[name]).is_finite()
        }
        moments = [datetime.fromisoformat(value) for name, value in row.items() if name.endswith(("PeriodStart", "PeriodEnd"))]
        assert len(moments) == 4
        assert {moment.tzname() for moment in moments} == {"UTC"}
        assert isinstance(json.loads(row["Tags"]), dict)
        assert row["SkuPriceId"] or row["ChargeType"] not in ("Purchase", "Usage", "Refund")
    assert len({name.lower() for name in FOCUS}) == len(FOCUS)


@pytest.mark.parametrize("name", ["=1+1", "+1+1", "-2+3+cmd|' /C calc'!A0", "@SUM(1)", "\tx"])
def test_a_name_cannot_carry_a_formula(name: str, tmp_path: Path) -> None:
    """A spreadsheet runs what begins like one."""
    store, out = str(tmp_path / "ledger.sqlite"), tmp_path / "out"
    asyncio.run(book(store, [record(user=name)]))
    export(store, out, "csv")
    assert rows(out)[0]["user"] == f"'{name}"


def test_a_negative_amount_is_no_formula() -> None:
    """Corrections have some, also as texts; they are to be added up."""
    assert [csv_cell(value) for value in (-7, "-0.00002", "-7", "-", "a-b")] == ["-7", "-0.00002", "-7", "'-", "a-b"]


def test_a_reader_does_not_read_the_whole_log_for_every_page(tmp_path: Path) -> None:
    """With millions of records each page would take a second: all exports, sinks and alerts read by pages."""
    steps: dict[int, int] = {}
    for size in (50, 5000):
        with contextlib.closing(sqlite3.connect(":memory:")) as db:
            db.execute("CREATE TABLE log (seq INTEGER PRIMARY KEY, at_ms INTEGER, attempt_id TEXT, outcome TEXT)")
            db.executemany("INSERT INTO log VALUES (?, 1, 'a', 'ok')", ((number,) for number in range(1, size)))
            taken = [0]

            def count(taken: list[int] = taken) -> None:
                taken[0] += 1

            db.set_progress_handler(count, 1)
            markers._check(db, "7", 7)
            steps[size] = taken[0]
    assert steps[50] == steps[5000]


def test_what_cannot_be_read_is_counted(tmp_path: Path) -> None:
    """Left out without a word, the sums of the files would be wrong."""
    store, out = str(tmp_path / "ledger.sqlite"), tmp_path / "out"
    asyncio.run(book(store, [record()]))
    with contextlib.closing(sqlite3.connect(store)) as connection, connection:
        connection.execute("UPDATE log SET record=?", (b'{"attempt_id":"x","request_id":"r","at_ms":"soon","buckets":[]}',))
    done = CliRunner().invoke(cli.load("spend"), ["export", "--store", store, "--out", str(out)])
    assert "1 records could not be read" in done.stderr
    assert json.loads((out / CURSOR_FILE).read_text())["unreadable"] == 1


def test_a_store_that_is_away_is_an_error(tmp_path: Path) -> None:
    """With its address, and without a traceback."""
    with pytest.raises(ConfigError, match="cannot be read"):
        export("redis://127.0.0.1:1", tmp_path, "csv")


def test_a_wrong_moment_is_explained(tmp_path: Path) -> None:
    """As for every wrong use of a command."""
    done = CliRunner().invoke(cli.load("spend"), ["export", "--out", str(tmp_path), "--since", "soon"])
    assert done.exit_code == 2
