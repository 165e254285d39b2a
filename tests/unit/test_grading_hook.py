"""Grading by a command: it has the code, and its word counts."""

from __future__ import annotations

import sys

import pytest

from router.errors import ConfigError
from router.replay.hook import LONGEST_SAID, code_in, run_hook

ANSWER = "Here it is:\n```python\ndef twice(x):\n    return 2 * x\n```\nAnd a test:\n```\nprint(twice(3))\n```"
TOLD = "import os; assert [os.environ['GRADE_' + n] for n in ('ANSWER', 'PROMPT', 'EXPECT', 'TASK')] == ['x = 1', 'p', 'e', 't']"


def grade(script: str, *, seconds: float = 60.0) -> float:
    return run_hook([sys.executable, "-c", script], "x = 1", prompt="p", expect="e", task="t", seconds=seconds)


def test_the_last_block_of_code_is_what_counts() -> None:
    """Without a fence, all of it."""
    assert code_in(ANSWER) == "print(twice(3))\n"
    assert code_in("x = 1") == "x = 1"


@pytest.mark.parametrize(
    ("script", "score"),
    [
        ("import sys; exec(sys.stdin.read()); assert x == 1", 1.0),
        ("import sys; exec(sys.stdin.read()); assert x == 2", 0.0),
        ("print('3 of 4'); print(0.75)", 0.75),
        ("print(7)", 1.0),
        ("print(float('nan'))", 1.0),
        (TOLD, 1.0),
        ("import os; assert not {'FAREGATE_KEY', 'OPENAI_API_KEY'} & set(os.environ); assert os.environ['PATH']", 1.0),
        (f"print('x' * {3 * LONGEST_SAID}); print(0.5)", 0.5),
    ],
)
def test_exit_code_or_last_number_is_the_score(script: str, score: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A number that is no share counts for nothing; keys stay with the router."""
    monkeypatch.setenv("FAREGATE_KEY", "secret")
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    assert grade(script) == score


@pytest.mark.parametrize(
    "script",
    [
        "import time; time.sleep(600)",
        "while True: print('x' * 1000)",
        "import os; os.close(1); os.close(2)\nwhile True: pass",
        "import subprocess; subprocess.Popen(['sleep', '600'])",
    ],
)
def test_one_that_does_not_end_is_ended(script: str) -> None:
    """Silent, loud, with its output closed, or gone while what it started has the output: the answer is wrong, and all of it ends."""
    assert grade(script, seconds=0.3) == 0.0


def test_one_that_cannot_be_started_is_no_grade() -> None:
    """All answers would be wrong."""
    with pytest.raises(ConfigError, match="--run: /no/such/program cannot be started"):
        run_hook(["/no/such/program"], "x", prompt="", expect="", task="")
