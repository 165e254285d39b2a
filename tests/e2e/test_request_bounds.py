"""The limits of one request hold for all of its calls together, whatever its plan asks for."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.e2e.test_policy_kinds import SAYS_NO, books, config, metrics, text_of
from tests.running import running
from tests.scripted_upstream import Close, Gate, Json, usage

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


BOUND = "max_cost: $0.0002"
WHERE = {
    "route": ("routes:\n  auto: {", f"routes:\n  auto: {{{BOUND}, "),
    "team": ("teams: {search: {}", f"teams: {{search: {{{BOUND}}}"),
    "key": ("{team: search, ", f"{{team: search, {BOUND}, "),
}


@pytest.mark.parametrize("where", WHERE)
async def test_a_bound_on_the_cost_counts_judges_whoever_set_it(tmp_path: Path, where: str) -> None:
    """A judge, and the step behind it, are calls of the same request: what was answered so far is shown."""
    text = config("{kind: cascade, steps: [small, judge], verify: {judge: {model: twin}}}").replace(*WHERE[where])
    async with running(tmp_path, text) as app:
        app.up.on("small", Json(text="Maybe.", usage=usage(10, 100)))
        app.up.on("twin", Json(text="0", usage=usage(10, 1)))
        app.up.on("judge", Json(text="Surely."))
        told = await app.ask("auto")
        assert (told.status_code, text_of(told), told.headers["x-faregate-cost-usd"]) == (200, "Maybe.", "0.000110000")
        assert await books(app) == [("up/small", "cascade:small", "ok")]


@pytest.mark.parametrize("where", WHERE)
async def test_a_bound_on_the_cost_counts_calls_that_failed(tmp_path: Path, where: str) -> None:
    """A call that broke off may have cost its worst case: neither it nor another model is tried for what is not left."""
    text = config("fixed").replace("retries: 0", "retries: 2").replace(*WHERE[where])
    async with running(tmp_path, text) as app:
        app.up.on("small", Close())
        app.up.on("twin", Json(text="never asked"))
        told = await app.ask("auto")
        assert (told.status_code, told.json()["error"]["code"]) == (502, "upstream_failed")
        assert [name for name, *_ in await books(app)] == ["up/small"]


async def test_the_least_bound_counts(tmp_path: Path) -> None:
    """Of team, key and request: whoever sets one can rely on it. A step that could cost more is left out; if nothing is left, it is 402."""
    text = (
        config("{kind: cascade, steps: [small, large]}").replace(*WHERE["team"]).replace("{team: search, ", "{team: search, max_cost: $1, ")
    )
    async with running(tmp_path, text) as app:
        app.up.on("small", Json(text=SAYS_NO, usage=usage(10, 10)))
        app.up.on("large", Json(text="never asked"))
        told = await app.ask("auto", headers={"x-faregate-max-cost-usd": "0.5"})
        assert (told.status_code, [name for name, *_ in await books(app)]) == (200, ["up/small"])
        refused = await app.ask("auto", headers={"x-faregate-max-cost-usd": "0.00001"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (402, "max_cost_exceeded")
