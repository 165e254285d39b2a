"""A call that failed says where it was tried and who refused it: in the answer's headers and in the log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from tests.running import Running, running
from tests.scripted_behaviours import Fail, Json
from tests.scripted_upstream import ScriptedUpstream

SLOW = "sk-test-slow-0123456789abcdefghijklmnop"
POOR = "sk-test-poor-0123456789abcdefghijklmnop"

CONFIG = """
version: 1
server: {slice_tokens: 16}
providers:
  up: {kind: openai, base_url: "UP", api_key: $PROVIDER_KEY}
models:
  a: {at: up/a, price: {input: 0, output: 10}, default_max_output: 1000}
  b: {at: up/b, price: {input: 0, output: 20}, default_max_output: 1000}
routes:
  both: {use: [b, a], by: fixed, fallback: {retries: 1}}
budgets:
  pennies: {limit: $0.005, when: {key: poor}}
keys:
  tester: {secret: $TEST_KEY}
  slow: {secret: $SLOW, rpm: 1}
  poor: {secret: $POOR}
"""


async def ask(run: Running, model: str, key: str = "", **more: object) -> tuple[httpx.Response, dict[str, Any]]:
    """An answer, and its line in the log."""
    answer = await run.ask(model, headers={"authorization": f"Bearer {key}"} if key else None, **more)
    own = answer.headers["x-faregate-request-id"]
    await run.settled()
    log = run.app.service._request_log
    assert log is not None
    log.flush()
    return answer, next(line for line in run.log_lines() if line["request_id"] == own)


def where(answer: httpx.Response) -> list[str | None]:
    return [answer.headers.get(f"x-faregate-{name}") for name in ("deployment", "model", "attempts", "route", "rule")]


async def test_a_failure_names_every_deployment_that_was_called(tmp_path: Path) -> None:
    """Whoever asks why a call failed must not have to guess which provider failed it."""
    up = ScriptedUpstream(default=Fail(status=500))
    async with running(tmp_path, CONFIG, up=up, environment={"SLOW": SLOW, "POOR": POOR}) as run:
        answer, line = await ask(run, "both")
        assert answer.status_code == 500
        assert where(answer) == ["up/b, up/a", "b, a", "3", "both", "default"]
        assert (line["tried"], line["deployment"], line["attempts"]) == (["up/b", "up/a", "up/a"], "up/a", 3)
        assert (line["outcome"], line["error"], line["status"]) == ("upstream_error", "5xx", 500)


async def test_a_refusal_after_a_call_names_both(tmp_path: Path) -> None:
    """The provider failed, and the limit kept the next one from being asked."""
    up = ScriptedUpstream(default=Fail(status=500))
    async with running(tmp_path, CONFIG, up=up, environment={"SLOW": SLOW, "POOR": POOR}) as run:
        answer, line = await ask(run, "both", SLOW)
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        assert where(answer)[:3] == ["up/b", "b", "1"]
        assert (line["tried"], line["deployment"], line["refused_by"]) == (["up/b"], "up/b", answer.json()["error"]["limit_name"])


async def test_a_call_whose_answer_is_not_paid_for_names_who_gave_it(tmp_path: Path) -> None:
    """A provider that ignores the wish for a stream writes more than is held: 402, although it was called."""
    up = ScriptedUpstream(default=Json())
    async with running(tmp_path, CONFIG, up=up, environment={"SLOW": SLOW, "POOR": POOR}) as run:
        answer, line = await ask(run, "a", POOR, stream=True)
        assert (answer.status_code, answer.json()["error"]["code"]) == (402, "budget_exceeded")
        assert where(answer)[:3] == ["up/a", "a", "1"]
        assert (line["deployment"], line["error"], line["refused_by"]) == ("up/a", "budget_exceeded", "pennies")


@pytest.mark.parametrize("model", ["both", "a"])
async def test_a_refusal_before_any_call_names_the_cheapest_candidate_and_what_it_needs(tmp_path: Path, model: str) -> None:
    """So that its reader knows how much too little there is. No provider is named as called."""
    async with running(tmp_path, CONFIG, environment={"SLOW": SLOW, "POOR": POOR}) as run:
        answer, line = await ask(run, model, POOR)
        error = answer.json()["error"]
        assert (answer.status_code, error["deployment"], error["needed_usd"]) == (402, "up/a", "0.01")
        among = " with the cheapest of 2 candidates, up/a." if model == "both" else " with up/a."
        assert f"this request could cost 0.01 USD{among}" in error["message"]
        assert where(answer) == [None] * 5
        assert (line["refused_by"], line["error"], line["attempts"], line["route"]) == ("pennies", "budget_exceeded", 0, model)
        assert "tried" not in line
