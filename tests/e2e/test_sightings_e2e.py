"""Two services on one ledger: what the one has met, the other need not meet itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.running import running
from tests.scripted_upstream import Fail, Json, ScriptedUpstream, usage

CONFIG = """
version: 1
server: {store: "STORE"}
providers:
  up: {kind: openai, base_url: "UP", api_key: $PROVIDER_KEY}
models:
  quick: {at: up/quick, price: {input: 9, output: 9}, default_max_output: 100}
  slow: {at: up/slow, price: {input: 1, output: 1}, default_max_output: 100}
routes:
  auto: {use: [slow, quick], by: {kind: latency, metric: total, explore: 0}, fallback: {retries: 0}}
keys:
  tester: {secret: $TEST_KEY}
"""


@pytest.fixture(params=["sqlite", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where the ledger is."""
    return str(tmp_path / "ledger.sqlite") if request.param == "sqlite" else str(request.getfixturevalue("redis_url"))


async def test_a_service_goes_by_what_another_saw(tmp_path: Path, store: str) -> None:
    """Its times, before it has any; and that a provider is dead, without a call to it."""
    async with (
        ScriptedUpstream(default=Json(usage=usage(10, 10))) as up,
        running(tmp_path, CONFIG, up=up, store=store) as one,
        running(tmp_path, CONFIG, up=up, store=store) as two,
    ):
        fleet = one.app.service.fleet
        for name, total_ms in (("up/slow", 900.0), ("up/quick", 20.0)):
            fleet.succeeded(name, first_token_ms=None, total_ms=total_ms, output_tokens=10)
        await one.app.service.exchange.look()
        await two.app.service.exchange.look()
        assert (await two.ask("auto")).headers["x-faregate-model"] == "quick"
        up.on("quick", Fail())
        for _ in range(3):
            assert (await one.ask("auto")).headers["x-faregate-model"] == "slow"
        await one.app.service.exchange.look()
        before = len(up.requests)
        # An answer of its own from before the failures says nothing about after them.
        await two.app.service.exchange.look()
        assert (await two.ask("auto")).headers["x-faregate-model"] == "slow"
        assert [seen.model for seen in up.requests[before:]] == ["slow"]
