"""Wherever a call is cancelled, its money is settled, its connection closed and nothing is left under way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pipeline_fakes import (
    PRICE,
    FakeExchange,
    Script,
    Stepped,
    World,
    ask,
    by_kind,
    event,
    failing,
    json_answer,
    lost,
    piece,
    snapshot,
    stream_answer,
    with_ways,
)

SMALL_SLICES = snapshot(slice_tokens=16)
PLAIN = snapshot()
CLAMPS = with_ways("clamp", "refuse")
WAITS = with_ways("wait", "refuse", wait=0.004)
CASCADE = by_kind("{kind: cascade, steps: [m, n], by: fixed}")
JUDGED = by_kind("{kind: cascade, steps: [m, n], by: fixed, verify: {agree: {model: n, extract: text}, judge: n}}")
HEDGE = by_kind("{kind: hedge, by: fixed, after: 0s, most: 100%}")
SHADOW = by_kind("{kind: shadow, to: n, share: 100%, team: lab, by: fixed}")
LONG = [piece("twenty-six letters of text") for _ in range(8)]
ERROR_FIRST = Script([event({"error": {"message": "No."}})], headers={b"content-type": b"text/event-stream"})

Scenario = Callable[[], tuple[World, dict[str, object]]]

SCENARIOS: dict[str, Scenario] = {
    "json": lambda: (World(PLAIN, json_answer()), ask()),
    "stream": lambda: (World(PLAIN, stream_answer(piece(), piece())), ask(stream=True)),
    "usage-asked": lambda: (World(PLAIN, stream_answer(piece())), ask(stream=True, stream_options={"include_usage": True})),
    "extended": lambda: (World(SMALL_SLICES, stream_answer(*LONG)), ask(stream=True)),
    "cut": lambda: (World(SMALL_SLICES, stream_answer(*LONG), limit_nusd=200 * PRICE), ask(stream=True)),
    "fallback": lambda: (World(PLAIN, failing(500), json_answer()), ask()),
    "connect-fallback": lambda: (World(PLAIN, Script(fault=lost("connect", sent=False)), json_answer()), ask()),
    "retried": lambda: (World(PLAIN, failing(503), Script(fault=lost()), json_answer()), ask()),
    "all-fail": lambda: (World(PLAIN, Script(fault=lost("first_byte_timeout")), failing(500), failing(500)), ask()),
    "broken-stream": lambda: (World(PLAIN, stream_answer(piece(), piece(), lost())), ask(stream=True)),
    "error-first": lambda: (World(PLAIN, ERROR_FIRST, stream_answer(piece())), ask(stream=True)),
    "error-later": lambda: (
        World(PLAIN, Script([piece(), event({"error": {"message": "No."}})], headers=ERROR_FIRST.headers)),
        ask(stream=True),
    ),
    "broken-json": lambda: (World(PLAIN, Script([b'{"choices":', lost("truncated")]), json_answer()), ask()),
    "no-answer": lambda: (World(PLAIN, Script([b""]), json_answer()), ask()),
    "no-money": lambda: (World(PLAIN, limit_nusd=PRICE), ask()),
    "clamped": lambda: (World(CLAMPS, json_answer(40), limit_nusd=220 * PRICE), ask()),
    "clamped-stream": lambda: (World(CLAMPS, stream_answer(piece()), limit_nusd=220 * PRICE), ask(stream=True)),
    "waits-in-vain": lambda: (World(WAITS, limit_nusd=10 * PRICE), ask()),
    "window-moves": lambda: (World(PLAIN, json_answer()), ask()),
    "rate-limited": lambda: (World(PLAIN, failing(429, retry_after="30"), failing(429, retry_after="30")), ask()),
    "wrong-request": lambda: (World(PLAIN, failing(400)), ask()),
    "cascade-accepted": lambda: (World(CASCADE, json_answer()), ask()),
    "cascade-stream": lambda: (World(CASCADE, stream_answer(piece(), piece())), ask(stream=True)),
    "cascade-escalates": lambda: (World(CASCADE, json_answer(text=""), json_answer()), ask()),
    "cascade-judged": lambda: (World(JUDGED, json_answer(), json_answer(), json_answer(text="9"), json_answer()), ask()),
    "hedged": lambda: (World(HEDGE, json_answer(), json_answer()), ask()),
    "hedged-stream": lambda: (World(HEDGE, stream_answer(piece()), stream_answer(piece())), ask(stream=True)),
    "hedge-fails": lambda: (World(HEDGE, failing(500), failing(500)), ask()),
    "shadowed": lambda: (World(SHADOW, json_answer(), json_answer()), ask()),
    "deadline": lambda: (World(PLAIN, json_answer()), ask(faregate={"deadline_ms": 60_000})),
}


OUTCOMES = {
    "json": ["ok"],
    "stream": ["ok"],
    "usage-asked": ["ok"],
    "extended": ["ok"],
    "cut": ["cut"],
    "fallback": ["refused_upstream", "ok"],
    "connect-fallback": ["ok"],
    "retried": ["refused_upstream", "upstream_lost", "ok"],
    "all-fail": ["upstream_lost", "refused_upstream", "refused_upstream"],
    "broken-stream": ["upstream_lost"],
    "error-first": ["upstream_error", "ok"],
    "error-later": ["upstream_error"],
    "broken-json": ["upstream_lost", "ok"],
    "no-answer": ["upstream_error", "ok"],
    "no-money": [],
    "clamped": ["ok"],
    "clamped-stream": ["ok"],
    "waits-in-vain": [],
    "window-moves": ["ok"],
    "rate-limited": ["refused_upstream", "refused_upstream"],
    "wrong-request": ["refused_upstream"],
    "cascade-accepted": ["ok"],
    "cascade-stream": ["ok"],
    "cascade-escalates": ["ok", "ok"],
    "cascade-judged": ["ok", "ok", "ok", "ok"],
    "hedged": ["hedged", "ok"],
    "hedged-stream": ["hedged", "ok"],
    "hedge-fails": ["refused_upstream", "refused_upstream"],
    "shadowed": ["ok", "ok"],
    "deadline": ["ok"],
}
"""What the books say of a scenario that nobody cancels."""


async def cancelled_at(scenario: str, steps: frozenset[int], *, gone: bool) -> int:
    """Serve a call and cancel it at these suspensions; check what is left. Returns how many suspensions there were."""
    world, body = SCENARIOS[scenario]()
    if scenario == "window-moves":
        world.ledger.moves = 1
    exchange = FakeExchange(body, gone=gone)
    stepped = Stepped(world.pipeline.serve(exchange, "chat"), steps)

    async def serve() -> None:
        await stepped

    task = asyncio.create_task(serve())
    await asyncio.wait([task])
    if steps:
        await world.fleet.memory.close()
    else:
        await asyncio.gather(*world.fleet.memory.copies)
    assert not world.fleet.memory.copies
    assert task.cancelled() or task.exception() is None, repr(task.exception())
    nothing_is_left(world)
    if not steps:
        assert exchange.finished
        assert not task.cancelled()
        assert [record.outcome for record in world.ledger.records] == OUTCOMES[scenario]
    return stepped.suspensions


def nothing_is_left(world: World) -> None:
    """What must hold however a call ended."""
    ledger = world.ledger
    assert not ledger.open_holds
    assert all(hold.ends == 1 for hold in ledger.holds.values())
    assert not any(response.open for response in world.upstream.responses)
    assert not world.live
    assert not world.pipeline.shortages.lines
    assert not world.pipeline.shortages.streams
    assert not any(world.fleet.view(name).in_flight for name in world.snapshot.deployments)
    assert world.metric("faregate_requests_in_flight") == 0
    assert len(ledger.records) == len([hold for hold in ledger.holds.values() if hold.state == "settled"])
    assert sum(record.charge_nusd for record in ledger.records) == ledger.spent_nusd
    for record in ledger.records:
        free = record.outcome == "refused_upstream"
        assert free or record.charge_nusd > 0, "what was sent is never free"


@pytest.mark.parametrize("gone", [True, False], ids=["client-left", "service-ends"])
@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_a_call_cancelled_at_any_await_leaves_nothing_behind(scenario: str, gone: bool) -> None:
    """A client may leave, and a service may end, at every point where the pipeline waits."""
    step = 0
    while await cancelled_at(scenario, frozenset({step}), gone=gone) > step:
        step += 1
    # What is raced or copied runs in tasks of its own, whose awaits the next test counts.
    assert step >= 3


@pytest.mark.parametrize("scenario", ["hedged", "hedged-stream", "hedge-fails", "cascade-judged", "shadowed"])
async def test_calls_side_by_side_are_settled_whenever_their_client_leaves(scenario: str) -> None:
    """Two calls of one request, each in a task of its own: both are cancelled, and both are paid for what they did."""
    for turns in range(40):
        world, body = SCENARIOS[scenario]()
        task = asyncio.create_task(world.pipeline.serve(FakeExchange(body, gone=True), "chat"))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        await world.fleet.memory.close()
        nothing_is_left(world)


@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_a_second_cancellation_during_the_cleaning_up_changes_nothing(scenario: str) -> None:
    """The client leaves, and while its money is settled the service runs out of time."""
    step = 0
    while await cancelled_at(scenario, frozenset({step}), gone=True) > step:
        for later in range(1, 9):
            await cancelled_at(scenario, frozenset({step, step + later}), gone=True)
        step += 1


@settings(max_examples=150, deadline=None)
@given(scenario=st.sampled_from(sorted(SCENARIOS)), steps=st.frozensets(st.integers(0, 70), max_size=6), gone=st.booleans())
def test_any_number_of_cancellations_leaves_nothing_behind(scenario: str, steps: frozenset[int], gone: bool) -> None:
    """However impatient the outside is."""
    asyncio.run(cancelled_at(scenario, steps, gone=gone))
