"""The sink: each record once in PostgreSQL, whatever is killed, sent twice or new in a record."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner

from router import cli
from router.adapters.choose import open_ledger
from router.books import export as exporting
from router.books.columns import plain_types
from router.books.postgres import Table
from router.books.sink import Taken, sink
from router.errors import ConfigError
from tests.postgres import PostgresServer
from tests.unit.test_export import book, calls
from tests.unit.test_spend import record


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """The address of a real PostgreSQL."""
    server = PostgresServer()
    yield server.url
    server.close()


def take(store: str, database: str, schema: str) -> Taken:
    return sink(open_ledger(store), store, database, schema=schema)


def query(database: str, text: str) -> list[Any]:
    with psycopg.connect(database) as db:
        return db.execute(text.encode()).fetchall()


@pytest.fixture(params=["sqlite", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty ledger in a file, and in a real Redis."""
    if request.param == "redis":
        url: str = request.getfixturevalue("redis_url")
        return url
    return str(tmp_path / "ledger.sqlite")


def test_every_record_is_taken_once(store: str, database: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over many runs and steps; a run that is killed between two is made good, and a cursor that is lost doubles nothing."""
    schema = f"Books {request.node.callspec.params['store']}"
    monkeypatch.setattr(exporting, "MOST_AT_ONCE", 2)
    monkeypatch.setattr("router.adapters.sqlite.markers.PAGE", 2)
    monkeypatch.setattr("router.adapters.redis.markers.PAGE", 2)
    asyncio.run(book(store, calls(0, 5)))
    write = Table.write
    writes = 0

    async def killed(self: Table, *args: Any, **more: Any) -> int:
        nonlocal writes
        writes += 1
        if writes == 2:
            raise KeyboardInterrupt
        return await write(self, *args, **more)

    monkeypatch.setattr(Table, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        take(store, database, schema)
    monkeypatch.setattr(Table, "write", write)
    assert take(store, database, schema) == Taken(records=3, new=3)
    assert take(store, database, schema) == Taken()
    asyncio.run(book(store, calls(5, 7)))
    assert take(store, database, schema) == Taken(records=2, new=2)
    sums = f'SELECT count(*), count(DISTINCT attempt_id), sum(charge_nusd) FROM "{schema}".spend'
    assert query(database, sums) == [(7, 7, sum(range(7)))]
    with psycopg.connect(database) as db:
        db.execute(f'DELETE FROM "{schema}".sink'.encode())
    assert take(store, database, schema) == Taken(records=7, new=0)
    assert query(database, sums) == [(7, 7, sum(range(7)))]


def test_a_ledger_that_was_restored_is_read_from_its_beginning(database: str, tmp_path: Path) -> None:
    """Its numbers come a second time; what the table has is known by its id."""
    store, kept = tmp_path / "ledger.sqlite", tmp_path / "backup.sqlite"
    asyncio.run(book(str(store), calls(0, 4)))
    shutil.copy(store, kept)
    asyncio.run(book(str(store), calls(4, 8)))
    assert take(str(store), database, "restored") == Taken(records=8, new=8)
    shutil.copy(kept, store)
    asyncio.run(book(str(store), calls(10, 12)))
    assert take(str(store), database, "restored") == Taken(records=6, new=2)
    asyncio.run(book(str(store), calls(12, 20)))
    assert take(str(store), database, "restored") == Taken(records=8, new=8)
    assert query(database, "SELECT count(*), count(DISTINCT entry_id) FROM restored.spend") == [(18, 18)]


def test_the_columns_have_types_and_keep_what_clients_write(database: str, tmp_path: Path) -> None:
    """Names come from clients: what a database cannot keep must not stop the sink for good. Tags can be asked for."""
    store = str(tmp_path / "ledger.sqlite")
    asyncio.run(book(store, [record(user="a\0b", tags={"k\0": "\0", "team": "x\\u0000\t\n"}, charge_nusd=2**53 - 1, price_input=None)]))
    take(store, database, "types")
    found = query(
        database, "SELECT \"user\", tags->>'k\ufffd', tags->>'team', charge_nusd, price_input, stream, day::text FROM types.spend"
    )
    assert found == [("a\ufffdb", "\ufffd", "x\\u0000\t\n", 2**53 - 1, None, False, "2026-11-22")]
    kinds = dict(query(database, "SELECT column_name, data_type FROM information_schema.columns WHERE table_schema='types'"))
    assert set(plain_types()) <= set(kinds)
    assert (kinds["charge_nusd"], kinds["day"], kinds["tags"], kinds["stream"]) == ("bigint", "date", "jsonb", "boolean")


def test_a_table_of_another_release_is_brought_up_to_date_or_refused(database: str, tmp_path: Path) -> None:
    """A field that is new gets its column; tables that a newer release made are left alone."""
    store = str(tmp_path / "ledger.sqlite")
    asyncio.run(book(store, calls(0, 1)))
    take(store, database, "older")
    with psycopg.connect(database) as db:
        db.execute("ALTER TABLE older.spend DROP COLUMN host")
    asyncio.run(book(store, calls(1, 2)))
    done = CliRunner().invoke(cli.load("spend"), ["sink", database, "--schema", "older", "--store", store])
    assert (done.exit_code, done.stdout) == (0, "1 records read, 1 of them new.\n")
    assert query(database, "SELECT count(host) FROM older.spend") == [(1,)]
    with psycopg.connect(database) as db:
        db.execute("UPDATE older.sink SET version=2")
    with pytest.raises(ConfigError, match="use a newer one"):
        take(store, database, "older")


def test_a_table_that_is_gone_is_no_new_one(database: str, tmp_path: Path) -> None:
    """Made again it would have what comes from now on only, and nobody would know. Without its cursor it is filled from the log."""
    store = str(tmp_path / "ledger.sqlite")
    asyncio.run(book(store, calls(0, 3)))
    take(store, database, "Gone")
    with psycopg.connect(database) as db:
        db.execute('DROP TABLE "Gone".spend')
    asyncio.run(book(store, calls(3, 4)))
    with pytest.raises(ConfigError, match=r"Table Gone.spend is missing, but Gone.sink says that 3 records are in it.*drop Gone.sink, too"):
        take(store, database, "Gone")
    with psycopg.connect(database) as db:
        db.execute('DROP TABLE "Gone".sink')
    assert take(store, database, "Gone") == Taken(records=4, new=4)


def test_of_two_at_once_one_is_refused(database: str, tmp_path: Path) -> None:
    """Both began at the same place of the log."""

    async def both() -> None:
        async with Table(database, "two", "l") as one, Table(database, "two", "l") as other:
            assert await one.write([record(attempt_id="a")], after="", position="1") == 1
            with pytest.raises(ConfigError, match="Another sink"):
                await other.write([record(attempt_id="b")], after="", position="2")
            assert await one.position() == "1"

    asyncio.run(both())
    assert query(database, "SELECT count(*) FROM two.spend") == [(1,)]


def test_what_is_wrong_is_explained(tmp_path: Path) -> None:
    """Without a traceback, and without the password."""
    store = tmp_path / "ledger.sqlite"
    asyncio.run(book(str(store), []))

    def run(*args: str) -> Any:
        return CliRunner().invoke(cli.load("spend"), ["sink", "--store", str(store), *args])

    away = run("postgresql://me:s3cret@/db?host=/nowhere")
    assert isinstance(away.exception, ConfigError)
    assert "cannot be used" in str(away.exception)
    assert "s3cret" not in str(away.exception)
    assert "like postgresql://" in str(run("mysql://db").exception)
    assert run("postgresql://db", "--since", "soon").exit_code == 2
