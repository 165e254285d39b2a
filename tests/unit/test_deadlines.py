"""One time for the whole chain: no call is begun after the first that usually takes longer than what is left."""

from __future__ import annotations

from typing import Any

import pytest

from router.ports import UpstreamResponse
from tests.pipeline_fakes import Script, World, ask, json_answer, lost, snapshot


def world(*scripts: Script, retries: int = 0, usual_ms: float | None) -> World:
    """Two deployments, of which the second is known to take so long."""
    made = World(snapshot(retries=retries), *scripts)
    if usual_ms is not None:
        made.fleet.succeeded("two/m", first_token_ms=None, total_ms=usual_ms, output_tokens=5)
    return made


FAILS = Script(fault=lost("connect_refused", sent=False))


@pytest.mark.parametrize(("usual_ms", "status"), [(None, 200), (1_000.0, 200), (50_000.0, 502)])
async def test_a_fallback_that_usually_comes_too_late_is_not_called(usual_ms: float | None, status: int) -> None:
    """It would be paid, and nobody would see its answer. Whose time nobody knows is called."""
    made = world(FAILS, json_answer(), usual_ms=usual_ms)
    exchange = await made.ask(ask(faregate={"deadline_ms": 20_000}))
    assert exchange.status == status
    assert made.upstream.called == (["one", "two"] if status == 200 else ["one"])
    assert made.metric("faregate_rejections_total") == (status != 200)


async def test_without_a_deadline_everybody_has_time() -> None:
    """However long it takes."""
    made = world(FAILS, json_answer(), usual_ms=50_000.0)
    assert (await made.ask(ask())).status == 200


@pytest.mark.parametrize(("usual_ms", "calls"), [(1_000.0, 3), (18_000.0, 2)])
async def test_a_retry_that_usually_comes_too_late_is_not_made(usual_ms: float, calls: int) -> None:
    """The failure that there is says more than an answer that nobody waits for. The first two calls take five seconds here."""
    made = world(FAILS, FAILS, json_answer(), retries=1, usual_ms=usual_ms)
    begin = made.upstream.post

    async def slow(*args: Any, **more: Any) -> UpstreamResponse:
        made.clock.now += 2.5
        return await begin(*args, **more)

    # The provider's own time.
    made.upstream.post = slow  # type: ignore[method-assign]
    exchange = await made.ask(ask(faregate={"deadline_ms": 21_000}))
    assert exchange.status == (200 if calls == 3 else 502)
    assert made.upstream.called == ["one", "two", "two"][:calls]


async def test_the_first_call_is_made_however_late_it_may_be() -> None:
    """Times are those of other requests: this one may be shorter."""
    made = World(snapshot(retries=0), json_answer())
    for name in ("one/m", "two/m"):
        made.fleet.succeeded(name, first_token_ms=None, total_ms=50_000.0, output_tokens=5)
    assert (await made.ask(ask(faregate={"deadline_ms": 20_000}))).status == 200
