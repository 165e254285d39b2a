"""Budgets that say in an expression to which requests they apply, from the YAML to the ledger and to what a client is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from router import cli
from tests.running import PROVIDER_KEY, chat, running
from tests.scripted_behaviours import Json, usage

CONFIG = """
version: 1
server: {store: STORE}
providers:
  up: {kind: openai, base_url: "UP", api_key: $PROVIDER_KEY}
models:
  m: {at: up/m, price: {input: 1, output: 1}, default_max_output: 100}
  n: {at: up/n, price: {input: 1, output: 1}, default_max_output: 100}
budgets:
  agents: {limit: $0.000400/session, each: metadata.session_id, when: 'tag("kind") == "agent"'}
  people: {limit: $1/day, when: 'tag("kind") != "agent" && (model == "m" || user.startsWith("a"))'}
keys:
  tester: {secret: $TEST_KEY}
"""


async def test_a_budget_counts_the_requests_that_its_expression_means(tmp_path: Path) -> None:
    """Money of agents and of people is kept apart; each session of an agent has its own."""
    async with running(tmp_path, CONFIG) as app:
        for model in ("m", "n"):
            app.up.on(model, Json(usage=usage(prompt=10, completion=90)))
        agent = {"x-faregate-tags": "kind=agent"}
        statuses = [(await app.ask(headers=agent, metadata={"session_id": run})).status_code for run in ("one", "one", "two")]
        refused = [(await app.ask(headers=agent, metadata={"session_id": "one"})) for _ in range(3)][-1]
        assert statuses == [200, 200, 200]
        assert (refused.status_code, refused.json()["error"]["budget"], refused.json()["error"]["scope"]) == (402, "agents", "session=one")
        assert [(await app.ask(model, user=user)).status_code for model, user in (("m", "bob"), ("n", "bob"), ("n", "ann"))] == [200] * 3
        spent = {name: state.spent_nusd for name, state in (await app.settled()).items()}
        assert spent.pop("agents|session=one") >= 200_000
        # Bob's call of n is nobody's.
        assert spent == {"agents|session=two": 100_000, "people|": 200_000}


@pytest.mark.parametrize(("tags", "names"), [("kind=agent", ["agents"]), ("kind=human", ["people"])])
def test_explain_names_the_budgets_of_a_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tags: str, names: list[str]) -> None:
    """By the same expression, before any money is spent."""
    monkeypatch.setenv("PROVIDER_KEY", PROVIDER_KEY)
    monkeypatch.setenv("TEST_KEY", "tester-key-0123456789")
    path = tmp_path / "router.yaml"
    path.write_text(CONFIG.replace("STORE", str(tmp_path / "l.sqlite")).replace("UP", "http://127.0.0.1:1/v1"), encoding="utf-8")
    request = json.dumps(chat(metadata={"session_id": "one", "tags": dict([tags.split("=")])}))
    result = CliRunner().invoke(cli.load("explain"), ["--model", "m", "--config", str(path), "--json"], input=request)
    assert result.exit_code == 0, result.output
    assert [line["name"] for line in json.loads(result.stdout)["candidates"][0]["budgets"]] == names
