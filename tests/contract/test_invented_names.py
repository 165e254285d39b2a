"""Names that clients make up, in budgets that never refuse."""

from __future__ import annotations

import pytest

from router.domain.budgets import BucketSet, Budget, Refusal, Reservation
from router.domain.windows import bucket_set
from router.ports import Ledger
from tests.contract.stores import counters, held

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
