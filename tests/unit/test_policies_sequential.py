"""The test that takes a canary back: looked at after every call, hardly ever wrong, and quick where it matters."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.plans import Stop
from policies.sequential import ArmState, Moments, highest_share, is_above, reason_to_stop


def seen(calls: int, share: float, chance: random.Random, *, token: float = 400.0, cost: float = 1000.0) -> ArmState:
    made = ArmState()
    for _ in range(calls):
        made.add(
            failed=chance.random() < share,
            first_token_ms=token * chance.lognormvariate(0, 0.5),
            charge_nusd=int(cost * chance.lognormvariate(0, 0.8)),
        )
    return made


STOP = Stop(experiment="x", arm="canary", errors=0.02, first_token=0.3, cost=0.2, least=50)


def test_an_arm_within_its_limits_is_hardly_ever_stopped_however_often_it_is_looked_at() -> None:
    """A test for one look would stop half of them: here at most one in twenty, at every tenth call of two thousand."""
    chance = random.Random(3)
    stopped = 0
    for _ in range(60):
        arms = {"control": ArmState(), "canary": ArmState()}
        for call in range(1000):
            for state in arms.values():
                state.add(
                    failed=chance.random() < 0.02,
                    first_token_ms=chance.lognormvariate(6, 0.5),
                    charge_nusd=int(chance.lognormvariate(9, 1)),
                )
            if call % 10 == 0 and reason_to_stop(STOP, arms):
                stopped += 1
                break
    assert stopped <= 3


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"share": 0.2}, "errors"), ({"token": 800.0}, "first_token"), ({"cost": 2000.0}, "cost"), ({}, "")],
)
def test_an_arm_that_is_clearly_worse_is_stopped_for_it(changes: dict[str, float], reason: str) -> None:
    """Three hundred calls of each side are enough for what people would see, too."""
    chance = random.Random(7)
    arms = {"control": seen(300, 0.01, chance), "canary": seen(300, changes.pop("share", 0.01), chance, **changes)}
    assert reason_to_stop(STOP, arms) == reason


@pytest.mark.parametrize(("control", "needed"), [(10, 20), (20, 8), (100, 4), (1000, 2)])
def test_a_canary_that_always_fails_is_stopped_by_its_first_calls(control: int, needed: int) -> None:
    """The more is known of the control, the sooner; a bound of its own tells few calls from bad luck."""
    arms = {"control": ArmState(calls=control), "canary": ArmState()}
    while not reason_to_stop(STOP, arms) and arms["canary"].calls < 400:
        arms["canary"].add(failed=True, first_token_ms=None, charge_nusd=0)
    assert 2 <= arms["canary"].calls <= needed


def rated(chance: random.Random, good: float, count: int) -> ArmState:
    state = ArmState(calls=count)
    for _ in range(count):
        state.rated.add(float(chance.random() < good))
    return state


def test_an_arm_that_clients_rate_lower_is_stopped_for_it() -> None:
    """Thumbs down for 40 % instead of 20 % show after three hundred ratings; within the limit they do not."""
    stop, chance = Stop(experiment="x", arm="canary", rating=0.05, least=10), random.Random(3)
    control = rated(chance, 0.8, 300)
    assert reason_to_stop(stop, {"control": control, "canary": rated(chance, 0.6, 300)}) == "rating"
    assert reason_to_stop(stop, {"control": control, "canary": rated(chance, 0.78, 300)}) == ""
    assert reason_to_stop(stop, {"control": control, "canary": rated(chance, 0.0, 9)}) == ""
    assert reason_to_stop(Stop(experiment="x", arm="canary"), {"control": control, "canary": rated(chance, 0.0, 300)}) == ""


def test_ratings_that_are_alike_stop_an_arm_seldom_without_cause() -> None:
    """Looked at after every rating, from the tenth on."""
    stop, chance, stopped = Stop(experiment="x", arm="canary", rating=0.0, least=10), random.Random(11), 0
    for _ in range(200):
        arms = {"control": ArmState(), "canary": ArmState()}
        for _ in range(150):
            for state in arms.values():
                state.rated.add(float(chance.random() < 0.95))
            if reason_to_stop(stop, arms):
                stopped += 1
                break
    assert stopped <= 10


@given(st.lists(st.floats(0, 1), min_size=2, max_size=50))
def test_what_is_taken_back_was_never_there(values: list[float]) -> None:
    """A rating that is sent again replaces the first."""
    moments, first, last = Moments(), Moments(), Moments()
    for index, value in enumerate(values):
        moments.add(value)
        (first if index % 3 else last).add(value)
    left = moments.without(last)
    assert (left.count, left.mean) == (first.count, pytest.approx(first.mean, abs=1e-9))
    assert left.squares == pytest.approx(first.squares, abs=1e-9)
    assert moments.without(Moments()) == moments
    assert moments.without(moments) == last.without(moments) == Moments()


def test_a_bound_on_a_share_holds_after_every_call() -> None:
    """Looked at again and again, it is above the truth but for one run in twenty; and it comes near."""
    chance = random.Random(5)
    wrong = 0
    for _ in range(100):
        failures, broken = 0, False
        for call in range(1, 101):
            failures += chance.random() < 0.2
            broken = broken or (call % 10 == 0 and highest_share(failures, call, 0.05) < 0.2)
        wrong += broken
    assert wrong <= 5
    assert (highest_share(0, 0, 0.05), highest_share(0, 1000, 0.05) < 0.02, highest_share(3, 3, 0.05)) == (1.0, True, 1.0)


def test_nothing_is_said_of_few_calls_nor_of_what_is_not_looked_at() -> None:
    """A first failure is no reason; and a stop without limits never stops."""
    bad, good = ArmState(calls=1, failures=1), ArmState(calls=900)
    assert reason_to_stop(STOP, {"canary": bad, "control": good}) == ""
    assert reason_to_stop(STOP, {"canary": ArmState(calls=20, failures=20)}) == ""
    assert reason_to_stop(STOP, {"canary": ArmState(calls=20, failures=20), "control": ArmState(calls=20, failures=20)}) == ""
    assert reason_to_stop(Stop(experiment="x", arm="canary"), {"canary": bad, "control": good}) == ""
    assert reason_to_stop(STOP, {"control": good}) == ""
    assert not is_above(0.0, 1.0, 1.0, 0.05)
    assert is_above(0.1, 0.0, 1.0, 0.05)
    silent = ArmState()
    silent.add(failed=False, first_token_ms=None, charge_nusd=0)
    assert (silent.calls, silent.cost.count, silent.first_token.count) == (1, 0, 0)
    values = Moments()
    for value in (1.0, 2.0, 6.0):
        values.add(value)
    assert (values.mean, values.variance) == (3.0, 7.0)


@pytest.mark.parametrize(
    "row",
    [b'{"calls":-5}', b'{"calls":1' + b"0" * 400 + b"}", b'{"cost":{"count":3,"squares":-1.0}}', b'{"rated":{"count":3,"mean":1e300}}'],
)
def test_impossible_figures_are_not_read(row: bytes) -> None:
    """They come from a store: what is judged by them would fail at each look."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(row, type=ArmState)
