"""Providers with which a stream cannot be held slice by slice: they are found out at the first sight, and held in full after it."""

from __future__ import annotations

import msgspec
import pytest

from router.domain.budgets import Reservation
from router.errors import StoreUnavailable
from tests.pipeline_fakes import DONE, PRICE, SSE, Script, World, ask, event, json_answer, piece, snapshot, stream_answer

SLICE = 64
CAP = 200
"""Tokens that the configuration of the fakes allows an answer."""


def told(completion: int, **more: object) -> bytes:
    usage = {"prompt_tokens": 7, "completion_tokens": completion, "total_tokens": 7 + completion, **more}
    return event({"choices": [], "usage": usage})


def stream(*chunks: bytes) -> Script:
    return Script([*chunks, piece("", finish="stop")], headers=SSE)


def reasoned(tokens: int) -> Script:
    return stream(piece("hi"), told(tokens, completion_tokens_details={"reasoning_tokens": tokens - 1}), DONE)


def holds(world: World) -> list[int]:
    """What each attempt held at its end, in tokens beyond the first one's prompt."""
    return [record.hold_nusd // PRICE for record in world.ledger.records]


async def test_json_in_place_of_a_stream_is_held_in_full_before_it_is_passed_on() -> None:
    """All of it was written before the first byte came: a slice holds next to nothing of it."""
    world = World(snapshot(slice_tokens=SLICE), json_answer(completion=CAP))
    exchange = await world.ask(ask(stream=True))
    assert exchange.status == 200
    (record,) = world.ledger.records
    assert (record.outcome, record.output_tokens, record.overrun_nusd) == ("ok", CAP, 0)
    assert world.ledger.calls["extend"] == 1


async def test_json_in_place_of_a_stream_that_cannot_be_paid_is_not_passed_on() -> None:
    """The provider bills it, so it is booked in full and the excess is debt; the client gets the refusal."""
    world = World(snapshot(slice_tokens=SLICE), json_answer(completion=CAP), limit_nusd=200 * PRICE)
    exchange = await world.ask(ask(stream=True))
    assert exchange.status == 402
    assert b"Hi." not in exchange.sent
    (record,) = world.ledger.records
    assert (record.outcome, record.overrun_cause) == ("cut", "provider_ignored_stream")
    assert world.ledger.spent_nusd == (7 + CAP) * PRICE
    assert not world.ledger.open_holds


async def test_json_in_place_of_a_stream_is_not_passed_on_while_the_store_is_away() -> None:
    """What cannot be held is not spent unguarded."""
    world = World(snapshot(slice_tokens=SLICE), json_answer(completion=CAP))

    async def away(held: Reservation, *, by_nusd: int) -> Reservation:
        raise StoreUnavailable("made up")

    # The store cannot hold more.
    world.ledger.extend = away  # type: ignore[method-assign]
    exchange = await world.ask(ask(stream=True))
    assert exchange.status == 503
    assert world.ledger.spent_nusd == (7 + CAP) * PRICE


async def test_a_deployment_that_ignored_a_stream_once_is_held_in_full_from_the_start() -> None:
    """So that a budget that cannot bear it refuses before the call, not after it."""
    world = World(snapshot(slice_tokens=SLICE), json_answer(), json_answer(), json_answer())
    for _ in range(2):
        await world.ask(ask(stream=True))
    assert world.ledger.calls["extend"] == 1
    assert holds(world)[0] == holds(world)[1]
    world.ledger.limit_nusd = world.ledger.spent_nusd + 200 * PRICE
    assert (await world.ask(ask(stream=True, max_tokens=CAP))).status == 402
    assert world.upstream.called.count("one") == 2


@pytest.mark.parametrize(
    ("script", "cause"),
    [
        (
            Script([msgspec.json.encode({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": CAP}})], headers={}),
            "upstream_error",
        ),
        (Script([b'{"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 200}}'], headers=SSE), "ok"),
    ],
)
async def test_json_by_any_other_name_is_found_out_too(script: Script, cause: str) -> None:
    """Some servers send it without a type, or under that of a stream."""
    world = World(snapshot(slice_tokens=SLICE, retries=0), script, stream_answer(piece()))
    await world.ask(ask(stream=True))
    assert (world.ledger.records[0].outcome, world.ledger.records[0].overrun_cause) == (cause, "provider_ignored_stream")
    assert world.fleet.unsliced == {world.ledger.records[0].deployment: "provider_ignored_stream"}


@pytest.mark.parametrize("script", [reasoned(CAP), stream(piece("hi"), told(500), DONE)])
async def test_output_that_a_stream_hides_is_booked_and_held_in_full_from_then_on(script: Script) -> None:
    """Nothing in the stream shows it, so no slice can cover it."""
    config = snapshot(slice_tokens=SLICE)
    world = World(config, script, stream_answer(piece("hi")))
    await world.ask(ask(stream=True, max_tokens=1000))
    await world.ask(ask(stream=True, max_tokens=1000))
    first, second = world.ledger.records
    assert (first.outcome, first.overrun_cause) == ("ok", "hidden_output")
    assert first.charge_nusd > first.hold_nusd
    assert second.hold_nusd >= 1000 * PRICE


async def test_a_stream_whose_text_explains_its_count_keeps_its_slices() -> None:
    """Holding all of every stream would refuse calls that can be paid for."""
    world = World(snapshot(slice_tokens=SLICE), stream(*[piece("word " * 60)] * 10, told(600), DONE), limit_nusd=10**9)
    await world.ask(ask(stream=True, max_tokens=2000))
    assert world.fleet.unsliced == {}
