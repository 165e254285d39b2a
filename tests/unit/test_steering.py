"""Steps of budgets, where not all of their instances are read each time."""

from __future__ import annotations

from router.domain.budgets import BucketState
from router.metrics import Metrics
from router.steering import Steering
from tests.running import compiled

CONFIG = """
version: 1
providers: {up: {kind: openai, base_url: "http://127.0.0.1:1/v1", api_key: $PROVIDER_KEY}}
models: {m: {at: up/m, price: {input: 10, output: 10}}}
budgets: {per-user: {limit: $10, each: user, at: {80%: refuse}}}
"""
ANN, BOB = ("per-user", "user=ann"), ("per-user", "user=bob")
USD = 1_000_000_000


def state(user: str, spent: int, ends_ms: int = 500) -> BucketState:
    return BucketState(
        budget="per-user",
        scope=f"user={user}",
        window="w",
        limit_nusd=10 * USD,
        spent_nusd=spent,
        held_nusd=0,
        debt_nusd=0,
        ends_ms=ends_ms,
    )


def test_a_step_stays_until_something_is_read_of_it_or_its_window_is_over() -> None:
    """An instance that was not read is not an empty one."""
    steering = Steering(compiled(CONFIG), Metrics())
    steering.read([state("ann", 9 * USD), state("bob", 9 * USD)])
    assert steering.levels == {ANN: "refuse", BOB: "refuse"}
    assert [(bucket.budget, bucket.scope) for bucket in steering.steered(100)] == [ANN, BOB]
    steering.read([state("bob", 1 * USD)], whole=False, now_ms=100)
    assert steering.levels == {ANN: "refuse"}
    steering.read([state("ann", 9 * USD, ends_ms=900)], whole=False, now_ms=100)
    steering.read([], whole=False, now_ms=500)
    assert steering.levels == {ANN: "refuse"}, "it is in the next window by now"
    steering.read([], whole=False, now_ms=900)
    assert steering.levels == {}
