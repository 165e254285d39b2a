"""The limits of one request hold for all of its calls together, whatever its plan asks for."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.e2e.test_policy_kinds import books, config, metrics, text_of
from tests.running import running
from tests.scripted_upstream import Gate, Json, usage

ONE_CALL = ("teams: {search: {}", "teams: {search: {max_attempts: 1}")
MOST = {"x-faregate-max-cost-usd": "0.0002"}
"""Enough for one call of a small model in its worst case, not for two."""


@pytest.mark.parametrize("by_cost", [True, False])
async def test_a_check_that_a_request_cannot_afford_is_not_made(tmp_path: Path, by_cost: bool) -> None:
    """Neither the second answer nor the next step fits beside what is spent: what is there is shown."""
    text = config("{kind: cascade, steps: [small, judge], verify: {agree: {model: twin, extract: number}}}")
    async with running(tmp_path, text if by_cost else text.replace(*ONE_CALL)) as app:
        app.up.on("small", Json(text="The answer is 42.", usage=usage(10, 100)))
        app.up.on("twin", Json(text="42"))
        app.up.on("judge", Json(text="43"))
        told = await app.ask("auto", headers=MOST if by_cost else {})
        assert (told.status_code, text_of(told)) == (200, "The answer is 42.")
        assert await books(app) == [("up/small", "cascade:small", "ok")]


@pytest.mark.parametrize("by_cost", [True, False])
async def test_a_hedge_that_a_request_cannot_afford_is_not_sent(tmp_path: Path, by_cost: bool) -> None:
    """The first call may still cost its worst case: a second one beside it would be beyond the limit."""
    slow = Gate()
    text = config("{kind: hedge, by: fixed, after: 20ms, most: 100%}")
    async with running(tmp_path, text if by_cost else text.replace(*ONE_CALL)) as app:
        app.up.on("small", Json(text="slow", before=slow))
        app.up.on("twin", Json(text="fast"))
        asked = asyncio.ensure_future(app.ask("auto", headers=MOST if by_cost else {}))
        await asyncio.sleep(0.1)
        slow.open()
        assert text_of(await asked) == "slow"
        assert [name for name, _, _ in await books(app)] == ["up/small"]
        assert "faregate_hedges_total{" not in await metrics(app)
