"""How processes tell each other what they learned: nothing is lost, nothing counts twice, whoever dies, sleeps or loses the store."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Final

import pytest

from router.domain.experience import KEEP_MS, CascadeState, Experience
from router.domain.learning import LEAST_ANSWERS, LEAST_INPUTS, MOST_ANSWERS, Learned, Lengths, Share, Taught
from router.domain.request import parse_request
from router.errors import StoreUnavailable
from router.experience import GONE_MS, HABITS, HABITS_ROUNDS, MOST_AT_ONCE, TELL_MS, Exchange, read_all
from router.experiments import Key, mark_of
from router.fleet import Fleet
from router.memory import Memory

QUESTION: Final = parse_request(b'{"model": "m", "messages": [{"role": "user", "content": "What is the sea?"}]}', "chat")
KEY: Final[Key] = ("auto", "rule", "cascade", "")


class Rows:
    """A store in memory."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.now_ms = 10_000_000
        self.puts = 0
        self.fails = ""
        """What comes of the next `put`: "before" or "after" it was done."""

        self.stale: dict[str, bytes] | None = None
        """What `rows` tells in place of what is kept."""

    async def rows(self) -> tuple[int, Mapping[str, bytes]]:
        return self.now_ms, dict(self.kept if self.stale is None else self.stale)

    async def put(self, name: str, row: bytes, *, instead_of: Mapping[str, bytes]) -> bool:
        fails, self.fails = self.fails, ""
        if fails == "before":
            raise StoreUnavailable("away")
        if any(self.kept.get(each) != instead_of.get(each) for each in {name, *instead_of}):
            return False
        self.puts += 1
        for each in instead_of:
            del self.kept[each]
        self.kept[name] = row
        if fails == "after":
            raise StoreUnavailable("late")
        return True


class Process:
    """One that serves requests of a cascade."""

    def __init__(self, store: Rows) -> None:
        fleet = self.fleet = Fleet(lambda: store.now_ms / 1000)
        self.memory = fleet.memory = Memory(lambda: store.now_ms / 1000)
        self.learned = fleet.learned
        self.exchange = Exchange(store, fleet)

    def serve(self, times: int) -> None:
        for _ in range(times):
            self.memory.cascades.setdefault(KEY, CascadeState()).add(spent_nusd=40, alone_nusd=100, escalated=False)
        self.memory._used[KEY] = self.memory._clock()

    @property
    def known(self) -> int:
        """How many requests it goes by."""
        return self.memory._cascade(KEY).requests

    async def look(self) -> None:
        await self.exchange.look()


async def rounds(*processes: Process) -> None:
    for _ in range(2):
        for process in processes:
            await process.look()


