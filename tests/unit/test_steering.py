"""Steps of budgets, where not all of their instances are read each time."""

from __future__ import annotations

from dataclasses import replace

from router.domain.budgets import Bucket, BucketSet, BucketState, Reservation
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


def test_what_was_carried_over_counts_as_limit() -> None:
    """A hold says what is left of both; half of both is used up later than half of the limit alone."""
    text = CONFIG.replace("{limit: $10, each: user, at: {80%: refuse}}", "{limit: $10/day, carry_over: true, at: {50%: refuse}}")
    steering = Steering(compiled(text), Metrics())
    bucket = Bucket(budget="per-user", scope="", window="w", limit_nusd=10 * USD, hard=True, starts_ms=0, ends_ms=500)

    def held(left: int) -> Reservation:
        return Reservation(attempt_id="a", amount_nusd=1, buckets=BucketSet((bucket,), 0), left=((bucket, left),))

    # Nothing is known of what was carried: neither that a step is reached, nor that it is not.
    steering.note(held(2 * USD))
    assert steering.levels == {}
    whole = replace(state("", 8 * USD), scope="", limit_nusd=20 * USD)
    steering.read([whole])
    steering.note(held(11 * USD))
    assert steering.levels == {}
    steering.note(held(10 * USD))
    assert steering.levels == {("per-user", ""): "refuse"}
    steering.note(held(11 * USD))
    assert steering.levels == {}
    steering.read([replace(whole, ends_ms=900)])
    steering.note(held(1 * USD))
    assert steering.levels == {}, "of the window before"
