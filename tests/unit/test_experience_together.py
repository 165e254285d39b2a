"""What several processes learned, put together, is what one would have learned that served all calls."""

from __future__ import annotations

import random

import pytest

from policies.sequential import ArmState
from router.domain.experience import (
    KEEP_MS,
    Belief,
    CascadeState,
    Experience,
    Trial,
    VendorSpend,
    beliefs_together,
    cascades_together,
    together,
    trials_together,
    vendors_together,
)


def learned(rewards: list[float], memory: float = 1000.0) -> Belief:
    belief = Belief()
    for reward in rewards:
        belief.add(reward, memory)
    return belief


def test_beliefs_are_those_of_all_answers() -> None:
    """The prior counts once, not once per process; below `memory` nothing of it depends on who saw what."""
    chance = random.Random(1)
    rewards = [chance.random() for _ in range(90)]
    parts = [learned(rewards[:40]), Belief(), learned(rewards[40:41]), learned(rewards[41:])]
    made, one = beliefs_together(parts), learned(rewards)
    assert (made.seen, made.memory) == (one.seen, one.memory) == (90.0, 1000.0)
    assert made.mean == pytest.approx(one.mean)
    assert beliefs_together([learned(rewards, 20.0), learned(rewards, 20.0)]).seen == 20.0


def test_own_answers_are_the_newest_ones() -> None:
    """What others saw fills what is left of the memory, so that what is long ago ends to count."""
    others = learned([0.0] * 50, 60.0)
    assert Belief().beside(others).mean == pytest.approx(others.mean)
    assert Belief().beside(Belief()) == Belief()
    few, all_own = learned([1.0] * 20, 60.0), learned([1.0] * 60, 60.0)
    assert few.beside(others).mean == pytest.approx((0.5 + 20 * 1.0 + 40 * 0.0) / 61)
    assert few.beside(others).seen == 60.0
    assert all_own.beside(others).mean == pytest.approx(all_own.mean)


def cascaded(times: int, spent: int) -> CascadeState:
    state = CascadeState()
    for number in range(times):
        state.add(spent_nusd=spent, alone_nusd=100, escalated=number % 2 == 0)
    return state


def test_a_cascade_pays_by_the_requests_of_all() -> None:
    """Twelve here and twelve there are enough to know, where no process alone has enough."""
    parts = [cascaded(12, 40), cascaded(12, 60)]
    assert [part.pays for part in parts] == [None, None]
    made = cascades_together(parts)
    assert (made.requests, made.asked) == (24, 12)
    assert made.pays == pytest.approx(0.5)
    assert made.escalated == pytest.approx(0.5, abs=0.05)
    assert parts[0].beside(parts[1]).pays == pytest.approx(0.5)
    # A hundred of the own ones, and the averages are full of them.
    assert cascaded(100, 40).beside(cascaded(500, 200)).pays == pytest.approx(0.6)
    assert cascaded(25, 40).beside(cascaded(500, 200)).pays == pytest.approx(1 - (0.5 * 40 + 0.5 * 200) / 100)
    assert CascadeState().beside(CascadeState()).pays is None


def test_money_of_providers_fades_to_the_same_moment() -> None:
    """Else what an idle process saw long ago would count as of today."""
    early, late = VendorSpend(100.0), VendorSpend(100.0)
    for _ in range(10):
        early.add("a", 80, 1000.0)
        late.add("a", 5, 1200.0)
        late.add("b", 75, 1200.0)
    made = vendors_together([early, late])
    assert (made.at, made.calls, made.half_seconds) == (1200.0, 30, 100.0)
    assert made.nusd == pytest.approx({"a": 800 / 4 + 50, "b": 750})
    assert made.shares() == pytest.approx({"a": 0.25, "b": 0.75})
    assert early.nusd == {"a": 800.0}


def arm(calls: int, failures: int, charges: list[int]) -> ArmState:
    state = ArmState()
    for number in range(calls):
        failed = number < failures
        state.add(failed=failed, first_token_ms=100.0 + number, charge_nusd=charges[number % len(charges)])
    return state


def test_calls_of_an_experiment_add_up_within_its_run() -> None:
    """Those from before it was let begin anew are of another one."""
    first = Trial(100.0, 1, {"new": arm(10, 2, [5, 9])})
    second = Trial(90.0, 1, {"new": arm(20, 1, [7]), "control": arm(5, 0, [3])})
    made = trials_together([Trial(10.0, 0, {"new": arm(99, 99, [1])}), first, second])
    assert (made.since, made.run) == (90.0, 1)
    assert {name: (each.calls, each.failures) for name, each in made.arms.items()} == {"new": (30, 3), "control": (5, 0)}
    one = arm(0, 0, [1])
    for source, calls, failures, charges in ((first, 10, 2, [5, 9]), (second, 20, 1, [7])):
        assert source.arms["new"].cost.count == calls - failures
        for number in range(failures, calls):
            one.add(failed=False, first_token_ms=100.0 + number, charge_nusd=charges[number % len(charges)])
    for name in ("first_token", "cost"):
        found, wanted = getattr(made.arms["new"], name), getattr(one, name)
        assert (found.count, found.mean, found.squares) == pytest.approx((wanted.count, wanted.mean, wanted.squares))


def test_all_of_it_is_put_together_by_name_and_forgotten_when_unused() -> None:
    """A kind that was taken out of the configuration must not be kept for ever."""
    one = Experience(used_ms={"x": 5, "y": 7}, cascades={"x": cascaded(3, 1)}, bandits={"y": {"a": learned([1.0])}})
    two = Experience(
        used_ms={"x": 9, "z": 1, "t": 1},
        cascades={"x": cascaded(4, 1)},
        bandits={"y": {"a": learned([0.0]), "b": learned([1.0])}},
        trials={"t": Trial(1.0)},
        vendors={"z": VendorSpend(1.0)},
    )
    made = together([one, two])
    assert made.used_ms == {"x": 9, "y": 7, "z": 1, "t": 1}
    assert made.cascades["x"].requests == 7
    assert {name: belief.seen for name, belief in made.bandits["y"].items()} == {"a": 2.0, "b": 1.0}
    made.at_ms, made.taken_over = 3, ["p"]
    kept = made.kept(KEEP_MS + 8)
    assert (kept.at_ms, kept.taken_over, kept.used_ms) == (3, ["p"], {"x": 9})
    assert (list(kept.cascades), kept.bandits, kept.trials, kept.vendors) == (["x"], {}, {}, {})
    assert together([]) == Experience()
