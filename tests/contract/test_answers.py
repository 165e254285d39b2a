"""Answers whose ratings teach something, in every store: each rating counts once, and says what it replaces."""

from __future__ import annotations

import asyncio

import pytest

from router.domain.feedback import Answered, Feedback, Lesson, Taken
from router.ports import Ledger
from tests.contract.stores import Store

LESSONS = (Lesson(("auto", "default", "new", "to large"), "canary", run=2), Lesson(("auto", "r", "b", "0.01"), "up/m", cost=0.1))


def said(request_id: str, rating: float, at_ms: int = 1, key_id: str = "k") -> Feedback:
    return Feedback(request_id=request_id, key_id=key_id, at_ms=at_ms, rating=rating)


async def test_a_rating_counts_once_and_says_what_it_replaces(ledger: Ledger) -> None:
    """The last word of the key that asked, in the order in which words were said."""
    store = ledger.feedback_store()
    assert await store.count([said("fg-1", 0.1)]) == [None]
    await store.expect([Answered("fg-1", "k", LESSONS), Answered("fg-2", "k", LESSONS[:1])])
    counted = await store.count([said("fg-1", 0.1, 5), said("fg-1", 0.1, 6), said("fg-2", 0.0), said("fg-3", 1.0)])
    assert counted == [Taken(LESSONS), Taken(), Taken(LESSONS[:1]), None]
    counted = await store.count([said("fg-1", 0.3, 4), said("fg-1", 0.3, 9, "other"), said("fg-1", 1.0, 7)])
    assert counted == [Taken(), Taken(), Taken(LESSONS, 0.1)]
    # Told again after a lost answer: what was said stays.
    await store.expect([Answered("fg-1", "k", LESSONS)])
    assert await store.count([said("fg-1", 0.0, 8)]) == [Taken(LESSONS, 1.0)]


async def test_of_many_who_hear_one_rating_one_learns(store: Store) -> None:
    """A client that is not sure sends it again, to whichever worker."""
    stores = [(await store.replica(f"r{i}")).feedback_store() for i in range(4)]
    await stores[0].expect([Answered("fg-1", "k", LESSONS)])
    counted = await asyncio.gather(*(each.count([said("fg-1", 0.5, 3)]) for each in stores))
    assert sorted(len(one.lessons) for (one,) in counted if one is not None) == [0, 0, 0, 2]


async def test_the_oldest_answers_give_way(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store must not grow with traffic for ever."""
    for kind in ("redis", "sqlite"):
        monkeypatch.setattr(f"router.adapters.{kind}.feedback.MOST_ANSWERS", 80)
    monkeypatch.setattr("router.adapters.redis.feedback.PAGE", 7)
    store = ledger.feedback_store()
    await store.expect([Answered(f"fg-{i}", "k", LESSONS) for i in range(200)])
    counted = await store.count([said(f"fg-{i}", 0.5) for i in range(200)])
    kept = [index for index, one in enumerate(counted) if one is not None]
    assert kept == list(range(kept[0], 200))
    assert 70 <= len(kept) <= 80
