"""What a process reads of the budgets: all while they are few; else those that are not split, its own, and in time all."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from router import budget_watch
from router.budget_watch import COUNT_SECONDS, MANY, BudgetWatch, Sums
from router.domain.budgets import NEVER_MS, Bucket, BucketState
from router.domain.windows import bucket_at
from router.metrics_families import FAMILIES
from router.metrics_gauges import set_budgets
from router.metrics_store import Scrape
from router.snapshot import Snapshot
from tests.running import compiled

CONFIG = """
version: 1
providers: {up: {kind: openai, base_url: "http://127.0.0.1:1/v1", api_key: $PROVIDER_KEY}}
models: {m: {at: up/m, price: {input: 10, output: 10}}}
budgets:
  company: {limit: $100}
  per-user: {limit: $10, each: user, at: [80%]}
"""
USD = 1_000_000_000


def state(budget: str, scope: str = "", spent: int = 0, window: str = "all") -> BucketState:
    return BucketState(
        budget=budget, scope=scope, window=window, limit_nusd=None, spent_nusd=spent, held_nusd=0, debt_nusd=0, ends_ms=NEVER_MS
    )


class Store:
    """The part of a ledger's books that is read."""

    def __init__(self) -> None:
        self.states = [state("company", spent=40 * USD), state("gone", spent=1)]
        self.more = 0
        """Buckets that are counted and not shown."""
        self.asked: list[str] = []

    async def bucket_count(self) -> int:
        self.asked.append("count")
        return len(self.states) + self.more

    async def bucket_states(self) -> Sequence[BucketState]:
        self.asked.append("all")
        return self.states

    async def states_of(self, buckets: Sequence[Bucket]) -> Sequence[BucketState]:
        self.asked.append("named")
        wanted = {(bucket.budget, bucket.scope) for bucket in buckets}
        return [state for state in self.states if (state.budget, state.scope) in wanted]

    async def bucket_pages(self) -> AsyncIterator[Sequence[BucketState]]:
        self.asked.append("pages")
        for at in range(0, len(self.states), 2):
            yield self.states[at : at + 2]


class World:
    """A watch, and what it looks at."""

    def __init__(self) -> None:
        self.store = Store()
        self.now = 100.0
        self.own: list[Bucket] = []
        self.first = True
        self.snapshot: Snapshot = compiled(CONFIG)
        books: Any = self.store
        self.watch = BudgetWatch(
            books,
            snapshot=lambda: self.snapshot,
            own=lambda: self.own,
            goes_through=lambda: self.first,
            clock=lambda: self.now,
            clock_ms=lambda: 1_000,
        )

    def touched(self, user: str) -> None:
        """This process served a call of a user."""
        (budget,) = [budget for budget in self.snapshot.budgets if budget.each]
        self.own.insert(0, bucket_at(budget, f"user={user}", 1_000))

    def gauges(self) -> dict[str, dict[tuple[str, ...], float]]:
        scrape = Scrape(FAMILIES)
        set_budgets(scrape, self.snapshot.budgets, self.watch.states, many=self.watch.many)
        return {name.removeprefix("faregate_budget_"): dict(values) for name, values in scrape.values.items()}


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pause between pages."""
    monkeypatch.setattr(budget_watch, "PAUSE_SECONDS", 0)


async def test_few_buckets_are_read_as_they_are() -> None:
    """All of them, each time; there is nothing to go through."""
    world = World()
    await world.watch.read()
    await world.watch.go_through()
    assert world.watch.whole
    assert world.watch.states == tuple(world.store.states)
    assert world.store.asked == ["count", "all"]


async def test_of_many_buckets_only_those_that_matter_are_read_each_time() -> None:
    """A hundred thousand users cost no more than those that this process serves."""
    world = World()
    world.store.more = MANY
    world.store.states += [state("per-user", f"user=u{n}", spent=n * USD) for n in range(12)]
    world.touched("u3")
    await world.watch.read()
    assert {(s.budget, s.scope) for s in world.watch.states} == {("company", ""), ("per-user", "user=u3")}
    assert world.store.asked == ["count", "named"]
    await world.watch.read()
    assert world.store.asked == ["count", "named", "named"], "and they are not counted each time"
    assert ("per-user",) not in world.gauges()["spent_usd"], "part of the users is not all of them"
    await world.watch.go_through()
    assert world.watch.sums["per-user"] == Sums(66 * USD, 0, 11, 2, 1.1, None)
    assert world.gauges()["spent_usd"] == {("company",): 40.0, ("per-user",): 66.0}
    assert world.gauges()["exhausted_instances"] == {("company",): 0.0, ("per-user",): 2.0}
    await world.watch.read()
    kept = {s.scope for s in world.watch.states if s.budget == "per-user"}
    assert kept == {"user=u3", "user=u8", "user=u9", "user=u10", "user=u11"}, "those that people are told of"


async def test_what_was_nearly_full_is_looked_at_once_more() -> None:
    """That its limit was raised must be seen, or its next crossing is no news."""
    world = World()
    world.store.more = MANY
    world.store.states = [state("per-user", "user=a", spent=9 * USD)]
    await world.watch.read()
    await world.watch.go_through()
    world.store.states = [replace(world.store.states[0], limit_nusd=100 * USD)]
    await world.watch.go_through()
    await world.watch.read()
    assert [s.limit_nusd for s in world.watch.states] == [100 * USD]
    await world.watch.go_through()
    await world.watch.read()
    assert world.watch.states == ()


async def test_only_one_process_goes_through_all() -> None:
    """Its gauges are those of all workers."""
    world = World()
    world.store.more = MANY
    world.first = False
    await world.watch.read()
    await world.watch.go_through()
    assert "pages" not in world.store.asked


async def test_few_again_are_read_as_a_whole_again() -> None:
    """When a window has ended."""
    world = World()
    world.store.more = MANY
    await world.watch.read()
    assert not world.watch.whole
    world.store.more = 0
    world.now += COUNT_SECONDS
    await world.watch.read()
    assert world.watch.whole
    assert world.watch.states == tuple(world.store.states)
