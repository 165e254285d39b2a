"""What rules read of the time, the budgets and the providers: from memory, as it was last heard."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from policies.types import Moment
from router import moments as module
from router.call import Call, Principal
from router.domain.budgets import BucketSet, BucketState, Reservation
from router.domain.controls import Limit
from router.domain.windows import bucket_at, bucket_set
from router.fleet import Fleet
from router.metrics import Metrics
from router.moments import Moments, now_ms
from router.routing import find_route
from router.scopes import dims_of_caller
from router.snapshot import Snapshot
from router.steering import Steering
from tests.settings_help import BASE, load

CONFIG = (
    BASE
    + """\
  far: {at: openai/far, price: {input: 1, output: 1}}
routes:
  auto:
    timezone: Asia/Seoul
    rules:
      - {when: {hour: 9, budget_used: ">1"}, use: home}
      - {when: 'provider("openai").up && provider("openai").error_rate > 0.5 && model("home").up', use: home}
    use: [big, tiny, home, far]
  plain: {use: tiny, rules: [{when: 'model("home").up', use: home}]}
budgets:
  all: $10/day
  mine: {limit: $2/day, each: user}
  tokens: {limit: 1000 tokens/day, each: key}
  one: {limit: $0.01/day, when: {model: big}}
"""
)
SATURDAY = round(datetime(2026, 11, 21, 0, 30, tzinfo=UTC).timestamp() * 1000)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def moment(made: Moments, snapshot: Snapshot, fleet: Fleet | None = None, *, user: str = "ann", route: str = "auto") -> Moment:
    call = Call(request_id="r", operation="chat", headers={}, snapshot=snapshot, began=0.0)
    call.principal, call.user = Principal(key_id="k"), user
    call.route = find_route(snapshot, route, None)
    assert call.route.watch is not None
    return made.at(call, call.route.watch, fleet or Fleet(Clock()))


def state(budget: str, scope: str = "", **more: Any) -> BucketState:
    fields: dict[str, Any] = {"limit_nusd": None, "spent_nusd": 0, "held_nusd": 0, "debt_nusd": 0, "ends_ms": 0, **more}
    return BucketState(budget=budget, scope=scope, window="w", **fields)


def test_the_time_is_that_of_the_route() -> None:
    """Night in Seoul is not night in UTC."""
    snapshot = load(CONFIG).snapshot
    made = moment(Moments(snapshot, lambda: SATURDAY), snapshot)
    assert (made.hour, made.weekday, made.month) == (9, "sat", 11)


def test_the_fullest_budget_and_the_least_that_is_left_count() -> None:
    """What the store said, and since then what holds left. Budgets of one model are passed over: none is chosen yet."""
    snapshot = load(CONFIG).snapshot
    made = Moments(snapshot, lambda: SATURDAY)
    assert (moment(made, snapshot).budget_used, moment(made, snapshot).budget_left_nusd) == (0.0, 2_000_000_000)
    made.read(
        [
            state("all", spent_nusd=4_000_000_000, held_nusd=1_000_000_000, limit_nusd=20_000_000_000),
            state("one", spent_nusd=9),
            state("gone"),
        ]
    )
    assert moment(made, snapshot).budget_used == 0.25
    made.read([state("mine", "user=ann", spent_nusd=1_500_000_000), state("tokens", "key=k", spent_nusd=800, unit="tokens")])
    assert (moment(made, snapshot).budget_used, moment(made, snapshot).budget_left_nusd) == (0.8, 500_000_000)
    assert moment(made, snapshot, user="bob").budget_left_nusd == 2_000_000_000
    made.read([state("mine", "user=ann", spent_nusd=5_000_000_000)])
    assert (moment(made, snapshot).budget_used, moment(made, snapshot).budget_left_nusd) == (2.5, 0)
    made.read([state("all", limit_nusd=0)])
    assert moment(made, snapshot).budget_used == 1.0


def test_what_was_not_read_again_is_known_until_its_window_is_over() -> None:
    """Where instances are many, not all of them are read each time."""
    snapshot = load(CONFIG).snapshot
    clock = [SATURDAY]
    made = Moments(snapshot, lambda: clock[0])
    made.read([state("mine", "user=ann", spent_nusd=1_500_000_000, ends_ms=SATURDAY + 10)])
    made.read([], whole=False)
    assert moment(made, snapshot).budget_used == 0.75
    clock[0] += 10
    made.read([], whole=False)
    assert moment(made, snapshot).budget_used == 0.0


def test_what_a_hold_leaves_is_known_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The store is asked every few seconds only, and a burst is over by then."""
    snapshot = load(CONFIG).snapshot
    assert all(budget.watched for budget in snapshot.budgets)
    call = Call(request_id="r", operation="chat", headers={}, snapshot=snapshot, began=0.0)
    call.principal, call.user, call.route = Principal(key_id="k"), "ann", snapshot.routes["auto"]
    buckets = bucket_set(snapshot.budgets, dims={**dims_of_caller(call), "model": "tiny"}, tags={}, now_ms=SATURDAY)
    assert all(bucket.steers for bucket in buckets.buckets)
    left = tuple((bucket, bucket.limit_nusd // 4 if bucket.budget == "all" else bucket.limit_nusd) for bucket in buckets.buckets)
    made = Moments(snapshot, lambda: SATURDAY)
    made.note(Reservation(attempt_id="a", amount_nusd=1, buckets=buckets, left=left))
    assert moment(made, snapshot).budget_used == 0.75
    monkeypatch.setattr(module, "MOST_REMEMBERED", 1)
    made.read([state("all", spent_nusd=9_000_000_000), state("mine", "user=ann")])
    assert moment(made, snapshot).budget_used == 0.0, "the oldest is forgotten"


def test_what_was_carried_over_is_part_of_the_limit() -> None:
    """A hold says what is left of both; what is known of it in one window says nothing of the next."""
    snapshot = load(CONFIG).snapshot
    budget = replace(snapshot.budgets[0], carry_ppm=1_000_000)
    snapshot = replace(snapshot, budgets=(budget, *snapshot.budgets[1:]))
    made = Moments(snapshot, lambda: SATURDAY)
    bucket = bucket_at(budget, "", SATURDAY)

    def note() -> float | None:
        left = budget.limit_nusd // 2
        made.note(Reservation(attempt_id="a", amount_nusd=1, buckets=BucketSet((bucket,), 0), left=((bucket, left),)))
        return moment(made, snapshot).budget_used

    assert note() == 0.0
    made.read([state(budget.name, spent_nusd=budget.limit_nusd, limit_nusd=2 * budget.limit_nusd, ends_ms=bucket.ends_ms)])
    assert note() == 0.75
    made.read([state(budget.name, spent_nusd=0, limit_nusd=2 * budget.limit_nusd, ends_ms=bucket.ends_ms + 1)])
    assert note() == 0.0


def test_one_instance_with_a_limit_of_its_own_does_not_change_the_others() -> None:
    """What is left of one limit, taken from another, would look like money spent: rules and steps would fire for nothing."""
    snapshot = load(CONFIG.replace("each: user}", "each: user, at: {90%: refuse}}")).snapshot
    budget = next(each for each in snapshot.budgets if each.name == "mine")
    limits = {"mine": Limit(2_000_000_000, {"user=ann": 200_000_000})}
    made, steering = Moments(snapshot, lambda: SATURDAY, lambda: limits), Steering(snapshot, Metrics(), lambda: limits)
    for each in (made, steering):
        each.read([state("mine", "user=ann", spent_nusd=4_000_000, limit_nusd=200_000_000)])
        for scope, left in (("user=ann", 196_000_000), ("user=bob", 1_960_000_000)):
            bucket = bucket_at(budget, scope, SATURDAY)
            each.note(Reservation(attempt_id="a", amount_nusd=1, buckets=BucketSet((bucket,), 0), left=((bucket, left),)))
    assert [moment(made, snapshot, user=user).budget_used for user in ("ann", "bob", "cid")] == [0.02, 0.02, 0.0]
    assert moment(made, snapshot, user="cid").budget_left_nusd == 2_000_000_000
    assert steering.levels == {}


def test_a_provider_is_up_if_any_of_its_deployments_is() -> None:
    """Rules look at vendors; the failures of the last half minute are counted over all that one serves."""
    snapshot = load(CONFIG).snapshot
    clock = Clock()
    fleet, made = Fleet(clock), Moments(snapshot, now_ms)
    before = moment(made, snapshot, fleet)
    assert (before.up, before.error_rate["provider:openai"]) == ({"provider:openai": True, "model:home": True}, None)
    for name in ("openai/large", "openai/small"):
        fleet.failed(name, cause="auth")
    fleet.failed("openai/far", cause="5xx")
    fleet.succeeded("openai/far", first_token_ms=None, total_ms=1.0, output_tokens=1)
    failing = moment(made, snapshot, fleet)
    assert (failing.up["provider:openai"], failing.error_rate["provider:openai"]) == (True, 0.5)
    clock.now = 31.0
    assert moment(made, snapshot, fleet).error_rate["provider:openai"] is None
    for name in ("openai/large", "openai/small", "openai/far"):
        fleet.failed(name, cause="auth")
    after = moment(made, snapshot, fleet)
    assert (after.up["provider:openai"], after.up["model:home"]) == (False, True)


def test_only_what_rules_read_is_looked_at() -> None:
    """The rest costs nothing."""
    snapshot = load(CONFIG).snapshot
    assert moment(Moments(snapshot, lambda: SATURDAY), snapshot, route="plain") == Moment(up={"model:home": True})
    assert snapshot.routes["big"].watch is None
    assert not load(BASE + "budgets: {all: $1/day}\n").snapshot.budgets[0].watched
