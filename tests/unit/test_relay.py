"""What is passed on, what is refused before the first byte, and where a stream ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
import pytest

from router.domain.budgets import Refusal, Reservation
from router.settings.load import load_text, price_book
from tests.pipeline_fakes import (
    CONFIG,
    DONE,
    PRICE,
    SSE,
    FakeExchange,
    FakeResponse,
    Script,
    World,
    ask,
    event,
    json_answer,
    lost,
    piece,
    snapshot,
    stream_answer,
)

LETTERS = piece("twenty-six letters of text")


def only(*chunks: bytes, **more: object) -> Script:
    """A stream of exactly these chunks."""
    return Script(chunks, headers=SSE)


@pytest.mark.parametrize(
    ("script", "what"),
    [
        (Script([b""]), "an empty body"),
        (Script([b"<html>"], headers={b"content-type": b"text/html"}), "text/html"),
        (Script([b"[1]"], headers={}), "no content type"),
        (Script([b'{"error": {"message": "x"}}']), "an error object"),
        (Script([b' {"error": {"message": "x"}}']), "an error object"),
    ],
)
async def test_a_200_without_an_answer_falls_back(script: Script, what: str) -> None:
    """The client would get something that it cannot read."""
    world = World(snapshot(retries=0), script, script)
    exchange = await world.ask(ask())
    assert exchange.status == 502
    assert what.encode() in exchange.sent
    assert [record.outcome for record in world.ledger.records] == ["upstream_error"] * 2


async def test_a_json_answer_with_white_space_before_it_is_one() -> None:
    """Some servers keep a connection awake with it."""
    padded = Script([b"\n\n " + b"".join(part for part in json_answer().chunks if isinstance(part, bytes))])
    assert (await World(snapshot(), padded).ask(ask())).status == 200


@pytest.mark.parametrize("script", [Script([b"<html>"], headers={b"content-type": b"text/html"}), Script([b"{}"], headers={}), only()])
async def test_a_stream_that_is_none_falls_back(script: Script) -> None:
    """A client that reads events cannot read anything else."""
    world = World(snapshot(), script, stream_answer(piece()))
    exchange = await world.ask(ask(stream=True))
    assert exchange.status == 200
    assert exchange.sent.endswith(DONE)
    assert [record.outcome for record in world.ledger.records] == ["upstream_error", "ok"]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"error": {"message": "too hot"}}, "too hot"),
        ({"error": "too cold"}, "too cold"),
        ({"error": {"code": 5}}, "None"),
    ],
)
async def test_a_stream_that_begins_with_an_error_says_what_the_provider_said(data: object, said: str) -> None:
    """If no other deployment helps, that is what the client should see."""
    world = World(snapshot(retries=0), only(event(data)), only(event(data)))
    exchange = await world.ask(ask(stream=True))
    assert exchange.status == 502
    assert said in msgspec.json.decode(exchange.sent)["error"]["message"]


async def test_a_first_event_that_never_ends_is_passed_on_in_time() -> None:
    """Waiting for its end must not fill the memory."""
    huge = b"data: " + b"x" * 40_000
    world = World(snapshot(), only(huge, b"y" * 40_000, b"z\n\n", LETTERS, piece("", finish="stop"), DONE))
    exchange = await world.ask(ask(stream=True, max_tokens=40_000, stream_options={"include_usage": True}))
    assert exchange.sent.startswith(huge)
    assert exchange.sent.endswith(DONE)


async def test_a_first_event_without_its_end_is_no_clean_answer() -> None:
    """The provider closed in the middle of it."""
    world = World(snapshot(), only(b'data: {"choices":'))
    exchange = await world.ask(ask(stream=True))
    assert b'"error"' in exchange.sent
    assert b"[DONE]" not in exchange.sent


async def test_a_stream_whose_end_was_said_is_whole_although_the_connection_broke() -> None:
    """Only the end of the transfer is missing; the answer is not."""
    world = World(snapshot(), stream_answer(LETTERS, piece("", finish="stop"), lost()))
    exchange = await world.ask(ask(stream=True))
    assert exchange.finished
    assert b'"error"' not in exchange.sent
    assert world.ledger.records[0].outcome == "ok"


async def test_a_live_stream_goes_on_while_the_store_is_away_as_far_as_its_hold() -> None:
    """What was promised is kept; what was not is not spent unguarded."""
    world = World(snapshot(slice_tokens=64), stream_answer(*[LETTERS] * 40))
    extend = world.ledger.extend

    async def away(held: object, *, by_nusd: int) -> object:
        world.ledger.away = True
        # As it came.
        return await extend(held, by_nusd=by_nusd)  # type: ignore[arg-type]

    # The store goes away at the first slice.
    world.ledger.extend = away  # type: ignore[method-assign, assignment]
    settle = world.ledger.settle

    async def back(held: object, *, charge_nusd: int, record: bytes, tokens: int | None = None) -> bool:
        world.ledger.away = False
        # As it came.
        return await settle(held, charge_nusd=charge_nusd, record=record)  # type: ignore[arg-type]

    # And is back for the settlement.
    world.ledger.settle = back  # type: ignore[method-assign]
    exchange = await world.ask(ask(stream=True))
    assert exchange.sent.count(b"twenty-six") >= 2
    assert b'"finish_reason":"length"' in exchange.sent
    assert exchange.sent.endswith(DONE)
    (record,) = world.ledger.records
    assert record.outcome == "cut"
    assert record.charge_nusd <= record.hold_nusd


@pytest.mark.parametrize(("words", "outcome", "cuts"), [(40, "cut", 1), (4, "ok", 0)])
async def test_a_stream_that_a_budget_cuts_is_counted_once(words: int, outcome: str, cuts: int) -> None:
    """However often it asked for more; and not at all if it ended before what it held was used up."""
    world = World(snapshot(slice_tokens=64), stream_answer(*[LETTERS] * words), limit_nusd=300 * PRICE)
    await world.ask(ask(stream=True))
    assert world.ledger.calls["extend"] >= 1
    assert world.ledger.records[0].outcome == outcome
    counted = {labels: n for labels, n in world.metrics.state()["faregate_budget_refusals_total"] if n}
    assert counted == ({(world.snapshot.budgets[0].name, "cut"): cuts} if cuts else {})


async def test_roles_are_not_counted_as_text() -> None:
    """A stream with little money is not cut before its first word."""
    choice = {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
    role = event({"id": "c", "object": "chat.completion.chunk", "choices": [choice]})
    world = World(snapshot(slice_tokens=16), stream_answer(role, piece("hi")), limit_nusd=150 * PRICE)
    exchange = await world.ask(ask(stream=True))
    assert b'"hi"' in exchange.sent
    assert world.ledger.records[0].outcome == "ok"


async def test_a_provider_that_ignores_its_cap_is_stopped() -> None:
    """What it writes beyond the cap is on the bill too."""
    world = World(snapshot(), stream_answer(*[piece("a") for _ in range(400)]))
    exchange = await world.ask(ask(stream=True, max_tokens=20))
    assert world.ledger.records[0].outcome == "cut"
    assert 20 <= exchange.sent.count(b'"a"') < 60


async def test_a_stream_that_costs_nothing_has_nothing_to_extend() -> None:
    """Local models are free, and their streams are as long as they like."""
    text = CONFIG.format(slice_tokens=16, retries=1, limit="1").replace("price: {input: 10, output: 10}", "price: free")
    config = load_text(text, source="test.yaml", environ={}, price_book=price_book()).snapshot
    world = World(config, stream_answer(*[LETTERS] * 20))
    exchange = await world.ask(ask(stream=True))
    assert exchange.sent.count(b"twenty-six") == 20
    assert world.ledger.calls["extend"] == 0
    assert world.ledger.records[0].charge_nusd == 0


async def test_an_answer_is_aborted_only_once_it_is_over() -> None:
    """The connection goes back to the pool when the body was read."""
    world = World(snapshot(), json_answer())
    await world.ask(ask())
    (response,) = world.upstream.responses
    assert isinstance(response, FakeResponse)
    assert not response.open


async def test_one_read_with_more_than_is_held_is_passed_on_as_far_as_the_money_goes() -> None:
    """However much a provider writes at once, the client gets no more than was held; what was written is on the bill."""
    burst = b"".join([LETTERS] * 40)
    world = World(snapshot(slice_tokens=64), only(burst), limit_nusd=300 * PRICE)
    exchange = await world.ask(ask(stream=True, stream_options={"include_usage": True}))
    assert exchange.sent.count(b"twenty-six") == 64 // 26
    assert b'"finish_reason":"length"' in exchange.sent
    assert exchange.sent.endswith(DONE)
    (record,) = world.ledger.records
    assert (record.outcome, record.evidence, record.output_tokens) == ("cut", "partial", 200)
    assert b'"completion_tokens":200' in exchange.sent


async def test_one_read_waits_for_the_money_it_needs() -> None:
    """It is held before any of it is passed on, in one step."""
    world = World(snapshot(slice_tokens=64), stream_answer(piece("."), b"".join([LETTERS] * 6)))
    extend, sent = world.ledger.extend, []
    exchange = FakeExchange(ask(stream=True))

    async def watched(held: Reservation, *, by_nusd: int) -> Reservation | Refusal:
        sent.append(exchange.sent.count(b"twenty-six"))
        return await extend(held, by_nusd=by_nusd)

    # The same, seen.
    world.ledger.extend = watched  # type: ignore[method-assign]
    await world.pipeline.serve(exchange, "chat")
    assert sent == [0]
    assert exchange.sent.count(b"twenty-six") == 6
    assert world.ledger.records[0].outcome == "ok"


async def test_a_burst_beyond_the_cap_is_stopped_within_it() -> None:
    """A provider that ignores the cap may write everything at once."""
    world = World(snapshot(), stream_answer(piece("a") * 400, told=None))
    exchange = await world.ask(ask(stream=True, max_tokens=20))
    assert 20 <= exchange.sent.count(b'"a"') < 60
    (record,) = world.ledger.records
    assert (record.outcome, record.output_tokens) == ("cut", 400)


class Leaving(FakeExchange):
    """A client that takes the first event and then nothing, and leaves when the provider has gone on."""

    def __init__(self, response: Callable[[], FakeResponse]) -> None:
        super().__init__(ask(stream=True), gone=True)
        self._response = response

    def write(self, data: bytes) -> Awaitable[None] | None:
        self.sent += data
        self._response().buffered = LETTERS * 3
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        return asyncio.get_running_loop().create_future()


async def test_what_a_slow_reader_that_leaves_has_not_taken_is_paid_for() -> None:
    """The provider wrote it and we took it: reading slowly and hanging up is no way to spend unseen."""
    world = World(snapshot(), stream_answer(LETTERS, LETTERS))
    exchange = Leaving(lambda: world.upstream.responses[0])
    with pytest.raises(asyncio.CancelledError):
        await world.pipeline.serve(exchange, "chat")
    assert exchange.sent.count(b"twenty-six") == 1
    (record,) = world.ledger.records
    assert (record.outcome, record.evidence) == ("client_left", "partial")
    assert 4 * 26 // 4 <= record.output_tokens < 5 * 26 // 4


async def test_a_first_event_that_has_come_is_paid_for_whoever_leaves() -> None:
    """Between its arrival and the head of our answer the client can go."""
    world = World(snapshot(), stream_answer(LETTERS * 2))

    class Gone(FakeExchange):
        async def start(self, status: int, headers: bytes) -> None:
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await world.pipeline.serve(Gone(ask(stream=True), gone=True), "chat")
    (record,) = world.ledger.records
    assert record.outcome == "client_left"
    assert record.output_tokens >= 2 * 26 // 4


async def test_the_time_of_a_call_runs_on_while_its_client_is_slow() -> None:
    """A client that reads a byte an hour would hold its money for days."""
    world = World(snapshot(), stream_answer(*[LETTERS] * 4))
    exchange = FakeExchange(ask(stream=True))

    def write(data: bytes) -> Awaitable[None]:
        exchange.sent += data
        world.clock.now += 1000
        return asyncio.get_running_loop().create_future()

    # The client takes nothing.
    exchange.write = write  # type: ignore[method-assign]
    with pytest.raises(asyncio.CancelledError):
        await world.pipeline.serve(exchange, "chat")
    assert exchange.aborted
    assert [record.outcome for record in world.ledger.records] == ["client_left"]
    assert not world.ledger.open_holds
