"""Near the end of a budget: cheaper, wait, clamp, refuse, in the order that was written."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from router.domain.learning import LEAST_ANSWERS, LEAST_INPUTS
from router.domain.shortage import DEFAULT, plan_of
from tests.pipeline_fakes import PRICE, FakeExchange, Script, World, ask, json_answer, piece, snapshot, stream_answer, with_ways

SHORT_WAIT = 0.05


def test_the_ways_are_tried_in_their_order() -> None:
    """What comes before `cheaper` is for the candidate that was chosen, what comes after for whichever can be had."""
    assert plan_of(DEFAULT) == ((), True, (), False, False)
    assert plan_of(["wait", "cheaper", "clamp", "refuse"]) == (("wait",), True, ("clamp",), True, True)
    assert plan_of(["clamp", "wait"]) == (("clamp", "wait"), False, (), True, False)
    assert plan_of(["refuse"]) == ((), False, (), False, False)


async def test_refuse_does_not_try_another_candidate() -> None:
    """Whoever wrote it wants the model that was chosen, or none."""
    world = World(with_ways("refuse"), limit_nusd=10 * PRICE)
    assert (await world.ask(ask())).status == 402
    assert world.ledger.calls["reserve"] == 1
    world = World(with_ways("cheaper", "refuse"), limit_nusd=10 * PRICE)
    assert (await world.ask(ask())).status == 402
    assert world.ledger.calls["reserve"] == 2


async def test_a_clamped_call_is_told_so_and_stays_within_the_room() -> None:
    """The cap that is held is the cap that is sent; the client can see why its answer is short."""
    world = World(with_ways("cheaper", "clamp", "refuse"), json_answer(40), limit_nusd=220 * PRICE)
    exchange = await world.ask(ask())
    assert exchange.status == 200
    (record,) = world.ledger.records
    assert 16 <= record.clamped_to < 200
    assert b"x-faregate-clamped: %d\r\n" % record.clamped_to in exchange.head
    assert b'"max_completion_tokens":%d' % record.clamped_to in world.upstream.bodies[0]
    assert record.hold_nusd <= 220 * PRICE
    assert world.metric("faregate_budget_refusals_total") == 1
    assert list(world.pipeline.shortages.usable()) == []


async def test_a_clamp_below_the_least_length_is_a_refusal() -> None:
    """An answer of three words is worth nothing, and is paid for."""
    world = World(with_ways("clamp", "refuse", least=150), limit_nusd=220 * PRICE)
    assert (await world.ask(ask())).status == 402
    assert list(world.pipeline.shortages.usable()) == [("everyone", 0.0)]


async def test_a_call_waits_for_room_that_another_one_leaves() -> None:
    """A hold is mostly more than is charged: a refusal would be wrong a moment later."""
    config = with_ways("wait", "refuse")
    world = World(config, json_answer(), json_answer(), json_answer(), limit_nusd=500 * PRICE)
    answers = await asyncio.gather(*(world.ask(ask()) for _ in range(3)))
    assert [answer.status for answer in answers] == [200, 200, 200]
    assert world.ledger.held_nusd == 0
    assert world.pipeline.shortages.lines == {}
    assert world.metric("faregate_budget_refusals_total") == 2


async def test_a_wait_for_nothing_ends_with_a_refusal() -> None:
    """Nobody holds anything that could come back."""
    world = World(with_ways("wait", "refuse", wait=SHORT_WAIT), limit_nusd=10 * PRICE)
    assert (await world.ask(ask())).status == 402
    assert world.pipeline.shortages.lines == {}
    assert world.ledger.holds == {}


async def test_a_client_that_leaves_while_it_waits_leaves_nothing() -> None:
    """Neither its place in the line nor a hold."""
    world = World(with_ways("wait", "refuse"), limit_nusd=10 * PRICE)
    waiting = asyncio.ensure_future(world.ask(ask()))
    while not world.pipeline.shortages.lines:
        await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert world.pipeline.shortages.lines == {}
    assert world.ledger.holds == {}


async def test_whoever_comes_later_does_not_overtake() -> None:
    """Small requests would keep a large one waiting for ever."""
    world = World(with_ways("wait", "refuse", wait=SHORT_WAIT), limit_nusd=10 * PRICE)
    first = asyncio.ensure_future(world.ask(ask()))
    while not world.pipeline.shortages.lines:
        await asyncio.sleep(0)
    reserves = world.ledger.calls["reserve"]
    second = asyncio.ensure_future(world.ask(ask(max_tokens=1)))
    for _ in range(20):
        await asyncio.sleep(0)
    assert world.ledger.calls["reserve"] == reserves
    await asyncio.gather(first, second)


async def test_a_wait_with_a_clamp_after_it_asks_for_less_and_less() -> None:
    """More calls get an answer in time than if each insisted on all that it could hold."""
    world = World(with_ways("wait", "clamp", "refuse", wait=0.3, least=100), json_answer(), limit_nusd=230 * PRICE)
    exchange = await world.ask(ask())
    assert exchange.status == 200
    (record,) = world.ledger.records
    assert 100 <= record.clamped_to < 200


async def test_a_stream_near_the_end_is_extended_by_what_is_left() -> None:
    """A whole slice does not fit any more; the rest of the answer may."""
    config = with_ways("refuse")
    config = replace(config, server=replace(config.server, slice_tokens=32))
    words = [piece() for _ in range(60)]
    world = World(config, stream_answer(*words, told=60), limit_nusd=300 * PRICE)
    exchange = FakeExchange(ask(stream=True, max_tokens=200))
    await world.pipeline.serve(exchange, "chat")
    (record,) = world.ledger.records
    assert record.charge_nusd <= record.hold_nusd <= 300 * PRICE


def learned_world(*scripts: Script, **more: bool) -> World:
    return World(replace(with_ways("cheaper", "refuse", **more), budgets=snapshot(limit="100.00").budgets), *scripts)


async def test_holds_come_nearer_to_what_is_billed() -> None:
    """A budget whose room is taken by holds cannot be used."""
    count = LEAST_ANSWERS + 1
    world = learned_world(*[json_answer(20) for _ in range(count)])
    for _ in range(count):
        await world.ask(ask())
    first, last = world.ledger.records[0], world.ledger.records[-1]
    assert last.hold_nusd < first.hold_nusd / 2
    assert b'"max_completion_tokens":200' in world.upstream.bodies[0]
    assert b'"max_completion_tokens":200' not in world.upstream.bodies[-1]


async def test_an_answer_that_our_own_cap_has_cut_is_counted() -> None:
    """Whoever runs the service sees what the lower holds cost."""
    world = learned_world(*[json_answer(20) for _ in range(LEAST_ANSWERS)], json_answer(200))
    for _ in range(LEAST_ANSWERS + 1):
        await world.ask(ask())
    assert world.metric("faregate_answers_clamped_total") == 1


async def test_an_input_above_what_was_learned_is_debt_with_its_cause() -> None:
    """And the next one is held in full."""
    dear = Script([b'{"choices":[],"usage":{"prompt_tokens":90,"completion_tokens":200,"total_tokens":290}}'])
    world = learned_world(*[json_answer(200) for _ in range(LEAST_INPUTS)], dear, json_answer(), learn_lengths=False)
    for _ in range(LEAST_INPUTS + 2):
        await world.ask(ask())
    over, after = world.ledger.records[-2:]
    assert (over.overrun_cause, over.overrun_nusd > 0) == ("input_above_bound", True)
    assert after.hold_nusd > over.hold_nusd


@pytest.mark.parametrize("where", ["server", "budget"])
async def test_strict_holds_every_input_at_its_certain_bound(where: str) -> None:
    """A promise, not a likelihood."""
    config = with_ways("cheaper", "refuse", learn_lengths=False, strict=where == "server")
    config = replace(config, budgets=tuple(replace(one, strict=where == "budget", limit_nusd=10**11) for one in config.budgets))
    count = LEAST_INPUTS + 5
    world = World(config, *[json_answer(20) for _ in range(count)])
    for _ in range(count):
        await world.ask(ask())
    assert len({record.hold_nusd for record in world.ledger.records}) == 1
