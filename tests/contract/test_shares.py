"""Ledgers that share a budget, over every kind of store: together they never spend more than its limit, whoever dies when."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from router.adapters.redis.ledger import RedisLedger
from router.adapters.sqlite.ledger import SqliteLedger
from router.domain.budgets import Bucket, BucketState, Reservation
from router.domain.controls import decode_state, limits_in_force
from router.domain.shares import Register, Share
from router.domain.windows import bucket_at
from router.errors import StoreUnavailable
from router.fleet import Fleet
from router.live_controls import LiveControls
from router.metrics_families import FAMILIES
from router.metrics_store import Scrape
from router.ports import ControlStore, Ledger
from router.settings.load import load_text, price_book
from router.shares import LATE_MS, Shares
from router.snapshot import Snapshot
from tests.contract.stores import buckets

WHOLE = 1_000_000_000
CONFIG = """
version: 1
server: {store: "STORE", shared_store: "REGISTER", ledger: NAME}
providers: {up: {kind: openai, base_url: "http://127.0.0.1:1/v1", api_key: none}}
models: {m: {at: up/m, price: {input: 0, output: 10}}}
budgets: {all: {limit: $1, shared: true}}
"""


class Dies(Exception):
    """The process does, at this step."""


class Watched:
    """A store of controls that can be away, or end the process, at a chosen call."""

    def __init__(self, plain: ControlStore, step: Callable[[], None]) -> None:
        self._plain = plain
        self._step = step

    def __getattr__(self, name: str) -> Callable[..., Awaitable[object]]:
        async def call(*args: object, **more: object) -> object:
            self._step()
            answer = await getattr(self._plain, name)(*args, **more)
            self._step()
            return answer

        return call


class World:
    """Some ledgers and the register of their shares."""

    def __init__(self, stack: AsyncExitStack, opened: Callable[[str], Ledger]) -> None:
        self._stack = stack
        self._opened = opened
        self.ledgers: dict[str, Ledger] = {}
        self.away = False
        self.dies_at = -1
        self.steps = 0
        self.ended_ms: int | None = None
        """When the windows of all budgets ended, for whoever looks after shares; None: they go on."""

    def step(self) -> None:
        self.steps += 1
        if self.steps == self.dies_at:
            raise Dies

    async def ledger(self, name: str) -> Ledger:
        made = self._opened(name)
        await made.open(replica_id=f"test-{name}", lease_seconds=20)
        self._stack.push_async_callback(made.close)
        await LiveControls(made.control_store(), Fleet(lambda: 0.0), keys_changed=lambda: None).publish(configured(name))
        self.ledgers[name] = made
        return made

    def register(self, _address: str = "") -> Ledger:
        if self.away:
            raise StoreUnavailable("away")
        made = self._opened("register")
        plain = made.control_store
        watched: Any = Watched(plain(), self.step)
        # A test's own view of it.
        made.control_store = lambda: watched  # type: ignore[method-assign]
        return made

    def keeper(self, name: str, *, whole: int = WHOLE) -> Shares:
        """A process of that ledger that looks after its shares."""
        snapshot = configured(name, whole)
        ledger: Any = Keeping(self.ledgers[name], self)
        made = Shares(ledger, snapshot=lambda: snapshot, open_register=self.register)
        self._stack.push_async_callback(made.close)
        return made

    async def told(self) -> Mapping[str, Share]:
        async with AsyncExitStack() as stack:
            ledger = self._opened("register")
            await ledger.open(replica_id="reader", lease_seconds=20)
            stack.push_async_callback(ledger.close)
            stored = await ledger.control_store().load()
            return msgspec.json.decode(stored, type=Register).of("all") if stored else {}

    async def limits(self) -> dict[str, int]:
        """What each ledger refuses by."""
        found = {}
        for name, ledger in self.ledgers.items():
            state = decode_state(await ledger.control_store().load())
            found[name] = limits_in_force(state)["all"].limit
        return found

    async def check(self) -> None:
        """The rules that hold at every moment."""
        limits, told = await self.limits(), await self.told()
        assert sum(share.limit for share in told.values()) <= WHOLE
        for name, limit in limits.items():
            assert limit <= (told[name].limit if name in told else 0)


class Keeping:
    """A ledger as a process sees it that looks after its shares."""

    def __init__(self, plain: Ledger, world: World) -> None:
        self._plain = plain
        self._world = world

    def control_store(self) -> Watched:
        return Watched(self._plain.control_store(), self._world.step)

    async def states_of(self, asked: Sequence[Bucket]) -> Sequence[BucketState]:
        """Those of windows that have ended are asked for as long as they count."""
        ends_ms, now_ms = self._world.ended_ms, await self._plain.control_store().look()
        if ends_ms is None:
            return await self._plain.states_of(asked)
        if ends_ms <= now_ms[1] - LATE_MS:
            return ()
        return [replace(state, ends_ms=ends_ms) for state in await self._plain.states_of(asked)]


def configured(name: str, whole: int = WHOLE) -> Snapshot:
    text = CONFIG.replace("NAME", name).replace("STORE", "a.sqlite").replace("REGISTER", "b.sqlite").replace("$1", f"${whole / 1e9}")
    return load_text(text, source="test", environ={}, price_book=price_book()).snapshot


@pytest.fixture(params=["sqlite", "fakeredis", "redis"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    """Every kind of store, empty."""
    url = "" if request.param == "sqlite" else request.getfixturevalue("fake_redis_url" if request.param == "fakeredis" else "redis_url")

    def opened(name: str) -> Ledger:
        return RedisLedger(url, timeout_seconds=5, prefix=f"fg-{name}") if url else SqliteLedger(str(tmp_path / f"{name}.sqlite"))

    async with AsyncExitStack() as stack:
        yield World(stack, opened)


async def spend(ledger: Ledger, nusd: int, attempt_id: str) -> bool:
    """Whether so much could be spent."""
    (budget,) = configured("any").budgets
    _, now_ms = await ledger.control_store().look()
    answer = await ledger.reserve(attempt_id=attempt_id, amount_nusd=nusd, buckets=buckets(bucket_at(budget, "", now_ms)))
    if not isinstance(answer, Reservation):
        return False
    record = b'{"attempt_id": "%s"}' % attempt_id.encode()
    await ledger.settle(answer, charge_nusd=nusd, record=record)
    return True


async def used(ledger: Ledger) -> int:
    return sum(state.spent_nusd + state.held_nusd for state in await ledger.bucket_states(budget="all"))


async def test_a_ledger_without_a_share_spends_nothing(world: World) -> None:
    """The whole limit belongs to all of them."""
    ledger = await world.ledger("a")
    assert not await spend(ledger, 1, "1")
    await world.keeper("a").look()
    assert await spend(ledger, WHOLE // 4, "2")


async def test_money_goes_where_it_is_spent_and_never_beyond_the_limit(world: World) -> None:
    """Two ledgers, two processes of each that look after shares at once, calls at one of them, then at the other."""
    for name in ("a", "b"):
        await world.ledger(name)
    keepers = [world.keeper(name) for name in ("a", "a", "b", "b")]
    draw = random.Random(7)
    count = 0
    total = 0
    for busy, until in (("a", WHOLE // 2), ("b", WHOLE * 98 // 100)):
        for _ in range(60):
            await asyncio.gather(*(keeper.look() for keeper in draw.sample(keepers, 4)))
            for _ in range(8):
                count += 1
                await spend(world.ledgers[busy], draw.randint(1, WHOLE // 40), f"{busy}{count}")
            await world.check()
            total = await used(world.ledgers["a"]) + await used(world.ledgers["b"])
            if total > until:
                break
    assert WHOLE * 98 // 100 < total <= WHOLE
    assert await used(world.ledgers["b"]) > WHOLE // 3


@pytest.mark.parametrize("lowers", [False, True])
async def test_a_process_killed_at_any_step_leaves_too_little_never_too_much(world: World, *, lowers: bool) -> None:
    """Each step is taken in the order that is safe; whoever comes next goes on from there."""
    for name in ("a", "b"):
        await world.ledger(name)
        await world.keeper(name).look()
    died = True
    whole = WHOLE * 6 // 10 if lowers else WHOLE
    while died:
        died = False
        world.steps, world.dies_at = 0, world.dies_at + 1 if world.dies_at > 0 else 1
        # Something to do each time: more is used, or the limit falls.
        whole -= WHOLE // 100 if lowers else 0
        if not lowers:
            limits = await world.limits()
            await spend(world.ledgers["a"], (limits["a"] - await used(world.ledgers["a"])) // 2, f"s{world.dies_at}")
        try:
            await world.keeper("a", whole=whole).look()
        except Dies:
            died = True
        await world.check()
    world.dies_at = -1
    assert world.steps > 8
    for _ in range(3):
        for name in ("a", "b"):
            await world.keeper(name, whole=whole).look()
    await world.check()
    assert 0 < sum((await world.limits()).values()) <= whole


async def test_a_register_that_is_away_changes_nothing_and_is_said(world: World) -> None:
    """Calls go on within the shares that there are."""
    ledger = await world.ledger("a")
    await world.keeper("a").look()
    keeper = world.keeper("a")
    world.away = True
    await keeper.look()
    await keeper.look()
    assert shown(keeper) == {"faregate_shared_store_up": {(): 0.0}}
    assert await spend(ledger, WHOLE // 4, "1")
    world.away = False
    await keeper.look()
    assert shown(keeper) == {
        "faregate_shared_store_up": {(): 1.0},
        "faregate_shared_budget_limit_usd": {("all",): 1.0},
        "faregate_shared_budget_used_usd": {("all",): 0.25},
    }


def shown(keeper: Shares) -> dict[str, dict[tuple[str, ...], float]]:
    scrape = Scrape(FAMILIES)
    keeper.show(scrape)
    return {name: dict(values) for name, values in scrape.values.items() if values}


async def test_a_register_that_was_emptied_is_told_again_what_everybody_has(world: World) -> None:
    """What it forgot was given out all the same."""
    for name in ("a", "b"):
        await world.ledger(name)
        await world.keeper(name).look()
    before = await world.limits()
    ledger = world.register()
    await ledger.open(replica_id="eraser", lease_seconds=20)
    controls = ledger.control_store()
    version, _ = await controls.look()
    await controls.commit(b"", expected=version, version=version + 1)
    await ledger.close()
    for name in ("a", "b"):
        await world.keeper(name).look()
    await world.check()
    assert {name: share.limit for name, share in (await world.told()).items()} == await world.limits()
    assert sum((await world.limits()).values()) >= sum(before.values())


async def test_a_raise_that_comes_late_does_not_undo_what_came_after_it(world: World) -> None:
    """A process that hangs between its two steps finds its share lowered by another one meanwhile."""
    await world.ledger("a")
    await world.keeper("a").look()
    late = world.keeper("a")
    state = decode_state(await world.ledgers["a"].control_store().load())
    assert state.shares["all"].limit == WHOLE // 2
    hanging, go_on = asyncio.Event(), asyncio.Event()
    real = late._set

    async def slow(*args: object, **more: object) -> None:
        hanging.set()
        await go_on.wait()
        # Whatever it is given.
        await real(*args, **more)  # type: ignore[arg-type]

    # A process that the machine holds up just here.
    late._set = slow  # type: ignore[method-assign]
    await spend(world.ledgers["a"], WHOLE // 2, "1")
    raising = asyncio.ensure_future(late.look())
    await hanging.wait()
    await world.keeper("a", whole=WHOLE * 6 // 10).look()
    go_on.set()
    await raising
    await world.check()
    assert (await world.limits())["a"] <= WHOLE * 6 // 10


async def test_what_was_used_in_a_window_that_has_just_ended_is_not_given_away(world: World) -> None:
    """Answers that began in it may be extended elsewhere: all shares together bound that window, too."""
    ledger = await world.ledger("a")
    await world.keeper("a").look()
    await spend(ledger, WHOLE * 4 // 10, "1")
    _, now_ms = await ledger.control_store().look()
    world.ended_ms = now_ms - 1000
    await world.keeper("a", whole=WHOLE // 10).look()
    assert (await world.limits())["a"] == WHOLE * 4 // 10
    world.ended_ms = now_ms - LATE_MS - 1000
    await world.keeper("a", whole=WHOLE // 10).look()
    assert (await world.limits())["a"] <= WHOLE // 10
