"""Examples in the pages: a reader copies them, so they are run."""

from __future__ import annotations

import ast
import asyncio
import json
import re
import shlex
import time
from pathlib import Path
from typing import Final

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from router import cli
from router.adapters.choose import visiting
from router.errors import ConfigError
from router.fleet import Fleet
from router.live_controls import LiveControls
from router.settings import load_snapshot
from tests.house.source import ROOT, text_files

_BLOCK: Final = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
BLOCKS: Final = [
    pytest.param(language, text, id=f"{path.relative_to(ROOT)}:{number}")
    for path in text_files(".md")
    for number, (language, text) in enumerate(_BLOCK.findall(path.read_text(encoding="utf-8")), 1)
]
ENVIRONMENT: Final = {
    name: name.lower().ljust(32, "x")
    for name in re.findall(r"\$\{?([A-Z][A-Z0-9_]+)", "".join(path.read_text(encoding="utf-8") for path in text_files(".md")))
} | {"OPENAI_API_KEY": "x" * 8, "REDIS_URL": "", "SLACK_WEBHOOK": "https://chat.example.com/hook"}


def of(language: str) -> list[object]:
    return [block for block in BLOCKS if block.values[0] == language]


@pytest.mark.parametrize(("language", "text"), of("yaml"))
def test_a_complete_configuration_in_a_page_loads(language: str, text: str, tmp_path: Path) -> None:
    """A configuration that starts with its version is meant to be copied as it is; a fragment is not."""
    if not re.match(r"(#.*\n)*version: 1\n", text):
        return
    path = tmp_path / "router.yaml"
    path.write_text(text, encoding="utf-8")
    try:
        load_snapshot(str(path), environ=ENVIRONMENT)
    except ConfigError as error:
        pytest.fail(str(error))


@pytest.mark.parametrize(("language", "text"), of("python"))
def test_python_in_a_page_is_python(language: str, text: str) -> None:
    """A slip in a snippet is the first thing a newcomer meets."""
    ast.parse(text)


@pytest.mark.parametrize(("language", "text"), [*of("sh"), *of("console")])
def test_verbs_in_a_page_exist(language: str, text: str) -> None:
    """A command that was renamed is renamed in the pages."""
    used = {words[1] for line in text.replace("\\\n", " ").splitlines() if (words := shlex.split(line, comments=True))[:1] == ["faregate"]}
    assert used - set(cli.VERBS) == set()


def test_the_readme_shows_the_smallest_configuration() -> None:
    """It is the file that `config/minimal.yaml` is; one of them would rot otherwise."""
    (shown,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    shipped = (ROOT / "config" / "minimal.yaml").read_text(encoding="utf-8")
    assert [line for line in shown.splitlines() if line] == [line for line in shipped.splitlines() if line and not line.startswith("#")]


PAGES: Final = [pytest.param(path, id=str(path.relative_to(ROOT))) for path in text_files(".md")]
NOT_RUN: Final = {
    ("serve",): "it would not end",
    ("keys", "revoke"): "the key of the example is nobody's",
    ("keys", "rotate"): "the key of the example is nobody's",
    ("demo",): "it has tests of its own",
    ("alerts", "test"): "there is nobody to take it",
    ("ledger", "rerate", "--prices"): "the reader's file",
    ("explain", "--config", "router.yaml", "--record"): "nobody asked for anything",
    ("test",): "the reader's tests; config/*.test.yaml are run elsewhere",
    ("drill", "--live"): "there is no running service",
    ("evaluate",): "the reader's prompts, and a router that runs",
    ("frontier",): "the scores of the one before",
    ("plan",): "the reader's next configuration; it has tests of its own",
    ("reconcile",): "the provider's file; it has tests of its own",
}


def commands_of(page: Path) -> list[list[str]]:
    """The calls of `faregate` in the shell blocks of a page, as words."""
    blocks = [text for language, text in _BLOCK.findall(page.read_text(encoding="utf-8")) if language in ("sh", "console")]
    lines = [line.removeprefix("$ ") for text in blocks for line in text.replace("\\\n", " ").splitlines()]
    calls = [words for line in lines if (words := shlex.split(line, comments=True))[:1] == ["faregate"]]
    return [words[1 : words.index("<")] if "<" in words else words[1:] for words in calls]


def configuration_of(page: Path) -> str:
    """The complete configuration that a page shows first; the smallest one that there is if it shows none."""
    shown = [text for language, text in _BLOCK.findall(page.read_text(encoding="utf-8")) if language == "yaml"]
    whole = [text for text in shown if re.match(r"(#.*\n)*version: 1\n", text)]
    return whole[0] if whole else (ROOT / "config" / "minimal.yaml").read_text(encoding="utf-8")


async def make_books(store: str) -> None:
    """As they are once the configuration of the page was served, and a canary was taken back."""
    async with visiting(store) as ledger:
        fleet = Fleet(time.monotonic)
        controls = LiveControls(ledger.control_store(), fleet, keys_changed=lambda: None)
        fleet.memory.experiments.unsaid["auto", "default", "canary", ""] = "errors"
        await controls.publish(load_snapshot("router.yaml"))


@pytest.mark.parametrize("page", [page for page in PAGES if commands_of(page.values[0])])
def test_commands_in_a_page_work_with_what_the_page_shows(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader pastes them one after the other, beside the configuration that stands above them."""
    store = str(tmp_path / "ledger.sqlite")
    for name, value in (ENVIRONMENT | {"FAREGATE_STORE": store}).items():
        monkeypatch.setenv(name, value)
    for name in ("REDIS_URL", "FAREGATE_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    Path("router.yaml").write_text(configuration_of(page), encoding="utf-8")
    asyncio.run(make_books(store))
    request = json.dumps({"model": "auto", "messages": [{"role": "user", "content": "Hello"}]})
    Path("request.json").write_text(request, encoding="utf-8")
    for verb, *rest in commands_of(page):
        shown = f"faregate {shlex.join([verb, *rest])}"
        command = get_command(cli.load(verb))
        if any((verb, *rest)[: len(left_out)] == left_out for left_out in NOT_RUN):
            with command.make_context(verb, list(rest), resilient_parsing=False):
                continue
        result = CliRunner().invoke(cli.load(verb), rest, input=request)
        assert result.exit_code == 0, f"{shown}\n{result.output}"
        assert result.output, shown
