"""`faregate plan` where rules read prompts, or go by the pace of a budget: of logs whose own policy asked for neither."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from router.cli import load
from router.errors import ConfigError
from router.learned.feedback import kept_prompts
from tests.replay_logs import made_up, write_log
from tests.running import compiled
from tests.unit.test_plan import planned

CONFIG = """
version: 1
providers:
  one: {kind: openai, base_url: "http://127.0.0.1:9/v1", api_key: "${PROVIDER_KEY:-k}"}
models:
  big: {at: one/big, size: large, price: {input: 10, output: 30}, quality: 0.9}
  small: {at: one/small, size: small, price: {input: 1, output: 2}, quality: 0.6}
routes:
  auto: ROUTE
budgets: {month: $LIMIT/month}
"""
PLAIN = "[big]"
READING = """
    rules:
      - {name: code, when: {task: code}, use: small}
      - {name: korean, when: {language: ko}, use: small}
    use: big
"""
PACED = "{use: [big, small], by: {kind: pace, budget: month}}"
TEXTS = (
    "Write a Python function that reverses a list",
    "한국의 수도는 어디인가요?",
    "Who was the first person on the moon?",
    "Hello there",
)
REQUESTS = 100


def text(route: str, limit: int = 100_000) -> str:
    return CONFIG.replace("ROUTE", route).replace("LIMIT", str(limit))


@pytest.fixture
def words(tmp_path: Path) -> tuple[str, ...]:
    """Of `faregate plan`: all but the prompts, which stand in `prompts.jsonl` beside."""
    for name, route in (("old.yaml", PLAIN), ("new.yaml", READING)):
        (tmp_path / name).write_text(text(route), encoding="utf-8")
    log = write_log(tmp_path / "log.jsonl", made_up(compiled(text(PLAIN)), REQUESTS, big=1))
    return str(tmp_path / "old.yaml"), str(tmp_path / "new.yaml"), "--replay", str(log), "--since", "2026-01-01"


def keep(folder: Path, requests: int) -> str:
    """Prompts of the first requests, one as of a completion."""
    lines: list[dict[str, Any]] = [
        {"request_id": f"req-{number}", "messages": [{"role": "user", "content": TEXTS[number % 4]}]} for number in range(requests)
    ]
    lines[0] = {"request_id": "req-0", "prompt": TEXTS[0]}
    path = folder / "prompts.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    return str(path)


def run(*given: str) -> Result:
    return CliRunner().invoke(load("plan"), list(given))


def test_figures_of_rules_that_nobody_could_ask_are_not_passed_off_as_known(words: tuple[str, ...]) -> None:
    """The old rules read no prompts, so that the log tells nothing of them: all would go to the default, and look certain."""
    shown = run(*words, "--fail-on", "cost:+5%")
    assert shown.exit_code == 1
    assert "Of 100 requests (100.0%) nobody has read what the new configuration's rules ask of the prompts: language, task." in shown.stdout
    assert "beyond cost:+5%: of 100 requests, what the rules ask of their prompts is not known; see --prompts" in shown.stderr


def test_kept_prompts_are_read_as_the_new_rules_ask(words: tuple[str, ...], tmp_path: Path) -> None:
    """A change is proved on the traffic that was, whether or not the old rules read what the new ones do."""
    shown = run(*words, "--prompts", keep(tmp_path, REQUESTS), "--fail-on", "cost:+5%", "--json")
    assert shown.exit_code == 0, shown.output
    told = json.loads(shown.stdout)["plan"]
    assert told["rules"] == [["auto/code", 0, 25], ["auto/default", 100, 50], ["auto/korean", 0, 25]]
    assert told["moves"] == [["big", "small", 50]]
    assert (told["unread"], told["unread_signals"]) == (0, [])


@pytest.mark.parametrize(("kept", "code"), [(96, 0), (90, 1)])
def test_a_few_prompts_that_were_not_kept_do_not_hide_the_rest(words: tuple[str, ...], tmp_path: Path, kept: int, code: int) -> None:
    """Private ones are never kept; figures of which a tenth is a guess are none."""
    shown = run(*words, "--prompts", keep(tmp_path, kept), "--fail-on", "cost:+5%")
    assert shown.exit_code == code
    assert f"Of {REQUESTS - kept} requests" in shown.stdout


def test_a_file_that_holds_something_else_is_named(words: tuple[str, ...], tmp_path: Path) -> None:
    """Not a traceback."""
    (tmp_path / "odd.jsonl").write_text('{"request_id": "req-0", "messages": "x"}\n')
    shown = run(*words, "--prompts", str(tmp_path / "odd.jsonl"))
    assert "the kept prompt of req-0 is none: 'messages' must be a list of objects" in str(shown.exception)
    (tmp_path / "other.jsonl").write_text("{}\n")
    with pytest.raises(ConfigError, match="not JSON lines of"):
        kept_prompts(tmp_path / "other.jsonl")


@pytest.mark.parametrize(("limit", "models"), [(100_000, {"big"}), (1, {"small"})])
def test_the_pace_of_a_budget_follows_what_is_spent_in_the_plan(limit: int, models: set[str]) -> None:
    """A budget far from spent lets the dear model answer; one that is spent far ahead of its window does not."""
    old, new = compiled(text(PLAIN)), compiled(text(PACED, limit))
    # Two days of September's last ten: two thirds of the window have passed.
    told = planned(old, new, made_up(old, 300, big=1, days=2))
    assert {row.name for row in told.models if row.requests_new > 100} == models
