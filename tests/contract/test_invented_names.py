"""Names that clients make up: how many are counted by themselves, and when what is known of them is forgotten."""

from __future__ import annotations

import pytest

from router.domain.budgets import BucketSet, Budget, Refusal, Reservation
from router.domain.windows import bucket_set
from router.ports import Ledger
from tests.contract.stores import Store, counters, held

SOFT = Budget(name="users", limit_nusd=100, window="lifetime", each="user", hard=False, max_scopes=1)
TRIAL = Budget(name="users", limit_nusd=100, window="lifetime", each="user", shadow=True, max_scopes=1)


def of(budget: Budget, user: str) -> BucketSet:
    return bucket_set([budget], dims={"user": user}, tags={}, now_ms=0)


@pytest.mark.parametrize("budget", [SOFT, TRIAL], ids=["soft", "shadow"])
async def test_a_budget_that_never_refuses_counts_names_without_end_together(ledger: Ledger, budget: Budget) -> None:
    """One that only watches must not turn away the first user beyond `max_scopes`; and what it keeps is bounded all the same."""
    for number, user in enumerate(("ann", "bob", "cem")):
        assert isinstance(await ledger.reserve(attempt_id=f"{number}", amount_nusd=30, buckets=of(budget, user)), Reservation)
    assert await counters(ledger) == {"users/user=ann/all": (0, 30, 0), "users/user=*/all": (0, 60, 0)}


HARD = Budget(name="users", limit_nusd=100, window="lifetime", each="user", max_scopes=1)


async def test_a_free_call_of_one_name_too_many_is_refused_and_leaves_nothing(ledger: Ledger) -> None:
    """It adds nothing to the budget, but its name would be kept: clients could fill the store with them."""
    await held(ledger, 30, of(HARD, "ann"))
    for number in range(2):
        answer = await ledger.reserve(attempt_id=f"{number}", amount_nusd=0, buckets=of(HARD, "bob"))
        assert isinstance(answer, Refusal)
        assert answer.crowded
    assert await counters(ledger) == {"users/user=ann/all": (0, 30, 0)}
    assert await ledger.verify() == []


async def test_a_free_call_beyond_two_budgets_is_counted_with_all_others(ledger: Ledger) -> None:
    """One of them is a plain budget, the other is not: both find out one after the other that there is a name too many."""
    both = [
        Budget(name="plain", limit_nusd=100, window="lifetime", each="user", max_scopes=1, beyond="other"),
        Budget(name="trial", limit_nusd=100, window="lifetime", each="user", shadow=True, max_scopes=1),
    ]
    for user in ("ann", "bob"):
        held_now = await held(ledger, 0, bucket_set(both, dims={"user": user}, tags={}, now_ms=0))
        assert [left for _, left in held_now.left] == [100]
    none = (0, 0, 0)
    assert await counters(ledger) == {f"{budget}/user={user}/all": none for budget in ("plain", "trial") for user in ("ann", "*")}


async def test_those_that_came_too_late_take_no_place_and_leave_none(store: Store, ledger: Ledger) -> None:
    """When what they share is forgotten, there is room for one name more only if a name of its own was."""
    budget = Budget(name="users", limit_nusd=100, window="rolling", rolling_ms=86_400_000, each="user", max_scopes=2, beyond="other")
    for user in ("ann", "bob", "cem"):
        held_now = await held(ledger, 30, of(budget, user))
        await ledger.settle(held_now, charge_nusd=30, record=b"{}")
    for gone, left in (("*", {"ann", "bob"}), ("ann", {"bob", "*"})):
        await store.forget(f"users|user={gone}|last-86400s")
        await ledger.sweep()
        await held(ledger, 0, of(budget, "dan"))
        assert {state.scope.removeprefix("user=") for state in await ledger.bucket_states()} >= left
    assert {state.scope.removeprefix("user=") for state in await ledger.bucket_states()} == {"bob", "*", "dan"}
    assert await ledger.verify() == []


async def test_what_something_is_held_in_is_not_forgotten(store: Store, ledger: Ledger) -> None:
    """A clock that jumps by weeks makes a window old in which a call is still under way: its charge must find it."""
    budget = Budget(name="users", limit_nusd=100, window="day", each="user")
    where = bucket_set([budget], dims={"user": "ann"}, tags={}, now_ms=await store.now_ms())
    name = f"users|user=ann|{where.buckets[0].window}"
    held_now = await held(ledger, 30, where)
    await store.forget(name)
    await ledger.sweep()
    assert list((await counters(ledger)).values()) == [(0, 30, 0)]
    await ledger.settle(held_now, charge_nusd=20, record=b"{}")
    assert list((await counters(ledger)).values()) == [(20, 0, 0)]
    assert await ledger.verify() == []
