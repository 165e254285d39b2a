"""A canary between two policies over the same models: who is in it stays in it, and it is taken back for what came of its side."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.e2e.test_policy_kinds import books, config
from tests.running import running
from tests.scripted_upstream import Fail, Json, usage

BY = """{{kind: canary, name: trial, share: {share}, sticky: {sticky}, stop_if: {{{stop_if}, least: 10}},
 by: {{kind: cascade, name: old, steps: [small, large], always: true}},
 to_by: {{kind: cascade, name: new, steps: [twin, judge], always: true}}}}"""


def between(stop_if: str, *, share: str = "50%", sticky: str = "none") -> str:
    return config(BY.replace("\n", "").format(share=share, sticky=sticky, stop_if=stop_if))


async def test_each_side_goes_by_its_policy_and_a_session_stays_on_its_side(tmp_path: Path) -> None:
    """The record names the arm; both have all models."""
    async with running(tmp_path, between("errors: 5%", sticky="session")) as app:
        for model in ("small", "twin", "large", "judge"):
            app.up.on(model, Json(text="ok", usage=usage(10, 10)))
        seen: dict[str, set[str]] = {}
        for turn in range(32):
            session = f"s{turn % 16}"
            answer = await app.ask("auto", headers={"x-faregate-session": session})
            seen.setdefault(session, set()).add(answer.headers["x-faregate-reason"])
        assert {reason for reasons in seen.values() for reason in reasons} == {"cascade:small", "cascade:twin"}
        assert all(len(each) == 1 for each in seen.values())
        await app.settled()
        arms = {(record["arms"]["trial"], record["deployment"]) for record in await app.records()}
        assert arms == {("control", "up/small"), ("canary", "up/twin")}


@pytest.mark.parametrize("why", ["errors", "cost", "rating"])
async def test_the_new_policy_is_taken_back_for_what_came_of_its_side(tmp_path: Path, why: str) -> None:
    """The charge of a request is that of all its steps; from then on all go by the old policy."""
    limit = {"errors": "errors: 5%", "cost": "cost: 20%", "rating": "rating: 10%"}[why]
    async with running(tmp_path, between(limit)) as app:
        for model in ("small", "twin", "large", "judge"):
            app.up.on(model, Json(text="ok", usage=usage(100, 20)))
        if why != "rating":
            app.up.on("twin", Fail() if why == "errors" else Json(text="", usage=usage(100, 20)))
        service = app.app.service
        for _ in range(300):
            # Else failures would keep the model out before they tell anything.
            service.fleet._states["up/twin"].cooled_until = None
            answer = await app.ask("auto")
            if why == "rating":
                new = answer.headers["x-faregate-reason"] == "cascade:twin"
                rated = {"request_id": answer.headers["x-faregate-request-id"], "rating": 0.2 if new else 0.9}
                assert (await app.client.post("/feedback", json=rated)).status_code == 202
                await service.ratings.look()
            (experiment,) = service.fleet.memory.experiments.known.values()
            if experiment.stopped:
                break
        assert experiment.stopped == why
        before = len(await books(app))
        for _ in range(20):
            await app.ask("auto")
        went = Counter(deployment for deployment, _, _ in (await books(app))[before:])
        assert went == {"up/small": 20}
