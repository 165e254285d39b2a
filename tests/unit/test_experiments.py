"""Canaries that are taken back: by one process for all, until people let them begin anew."""

from __future__ import annotations

import pytest

from policies.plans import Stop
from router.controls import ControlError, Desk
from router.domain.controls import decode_state
from router.domain.experience import Trial, trials_together
from router.domain.feedback import Lesson
from router.experiments import Experiments, mark_of, target_of
from router.fleet import Fleet
from router.live_controls import LiveControls
from router.metrics import Metrics
from tests.control_fakes import MemoryControls

KEY = ("auto", "default", "new", "to large")
STOP = Stop(experiment="new", arm="canary", errors=0.05, rating=0.1, least=10)


def count(experiments: Experiments, arm: str, *, failed: bool = False, calls: int = 1) -> None:
    for _ in range(calls):
        experiments.count(KEY, arm, (STOP,), Metrics(), failed=failed, first_token_ms=None, charge_nusd=1)


def worker(store: MemoryControls) -> tuple[LiveControls, Experiments]:
    fleet = Fleet(lambda: 0.0)
    return LiveControls(store, fleet, keys_changed=lambda: None), fleet.memory.experiments


async def test_what_one_worker_takes_back_is_taken_back_by_all() -> None:
    """Those that met it, those that meet it later, and those that start later; a canary of another version goes on."""
    store = MemoryControls()
    (one, found), (two, other), (three, fresh) = worker(store), worker(store), worker(store)
    other.of(KEY)
    count(found, "control", calls=100)
    count(found, "canary", failed=True, calls=5)
    assert (found.known[KEY].stopped, dict(found.unsaid)) == ("errors", {KEY: "errors"})
    for each in (one, two, three):
        await each.poll()
    assert not found.unsaid
    assert [each.of(KEY).stopped for each in (found, other, fresh)] == ["errors", "errors", "errors"]
    assert fresh.of((*KEY[:3], "to larger")).stopped == ""
    assert [(e.who, e.via, e.action, e.target, e.reason) for e in store.audit] == [
        ("faregate", "test", "experiment.stop", "auto/default/new", "errors")
    ]


async def test_two_workers_that_find_the_same_say_it_once() -> None:
    """The second one is content with what is kept."""
    store = MemoryControls()
    (one, found), (two, other) = worker(store), worker(store)
    for experiments in (found, other):
        count(experiments, "control", calls=100)
        count(experiments, "canary", failed=True, calls=5)
    await one.poll()
    await two.poll()
    assert (len(store.audit), len(decode_state(store.stored).controls), other.unsaid) == (1, 1, {})


async def test_people_let_an_experiment_begin_anew() -> None:
    """By its name, if that is clear; what it did before is forgotten, everywhere."""
    store = MemoryControls()
    (one, found), (two, other) = worker(store), worker(store)
    count(found, "control", calls=100)
    count(found, "canary", failed=True, calls=5)
    for each in (one, two):
        await each.poll()
    desk = Desk(store, who="alice", via="command")
    with pytest.raises(ControlError, match="'old' was not taken back; taken back: auto/default/new"):
        await desk.resume("old")
    assert await desk.resume("new", reason="mended") == "auto/default/new"
    for each in (one, two):
        await each.poll()
    assert [each.of(KEY).stopped for each in (found, other)] == ["", ""]
    assert not found.of(KEY).arms
    entry = store.audit[-1]
    assert (entry.action, entry.target, entry.before, entry.reason) == ("experiment.resume", "auto/default/new", "stop: errors", "mended")
    with pytest.raises(ControlError, match="taken back: none"):
        await desk.resume("new")


async def test_a_name_that_several_have_must_be_written_out() -> None:
    """Two routes may each have a canary of one name."""
    store = MemoryControls()
    one, found = worker(store)
    for key in (KEY, ("chat", *KEY[1:])):
        found.unsaid[key] = "cost"
    await one.poll()
    desk = Desk(store, who="alice", via="command")
    with pytest.raises(ControlError, match=r"'new' is the name of several; taken back: auto/default/new, chat/default/new"):
        await desk.resume("new")
    assert await desk.resume("chat/default/new") == "chat/default/new"


async def test_a_worker_that_cannot_tell_the_others_keeps_to_what_it_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """More changes in force than the store takes: it says so once, and goes by it alone."""
    store = MemoryControls()
    one, found = worker(store)
    await one.poll()
    monkeypatch.setattr("router.controls.MOST_CONTROLS", 0)
    found.of(KEY).stopped = found.unsaid[KEY] = "cost"
    await one.poll()
    assert (found.of(KEY).stopped, found.unsaid, store.audit) == ("cost", {}, [])


def test_the_last_word_counts_whoever_learned_of_the_first() -> None:
    """Each word may come to another worker; those about a run that has ended, or is not known of yet, count for none."""
    one, two, metrics = Experiments(lambda: 0.0), Experiments(lambda: 5.0), Metrics()
    count(one, "canary")
    lesson = Lesson(KEY, "canary")
    one.rated(lesson, None, 0.25, metrics)
    two.rated(lesson, 0.25, 0.5, metrics)
    one.rated(lesson, 0.5, 0.75, metrics)
    two.rated(lesson, None, 0.25, metrics)
    two.rated(Lesson(KEY, "canary", run=1), None, 0.0, metrics)
    together = trials_together((one.known[KEY].own, two.known[KEY].own))
    rated = together.arms["canary"].ratings
    assert (rated.count, rated.mean, round(rated.squares, 12)) == (2, 0.5, 0.125)
    assert (together.arms["canary"].calls, together.since) == (1, 0.0)
    assert two.since(KEY, 3.0) == 3.0
    assert target_of(KEY) == "auto/default/new"


async def test_workers_decide_by_what_all_of_them_saw() -> None:
    """Neither has seen enough alone; calls of a run that has ended do not count in the next one."""
    store = MemoryControls()
    (one, found), (two, other) = worker(store), worker(store)
    for experiments in (found, other):
        count(experiments, "control", calls=30)
        count(experiments, "canary", failed=True, calls=2)
    assert [found.of(KEY).stopped, other.of(KEY).stopped] == ["", ""]
    before = other.of(KEY).own
    found.others = {mark_of(KEY): before}
    count(found, "canary", failed=True)
    assert found.of(KEY).stopped == "errors"
    for each in (one, two):
        await each.poll()
    await Desk(store, who="alice", via="command").resume("new")
    # What one still has to say is of the run before.
    other.unsaid[KEY] = "errors"
    await two.poll()
    await one.poll()
    assert [found.of(KEY).stopped, other.of(KEY).stopped] == ["", ""]
    assert (found.of(KEY).own.run, mark_of(KEY) in found.others) == (1, True)
    count(found, "control", calls=30)
    count(found, "canary", failed=True, calls=2)
    assert found.of(KEY).stopped == ""
    # A worker that starts now is in the new run.
    three, fresh = worker(store)
    await three.poll()
    assert fresh.of(KEY).own.run == 1


def test_an_experiment_began_when_the_first_process_met_it() -> None:
    """A ramp must not begin anew with each restart; a beginning that the configuration gives holds for all."""
    experiments = Experiments(lambda: 500.0)
    assert experiments.since(KEY, None) == 500.0
    experiments.others = {mark_of(KEY): Trial(100.0)}
    assert (experiments.since(KEY, None), experiments.since(KEY, 500.0)) == (100.0, 500.0)
    experiments.others = {mark_of(KEY): Trial(100.0, 1)}
    assert experiments.since(KEY, None) == 500.0
