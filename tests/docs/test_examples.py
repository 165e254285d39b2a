"""Examples in the pages: a reader copies them, so they are run."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path
from typing import Final

import pytest

from router import cli
from router.errors import ConfigError
from router.settings import load_snapshot
from tests.house.source import ROOT, text_files

_BLOCK: Final = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
BLOCKS: Final = [
    pytest.param(language, text, id=f"{path.relative_to(ROOT)}:{number}")
    for path in text_files(".md")
    for number, (language, text) in enumerate(_BLOCK.findall(path.read_text(encoding="utf-8")), 1)
]
ENVIRONMENT: Final = {
    name: "x" * 8 for name in re.findall(r"\$\{?([A-Z][A-Z0-9_]+)", "".join(path.read_text(encoding="utf-8") for path in text_files(".md")))
} | {"OPENAI_API_KEY": "x" * 8}


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
