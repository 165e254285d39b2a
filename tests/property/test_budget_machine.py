"""Budgets as configurations write them, over time: whatever people, clocks and clients do, every ledger is like the model.

Scopes of every kind, time zones whose clocks are changed, what is carried over, scopes without end, raises that end, freezes,
steps, new limits. What one bucket does with units, shadows and duplicates is in `test_ledger_machine.py`.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Final, TypeVar

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from router.adapters.redis import scripts
from router.controls import Desk
from router.domain.budgets import Bucket, Refusal, Reservation, WindowMoved
from router.domain.records import SpendRecord
from router.domain.windows import bucket_set
from router.fleet import Fleet
from router.live_controls import LiveControls
from router.metrics import Metrics
from router.ports import Ledger
from router.snapshot import Snapshot
from router.steering import Steering
from tests.property import budget_model as model
from tests.property.budget_configs import BUDGETS, CONFIG, ZONES
from tests.property.budget_model import Key, World
from tests.property.examples import EXAMPLES
from tests.property.faked_clocks import ClockedFake, ClockedRedis, ClockedSqlite, read_clock_from_a_list
from tests.running import compiled

T = TypeVar("T")
REPLICAS: Final = ("one", "two")
LEASE_SECONDS: Final = 1e9
"""A lease ends here by a crash only, not by time that passes."""
AMOUNTS: Final = st.integers(min_value=0, max_value=60)
CALLERS: Final = st.fixed_dictionaries(
    {
        "team": st.sampled_from(["a", "b"]),
        "key": st.sampled_from(["k1", "k2"]),
        "user": st.sampled_from(["", "ann", "bob", "cem"]),
        "session": st.sampled_from(["", "s1", "s2", "s3", "s4"]),
        "route": st.sampled_from(["auto", "fast"]),
        "model": st.sampled_from(["m", "n"]),
        "tag:kind": st.sampled_from(["", "agent", "batch"]),
    }
)
MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000
ENDS: Final = st.none() | st.sampled_from([MINUTE_MS, HOUR_MS, DAY_MS])


def dims_of(caller: Mapping[str, str]) -> dict[str, str]:
    """As the pipeline fills them in: who is in a team is in its org, a model has its provider."""
    own = {name: value for name, value in caller.items() if name != "tag:kind"}
    return own | {"org": "org-" + caller["team"], "provider": {"m": "up", "n": "alt"}[caller["model"]]}


class BudgetMachine(RuleBasedStateMachine):
    """Drives a store and the model side by side."""

    make: ClassVar[Callable[[], Coroutine[Any, Any, Any]]]

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.store: Any = self.run(type(self).make())
        self.world = World()
        self.dead: set[str] = set()
        self.reserved: dict[str, Reservation] = {}
        self.made = 0
        self.limits_fell = False

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        self.run(self.store.close())
        self.loop.close()

    @initialize(
        names=st.sets(st.sampled_from(sorted(BUDGETS)), min_size=2, max_size=6),
        zone=st.sampled_from(sorted(ZONES)),
        change=st.integers(min_value=0, max_value=1),
        minutes=st.sampled_from([-90, -60, -30, -1, 0, 1]),
        limit=st.integers(min_value=60, max_value=150),
    )
    def start(self, names: set[str], zone: str, change: int, minutes: int, limit: int) -> None:
        """Some minutes before or after clocks are changed."""
        at = datetime.fromisoformat(ZONES[zone][change]).replace(tzinfo=UTC)
        self.names, self.zone = sorted(names), zone
        self.written = dict.fromkeys(self.names, limit)
        self.set_clock(round(at.timestamp() * 1000) + minutes * MINUTE_MS)
        self.ledgers: dict[str, Ledger] = {name: self.run(self.store.replica(name, lease_seconds=LEASE_SECONDS)) for name in REPLICAS}
        controls = {name: ledger.control_store() for name, ledger in self.ledgers.items()}
        self.desk = Desk(controls["one"], who="ops", via="command")
        self.live = {name: LiveControls(each, Fleet(lambda: 0.0), keys_changed=lambda: None) for name, each in controls.items()}
        self.load()

    def set_clock(self, now_ms: int) -> None:
        self.world.now_ms = now_ms
        self.run(self.store.set_clock(now_ms))

    def load(self) -> None:
        """Both replicas read the configuration."""
        lines = [f"  {name}: {{{BUDGETS[name].replace('ZONE', self.zone)}}}" for name in self.names]
        text = CONFIG + "\n".join(
            line.replace("LIMIT", f"${self.written[name] / 1e9:.9f}", 1) for name, line in zip(self.names, lines, strict=True)
        )
        self.snapshot: Snapshot = compiled(text)
        self.world.budgets = {budget.name: budget for budget in self.snapshot.budgets}
        for live in self.live.values():
            self.run(live.publish(self.snapshot))
        self.steering = Steering(self.snapshot, Metrics(), lambda: self.live["one"].limits)
        self.world.end_changes()

    def poll(self) -> None:
        """As every worker does twice a second."""
        for live in self.live.values():
            self.run(live.poll())
        self.world.end_changes()

    # -- calls -----------------------------------------------------------------------------------------------------

    @rule(replica=st.sampled_from(REPLICAS), caller=CALLERS, amount=AMOUNTS, wrong_by=st.sampled_from([0, 0, 0, 2 * HOUR_MS, -2 * DAY_MS]))
    def call(self, replica: str, caller: dict[str, str], amount: int, wrong_by: int) -> None:
        """One begins, at a replica whose own clock may be wrong."""
        dims, world = dims_of(caller), self.world
        who = dims | {"tag:kind": caller["tag:kind"]}
        freezes = self.live[replica].freezes
        found = freezes and freezes.of(team=who["team"], key_id=who["key"], key_name=who["key"], user=who["user"], model=who["route"])
        assert bool(found) == world.is_frozen(who | {"model": who["route"]})
        if found:
            return
        self.made += 1
        attempt, keys = f"attempt-{self.made}", world.keys(who, world.now_ms)
        tags = {"kind": caller["tag:kind"]} if caller["tag:kind"] else {}
        buckets = bucket_set(self.snapshot.budgets, dims=dims, tags=tags, now_ms=world.now_ms + wrong_by)
        answer = self.run(self.ledgers[replica].reserve(attempt_id=attempt, amount_nusd=amount, buckets=buckets))
        assert isinstance(answer, WindowMoved) == (world.keys(who, world.now_ms + wrong_by) != keys)
        if isinstance(answer, WindowMoved):
            assert answer.now_ms == world.now_ms
            buckets = bucket_set(self.snapshot.budgets, dims=dims, tags=tags, now_ms=answer.now_ms)
            answer = self.run(self.ledgers[replica].reserve(attempt_id=attempt, amount_nusd=amount, buckets=buckets))
        self.are_windows(buckets.buckets, keys)
        places = [world.place(key) for key in keys]
        taken = [place for place in places if place is not None]
        short = world.short(taken, amount)
        if isinstance(answer, Refusal):
            self.is_refused(answer, [key for key, place in zip(keys, places, strict=True) if place is None], short, amount)
            return
        assert isinstance(answer, Reservation)
        assert None not in places
        assert not short
        self.is_held(answer, taken, amount)
        world.reserve(attempt, amount, taken, [bucket.ends_ms for bucket in buckets.buckets], replica)
        self.reserved[attempt] = answer
        self.dead.discard(replica)
        self.steps_are_reached(answer, taken)

    def are_windows(self, buckets: Sequence[Bucket], keys: Sequence[Key]) -> None:
        """Each is one that the calendar shows, from its first millisecond to its last."""
        for bucket, (name, scope, label) in zip(buckets, keys, strict=True):
            budget = self.world.budgets[name]
            assert (bucket.budget, bucket.scope) == (name, scope)
            assert bucket.starts_ms <= self.world.now_ms < bucket.ends_ms
            if label == "all" or budget.rolling_ms:
                continue
            inside = {model.window_of(budget, at) for at in (bucket.starts_ms, self.world.now_ms, bucket.ends_ms - 1)}
            assert inside == {label}
            assert label not in {model.window_of(budget, bucket.starts_ms - 1), model.window_of(budget, bucket.ends_ms)}

    def is_refused(self, answer: Refusal, crowded: list[Key], short: list[Key], amount: int) -> None:
        found = answer.bucket
        if answer.crowded:
            assert (found.budget, found.scope) in [key[:2] for key in crowded]
            return
        key = next(key for key in short if key[:2] == (found.budget, found.scope))
        assert answer.needed_nusd == amount
        assert answer.limit_nusd - answer.spent_nusd - answer.held_nusd == self.world.left(key)
        if answer.retry_after_ms is not None and not found.rolling_ms:
            budget, ends_ms = self.world.budgets[key[0]], self.world.now_ms + answer.retry_after_ms
            assert model.window_of(budget, ends_ms - 1) == key[2] != model.window_of(budget, ends_ms)

    def is_held(self, answer: Reservation, keys: Sequence[Key], amount: int) -> None:
        left = {key[:2]: self.world.left(key) - amount for key in keys}
        assert {(bucket.budget, bucket.scope): rest for bucket, rest in answer.left} == {
            key[:2]: left[key[:2]] for key in keys if self.world.is_special(self.world.budgets[key[0]])
        }
        hard = [left[key[:2]] for key in keys if model.refuses(self.world.budgets[key[0]])]
        assert answer.tightest_left_nusd == min(hard, default=None)
        trial = [key for key in keys if self.world.budgets[key[0]].shadow and left[key[:2]] < 0 < amount]
        assert (answer.shadowed is not None) == bool(trial)

    def steps_are_reached(self, answer: Reservation, keys: Sequence[Key]) -> None:
        """A budget that fills says so from the very hold on that fills it."""
        self.steering.note(answer)
        for key in keys:
            if key[0] == "team-steps":
                limit = self.world.limit(key[0], key[1])
                used = limit - self.world.left(key)
                expected = "refuse" if used * 10 >= limit * 9 else "downgrade" if used * 2 >= limit else None
                assert self.steering.levels.get(key[:2]) == expected

    attempts = st.integers(min_value=0, max_value=1000)

    def pick(self, number: int) -> Reservation | None:
        """One that is still remembered."""
        known = [name for name, hold in sorted(self.world.attempts.items()) if all(key in self.world.buckets for key in hold.keys)]
        return self.reserved[known[number % len(known)]] if known else None

    @precondition(lambda self: self.reserved)
    @rule(number=attempts, replica=st.sampled_from(REPLICAS), by=AMOUNTS)
    def extend(self, number: int, replica: str, by: int) -> None:
        known = self.pick(number)
        if known is None:
            return
        hold = self.world.attempts[known.attempt_id]
        expected = self.world.extend(known.attempt_id, known.amount_nusd + by, replica)
        answer = self.run(self.ledgers[replica].extend(known, by_nusd=by))
        assert isinstance(answer, Reservation) == (expected is not False)
        if isinstance(answer, Reservation) and hold.state == "open":
            self.reserved[known.attempt_id] = answer
        if expected:
            self.dead.discard(replica)

    @precondition(lambda self: self.reserved)
    @rule(number=attempts, replica=st.sampled_from(REPLICAS), charge=AMOUNTS, twice=st.booleans())
    def settle(self, number: int, replica: str, charge: int, twice: bool) -> None:
        known = self.pick(number)
        if known is None:
            return
        record = b'{"attempt_id":"%b","request_id":"r","at_ms":1,"charge_nusd":%d}' % (known.attempt_id.encode(), charge)
        for _ in range(2 if twice else 1):
            expected = self.world.settle(known.attempt_id, charge)
            assert self.run(self.ledgers[replica].settle(known, charge_nusd=charge, record=record)) == expected

    @precondition(lambda self: self.reserved)
    @rule(number=attempts, replica=st.sampled_from(REPLICAS))
    def void(self, number: int, replica: str) -> None:
        known = self.pick(number)
        if known is not None:
            assert self.run(self.ledgers[replica].void(known)) == self.world.void(known.attempt_id)

    # -- what breaks -----------------------------------------------------------------------------------------------

    @rule(replica=st.sampled_from(REPLICAS), burnt=st.integers(min_value=0, max_value=90))
    def heartbeat(self, replica: str, burnt: int) -> None:
        mine = [name for name, hold in self.world.attempts.items() if hold.replica == replica and hold.state == "open"]
        self.world.progress[replica] = dict.fromkeys(mine, burnt)
        self.run(self.ledgers[replica].heartbeat(dict.fromkeys(mine, burnt)))
        self.dead.discard(replica)

    @rule(replica=st.sampled_from(REPLICAS))
    def crash(self, replica: str) -> None:
        self.run(self.store.crash(replica))
        self.dead.add(replica)

    @rule(replica=st.sampled_from(REPLICAS))
    def sweep(self, replica: str) -> None:
        """Until there is nothing left to be swept; then what is old is forgotten."""
        assert self.run(self.ledgers[replica].sweep()) == self.world.sweep(self.dead)
        assert self.run(self.ledgers[replica].sweep()) == 0
        there = self.states().keys()
        old = [key for key in self.world.buckets if self.world.may_be_forgotten(key)]
        assert not [key for key in old if key in there and "session=" not in key[1]]
        for key in old:
            if key not in there:
                del self.world.buckets[key]
        self.world.forget_attempts()

    # -- time ------------------------------------------------------------------------------------------------------

    @rule(by_ms=st.sampled_from([MINUTE_MS, 30 * MINUTE_MS, HOUR_MS, HOUR_MS, 7 * HOUR_MS, DAY_MS, DAY_MS, 9 * DAY_MS, 31 * DAY_MS]))
    def pass_time(self, by_ms: int) -> None:
        self.set_clock(self.world.now_ms + by_ms)
        self.poll()

    @rule(by_ms=st.sampled_from([MINUTE_MS, 30 * MINUTE_MS, HOUR_MS, DAY_MS]))
    def step_back(self, by_ms: int) -> None:
        """Only within a slot of windows that roll: whether a refusal has begun the next one, each store says for itself."""
        slots = [bucket.slot_ms for bucket in self.world.buckets.values() if bucket.budget.rolling_ms]
        room_ms = min((self.world.now_ms % slot_ms for slot_ms in slots), default=by_ms)
        self.set_clock(self.world.now_ms - min(by_ms, room_ms))
        self.poll()

    @rule(
        caller=CALLERS,
        amounts=st.tuples(AMOUNTS, AMOUNTS, AMOUNTS),
        by_ms=st.sampled_from([HOUR_MS, DAY_MS]),
        number=attempts,
        charge=AMOUNTS,
    )
    def call_over_the_end_of_a_window(
        self, caller: dict[str, str], amounts: tuple[int, int, int], by_ms: int, number: int, charge: int
    ) -> None:
        """The next one has begun when what is left of this one changes: what was carried over stays."""
        self.call("one", caller, amounts[0], 0)
        self.pass_time(by_ms)
        self.call("two", caller, amounts[1], 0)
        self.settle(number, "one", charge, False)
        self.call("one", caller, amounts[2], 0)

    # -- people ----------------------------------------------------------------------------------------------------

    @rule(number=attempts, of_one=st.booleans(), amount=st.integers(min_value=1, max_value=80), caller=CALLERS)
    def raise_for_an_hour(self, number: int, of_one: bool, amount: int, caller: dict[str, str]) -> None:
        """What is spent by then stays spent, above the limit that holds again."""
        self.change_limit(number, of_one, "raise", amount, HOUR_MS, caller)
        self.call("one", caller, 60, 0)
        self.pass_time(HOUR_MS)
        self.call("two", caller, 60, 0)

    @rule(
        number=attempts,
        of_one=st.booleans(),
        how=st.sampled_from(["raise", "lower", "set"]),
        amount=st.integers(min_value=1, max_value=80),
        ends=ENDS,
        caller=CALLERS,
    )
    def change_limit(self, number: int, of_one: bool, how: Any, amount: int, ends: int | None, caller: dict[str, str]) -> None:
        """`faregate budget raise`, with and without `--until`, of all or of one scope."""
        budget = self.world.budgets[self.names[number % len(self.names)]]
        who = dims_of(caller) | {"tag:kind": caller["tag:kind"]}
        scope = (of_one and model.scope_of(budget, who)) or ""
        until_ms = None if ends is None else self.world.now_ms + ends
        before = self.world.limit(budget.name, scope)
        told = self.run(self.desk.change_limit(budget.name, how, amount, scope=scope, reason="r", until_ms=until_ms))
        by = {"raise": amount, "lower": -amount, "set": 0}[how]
        self.world.changes.append(model.Change(budget.name, scope, by, amount if how == "set" else None, until_ms))
        assert (told.before, told.after) == (before, self.world.limit(budget.name, scope))
        self.limits_fell = True
        self.poll()

    @precondition(lambda self: self.world.changes)
    @rule(number=attempts)
    def reset_limit(self, number: int) -> None:
        """`faregate budget reset`."""
        target = self.world.changes[number % len(self.world.changes)].target
        self.run(self.desk.reset_limit(target, reason="r"))
        self.world.changes = [change for change in self.world.changes if change.target != target]
        self.poll()

    @rule(number=attempts, limit=st.integers(min_value=1, max_value=150))
    def reload(self, number: int, limit: int) -> None:
        """The configuration is changed while calls are under way."""
        self.written[self.names[number % len(self.names)]] = limit
        self.limits_fell = True
        self.load()

    @rule(whom=st.sampled_from(["all", "team=a", "user=ann", "model=fast", "key=k1"]), ends=ENDS)
    def freeze(self, whom: str, ends: int | None) -> None:
        until_ms = None if ends is None else self.world.now_ms + ends
        self.run(self.desk.freeze(whom, reason="r", until_ms=until_ms))
        self.world.frozen[whom] = until_ms
        self.poll()

    @precondition(lambda self: self.world.frozen)
    @rule(number=attempts)
    def unfreeze(self, number: int) -> None:
        target = sorted(self.world.frozen)[number % len(self.world.frozen)]
        self.run(self.desk.unfreeze(target))
        del self.world.frozen[target]
        self.poll()

    # -- what must hold --------------------------------------------------------------------------------------------

    def states(self) -> dict[Key, Any]:
        return {(s.budget, s.scope, s.window): s for s in self.run(self.ledgers["two"].bucket_states(current_only=False))}

    @invariant()
    def counters_are_the_models(self) -> None:
        states = self.states()
        assert states.keys() == self.world.buckets.keys()
        for key, s in states.items():
            bucket = self.world.buckets[key]
            used = bucket.used_at(self.world.now_ms)
            spent = max(0, used - bucket.held) if bucket.budget.rolling_ms else bucket.spent
            limit = self.world.limit(key[0], key[1])
            assert (s.spent_nusd, s.held_nusd, s.debt_nusd) == (spent, bucket.held, bucket.debt), key
            assert s.limit_nusd == limit + bucket.carried
            assert min(s.spent_nusd, s.held_nusd, s.debt_nusd) >= 0
            if model.refuses(bucket.budget) and not self.limits_fell:
                assert used <= limit + bucket.carried + s.debt_nusd, key

    @invariant()
    def names_that_clients_invent_take_a_bounded_room(self) -> None:
        for budget in self.world.budgets.values():
            if budget.max_scopes < 10:
                windows = {key[2] for key in self.world.buckets if key[0] == budget.name}
                for window in windows:
                    own = [key for key in self.world.buckets if key[0] == budget.name and key[2] == window and "*" not in key[1]]
                    assert len(own) <= budget.max_scopes

    @invariant()
    def what_is_held_is_the_sum_of_open_holds(self) -> None:
        total = sum(hold.held * len(hold.keys) for hold in self.world.attempts.values() if hold.state == "open")
        assert total == sum(s.held_nusd for s in self.states().values())

    @invariant()
    def the_log_adds_up(self) -> None:
        assert self.run(self.ledgers["two"].verify()) == []

    @invariant()
    def every_charge_has_its_record(self) -> None:
        async def lines() -> list[tuple[str, str, int]]:
            found = [msgspec.json.decode(raw, type=SpendRecord) async for raw in self.ledgers["one"].records()]
            return [(r.attempt_id, r.outcome, r.charge_nusd) for r in found]

        assert sorted(self.run(lines())) == sorted(self.world.lines)


def _check(make: Any, *, examples: int, steps: int, phases: Sequence[Phase]) -> None:
    machine = type("Machine", (BudgetMachine,), {"make": staticmethod(make)})
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


# As in `test_ledger_machine.py`: only what fails over SQLite is made small.
UNSHRUNK = (Phase.explicit, Phase.reuse, Phase.generate)


@pytest.fixture
def clock_in_a_list() -> Iterator[pytest.MonkeyPatch]:
    """For a real Redis."""
    with pytest.MonkeyPatch.context() as patch:
        read_clock_from_a_list(patch)
        yield patch
    scripts.script.cache_clear()


def test_budgets_on_sqlite_behave_like_the_model(tmp_path: Path) -> None:
    """One configuration means one thing, whatever the calendar, people and clients do."""

    async def make() -> ClockedSqlite:
        return ClockedSqlite(Path(tempfile.mkdtemp(dir=tmp_path)))

    _check(make, examples=18, steps=30, phases=tuple(Phase))


def test_budgets_on_redis_behave_like_the_model(redis_url: str, clock_in_a_list: pytest.MonkeyPatch) -> None:
    """The same over a real Redis."""

    async def make() -> ClockedRedis:
        store = ClockedRedis(redis_url, clock_in_a_list)
        await store.command("FLUSHALL")
        return store

    _check(make, examples=10, steps=30, phases=UNSHRUNK)


def test_budgets_on_a_faked_redis_behave_like_the_model(fake_redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same over fakeredis."""

    async def make() -> ClockedFake:
        store = ClockedFake(fake_redis_url, monkeypatch)
        await store.command("FLUSHALL")
        return store

    _check(make, examples=4, steps=20, phases=UNSHRUNK)
