"""Budgets that span several ledgers: what each may spend, and that together it is never more than the limit."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.controls import ControlError
from router.domain.budgets import Budget, WindowKind
from router.domain.shares import Register, Share, next_share, whole_limit
from router.shares import SILENT_MS, _windows, forget, read_register
from tests.control_fakes import MemoryControls

WHOLE = 1_000_000


def fit(
    shares: dict[str, Share], name: str, *, used: int = 0, grown: int = 0, whole: int = WHOLE, now_ms: int = 0, idle: bool = False
) -> Share:
    return next_share(shares, name, whole=whole, used=used, grown=grown, idle=idle, now_ms=now_ms)


def test_the_first_ledger_gets_half_and_the_next_ones_some_of_the_rest() -> None:
    """Nobody knows yet where the money will be needed."""
    shares: dict[str, Share] = {}
    for name in ("a", "b", "c"):
        shares[name] = fit(shares, name)
    assert [share.limit for share in shares.values()] == [500_000, 166_666, 83_334]


def test_who_uses_more_than_it_has_left_gets_more() -> None:
    """Ten rounds ahead, and as much again."""
    shares = {"a": Share(limit=100_000, whole=WHOLE), "b": Share(limit=500_000, whole=WHOLE)}
    assert fit(shares, "a", used=90_000, grown=9_000).limit == 100_000 + 2 * 90_000 - 10_000


def test_what_is_wanted_is_given_back_by_whom_it_lies_idle_with() -> None:
    """The last of a budget can be spent by whoever has work for it."""
    shares = {"a": Share(limit=500_000, whole=WHOLE), "b": Share(limit=500_000, whole=WHOLE)}
    shares["b"] = fit(shares, "b", used=480_000, grown=10_000)
    assert shares["b"].limit == 500_000
    assert shares["b"].wants == 80_000
    shares["a"] = fit(shares, "a")
    assert shares["a"].limit == 420_000
    shares["b"] = fit(shares, "b", used=480_000, grown=10_000)
    assert shares["b"].limit == 580_000
    assert shares["b"].wants == 0


def test_the_last_of_a_budget_goes_to_whoever_still_spends() -> None:
    """Two halves of a call pay for none."""
    shares = {"a": Share(limit=505_000, used=500_000, whole=WHOLE), "b": Share(limit=495_000, used=490_000, whole=WHOLE)}
    shares["b"] = fit(shares, "b", used=490_000)
    assert shares["b"].wants == 5_000
    shares["a"] = fit(shares, "a", used=500_000, idle=True)
    assert shares["a"].limit == 500_000
    assert fit(shares, "b", used=490_000).limit == 500_000


def test_a_limit_that_was_lowered_is_lowered_for_all_but_not_below_what_is_used() -> None:
    """While configurations differ the lowest limit counts."""
    shares = {"a": Share(limit=500_000, used=400_000, whole=WHOLE), "b": Share(limit=500_000, whole=WHOLE)}
    shares["a"] = fit(shares, "a", used=400_000, whole=600_000)
    assert shares["a"].limit == 400_000
    shares["b"] = fit(shares, "b")
    assert shares["b"].limit == 200_000
    assert whole_limit(shares, WHOLE, "b") == 600_000


def test_nothing_new_is_not_written_again() -> None:
    """A register that all write to every second is busy for nothing."""
    shares = {"a": fit({}, "a")}
    assert fit(shares, "a", used=10) is shares["a"]
    assert fit(shares, "a", used=100_000).used == 100_000
    assert fit(shares, "a", used=10, now_ms=60_000).at_ms == 60_000


def test_a_ledger_that_is_gone_leaves_what_it_had() -> None:
    """Somebody says so; nobody else can know."""
    register = Register().with_share("all", "a", Share(limit=5)).with_share("all", "b", Share(limit=7)).without("a")
    assert register.of("all") == {"b": Share(limit=7)}
    assert register.of("other") == {}


@pytest.mark.parametrize(
    ("window", "late_ms", "count"),
    [
        ("lifetime", 900_000, 1),
        ("rolling", 900_000, 1),
        ("minute", 900_000, 16),
        ("hour", 900_000, 2),
        ("hour", 7_200_000, 3),
        ("day", 900_000, 1),
    ],
)
def test_windows_that_have_just_ended_are_read_and_no_older_ones(window: WindowKind, late_ms: int, count: int) -> None:
    """By their names: a ledger may have a million others."""
    now_ms = 1_795_443_000_000
    budget = Budget(name="all", limit_nusd=1, window=window, rolling_ms=60_000 if window == "rolling" else 0)
    found = list(_windows(budget, now_ms, late_ms))
    assert len({bucket.window for bucket in found}) == len(found) == count
    assert found[0].starts_ms <= now_ms < found[0].ends_ms
    assert all(bucket.ends_ms > now_ms - late_ms for bucket in found)


async def test_only_a_ledger_that_is_silent_can_be_forgotten() -> None:
    """What a living one has could be spent twice."""
    store = MemoryControls()
    register = Register().with_share("all", "eu", Share(limit=5, at_ms=store.now_ms - SILENT_MS)).with_share("all", "us", Share(limit=7))
    store.stored, store.version = msgspec.json.encode(register), 3
    with pytest.raises(ControlError, match="'asia' has no share; known: eu, us"):
        await forget(store, "asia", who="me", reason="gone")
    assert await forget(store, "eu", who="me", reason="gone") == {"all": Share(limit=5, at_ms=store.now_ms - SILENT_MS)}
    assert (await read_register(store)).of("all") == {"us": Share(limit=7)}
    assert [(entry.action, entry.target, entry.reason) for entry in store.audit] == [("shares.forget", "eu", "gone")]
    store.stored = msgspec.json.encode(register.with_share("all", "eu", Share(limit=5, at_ms=store.now_ms - 5_000)))
    with pytest.raises(ControlError, match="told of itself 5 s ago"):
        await forget(store, "eu", who="me", reason="gone")


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), ledgers=st.integers(1, 5), busy=st.integers(1, 5))
def test_shares_are_never_more_than_the_limit_and_all_of_it_is_spent(seed: int, ledgers: int, busy: int) -> None:
    """Calls of up to a thousandth of the limit come to some of the ledgers until nobody can spend anything."""
    draw = random.Random(seed)
    names = [f"l{i}" for i in range(ledgers)]
    shares: dict[str, Share] = {}
    used = dict.fromkeys(names, 0)
    before = dict(used)
    still = dict.fromkeys(names, 0)
    for _ in range(3_000):
        for name in draw.sample(names, ledgers):
            grown = used[name] - before[name]
            still[name] = 0 if grown else still[name] + 1
            shares[name] = fit(shares, name, used=used[name], grown=grown, idle=still[name] > 30)
            before[name] = used[name]
            assert sum(share.limit for share in shares.values()) <= WHOLE
            assert shares[name].limit >= used[name]
        for name in names[:busy]:
            for _ in range(draw.randint(0, 20)):
                call = draw.randint(1, WHOLE // 1000)
                if used[name] + call <= shares[name].limit:
                    used[name] += call
        if sum(used.values()) >= 0.999 * WHOLE:
            return
    raise AssertionError(f"{WHOLE - sum(used.values())} of {WHOLE} is left over")
