"""Reading buckets when they are many: by their names, some at a time, and how many there are."""

from __future__ import annotations

from collections import Counter

from router.ports import Ledger
from tests.contract.stores import Store, bucket, buckets, held, rolling_bucket

USERS = 1_203
"""Some pages, and not a multiple of any."""


async def test_buckets_are_read_by_their_names(store: Store, ledger: Ledger) -> None:
    """Whoever knows which ones matter need not read all."""
    company, mine, rolls = bucket(limit=1000), bucket("per-user", scope="user=u1", limit=50), rolling_bucket(limit=70)
    await ledger.publish_limits({"company": 900}, version="1")
    await held(ledger, 7, buckets(company, mine, rolls))
    await held(ledger, 5, buckets(company))
    found = await ledger.states_of([company, mine, bucket("per-user", scope="user=other"), rolls])
    assert [(state.budget, state.scope, state.held_nusd, state.limit_nusd) for state in found] == [
        ("company", "", 12, 900),
        ("per-user", "user=u1", 7, None),
        ("rolling", "", 7, None),
    ]
    assert await ledger.states_of([]) in ([], ())


async def test_many_buckets_are_gone_through_page_by_page(ledger: Ledger) -> None:
    """Each of them once."""
    for at in range(0, USERS, 100):
        some = [bucket("per-user", scope=f"user=u{n}", limit=100) for n in range(at, min(at + 100, USERS))]
        await held(ledger, 3, buckets(*some))
    await held(ledger, 1, buckets(bucket()))
    assert await ledger.bucket_count() == USERS + 1
    pages = [page async for page in ledger.bucket_pages()]
    assert len(pages) > 1
    assert Counter(state.budget for page in pages for state in page) == {"per-user": USERS, "company": 1}
    assert len({(state.budget, state.scope) for page in pages for state in page}) == USERS + 1
    assert {state.held_nusd for page in pages for state in page if state.budget == "per-user"} == {3}
