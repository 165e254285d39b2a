"""Near the end of a budget: cheaper, wait, clamp, refuse, in the order that was written."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from router.domain.learning import LEAST_ANSWERS, LEAST_INPUTS
from router.domain.shortage import DEFAULT, OnShort, plan_of
from router.shortage import KEPT_AT_FIRST, KEPT_AT_LAST, PATIENCE, kept_after
from router.snapshot import Snapshot
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


@pytest.mark.parametrize(("ahead_under_way", "status"), [(False, 200), (True, 402)])
async def test_a_call_tries_once_more_when_its_wait_ends_behind_others(ahead_under_way: bool, status: int) -> None:
    """Where many wait, it is refused for the length of the line otherwise, not for want of room; streams still come first."""
    world = World(with_ways("wait", "refuse", wait=SHORT_WAIT), json_answer(), limit_nusd=200 * PRICE)
    large = asyncio.ensure_future(world.ask(ask()))
    while not world.pipeline.shortages.lines:
        await asyncio.sleep(0)
    (line,) = world.pipeline.shortages.lines.values()
    line.join(under_way=ahead_under_way)
    assert (await large).status == 402
    assert (await world.ask(ask(max_tokens=1))).status == status


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


async def test_a_stream_that_waits_is_cut_when_the_provider_has_written_all_that_is_held() -> None:
    """It writes on while nobody reads, and bills it: to wait on would be to overspend."""
    world = World(
        waiting_for_ever(), replace(stream_answer(*[piece() for _ in range(150)], told=150), ahead=50_000), limit_nusd=300 * PRICE
    )
    await world.pipeline.serve(FakeExchange(ask(stream=True, max_tokens=200)), "chat")
    (record,) = world.ledger.records
    assert record.outcome == "cut"
    assert world.pipeline.shortages.lines == {}


async def test_a_stream_that_waits_goes_on_when_there_is_room() -> None:
    """What the provider has written meanwhile is covered by what is held."""
    world = World(waiting_for_ever(), replace(stream_answer(*[piece() for _ in range(150)], told=150), ahead=1), limit_nusd=300 * PRICE)
    answer = asyncio.ensure_future(world.pipeline.serve(FakeExchange(ask(stream=True, max_tokens=200)), "chat"))
    while not world.pipeline.shortages.lines:
        await asyncio.sleep(0)
    world.ledger.limit_nusd = 1_000 * PRICE
    await answer
    (record,) = world.ledger.records
    assert (record.outcome, record.output_tokens) == ("ok", 150)


def waiting_for_ever() -> Snapshot:
    config = with_ways("wait", "refuse", wait=3600)
    return replace(config, server=replace(config.server, slice_tokens=32))


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


async def world_with_a_long_stream(*ways: OnShort) -> tuple[World, asyncio.Task[None]]:
    """Most answers are short and some are very long; one stream is under way, and the limit is what is held and a few slices."""
    config = with_ways(*ways)
    deployments = {name: replace(one, default_max_output_tokens=4000) for name, one in config.deployments.items()}
    lengths = [3000 if number % 4 == 0 else 20 for number in range(LEAST_ANSWERS)]
    scripts = (*map(json_answer, lengths), stream_answer(*[piece()] * 200, told=200), stream_answer(piece()))
    world = World(replace(config, deployments=deployments), *scripts, limit_nusd=1000 * 10**9)
    for _ in lengths:
        await world.ask(ask())
    under_way = asyncio.ensure_future(world.pipeline.serve(FakeExchange(ask(stream=True)), "chat"))
    while not world.live:
        await asyncio.sleep(0)
    world.ledger.limit_nusd = world.ledger.spent_nusd + world.ledger.held_nusd + 1200 * PRICE
    return world, under_way


async def test_a_call_that_can_wait_leaves_streams_what_they_will_likely_need() -> None:
    """It would be cut short by them, or they by it, though there is room for its first slice."""
    world, under_way = await world_with_a_long_stream("wait", "refuse")
    late = FakeExchange(ask(stream=True))
    waiting = asyncio.ensure_future(world.pipeline.serve(late, "chat"))
    while not world.pipeline.shortages.lines and not waiting.done():
        await asyncio.sleep(0)
    await asyncio.gather(under_way, waiting)
    assert late.status == 200
    assert world.metric("faregate_budget_refusals_total") == 1
    assert world.ledger.held_nusd == 0


async def test_a_call_that_cannot_wait_takes_the_room_there_is() -> None:
    """Where no budget lets calls wait, nothing is kept free for streams."""
    world, under_way = await world_with_a_long_stream("refuse")
    late = FakeExchange(ask(stream=True))
    await asyncio.gather(under_way, world.pipeline.serve(late, "chat"))
    assert late.status == 200
    assert world.metric("faregate_budget_refusals_total") == 0


async def test_what_streams_needed_is_forgotten_when_they_end() -> None:
    """Calls would wait for streams that are over."""
    world, under_way = await world_with_a_long_stream("wait", "refuse")
    await under_way
    assert world.pipeline.shortages.streams == {}
    assert world.pipeline.shortages.likely == {}
    assert (await world.ask(ask(stream=True))).status == 200
    assert world.metric("faregate_budget_refusals_total") == 0


def test_a_call_leaves_less_to_streams_the_longer_it_has_waited() -> None:
    """And as little as it ever will some time before its wait is over, so that those behind it have their turn too."""
    kept = [kept_after(tenth / 10) for tenth in range(11)]
    assert kept == sorted(kept, reverse=True)
    assert kept[0] == KEPT_AT_FIRST
    assert kept_after(PATIENCE) == kept[-1] == kept_after(1.2) == KEPT_AT_LAST