async def until_gone(store: Rows, *alive: Process) -> None:
    """So long that whoever is silent is taken for gone; the others look now and then."""
    for _ in range(GONE_MS // TELL_MS + 1):
        store.now_ms += TELL_MS
        for process in alive:
            await process.look()


async def test_each_knows_what_all_learned() -> None:
    """And a process that begins later knows it at once."""
    store = Rows()
    one, two = Process(store), Process(store)
    one.serve(3)
    two.serve(4)
    await rounds(one, two)
    assert (one.known, two.known) == (7, 7)
    late = Process(store)
    await late.look()
    assert late.known == 7
    assert len(store.kept) == 2
    late.serve(1)
    await rounds(one, two, late)
    assert (one.known, late.known) == (8, 8)
    assert (await read_all(store)).cascades[mark_of(KEY)].requests == 8


async def test_nothing_is_written_without_news_but_a_sign_of_life() -> None:
    """An idle service of many workers must not write every few seconds."""
    store = Rows()
    idle, one = Process(store), Process(store)
    one.serve(3)
    await rounds(idle, one)
    assert (store.puts, len(store.kept)) == (1, 1)
    store.now_ms += TELL_MS - 1
    await rounds(idle, one)
    assert store.puts == 1
    store.now_ms += 1
    await rounds(idle, one)
    assert store.puts == 2
    one.serve(1)
    await rounds(idle, one)
    assert (store.puts, idle.known) == (3, 4)


@pytest.mark.parametrize("fails", ["", "before", "after"])
async def test_what_a_dead_process_learned_is_taken_over_once(fails: str) -> None:
    """Whatever comes of the write: answered, lost, or done and not answered."""
    store = Rows()
    dead, one = Process(store), Process(store)
    dead.serve(5)
    one.serve(1)
    await rounds(dead, one)
    (gone,) = [name for name in store.kept if name != one.exchange._name]
    for _ in range(GONE_MS // TELL_MS):
        store.now_ms += TELL_MS
        await one.look()
    assert gone in store.kept
    store.now_ms += TELL_MS
    store.fails = fails
    with pytest.raises(StoreUnavailable) if fails else nullcontext():
        await one.look()
    assert (gone in store.kept) == (fails == "before")
    two = Process(store)
    two.serve(1)
    await rounds(one, two)
    assert (one.known, two.known, len(store.kept)) == (7, 7, 2)
    one.serve(1)
    await rounds(one, two)
    assert (one.known, two.known) == (8, 8)


async def test_a_clean_end_hands_over_at_once() -> None:
    """A restart a second later has all of it, and rows do not pile up."""
    store = Rows()
    for number in range(MOST_AT_ONCE + 5):
        process = Process(store)
        await process.look()
        assert process.known == 2 * number
        process.serve(2)
        await process.exchange.close()
        assert len(store.kept) == 1
    before, store.fails = dict(store.kept), "before"
    process.serve(1)
    await process.exchange.close()
    assert store.kept == before


async def test_many_that_are_gone_are_taken_over_by_and_by() -> None:
    """A step of bounded size at a time, and all count from the beginning."""
    store = Rows()
    for _ in range(MOST_AT_ONCE + 5):
        process = Process(store)
        process.serve(1)
        await process.look()
    store.now_ms += GONE_MS + 1
    last = Process(store)
    await last.look()
    assert (last.known, len(store.kept)) == (MOST_AT_ONCE + 5, 6)
    await last.look()
    assert (last.known, len(store.kept)) == (MOST_AT_ONCE + 5, 1)


async def test_a_process_that_only_slept_counts_once() -> None:
    """It was taken for gone: what it had learned is another's by now, and it begins with nothing of its own."""
    store = Rows()
    sleeper, other = Process(store), Process(store)
    sleeper.serve(5)
    other.serve(1)
    await rounds(sleeper, other)
    store.now_ms += GONE_MS + 1
    other.serve(1)
    await rounds(other)
    await rounds(sleeper, other)
    assert (sleeper.known, other.known) == (7, 7)
    sleeper.serve(3)
    await rounds(sleeper, other)
    assert (sleeper.known, other.known) == (10, 10)


async def test_an_emptied_store_is_filled_again_by_those_who_live() -> None:
    """FLUSHALL: what dead processes had left to nobody is lost, what was taken over is not."""
    store = Rows()
    dead, one, two = Process(store), Process(store), Process(store)
    dead.serve(5)
    one.serve(2)
    two.serve(4)
    await rounds(dead, one, two)
    await until_gone(store, one, two)
    assert (one.known, two.known, len(store.kept)) == (11, 11, 2)
    store.kept.clear()
    await rounds(one, two)
    assert (one.known, two.known, len(store.kept)) == (11, 11, 2)


async def test_a_store_that_lost_its_last_second_counts_nobody_twice() -> None:
    """A fail-over brings rows back that were taken over."""
    store = Rows()
    dead, one, two = Process(store), Process(store), Process(store)
    dead.serve(5)
    await dead.look()
    old = dict(store.kept)
    (gone,) = old
    store.now_ms += GONE_MS + 1
    one.serve(1)
    await rounds(one)
    assert len(store.kept) == 1
    store.kept.update(old)
    await two.look()
    assert two.known == 6
    await rounds(one, two)
    assert (one.known, two.known, gone in store.kept) == (6, 6, False)


async def test_a_row_of_another_form_is_none() -> None:
    """Of a later version of the program, in a roll-back: it stays, and does no harm, until its process is gone."""
    store = Rows()
    store.kept["new"] = b'{"at_ms":"tomorrow"}'
    one = Process(store)
    one.serve(1)
    await rounds(one)
    assert one.known == 1
    assert (await read_all(store)).cascades[mark_of(KEY)].requests == 1


@pytest.mark.parametrize(
    "row",
    [
        b'{"vendors":{"m":{"half_seconds":0.0,"nusd":{"a":1.0},"calls":30}}}',
        b'{"cascades":{"m":{"requests":1' + b"0" * 400 + b"}}}",
        b'{"bandits":{"m":{"c":{"seen":-2.0}}}}',
    ],
)
async def test_a_row_of_impossible_figures_is_none(row: bytes) -> None:
    """It would be read at each start: a service that fails by it does not come up again."""
    store = Rows()
    store.kept["broken"] = row
    store.kept["other"] = b'{"vendors":{"m":{"half_seconds":60.0,"nusd":{"a":1.0},"at":5.0}}}'
    process = Process(store)
    await process.exchange.look()
    others = process.memory.others
    assert not others.cascades
    assert not others.bandits
    assert others.vendors["m"].nusd == {"a": 1.0}


def test_what_was_read_of_others_replaces_what_was_known_of_them() -> None:
    """It is all of it each time, not an addition."""
    memory = Memory(lambda: 1.0)
    for requests in (30, 40):
        memory.go_by(Experience(cascades={mark_of(KEY): CascadeState(requests=requests, spent=30.0, alone=100.0)}))
        assert memory._cascade(KEY).requests == requests
    assert list(memory.savings()) == []
    memory.cascades[KEY] = CascadeState()
    assert [(name, round(share, 6)) for name, share in memory.savings()] == [("cascade", 0.7)]


def lengths(process: Process, route: str = "auto") -> Lengths:
    """Of answers to short questions."""
    found = process.learned.habits(route=route, model="m", deployment="p/m", strict=False).lengths(QUESTION)
    assert found is not None
    return found


def share(process: Process) -> Share:
    return process.learned.habits(route="auto", model="m", deployment="p/m", strict=False).written()


async def minutes(*processes: Process) -> None:
    for _ in range(HABITS_ROUNDS):
        await rounds(*processes)


async def test_holds_go_by_what_all_learned_and_by_what_was_before_a_restart() -> None:
    """A service that is deployed anew must not hold the widest bounds again."""
    store = Rows()
    one, two = Process(store), Process(store)
    for process, tokens in ((one, 100), (two, 200)):
        await process.look()
        for _ in range(LEAST_ANSWERS // 2):
            lengths(process).add(tokens)
        for _ in range(LEAST_INPUTS // 2):
            share(process).add(tokens, 1000)
    assert (lengths(one).cap, share(one).tokens(1000)) == (None, 1000)
    await minutes(one, two)
    for process in (one, two):
        assert (lengths(process).seen, share(process).seen, share(process).highest) == (LEAST_ANSWERS, LEAST_INPUTS, 0.2)
        assert lengths(process).cap is not None
    late = Process(store)
    await late.look()
    assert (lengths(late).cap, share(late).tokens(1000)) == (lengths(one).cap, share(one).tokens(1000))
    # What is learned goes on from there, and is told again at a clean end.
    lengths(late).add(5000)
    share(late).add(900, 1000)
    await late.exchange.close()
    await minutes(one)
    assert (lengths(one).seen, share(one).highest) == (LEAST_ANSWERS + 1, 0.9)


@pytest.mark.parametrize("fails", ["before", "after", "taken"])
async def test_news_that_nobody_took_are_told_again(fails: str) -> None:
    """A write that was done and not answered may count an answer twice; none is ever lost."""
    store = Rows()
    one, two = Process(store), Process(store)
    await rounds(one, two)
    lengths(one).add(100)
    share(one).add(1, 2)
    lengths(two).add(100)
    if fails == "taken":
        store.stale = dict(store.kept)
        await two.exchange.close()
        await one.exchange.close()
        store.stale = None
    else:
        store.fails = fails
        await one.exchange.close()
        await two.exchange.close()
    lengths(one).add(100)
    await one.exchange.close()
    assert (lengths(one).seen, share(one).seen) == ((4, 2) if fails == "after" else (3, 1))


@pytest.mark.parametrize(
    "row",
    [
        b'{"shares": 7}',
        b'{"shares": {"p/m": {"latin 2": [100, 1e308]}}}',
        b'{"shares": {"p/m": {"latin 2": [100, -5.0]}}}',
        b'{"shares": {"p/m": {"latin": [100, 0.5]}}}',
        b'{"lengths": {"auto\\nm": {"x 0": {"60": 300}}}}',
        b'{"lengths": {"auto\\nm": {"4 0": {"9": 300}}}}',
        b'{"lengths": {"auto\\nm": {"4 0": {"99999999999": 300}}}}',
        b'{"lengths": {"auto\\nm": {"4 0": {"60": -300}}}}',
    ],
)
async def test_habits_in_another_form_begin_anew(row: bytes) -> None:
    """Of another version of the program, or of impossible figures: these would fail each request, and each start."""
    store = Rows()
    store.kept[HABITS] = row
    one = Process(store)
    await one.look()
    lengths(one).add(100)
    await one.exchange.close()
    assert (await read_all(store)) == Experience()
    late = Process(store)
    await late.look()
    assert lengths(late).seen == 1


def test_answers_fade_and_what_is_not_used_is_forgotten() -> None:
    """The row must not grow for ever, neither in counts nor in names."""
    learned = Learned()
    counts = learned.habits(route="auto", model="m", deployment="p/m", strict=False).lengths(QUESTION)
    assert counts is not None
    for _ in range(MOST_ANSWERS - 1):
        counts.add(100)
    first = Taught().with_news(learned.news(), 5)
    for _ in range(3):
        counts.add(3000)
    whole = first.with_news(learned.news(), 7)
    ((kinds,),) = [list(found.values()) for found in whole.lengths.values()]
    assert sorted(kinds.values()) == [1, MOST_ANSWERS // 2 - 1]
    assert (learned.news(), whole.used_ms) == (Taught(), {"auto\nm": 7})
    assert whole.with_news(Taught(), KEEP_MS + 7) == whole
    assert whole.with_news(Taught(), KEEP_MS + 8) == Taught()
