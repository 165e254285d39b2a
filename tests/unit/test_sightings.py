"""What processes tell each other of deployments: their times, and that one is dead; own eyes come first."""

from __future__ import annotations

import pytest

from router.domain.experience import Sighting
from router.experience import EXPERIENCE_EVERY, TELL_MS
from router.figures import STALE_SECONDS
from router.fleet import CONSECUTIVE_FAILURES, COOLDOWN_SECONDS, LONGEST_RETRY_AFTER_SECONDS, Fleet
from router.sightings import LONGEST_MS, TOLD_TIMES, Sightings
from tests.unit.test_experience import Process, Rows


def succeed(process: Process, total_ms: float, times: int = 20, first_token_ms: float | None = None) -> None:
    for _ in range(times):
        process.fleet.succeeded("a", first_token_ms=first_token_ms, total_ms=total_ms, output_tokens=5)


def fail(process: Process, cause: str = "connect") -> None:
    for _ in range(CONSECUTIVE_FAILURES):
        process.fleet.failed("a", cause=cause)


def times(process: Process) -> tuple[float | None, float | None]:
    view = process.fleet.view("a")
    return view.first_token_ms, view.total_ms


async def rounds(*processes: Process) -> None:
    for _ in range(2):
        for process in processes:
            await process.look()


async def test_a_fresh_process_goes_by_the_times_that_others_saw() -> None:
    """And an idle one; whoever sees some itself goes by these, and what nobody has seen of late is forgotten."""
    store = Rows()
    one, two = Process(store), Process(store)
    succeed(one, 200.0, first_token_ms=50.0)
    await rounds(one, two)
    late = Process(store)
    await late.look()
    assert times(two) == times(late) == (50.0, 200.0)
    assert late.fleet.usual_ms("a") == 200.0
    assert late.fleet.total_quantile("a", 0.95, TOLD_TIMES) == 200.0
    # What was borrowed is not told as one's own.
    assert [row.count(b'"seen"') for row in store.kept.values()] == [1]
    succeed(two, 900.0, times=64)
    store.now_ms += 5_000
    await rounds(two, one, late)
    assert (times(two), times(one), times(late)) == ((50.0, 900.0), (50.0, 200.0), (50.0, 900.0))
    store.now_ms += int(STALE_SECONDS * 1000) + 1
    await rounds(one, two, late)
    assert times(one) == times(two) == times(late) == (None, None)


async def test_times_of_many_are_put_together_and_thinned() -> None:
    """A row stays short however many calls there were; its times are spread as the calls were."""
    store = Rows()
    others = [Process(store) for _ in range(5)]
    for index, other in enumerate(others):
        for step in range(40):
            succeed(other, 100.0 * index + step, times=1)
    fresh = Process(store)
    await rounds(*others, fresh)
    assert all(row.count(b",") < 4 * TOLD_TIMES for row in store.kept.values())
    assert times(fresh) == (None, pytest.approx(220, abs=10))
    high = fresh.fleet.total_quantile("a", 0.95, 64)
    assert high is not None
    assert 420 < high < 440


async def test_what_did_not_change_is_not_written_again() -> None:
    """An idle service of many workers must not write every few seconds."""
    store = Rows()
    one, idle = Process(store), Process(store)
    succeed(one, 200.0)
    await rounds(one, idle)
    puts = store.puts
    store.now_ms += 7_001
    await rounds(one, idle)
    assert store.puts == puts == 1
    store.now_ms += TELL_MS
    await rounds(one, idle)
    assert store.puts == 2


async def test_a_deployment_that_one_found_dead_is_left_alone_by_all() -> None:
    """Each may probe it once the cooldown is over, one call at a time; who finds it well uses it again, whatever others still say."""
    store = Rows()
    one, two, three = Process(store), Process(store), Process(store)
    fail(one)
    await rounds(one, two, three)
    for other in (two, three):
        view = other.fleet.view("a")
        assert (view.health, view.available_in_seconds) == ("cooldown", pytest.approx(COOLDOWN_SECONDS, abs=0.01))
        assert not other.fleet.calm
        assert other.fleet.troubles["a"][0] == "connect"
    # Only who found it tells it.
    assert sum(b"until_ms" in row for row in store.kept.values()) == 1
    store.now_ms += int(COOLDOWN_SECONDS * 1000) + 1
    await rounds(one, two, three)
    assert [two.fleet.claim_probe("a"), two.fleet.claim_probe("a"), three.fleet.claim_probe("a")] == [True, False, True]
    succeed(two, 10.0, times=1)
    fail(three)
    assert two.fleet.view("a").health == "up"
    # The next one is twice as long, as if it had been its own; an answer after its begin is worth more than the news.
    assert three.fleet.view("a").available_in_seconds == pytest.approx(2 * COOLDOWN_SECONDS)
    store.now_ms += 1
    succeed(two, 10.0, times=1)
    await rounds(three, two, one)
    assert (two.fleet.view("a").health, one.fleet.view("a").health) == ("up", "cooldown")


async def test_an_answer_after_the_failures_is_worth_more_than_the_news() -> None:
    """A replica that cannot reach a provider must not take it from those that can."""
    store = Rows()
    cut_off, well = Process(store), Process(store)
    fail(cut_off)
    store.now_ms += 1
    succeed(well, 10.0, times=1)
    await rounds(cut_off, well)
    assert (well.fleet.view("a").health, well.fleet.calm) == ("up", True)


async def test_a_process_that_begins_after_an_outage_sends_one_call_at_a_time() -> None:
    """Whoever found it ended before the cooldown did; long ago is forgotten, and no row keeps a deployment out for ever."""
    store = Rows()
    one = Process(store)
    fail(one)
    await one.exchange.close()
    store.now_ms += 2 * int(COOLDOWN_SECONDS * 1000)
    fresh = Process(store)
    await fresh.look()
    assert fresh.fleet.view("a").health == "probe"
    fleet = Fleet(lambda: 5_000.0)
    told = Sighting(cause="429", failed_at_ms=2_000_000, until_ms=2**50)
    Sightings(fleet).hear([{"a": told, "b": Sighting(cause="auth", failed_at_ms=1, until_ms=2)}], now_ms=2_000_000)
    assert LONGEST_MS == LONGEST_RETRY_AFTER_SECONDS * 1000
    assert fleet.view("a").available_in_seconds == LONGEST_RETRY_AFTER_SECONDS
    assert fleet.view("b").health == "up"


async def test_a_failure_is_told_at_once_and_all_else_now_and_then() -> None:
    """Others listen every few seconds, so that is how late they are."""
    store = Rows()
    one, two = Process(store), Process(store)
    succeed(one, 10.0)
    for _ in range(EXPERIENCE_EVERY - 1):
        await one.exchange.beat()
    assert store.puts == 0
    await one.exchange.beat()
    assert store.puts == 1
    fail(one)
    await one.exchange.beat()
    assert store.puts == 2
    await two.look()
    for process in (one, two):
        await process.exchange.beat()
    assert (store.puts, two.fleet.view("a").health) == (2, "cooldown")
