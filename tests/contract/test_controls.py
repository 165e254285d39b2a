"""What people change while the service runs: one step in the store, for all replicas, never lost and never twice."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from router.controls import ControlError, Desk, LimitChange, change
from router.domain.budgets import Refusal
from router.domain.controls import AuditEntry, BaseLimit, ControlState, decode_state, encode_state, limits_in_force
from router.fleet import Fleet
from router.live_controls import LiveControls
from router.ports import ControlStore, Ledger
from tests.contract.stores import SqliteStore, Store, bucket, buckets, held, ids

BASE = {"search": BaseLimit(1000), "per-team": BaseLimit(1000, each=("team",))}


async def published(ledger: Ledger, **base: BaseLimit) -> ControlStore:
    """A store in which a configuration was served."""
    store = ledger.control_store()

    def edit(state: ControlState, now_ms: int) -> tuple[ControlState, AuditEntry]:
        entry = AuditEntry(who="faregate", via="config", action="config.load", target="test.yaml")
        return msgspec.structs.replace(state, base=base or BASE, config="c"), entry

    await change(store, edit, limits=True)
    return store


async def audited(store: ControlStore) -> list[AuditEntry]:
    return [msgspec.json.decode(entry, type=AuditEntry) async for _, entry in store.history()]


async def left(ledger: Ledger, budget: str = "search", scope: str = "") -> int:
    """What the store's own limit still allows."""
    answer = await ledger.reserve(attempt_id=next(ids), amount_nusd=10**12, buckets=buckets(bucket(budget, scope=scope)))
    assert isinstance(answer, Refusal)
    return answer.limit_nusd


async def test_a_limit_that_is_raised_counts_for_all_replicas_at_once(store: Store, ledger: Ledger) -> None:
    """They know another one by their configuration; the store's own decides."""
    controls = await published(ledger)
    other = await store.replica("other")
    await held(ledger, 900, buckets(bucket("search")))
    desk = Desk(controls, who="alice", via="command")
    change = await desk.change_limit("search", "raise", 500, reason="launch")
    assert change == LimitChange(budget="search", scope="", unit="usd", before=1000, after=1500)
    await held(other, 600, buckets(bucket("search")))
    assert await left(other) == 1500
    await desk.change_limit("search", "lower", 1400, reason="over")
    assert await left(other) == 100
    await desk.reset_limit("search", reason="as it was")
    assert await left(other) == 1000
    entries = await audited(controls)
    assert [(e.who, e.action, e.before, e.after, e.reason) for e in entries[1:]] == [
        ("alice", "budget.raise", "0.000001 USD", "0.0000015 USD", "launch"),
        ("alice", "budget.lower", "0.0000015 USD", "0.0000001 USD", "over"),
        ("alice", "budget.reset", "0.0000001 USD", "0.000001 USD", "as it was"),
    ]


async def test_one_instance_of_a_budget_can_have_a_limit_of_its_own(store: Store, ledger: Ledger) -> None:
    """More for one team is not more for all."""
    controls = await published(ledger)
    desk = Desk(controls, who="alice", via="command")
    await desk.change_limit("per-team", "raise", 1, scope="team=a b", reason="x")
    await desk.change_limit("per-team", "set", 7, scope="team=b", reason="x")
    await desk.change_limit("per-team", "raise", 10, reason="for all")
    for scope, limit in (("team=a b", 1011), ("team=b", 17), ("team=c", 1010), ("team=a", 1010)):
        assert await left(ledger, "per-team", scope) == limit
    assert await left(ledger, "search") == 1000
    await held(ledger, 5, buckets(bucket("per-team", scope="team=b"), bucket("per-team", scope="team=c")))
    states = {state.scope: state.limit_nusd for state in await ledger.bucket_states()}
    assert states["team=b"] == 17
    assert states["team=c"] == 1010
    with pytest.raises(ControlError, match="split by team"):
        await desk.change_limit("per-team", "raise", 1, scope="user=x", reason="x")
    with pytest.raises(ControlError, match="has no scopes"):
        await desk.change_limit("search", "raise", 1, scope="team=x", reason="x")


async def test_of_two_changes_at_once_both_count(store: Store, ledger: Ledger) -> None:
    """Two people who raise a limit in the same second must not undo each other."""
    await published(ledger)
    desks = [Desk((await store.replica(name)).control_store(), who=name, via="command") for name in ("a", "b", "c")]
    await asyncio.gather(*(desk.change_limit("search", "raise", 10, reason="x") for desk in desks for _ in range(3)))
    assert await left(ledger) == 1090
    assert len(await audited(ledger.control_store())) == 10


async def test_a_change_of_a_version_that_is_over_writes_nothing(ledger: Ledger) -> None:
    """Neither controls nor limits nor log: all or nothing."""
    controls = await published(ledger)
    version, _ = await controls.look()
    stored = await controls.load()
    wrong = encode_state(ControlState(version=99))
    assert not await controls.commit(wrong, expected=version - 1, version=99, entries=[b"{}"], limits={})
    assert await controls.look() == (version, pytest.approx((await controls.look())[1], abs=5000))
    assert await controls.load() == stored
    assert await left(ledger) == 1000
    assert len(await audited(controls)) == 1


async def test_a_change_ends_by_the_stores_clock_whoever_is_alive(store: Store, ledger: Ledger) -> None:
    """Its maker has gone home. Of all workers that notice, one ends it."""
    controls = await published(ledger)
    now = await store.now_ms()
    await Desk(controls, who="alice", via="command").change_limit("search", "raise", 500, reason="launch", until_ms=now + 300)
    workers = []
    for name in ("a", "b"):
        worker = LiveControls((await store.replica(name)).control_store(), Fleet(lambda: 0.0), keys_changed=lambda: None)
        await worker.poll()
        workers.append(worker)
    assert await left(ledger) == 1500
    if isinstance(store, SqliteStore):
        store.clock_ms += 300
    while await store.now_ms() < now + 300:
        await asyncio.sleep(0.05)
    await asyncio.gather(*(worker.poll() for worker in workers))
    assert await left(ledger) == 1000
    assert [(e.who, e.action, e.before, e.after) for e in await audited(controls)][2:] == [
        ("faregate", "limit.end", "0.0000015 USD", "0.000001 USD")
    ]
    assert decode_state(await controls.load()).controls == ()


async def test_the_audit_log_is_kept_as_long_as_it_is_told(store: Store, ledger: Ledger) -> None:
    """Append-only, in the order of the changes, with the store's time."""
    controls = ledger.control_store()
    desk = Desk(controls, who="bob", via="admin")
    before = await store.now_ms()
    for n in range(3):
        await desk.note("key.mint", f"key-{n}")
    assert [entry.target for entry in await audited(controls)] == ["key-0", "key-1", "key-2"]
    times = [at_ms async for at_ms, _ in controls.history(since_ms=before)]
    assert len(times) == 3
    assert [at_ms async for at_ms, _ in controls.history(since_ms=times[-1] + 1)] == []
    await controls.forget(before_ms=times[-1] + 1)
    assert await audited(controls) == []


async def test_limits_follow_from_what_is_kept(ledger: Ledger) -> None:
    """What the store decides by can be worked out anew at any time."""
    controls = await published(ledger)
    await Desk(controls, who="alice", via="command").change_limit("search", "set", 5, reason="x")
    limits = limits_in_force(decode_state(await controls.load()))
    assert {name: limit.limit for name, limit in limits.items()} == {"search": 5, "per-team": 1000}
