"""A file with errors after a roll-back: the version that people went back to is served all the same, by the right books."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from router.adapters.choose import visiting
from router.cli import load
from router.commands.serve import loaded
from router.controls import Desk
from router.errors import ConfigError
from router.settings import load_snapshot
from router.versions import Versions

CONFIG = """
version: 1
server: {STORE}
providers:
  up: {kind: openai, base_url: "http://127.0.0.1:1/v1", api_key: k}
models:
  m: {at: up/m, price: free}
"""
BROKEN = ("broken: [\n", "budgets: {everyone: {limit: 5 apples}}\n")
"""No YAML, and YAML that is no configuration."""


@pytest.fixture(autouse=True)
def _no_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in ("REDIS_URL", "FAREGATE_STORE"):
        monkeypatch.delenv(name, raising=False)


def file_with(tmp_path: Path, named: str) -> Path:
    path = tmp_path / "router.yaml"
    path.write_text(CONFIG.replace("STORE", named))
    return path


def roll_back(path: Path, store: Path) -> str:
    """Have the ledger say that this file's version is to be served; then its version."""
    served = load_snapshot(str(path))
    store.parent.mkdir(exist_ok=True, parents=True)

    async def pin() -> None:
        async with visiting(str(store)) as ledger:
            await Versions(ledger.shelf()).keep(served, now_ms=1)
            await Desk(ledger.control_store(), who="alice", via="admin").pin(served.version, reason="too dear")

    asyncio.run(pin())
    return served.version


def broken(path: Path, tail: str) -> None:
    path.write_text(path.read_text() + tail)


@pytest.mark.parametrize("tail", BROKEN)
@pytest.mark.parametrize(
    ("named", "where"),
    [
        ("", "state/faregate/ledger.sqlite"),
        ("store: books.sqlite", "books.sqlite"),
        ('"store": "$BOOKS"', "b/l.sqlite"),
        ('port: 4000, store: "${NO_BOOKS:-books.sqlite}"', "books.sqlite"),
    ],
)
def test_a_start_serves_what_was_rolled_back_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str, where: str, tail: str) -> None:
    """The file is broken when a roll-back is needed most; a process that starts again must not end by it."""
    monkeypatch.setenv("BOOKS", str(tmp_path / "b" / "l.sqlite"))
    path = file_with(tmp_path, named)
    version = roll_back(path, tmp_path / where)
    broken(path, tail)
    snapshot = loaded(str(path), quiet=False)
    assert (snapshot.version, snapshot.source) == (version, str(path))


def test_a_file_with_errors_is_refused_where_nothing_was_rolled_back(tmp_path: Path) -> None:
    """And a file that is not there always is."""
    path = file_with(tmp_path, "store: books.sqlite")
    broken(path, BROKEN[0])
    with pytest.raises(ConfigError, match=r"not valid YAML[^\n]*$"):
        loaded(str(path), quiet=True)
    with pytest.raises(ConfigError, match=r"cannot be read[^\n]*$"):
        loaded(str(tmp_path / "none.yaml"), quiet=True)


def test_books_that_are_not_the_versions_own_are_not_used(tmp_path: Path) -> None:
    """What was spent elsewhere would not count."""
    path = file_with(tmp_path, "store: books.sqlite")
    version = roll_back(path, tmp_path / "others.sqlite")
    path.write_text(path.read_text().replace("books", "others"))
    broken(path, BROKEN[0])
    with pytest.raises(ConfigError, match=f"rolled back to version {version}, which cannot be served: it keeps its books elsewhere"):
        loaded(str(path), quiet=True)


@pytest.mark.parametrize(
    ("named", "tail"), [("store: $NOT_SET", BROKEN[0]), ("store: [x]", BROKEN[1]), ("store: a", "server: {store: b}\nx: [")]
)
def test_a_store_that_the_file_hides_is_said_to_be_unknown(tmp_path: Path, named: str, tail: str) -> None:
    """So that nobody takes the file's error for all there is."""
    path = file_with(tmp_path, named)
    broken(path, tail)
    with pytest.raises(ConfigError, match="whether the service was rolled back is not known: `server"):
        loaded(str(path), quiet=True)


def test_explain_in_force_needs_no_file_without_errors(tmp_path: Path) -> None:
    """It decides by what is served; `--store` may say where that is known, too."""
    path = file_with(tmp_path, "")
    store = tmp_path / "state" / "faregate" / "ledger.sqlite"
    roll_back(path, store)
    broken(path, BROKEN[0])
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hello"}]})
    for options in ((), ("--store", str(store))):
        result = CliRunner().invoke(load("explain"), ["-", "--config", str(path), "--in-force", *options], input=body)
        assert (result.exit_code, "up/m" in result.stdout) == (0, True)
    without = CliRunner().invoke(load("explain"), ["-", "--config", str(path)], input=body)
    assert (without.exit_code, isinstance(without.exception, ConfigError)) == (1, True)
