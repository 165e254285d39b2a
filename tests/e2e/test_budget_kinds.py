"""Budgets that are not plain money in a window of the calendar, from the YAML to what a client is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.running import Running, running
from tests.scripted_behaviours import Json, usage

CONFIG = """
version: 1
server: {{store: "{store}"}}
providers:
  up: {{kind: openai, base_url: "UP", api_key: $PROVIDER_KEY}}
models:
  m: {{at: up/m, price: {{input: 1, output: 1}}, default_max_output: 100}}
budgets:
{budgets}
teams:
  search: {{org: research, tags: {{project: atlas}}}}
keys:
  tester: {{team: search, secret: $TEST_KEY}}
"""


@pytest.fixture(params=["sqlite", "redis"])
def store(request: pytest.FixtureRequest) -> str:
    url: str = "STORE" if request.param == "sqlite" else request.getfixturevalue("redis_url")
    return url


async def _spent(app: Running, store: str) -> dict[str, int]:
    if store == "STORE":
        return {name: state.spent_nusd for name, state in (await app.settled()).items()}
    return {f"{s.budget}|{s.scope}": s.spent_nusd for s in await app.app.service.ledger.bucket_states()}


async def test_a_budget_in_tokens_refuses_with_its_own_amounts(tmp_path: Path, store: str) -> None:
    """What is counted is what was really used; the message must not call tokens dollars."""
    budgets = "  volume: {limit: 400 tokens/24h, each: org}"
    async with running(tmp_path, CONFIG.format(store=store, budgets=budgets)) as app:
        app.up.on("m", Json(usage=usage(prompt=50, completion=150)))
        assert (await app.ask(max_tokens=200)).status_code == 200
        refused = await app.ask(max_tokens=380)
        assert refused.status_code == 402
        error = refused.json()["error"]
        assert (error["code"], error["budget"], error["scope"], error["unit"]) == ("budget_exceeded", "volume", "org=research", "tokens")
        assert (error["limit"], error["spent"], error["held"], error["left"]) == (400, 200, 0, 200)
        assert error["needed"] > 200
        assert "limit 400 tokens, spent 200 tokens, 200 tokens left" in error["message"]
        assert (await _spent(app, store))["volume|org=research"] == 200


async def test_the_books_say_whose_organisation_a_call_was(tmp_path: Path) -> None:
    """`faregate spend --by org` and the accounts of a FOCUS export come from it: a budget per org alone answers no bill."""
    async with running(tmp_path, CONFIG.format(store="STORE", budgets="  all: $1/day")) as app:
        app.up.on("m", Json(usage=usage(prompt=1, completion=1)))
        assert (await app.ask()).status_code == 200
        assert [(record["team"], record["org"]) for record in await app.records()] == [("search", "research")]


async def test_a_budget_on_trial_refuses_nobody_and_says_whom_it_would_have(tmp_path: Path, store: str) -> None:
    """A limit can be tried on live traffic first."""
    budgets = "  trial: {limit: $0.000001/day, each: 'tag:project', mode: shadow}"
    async with running(tmp_path, CONFIG.format(store=store, budgets=budgets)) as app:
        app.up.on("m", Json(usage=usage(prompt=1, completion=1)))
        assert (await app.ask()).status_code == 200
        assert set(await _spent(app, store)) == {"trial|tag:project=atlas"}
        metrics = (await app.client.get(f"{app.root}/metrics")).text
        assert 'faregate_budget_refusals_total{budget="trial",action="shadow"} 1' in metrics


@pytest.mark.parametrize(("over", "status"), [("refuse", 402), ("other", 200)])
async def test_users_that_are_made_up_are_bounded(tmp_path: Path, store: str, over: str, status: int) -> None:
    """A client that names a new user with every request must neither fill the store nor spend without a limit."""
    budgets = f"  per-user: {{limit: $1/day, each: [team, user], max_scopes: 2, over_max_scopes: {over}}}"
    async with running(tmp_path, CONFIG.format(store=store, budgets=budgets)) as app:
        app.up.on("m", Json(usage=usage(prompt=10, completion=10)))
        answers = [await app.ask(user=f"user-{i}") for i in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, status, status]
        spent = await _spent(app, store)
        assert spent.pop("per-user|team=*&user=*", None) == (40_000 if status == 200 else None)
        assert spent == {"per-user|team=search&user=user-0": 20_000, "per-user|team=search&user=user-1": 20_000}
        if status == 402:
            assert answers[3].json()["error"]["max_scopes"] == 2
            assert "at most 2 different values of team and user" in answers[3].json()["error"]["message"]


async def test_parallel_calls_of_a_budget_are_counted_as_calls(tmp_path: Path, store: str) -> None:
    """They leave nothing behind once they have ended."""
    async with running(tmp_path, CONFIG.format(store=store, budgets="  live: 2 concurrent\n  calls: 3 requests/24h")) as app:
        app.up.on("m", Json(usage=usage(prompt=1, completion=1)))
        statuses = [(await app.ask()).status_code for _ in range(4)]
        assert statuses == [200, 200, 200, 402]
        assert await _spent(app, store) == {"live|": 0, "calls|": 3}
