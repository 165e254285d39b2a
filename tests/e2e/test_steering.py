"""Budgets that steer before they refuse: only small models, then none; over a real store."""

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
  large: {{at: up/large, price: {{input: 0, output: 100}}, size: large, default_max_output: 100}}
  small: {{at: up/small, price: {{input: 0, output: 100}}, size: small, default_max_output: 100}}
routes:
  auto: {{use: [large, small], by: fixed}}
budgets:
  roomy: $100
  agents: {{limit: $0.10, each: team, at: {{50%: downgrade, 80%: refuse}}}}
teams: {{search: {{}}, other: {{}}}}
keys:
  tester: {{team: search, secret: $TEST_KEY}}
  second: {{team: other, secret: $OTHER}}
"""
OTHER = "sk-test-other-0123456789abcdefghijklmno"


@pytest.fixture(params=["sqlite", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "ledger.sqlite")
    url: str = request.getfixturevalue("redis_url")
    return url


async def where(app: Running, model: str = "auto", **headers: str) -> str:
    """The deployment that answered, or the error."""
    answer = await app.ask(model, headers=headers)
    found = answer.headers.get("x-faregate-deployment")
    return found or f"{answer.status_code} {answer.json()['error']['code']}"


async def test_a_budget_that_fills_goes_over_to_small_models_and_then_to_none(tmp_path: Path, store: str) -> None:
    """Work goes on, cheaper, while there is still money; what the last calls would need is kept. Others are not affected."""
    async with running(tmp_path, CONFIG.format(store=store), environment={"OTHER": OTHER}) as app:
        for model in ("large", "small"):
            app.up.on(model, Json(usage=usage(prompt=1, completion=100)))
        went = []
        for _ in range(9):
            went.append(await where(app))
            await app.settled()
        # Each costs 0.01 of 0.10 USD; the fifth reaches half, the eighth four fifths.
        assert went == ["up/large"] * 5 + ["up/small"] * 3 + ["402 budget_exceeded"]
        assert await where(app, "large") == "402 budget_exceeded"
        assert await where(app, authorization=f"Bearer {OTHER}") == "up/large"
        metrics = (await app.client.get(f"{app.root}/metrics")).text
        assert 'faregate_budget_steps_total{budget="agents",action="downgrade"} 1' in metrics
        assert 'faregate_budget_steps_total{budget="agents",action="refuse"} 1' in metrics
        assert 'faregate_rejections_total{deployment="up/large",reason="budget_downgrade"} 3' in metrics
        assert app.app.service.pipeline.steering.levels == {("agents", "team=search"): "refuse"}


async def test_what_the_store_says_lifts_a_step_again(tmp_path: Path) -> None:
    """A refused budget gets no holds that could tell of room: the counters that are read every few seconds do."""
    async with running(tmp_path, CONFIG.format(store="STORE"), environment={"OTHER": OTHER}) as app:
        steering = app.app.service.pipeline.steering
        assert await where(app) == "up/large"
        # The service reads every few seconds by itself, perhaps just now.
        for _ in range(5):
            steering.levels["agents", "team=search"] = "refuse"
            if (refused := await where(app)) != "up/large":
                break
        assert refused == "402 budget_exceeded"
        await app.app.service._read_budgets()
        assert steering.levels == {}
        assert await where(app) == "up/large"
