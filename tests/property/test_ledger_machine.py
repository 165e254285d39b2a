"""Any interleaving of calls, duplicates, crashes, sweeps, new windows and new limits leaves every ledger like the model.

The invariants that money depends on are checked after every step.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from router.domain.budgets import NEVER_MS, BucketSet, Refusal, Reservation
from router.domain.records import SpendRecord
from router.domain.windows import bucket_id
from router.ports import Ledger
from tests.contract.stores import ROLLING_MS, RedisStore, SqliteStore, bucket, rolling_bucket
from tests.property.examples import EXAMPLES
from tests.property.ledger_model import ROLLING, Key, Model, amounts, unit

T = TypeVar("T")
HARD = {"company", "team", "calls", "tokens", "live", "rolling"}
BUDGETS = ("company", "team", "soft", "trial", "calls", "tokens", "live", "rolling")
LIMITS = {"company": 100, "team": 60, "soft": 10, "trial": 30, "calls": 6, "tokens": 300, "live": 3, "rolling": 80}
REPLICAS = ("one", "two")
AMOUNTS = st.integers(min_value=0, max_value=60)
"""Small against the limits, so that refusals and overruns are common."""


class LedgerMachine(RuleBasedStateMachine):
    """Drives a store and the model side by side."""

    make: ClassVar[Any]

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.store: SqliteStore | RedisStore = self.run(type(self).make())
        self.ledgers: dict[str, Ledger] = {name: self.run(self.store.replica(name)) for name in REPLICAS}
        self.model = Model(limits=dict(LIMITS))
        self.dead: set[str] = set()
        self.window = 0
        self.reserved: dict[str, Reservation] = {}
        self.made = 0
        self.limits_fell = False

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        self.run(self.store.close())
        self.loop.close()

    @initialize()
    def publish(self) -> None:
        self.run(self.ledgers["one"].publish_limits(self.model.limits, version="v"))

    def keys(self, which: set[str]) -> tuple[Key, ...]:
        windows = {"company": "all", "live": "all", "rolling": rolling_bucket().window}
        return tuple((name, windows.get(name, str(self.window))) for name in BUDGETS if name in which)

    def buckets(self, keys: tuple[Key, ...]) -> BucketSet:
        made = tuple(
            bucket(
                budget,
                limit=7,
                window=window,
                hard=budget != "soft",
                shadow=budget == "trial",
                unit=unit((budget, window)),
                rolling_ms=ROLLING_MS if budget == "rolling" else 0,
            )
            for budget, window in keys
        )
        return BucketSet(buckets=made, valid_until_ms=NEVER_MS)

    attempts = st.integers(min_value=0, max_value=1000)

    def pick(self, number: int) -> Reservation:
        return self.reserved[sorted(self.reserved)[number % len(self.reserved)]]

    @rule(replica=st.sampled_from(REPLICAS), amount=AMOUNTS, tokens=AMOUNTS, which=st.sets(st.sampled_from(BUDGETS)))
    def reserve(self, replica: str, amount: int, tokens: int, which: set[str]) -> None:
        self.made += 1
        attempt, keys = f"attempt-{self.made}", self.keys(which)
        add = amounts(amount, tokens, 1, 1)
        trial = [key for key in keys if key[0] == "trial" and amount > self.model.left(key)]
        expected = self.model.reserve(attempt, add, keys, replica, HARD)
        where = self.buckets(keys)
        answer = self.run(self.ledgers[replica].reserve(attempt_id=attempt, amount_nusd=amount, buckets=where, tokens=tokens))
        if expected is None:
            assert isinstance(answer, Refusal)
            full = next(key for key in keys if key[0] == answer.bucket.budget)
            assert answer.bucket.budget in HARD
            assert self.model.left(full) < answer.needed_nusd == add[unit(full)]
            assert answer.limit_nusd - answer.spent_nusd - answer.held_nusd == self.model.left(full)
        else:
            assert isinstance(answer, Reservation)
            assert answer.amount_nusd == expected
            assert (answer.shadowed is not None) == bool(trial and amount)
            assert all(left == self.model.left(next(key for key in keys if key[0] == b.budget)) for b, left in answer.left)
            self.reserved[attempt] = answer
            self.dead.discard(replica)

    @precondition(lambda self: self.reserved)
    @rule(number=attempts, replica=st.sampled_from(REPLICAS), amount=AMOUNTS)
    def reserve_again(self, number: int, replica: str, amount: int) -> None:
        known = self.pick(number)
        answer = self.run(self.ledgers[replica].reserve(attempt_id=known.attempt_id, amount_nusd=amount, buckets=known.buckets))
        assert isinstance(answer, Reservation)
        assert answer.amount_nusd == self.model.attempts[known.attempt_id].held["usd"]

    @precondition(lambda self: self.reserved)
    @rule(number=attempts, replica=st.sampled_from(REPLICAS), by=AMOUNTS, twice=st.booleans())
    def extend(self, number: int, replica: str, by: int, twice: bool) -> None:
        known = self.pick(number)
        hold = self.model.attempts[known.attempt_id]
        grows = hold.state in ("open", "swept") and known.amount_nusd + by > hold.held["usd"] + hold.charged["usd"]
        expected = self.model.extend(known.attempt_id, known.amount_nusd + by, replica, HARD)
        for _ in range(2 if twice and expected else 1):
            answer = self.run(self.ledgers[replica].extend(known, by_nusd=by))
            assert isinstance(answer, Reservation) == expected
            if isinstance(answer, Reservation) and hold.state == "open":
                self.reserved[known.attempt_id] = answer
        if expected and grows:
            self.dead.discard(replica)

    @precondition(lambda self: self.reserved)
    @rule(number=attempts, replica=st.sampled_from(REPLICAS), charge=AMOUNTS, tokens=st.none() | AMOUNTS, twice=st.booleans())
    def settle(self, number: int, replica: str, charge: int, tokens: int | None, twice: bool) -> None:
        known = self.pick(number)
        record = b'{"attempt_id":"%b","request_id":"r","at_ms":1,"charge_nusd":%d}' % (known.attempt_id.encode(), charge)
        for _ in range(2 if twice else 1):
            expected = self.model.settle(known.attempt_id, charge, tokens)
            assert self.run(self.ledgers[replica].settle(known, charge_nusd=charge, record=record, tokens=tokens)) == expected

    @precondition(lambda self: self.reserved)
    @rule(number=attempts, replica=st.sampled_from(REPLICAS), twice=st.booleans())
    def void(self, number: int, replica: str, twice: bool) -> None:
        known = self.pick(number)
        for _ in range(2 if twice else 1):
            expected = self.model.void(known.attempt_id)
            assert self.run(self.ledgers[replica].void(known)) == expected

    @rule(replica=st.sampled_from(REPLICAS), burnt=st.integers(min_value=0, max_value=90))
    def heartbeat(self, replica: str, burnt: int) -> None:
        mine = [name for name, hold in self.model.attempts.items() if hold.replica == replica and hold.state == "open"]
        self.model.progress[replica] = dict.fromkeys(mine, burnt)
        self.run(self.ledgers[replica].heartbeat(dict.fromkeys(mine, burnt)))
        self.dead.discard(replica)

    @rule(replica=st.sampled_from(REPLICAS))
    def crash(self, replica: str) -> None:
        self.run(self.store.crash(replica))
        self.dead.add(replica)

    @rule(replica=st.sampled_from(REPLICAS))
    def sweep(self, replica: str) -> None:
        expected = self.model.sweep(self.dead)
        assert self.run(self.ledgers[replica].sweep()) == expected

    @precondition(lambda self: self.reserved)
    @rule(number=attempts, burnt=st.integers(min_value=1, max_value=90), by=AMOUNTS)
    def sweep_and_extend(self, number: int, burnt: int, by: int) -> None:
        """The rarest life of a hold: its replica stalls, is swept, and goes on with its stream."""
        known = self.pick(number)
        replica = self.model.attempts[known.attempt_id].replica
        self.heartbeat(replica, burnt)
        self.crash(replica)
        self.sweep(replica)
        self.extend(number, replica, by, False)

    @precondition(lambda self: self.reserved)
    @rule(number=attempts, slots=st.sampled_from([1, 30]), by=AMOUNTS, charge=AMOUNTS)
    def extend_later(self, number: int, slots: int, by: int, charge: int) -> None:
        """A stream whose hold has pieces at several times of a rolling window."""
        replica = self.model.attempts[self.pick(number).attempt_id].replica
        self.pass_time(slots)
        self.extend(number, replica, by, False)
        self.settle(number, replica, charge, None, False)

    @rule()
    def next_window(self) -> None:
        self.window += 1

    @rule(slots=st.sampled_from([1, 20, 40, 59, 60]))
    def pass_time(self, slots: int) -> None:
        self.model.slot += slots
        self.run(self.store.pass_time(bucket_id(rolling_bucket()), slots))

    @rule(budget=st.sampled_from(BUDGETS), limit=st.integers(min_value=0, max_value=200))
    def change_limit(self, budget: str, limit: int) -> None:
        self.limits_fell |= limit < self.model.limits[budget]
        self.model.limits[budget] = limit
        self.run(self.ledgers["two"].publish_limits(self.model.limits, version="w"))

    @invariant()
    def counters_are_the_models(self) -> None:
        states = {(s.budget, s.window): s for s in self.run(self.ledgers["one"].bucket_states(current_only=False))}
        for key, s in states.items():
            spent = max(0, self.model.used(key) - self.model.held[key]) if s.budget == ROLLING else self.model.spent[key]
            assert (s.spent_nusd, s.held_nusd, s.debt_nusd) == (spent, self.model.held[key], self.model.debt[key]), key
            assert min(s.spent_nusd, s.held_nusd, s.debt_nusd) >= 0
            if s.budget in HARD and not self.limits_fell:
                assert self.model.used(key) <= self.model.limits[s.budget] + s.debt_nusd
        for key in self.model.held | self.model.spent:
            assert key in states or not (self.model.held[key] or self.model.spent[key])

    @invariant()
    def what_is_held_is_the_sum_of_open_holds(self) -> None:
        total = sum(hold.amount(key) for hold in self.model.attempts.values() if hold.state == "open" for key in hold.keys)
        assert total == sum(s.held_nusd for s in self.run(self.ledgers["two"].bucket_states(current_only=False)))

    @invariant()
    def the_log_adds_up(self) -> None:
        assert self.run(self.ledgers["two"].verify()) == []

    @invariant()
    def every_charge_has_its_record(self) -> None:
        async def lines() -> list[tuple[str, str, int]]:
            found = [msgspec.json.decode(raw, type=SpendRecord) async for raw in self.ledgers["one"].records()]
            return [(r.attempt_id, r.outcome, r.charge_nusd) for r in found]

        assert sorted(self.run(lines())) == sorted(self.model.lines)


async def _sqlite() -> SqliteStore:
    return SqliteStore(Path(tempfile.mkdtemp(dir=_folder)))


_folder = ""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> Iterator[None]:
    """Where the many ledgers of a run are kept."""
    global _folder
    _folder = str(tmp_path)
    yield
    _folder = ""


# Making a failure small takes minutes over a socket; a failure over SQLite, the fastest, is made small.
UNSHRUNK = (Phase.explicit, Phase.reuse, Phase.generate)


def _check(make: Any, *, examples: int, steps: int, phases: Sequence[Phase] = UNSHRUNK) -> None:
    machine = type("Machine", (LedgerMachine,), {"make": staticmethod(make)})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples * EXAMPLES,
            phases=phases,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            derandomize=EXAMPLES == 1,
        ),
    )


def test_sqlite_behaves_like_the_model() -> None:
    """Both stores are one ledger: the same calls leave the same books."""
    _check(_sqlite, examples=40, steps=30, phases=tuple(Phase))


def test_redis_behaves_like_the_model(redis_url: str) -> None:
    """The same over a real Redis."""

    async def make() -> RedisStore:
        store = RedisStore(redis_url)
        await store.command("FLUSHALL")
        return store

    _check(make, examples=40, steps=30)


def test_a_faked_redis_behaves_like_the_model(fake_redis_url: str) -> None:
    """The same over fakeredis, on which users test their own code."""

    async def make() -> RedisStore:
        store = RedisStore(fake_redis_url)
        await store.command("FLUSHALL")
        return store

    _check(make, examples=10, steps=20)
