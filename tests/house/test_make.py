"""The verbs of the Makefile and what the README says of them."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.house.source import ROOT

VERBS = ["setup", "run", "demo", "test", "check", "lint", "types", "bench", "schema", "docs", "lock", "wheel", "clean"]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def make(*arguments: str) -> str:
    done = subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_help_lists_every_verb() -> None:
    """`make` alone tells what there is."""
    listed = [line.split()[1] for line in make("--no-print-directory").splitlines()]
    assert listed == ["help", *VERBS]


@pytest.mark.parametrize("verb", ["help", *VERBS])
def test_a_file_of_the_same_name_does_not_hide_a_verb(verb: str) -> None:
    """`docs` is a folder too."""
    (phony,) = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert verb in phony.split()


def test_recipes_run_in_any_posix_shell() -> None:
    """`make` uses /bin/sh, which is dash on Debian."""
    assert re.findall(r"\[\[|\bsource |<<<|\bfunction |&>", MAKEFILE) == []


def test_ci_runs_exactly_the_command_of_the_readme() -> None:
    """What a reader runs and what is proven to work are the same."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"## Tests\n\n```sh\n(.*)\n```", readme)
    last = (ROOT / ".ci" / "run").read_text(encoding="utf-8").strip().splitlines()[-1]
    assert last == f"exec {command}"


def test_ci_is_executable_and_valid_shell() -> None:
    """It is called by its path."""
    path = ROOT / ".ci" / "run"
    assert path.stat().st_mode & 0o111
    assert subprocess.run(["sh", "-n", str(path)], check=False).returncode == 0


def test_dependencies_are_installed_by_hash_only() -> None:
    """Whatever index is in use, it can only deliver what was pinned."""
    installs = re.findall(r"\$\(PIP\) (.*)", MAKEFILE)
    assert len(installs) == 2
    assert [each for each in installs if "--require-hashes" not in each and "--no-deps --no-build-isolation" not in each] == []
