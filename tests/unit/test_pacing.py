"""The lead near the end of a window: for budgets whose usual hours cannot spend what the pace does, and for no others."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from benchmarks.policy_quality.pacing import SHAPES, month
from policies.types import RequestFacts
from router.call import Call, Principal
from router.domain.budgets import BucketState
from router.domain.pacing import CAUTION, LAST_SHARE, LEAST_PARTS, PARTS, Parts
from router.domain.windows import bucket_set
from router.fleet import Fleet
from router.memory import Memory
from router.routing import find_route
from tests.running import compiled


def spend(parts: Parts, shares: list[float], *, first: int = 1) -> None:
    """So many parts of the window, each with what it spent beside the pace."""
    spent = 0.0
    for index, share in enumerate(shares):
        spent += share / PARTS
        parts.lead(spent, (first + index) / PARTS)


def test_a_budget_that_is_spent_evenly_has_no_lead() -> None:
    """Nor one of which too little is known, or that is never behind."""
    even, young, fast = (Parts("2026-11", 0.0, 0.0) for _ in range(3))
    spend(even, [1.0] * 200)
    spend(young, [0.0] * (LEAST_PARTS - 1))
    spend(fast, [3.0] * 100)
    assert [parts.lead(0.9, 0.9) for parts in (even, young)] == [0.0, 0.0]
    assert fast.lead(1.0, 100.5 / PARTS) == 0.0


def test_the_lead_grows_and_is_gone_at_the_end() -> None:
    """Nine of ten parts spend half of what the pace does, and the tenth makes up for them."""
    parts = Parts("2026-11", 0.0, 0.0)
    spend(parts, ([0.5] * 9 + [5.5]) * 20)
    assert parts.lead(200 / PARTS, 0.785) == parts.lead(200 / PARTS, 1 - 2 * LAST_SHARE - 0.01) == 0.0
    growing = [parts.lead(200 / PARTS, 201 / PARTS + step / 10_000) for step in range(5)]
    assert growing == sorted(growing)
    later = Parts("2026-11", 0.0, 0.0)
    spend(later, ([0.5] * 9 + [5.5]) * 25)
    highest = later.lead(250 / PARTS, 251.0 / PARTS)
    assert highest == pytest.approx(CAUTION * 0.5 * (1 - 251 / PARTS))
    assert later.lead(1.0, 1.0) == 0.0


def test_parts_without_a_call_count_as_often_as_there_were_any() -> None:
    """A worker that hears of nothing for a day has seen a day of nothing."""
    parts = Parts("2026-11", 0.0, 0.0)
    parts.lead(0.01, 1 / PARTS)
    parts.lead(0.01, (1 + LEAST_PARTS) / PARTS)
    assert parts.lead(0.01, 1 - LAST_SHARE) == pytest.approx(CAUTION * LAST_SHARE)


def test_months_of_bursts_end_near_their_budgets() -> None:
    """By the seeds that it was tried on; the documentation has those of others."""
    ends = [abs(month(SHAPES["bursts"], seed)[0]) for seed in range(8)]
    assert max(ends) < 0.011


CONFIG = """
version: 1
providers: {up: {kind: openai, base_url: "http://127.0.0.1:9/v1", api_key: none}}
models:
  small: {at: up/small, price: {input: 1, output: 1}, size: small}
routes: {auto: {use: small, by: {kind: pace, budget: month}}}
budgets: {month: {limit: $100, window: month, each: user}}
"""


def test_a_process_looks_at_the_parts_of_each_instance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user's month is another one; so is the next month; and few are remembered."""
    snapshot = compiled(CONFIG)
    begins, ends = (int(datetime(2026, month, 1, tzinfo=UTC).timestamp() * 1000) for month in (11, 12))
    now = [begins / 1000]
    memory, fleet = Memory(lambda: now[0]), Fleet(lambda: 0.0)
    budget = snapshot.budgets[0]

    def read(user: str, spent: float, part: float, *, months: int = 0) -> dict[str, float]:
        now[0] = (begins + (ends - begins) * part / PARTS) / 1000 + months * 30 * 86_400
        call = Call(request_id="r", operation="chat", headers={}, snapshot=snapshot, began=0.0)
        call.principal, call.user = Principal(key_id="k"), user
        call.route = find_route(snapshot, "auto", None)
        call.branch, call.facts = call.route.policy.default, RequestFacts(operation="chat", route="auto")
        used = int(spent * budget.limit_nusd)
        (bucket,) = bucket_set((budget,), dims={"user": user}, tags={}, now_ms=int(now[0] * 1000)).buckets
        state = BucketState(
            budget="month", scope=bucket.scope, window=bucket.window, unit="usd", limit_nusd=None, spent_nusd=used,
            held_nusd=0, debt_nusd=0, ends_ms=bucket.ends_ms,
        )  # fmt: skip
        memory.read_budgets([state], snapshot.budgets)
        return dict(memory.facts(call, call.branch, [fleet.view("up/small")]).live)

    for part in range(PARTS * 9 // 10):
        assert read("ann", 0.0, part + 0.5)["passed/month"] == pytest.approx((part + 0.5) / PARTS)
    late = read("ann", 0.0, PARTS * 0.95)
    assert late["lead/month"] == pytest.approx(CAUTION * 0.05)
    assert "lead/month" not in read("bob", 0.0, PARTS * 0.95)
    assert "lead/month" not in read("ann", 0.0, PARTS * 0.95, months=1)
    monkeypatch.setattr("router.memory.MOST_PACED", 1)
    read("eve", 0.0, 1.0)
    assert len(memory._paced) == 2
