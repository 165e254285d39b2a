"""Names that clients make up, in budgets that never refuse."""

from __future__ import annotations

import pytest

from router.domain.budgets import BucketSet, Budget, Reservation
from router.domain.windows import bucket_set
from router.ports import Ledger
from tests.contract.stores import counters

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
