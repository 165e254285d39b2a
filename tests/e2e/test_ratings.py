"""Ratings of answers that another process gave, and that has ended since."""

from __future__ import annotations

from pathlib import Path

import pytest

from router.adapters.choose import visiting
from router.domain.experience import Experience
from router.experience import read_all
from tests.running import Running, running
from tests.scripted_upstream import Json, ScriptedUpstream, usage

CONFIG = """
version: 1
server: {store: "STORE"}
providers:
  up: {kind: openai, base_url: "UP", api_key: $PROVIDER_KEY}
models:
  small: {at: up/small, price: {input: 1, output: 1}, default_max_output: 100}
  large: {at: up/large, price: {input: 1, output: 1}, default_max_output: 100}
routes:
  learns: {use: [small], by: {kind: bandit, worth_usd: 1}}
  tries: {use: [small, large], by: {kind: canary, to: large, share: 100%, stop_if: {rating: 10%}}}
keys:
  tester: {secret: $TEST_KEY}
"""


@pytest.fixture(params=["sqlite", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where the ledger is."""
    return str(tmp_path / "ledger.sqlite") if request.param == "sqlite" else str(request.getfixturevalue("redis_url"))


async def learned(store: str) -> Experience:
    """What all processes know together."""
    async with visiting(store) as ledger:
        return await read_all(ledger.experience_store())


async def test_a_rating_after_a_restart_counts_once_for_what_gave_the_answer(tmp_path: Path, store: str) -> None:
    """One service answers and ends; two others hear the rating, and a better one later: the last word counts."""
    async with ScriptedUpstream(default=Json(usage=usage(10, 10))) as up:
        async with running(tmp_path, CONFIG, up=up, store=store) as first:
            ids = [(await first.ask(route)).headers["x-faregate-request-id"] for route in ("learns", "learns", "tries", "tries")]
        known = await learned(store)
        ((belief,),) = [each.values() for each in known.bandits.values()]
        assert (belief.seen, belief.mean) == (2.0, pytest.approx((0.5 + 2) / 3, abs=1e-3))
        async with running(tmp_path, CONFIG, up=up, store=store) as one, running(tmp_path, CONFIG, up=up, store=store) as two:

            async def rate(run: Running, request_id: str, rating: float) -> None:
                assert (await run.client.post("/feedback", json={"request_id": request_id, "rating": rating})).status_code == 202
                await run.app.service.ratings.look()

            for request_id in (ids[0], ids[2]):
                await rate(one, request_id, 0.0)
                await rate(two, request_id, 0.0)
                await rate(two, request_id, 0.25)
            await rate(one, ids[3], 0.75)
        known = await learned(store)
    ((belief,),) = [each.values() for each in known.bandits.values()]
    assert (belief.seen, belief.mean) == (2.0, pytest.approx((0.5 + 1 + 0.25) / 3, abs=1e-3))
    (trial,) = known.trials.values()
    rated = trial.arms["canary"].ratings
    assert (trial.arms["canary"].calls, rated.count, rated.mean) == (2, 2, 0.5)
