"""The gates of `make lint` and `make types`, so that `make test` fails where they do."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.house.source import ROOT

GATES = {
    "ruff check": ("-m", "ruff", "check", "."),
    "ruff format": ("-m", "ruff", "format", "--check", "."),
    "mypy --strict": ("-m", "mypy"),
    "import contracts": ("-c", "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(is_debug_mode=False))"),
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("gate", GATES)
def test_gate_finds_nothing(gate: str) -> None:
    """One command tells a contributor everything that a reviewer's machine would."""
    done = subprocess.run([sys.executable, *GATES[gate]], cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
