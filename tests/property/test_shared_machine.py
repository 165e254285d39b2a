"""One limit over several ledgers: whoever calls, dies, comes late or is configured anew, together they never spend more than it."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, ClassVar, Final, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from router.adapters.redis.ledger import RedisLedger
from router.adapters.sqlite.ledger import SqliteLedger
from router.domain.budgets import Reservation
from router.domain.windows import bucket_at
from router.ports import Ledger
from router.shares import Shares
from tests.contract.stores import buckets
from tests.contract.test_shares import WHOLE, Dies, World, configured
from tests.property.examples import EXAMPLES

T = TypeVar("T")
LEDGERS: Final = ("a", "b", "c")
NAMES: Final = st.sampled_from(LEDGERS)
AMOUNTS: Final = st.integers(min_value=1, max_value=WHOLE // 6)


class SharedMachine(RuleBasedStateMachine):
    """Three ledgers, and for each the process that looks after its share. The model: what each has spent and holds."""

    opened: ClassVar[Callable[[Path], Callable[[str], Ledger]]]
    folder: ClassVar[Path]

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.stack = AsyncExitStack()
        self.world = World(self.stack, type(self).opened(Path(tempfile.mkdtemp(dir=self.folder))))
        self.used = dict.fromkeys(LEDGERS, 0)
        self.held: dict[str, tuple[str, Reservation]] = {}
        self.whole = self.most = WHOLE
        self.made = 0
        for name in LEDGERS:
            self.run(self.world.ledger(name))
        self.keepers: dict[str, Shares] = {name: self.world.keeper(name) for name in LEDGERS}

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        try:
            # Whatever happened: a limit that was lowered holds again when all have looked, as far as nothing is used above it.
            for _ in range(4):
                for name in LEDGERS:
                    self.look(name, 0)
            assert sum(self.run(self.world.limits()).values()) <= max(self.whole, sum(self.used.values()))
        finally:
            self.run(self.stack.aclose())
            self.loop.close()

    @rule(name=NAMES, amount=AMOUNTS, of_left=st.sampled_from([0, 1, 2]))
    def call(self, name: str, amount: int, of_left: int) -> None:
        """One that ledger has room for by its share, or has not; of some amount, or of just what is left, or one more."""
        share = self.run(self.world.limits())[name]
        if of_left:
            amount = max(1, share - self.used[name] + of_left - 1)
        self.made += 1
        (budget,) = configured(name).budgets
        where = buckets(bucket_at(budget, "", 0))
        answer = self.run(self.world.ledgers[name].reserve(attempt_id=f"{self.made}", amount_nusd=amount, buckets=where))
        assert isinstance(answer, Reservation) == (self.used[name] + amount <= share)
        if isinstance(answer, Reservation):
            self.used[name] += amount
            self.held[answer.attempt_id] = name, answer

    @precondition(lambda self: self.held)
    @rule(number=st.integers(min_value=0, max_value=1000), percent=st.integers(min_value=0, max_value=100))
    def end(self, number: int, percent: int) -> None:
        """A call is charged, or gives all back."""
        attempt = sorted(self.held)[number % len(self.held)]
        name, held = self.held.pop(attempt)
        charge = held.amount_nusd * percent // 100
        self.used[name] += charge - held.amount_nusd
        ledger = self.world.ledgers[name]
        record = b'{"attempt_id": "%s"}' % attempt.encode()
        done = ledger.settle(held, charge_nusd=charge, record=record) if percent else ledger.void(held)
        assert self.run(done)

    @rule(name=NAMES, dies_at=st.sampled_from([0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 8, 10]))
    def look(self, name: str, dies_at: int) -> None:
        """A process fits the share of its ledger; it may be killed before or after any of its steps, and is started anew."""
        self.world.steps, self.world.dies_at = 0, dies_at or -1
        try:
            self.run(self.keepers[name].look())
        except Dies:
            self.keepers[name] = self.world.keeper(name, whole=self.whole)
        self.world.dies_at = -1

    @rule(name=NAMES)
    def use_up(self, name: str) -> None:
        """One ledger spends whatever it can get."""
        for _ in range(8):
            self.call(name, 1, 1)
            self.look(name, 0)

    @rule(name=NAMES)
    def look_while_the_register_is_away(self, name: str) -> None:
        """The process has just started: it finds nobody."""
        self.world.away = True
        self.run(self.world.keeper(name, whole=self.whole).look())
        self.world.away = False

    @rule(percent=st.sampled_from([30, 60, 100, 130]))
    def reload(self, percent: int) -> None:
        """All are configured with another limit. What was given out by the one before may still be used."""
        self.whole = WHOLE * percent // 100
        self.most = max(self.most, self.whole)
        self.keepers = {name: self.world.keeper(name, whole=self.whole) for name in LEDGERS}

    @invariant()
    def shares_are_never_above_the_limit(self) -> None:
        told, limits = self.run(self.world.told()), self.run(self.world.limits())
        assert sum(share.limit for share in told.values()) <= self.most
        assert all(limit <= (told[name].limit if name in told else 0) for name, limit in limits.items())
        assert sum(self.used.values()) <= self.most

    @invariant()
    def ledgers_count_what_they_spend(self) -> None:
        for name, ledger in self.world.ledgers.items():
            states = self.run(ledger.bucket_states(budget="all"))
            assert sum(state.spent_nusd + state.held_nusd for state in states) == self.used[name]


def _check(folder: Path, opened: Any, *, examples: int) -> None:
    machine = type("Machine", (SharedMachine,), {"opened": staticmethod(opened), "folder": folder})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples * EXAMPLES,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            derandomize=EXAMPLES == 1,
        ),
    )


def test_ledgers_on_sqlite_share_a_limit(tmp_path: Path) -> None:
    """A share is raised in the register first and lowered there last, so no moment is bad to die in."""
    _check(tmp_path, lambda folder: lambda name: SqliteLedger(str(folder / f"{name}.sqlite")), examples=3)


def test_ledgers_on_redis_share_a_limit(redis_url: str, tmp_path: Path) -> None:
    """The same over a real Redis; each example has ledgers of its own in it."""
    _check(tmp_path, lambda folder: lambda name: RedisLedger(redis_url, timeout_seconds=5, prefix=f"{folder.name}-{name}"), examples=2)
