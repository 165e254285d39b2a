"""`faregate check`, `init` and `schema`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from router.commands import check, init, schema
from router.settings import discover
from router.settings.schema import schema_text

GOOD = "version: 1\nproviders: [openai]\nmodels: {m: openai/gpt-5.6}\nkeys: {k: {secret: $BOT_KEY}}\n"
KEY = "sk-proj-0123456789abcdef"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def nothing(base_url: str) -> Sequence[str]:
        return ()

    monkeypatch.setattr(discover, "list_models", nothing)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("BOT_KEY", KEY + "-bot")
    monkeypatch.delenv("FAREGATE_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)


def run(command: object, *arguments: str) -> Result:
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, list(arguments))


def test_a_right_file_is_summed_up_in_one_line(tmp_path: Path) -> None:
    """Exit 0; what was counted lets a slip of indentation be seen."""
    (tmp_path / "r.yaml").write_text(GOOD)
    result = run(check.command, "r.yaml")
    assert result.exit_code == 0
    assert result.stdout.startswith("r.yaml: no errors; 1 provider, 1 model, 1 deployment, 0 routes, 0 budgets, 0 teams, 1 key; version ")


def test_a_wrong_file_exits_1_with_every_error(tmp_path: Path) -> None:
    """CI stops on it."""
    (tmp_path / "r.yaml").write_text("version: 1\nserver: {prot: 1}\nrutes: {}\n")
    result = run(check.command, "r.yaml")
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        'r.yaml:2:10: server.prot: unknown field; did you mean "port"?',
        'r.yaml:3:1: rutes: unknown field; did you mean "routes"?',
        "2 errors",
    ]


def test_errors_for_machines_are_split_into_fields(tmp_path: Path) -> None:
    """Editors and bots place them."""
    (tmp_path / "r.yaml").write_text("version: 1\nserver: {prot: 1}\n")
    result = run(check.command, "r.yaml", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {
        "ok": False,
        "errors": [{"file": "r.yaml", "line": 2, "column": 10, "field": "server.prot", "message": 'unknown field; did you mean "port"?'}],
    }
    unreadable = run(check.command, "none.yaml", "--json")
    assert json.loads(unreadable.stdout)["errors"] == [{"message": "none.yaml: cannot be read: No such file or directory"}]


def test_what_is_effective_is_printed_without_secrets(tmp_path: Path) -> None:
    """With defaults, and the price of each deployment with its source."""
    (tmp_path / "r.yaml").write_text(GOOD)
    result = run(check.command, "r.yaml", "--effective")
    assert KEY not in result.output
    assert "secret: $BOT_KEY" in result.stdout
    assert "lease: 20s" in result.stdout
    assert "# openai/gpt-5.6 (m): closed, cloud; input $" in result.stdout
    data = json.loads(run(check.command, "r.yaml", "--effective", "--json").stdout)
    assert data["ok"] is True
    assert data["effective"]["keys"] == {"k": {"secret": "$BOT_KEY"}}
    assert data["deployments"][0]["price"]["source"]


def test_warnings_and_notes_go_beside_the_result(tmp_path: Path) -> None:
    """Exit 0 all the same."""
    (tmp_path / "r.yaml").write_text("version: 1\nproviders: [ollama]\nmodels: {m: ollama/q}\nserver: {unpriced: free}\n")
    result = run(check.command, "r.yaml")
    assert result.exit_code == 0
    assert result.stderr.splitlines() == [
        "warning: r.yaml:4:20: server.unpriced: calls of deployments without a price are not counted against any budget",
        "note: r.yaml:3:13: models.m: ollama/q runs on a machine of one's own and is counted as free",
    ]


def test_without_a_file_what_is_found_is_checked() -> None:
    """The same that `serve` would serve."""
    result = run(check.command)
    assert result.exit_code == 0
    assert result.stdout.startswith("discovered: no errors; 1 provider, 2 models")


def test_init_writes_a_file_that_passes_and_never_overwrites(tmp_path: Path) -> None:
    """A second run must not lose what was changed."""
    first = run(init.command, "--dir", "made/here")
    assert first.exit_code == 0
    written = tmp_path / "made" / "here" / "router.yaml"
    assert (written.parent / "router.schema.json").read_text() == schema_text()
    assert run(check.command, str(written)).exit_code == 0
    written.write_text("mine")
    second = run(init.command, "--dir", "made/here")
    assert second.exit_code == 1
    assert "exists and was left as it is" in second.stderr
    assert written.read_text() == "mine"


def test_init_says_where_it_cannot_write(tmp_path: Path) -> None:
    """A folder name that is a file."""
    (tmp_path / "file").write_text("")
    result = run(init.command, "--dir", "file/x")
    assert result.exit_code == 1
    assert "cannot be written" in result.stderr
    assert run(init.command, "--dir", "file").stderr == "file is a file, not a folder. Choose another with --dir.\n"


def test_schema_prints_the_schema() -> None:
    """What editors need, from the installed program."""
    assert run(schema.command).stdout == schema_text()


@pytest.mark.parametrize("variables", [{}, {"OPENAI_API_KEY": "sk-0123456789abcdef"}])
def test_init_writes_what_to_serve_into_the_file_and_the_rest_for_a_person(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    """Advice on how to come by a file has no place in it, nor does a message in standard output."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    result = run(init.command, "--dir", str(tmp_path / "c"))
    assert (result.exit_code, result.stdout) == (0, "")
    assert "Wrote" in result.stderr
    assert ("found: provider openai" in result.stderr) == bool(variables)
    text = (tmp_path / "c" / "router.yaml").read_text()
    assert "faregate init" not in text
    assert ("# Found: provider openai: key in OPENAI_API_KEY" in text) == bool(variables)
    assert ("so is their money" in text) != bool(variables)
    assert text.count("server:\n") == 1
    assert text.count("$schema") == 1
