"""Money is booked once, whole, and whatever happens meanwhile."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.call import Attempt
from router.domain.usage import Usage
from router.relay import meter_of
from router.settlement import finish
from tests.pipeline_fakes import PRICE, World, ask, json_answer, piece, snapshot, stream_answer

USAGE = Usage(input_tokens=7, output_tokens=5, evidence="exact")


async def held(world: World) -> Attempt:
    """An attempt with its hold, taken from a served call and put back to before its settlement."""
    found: list[Attempt] = []
    settle = world.pipeline._settlements.book

    def spy(attempt: Attempt, **more: object) -> None:
        found.append(attempt)
        # Passed on as it came.
        settle(attempt, **more)  # type: ignore[arg-type]

    # To get hold of the attempt.
    world.pipeline._settlements.book = spy  # type: ignore[method-assign]
    await world.ask(ask())
    # Put back.
    world.pipeline._settlements.book = settle  # type: ignore[method-assign]
    attempt = found[0]
    attempt.state = "held"
    hold = world.ledger.holds[attempt.attempt_id]
    hold.state, hold.charge_nusd, hold.ends = "held", 0, 0
    world.ledger.records.clear()
    world.ledger.calls.clear()
    return attempt


async def test_work_that_moves_money_runs_to_its_end_however_often_it_is_cancelled() -> None:
    """And only then the cancellation goes on."""
    begun, go, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        await go.wait()
        done.set()

    task = asyncio.create_task(finish(work))
    for _ in range(4):
        await asyncio.wait_for(begun.wait(), 5)
        task.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert not task.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done.is_set()


async def test_a_failure_of_that_work_is_raised() -> None:
    """A bug in settling must not look like a cancellation."""
    turns = 0

    async def work() -> None:
        nonlocal turns
        turns += 1
        await asyncio.sleep(0)
        if turns == 2:
            raise ValueError("a bug")

    task = asyncio.create_task(finish(work))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(ValueError, match="a bug"):
        await task


async def test_a_charge_is_booked_once() -> None:
    """Whoever settles first is right: the others were cleaning up."""
    world = World(snapshot(), json_answer())
    attempt = await held(world)
    settlements = world.pipeline._settlements
    await settlements.settle(attempt, usage=USAGE, outcome="ok")
    await settlements.settle(attempt, usage=replace_output(USAGE, 99), outcome="cut")
    await settlements.void(attempt)
    assert world.ledger.calls == {"settle": 1}
    (record,) = world.ledger.records
    assert (record.outcome, record.charge_nusd) == ("ok", 12 * PRICE)


def replace_output(usage: Usage, tokens: int) -> Usage:
    return Usage(input_tokens=usage.input_tokens, output_tokens=tokens, evidence=usage.evidence)


async def test_a_hold_is_given_back_once() -> None:
    """A call that never left costs nothing, and no settlement follows."""
    world = World(snapshot(), json_answer())
    attempt = await held(world)
    settlements = world.pipeline._settlements
    await settlements.void(attempt)
    await settlements.void(attempt)
    await settlements.settle(attempt, usage=USAGE, outcome="ok")
    await settlements.commit(attempt)
    assert world.ledger.calls == {"void": 1}
    assert world.ledger.records == []


async def test_a_charge_above_its_hold_is_booked_in_full_with_its_cause() -> None:
    """The bill comes anyway."""
    world = World(snapshot(), json_answer())
    attempt = await held(world)
    await world.pipeline._settlements.settle(attempt, usage=replace_output(USAGE, 5000), outcome="ok", cause="provider_exceeded_cap")
    (record,) = world.ledger.records
    assert record.charge_nusd == 5007 * PRICE
    assert record.overrun_nusd == record.charge_nusd - record.hold_nusd > 0
    assert record.overrun_cause == "provider_exceeded_cap"


@pytest.mark.parametrize(
    ("policy", "evidence", "whole"), [("hold", "estimated", True), ("hold", "exact", False), ("estimate", "estimated", False)]
)
async def test_missing_usage_may_cost_the_whole_hold(policy: str, evidence: str, whole: bool) -> None:
    """For those who would rather pay too much than be told a guess."""
    config = snapshot()
    # One of two words.
    world = World(replace(config, server=replace(config.server, on_missing_usage=policy)), json_answer())  # type: ignore[arg-type]
    attempt = await held(world)
    # One of three words.
    usage = Usage(input_tokens=7, output_tokens=5, evidence=evidence)  # type: ignore[arg-type]
    await world.pipeline._settlements.settle(attempt, usage=usage, outcome="ok")
    (record,) = world.ledger.records
    assert record.charge_nusd == (record.hold_nusd if whole else 12 * PRICE)


async def test_a_baseline_says_what_the_same_would_have_cost() -> None:
    """Avoided cost is the difference; where no tokens were used there is none."""
    config = snapshot()
    world = World(replace(config, server=replace(config.server, baseline="two/m")), json_answer())
    attempt = await held(world)
    await world.pipeline._settlements.settle(attempt, usage=USAGE, outcome="ok")
    assert world.ledger.records[0].baseline_nusd == 12 * PRICE
    again = await held(World(world.snapshot, json_answer()))
    world.pipeline._settlements.book(again, usage=None, outcome="refused_upstream")
    assert b"baseline" not in again.record


@pytest.mark.parametrize("stream", [True, False])
async def test_only_a_stream_has_a_first_token(stream: bool) -> None:
    """The head of a JSON answer comes with the last token as well as the first: its time would hide how slow models start."""
    world = World(snapshot(), stream_answer(piece()) if stream else json_answer())
    await world.ask(ask(stream=stream))
    state = world.metrics.state()
    assert ("gen_ai_client_operation_time_to_first_chunk_seconds" in state) == stream
    assert ("gen_ai_server_time_per_output_token_seconds" in state) == stream
    assert "gen_ai_client_operation_duration_seconds" in state


SNAPSHOT = snapshot()


@settings(max_examples=40)
@given(
    usage=st.builds(
        Usage,
        input_tokens=st.integers(0, 40),
        output_tokens=st.integers(0, 40),
        cache_read_tokens=st.integers(0, 1),
        reasoning_tokens=st.integers(0, 1),
        evidence=st.sampled_from(["exact", "estimated"]),
    ),
    outcome=st.sampled_from(["ok", "cut"]),
    served_model=st.sampled_from(["", "mock-1", 'a "quoted" name']),
    sends=st.integers(1, 2),
    clamped_to=st.sampled_from([0, 5]),
    streamed=st.booleans(),
)
def test_the_short_way_to_book_says_what_the_long_one_says(
    usage: Usage, outcome: str, served_model: str, sends: int, clamped_to: int, streamed: bool
) -> None:
    """Charge, record and figures; the short way is taken where a call cost its tokens and nothing else is to be told."""

    async def book(world: World, *, plainly: bool) -> tuple[int, int, bytes]:
        attempt = await held(world)
        attempt.sends, attempt.clamped_to = sends, clamped_to
        assert attempt.way.plain is not None
        if streamed:
            attempt.meter = meter_of(attempt)
        if not plainly:
            attempt.way.plain = None
        attempt.call.charge_nusd = 0
        world.pipeline._settlements.book(attempt, usage=usage, outcome=outcome, served_model=served_model, ended=attempt.began + 0.25)
        return attempt.call.charge_nusd, attempt.charge_nusd, attempt.record

    async def both() -> None:
        short, long = World(SNAPSHOT, json_answer()), World(SNAPSHOT, json_answer())
        assert await book(short, plainly=True) == await book(long, plainly=False)
        assert short.metrics.state() == long.metrics.state()

    asyncio.run(both())
