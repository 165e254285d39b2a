"""Live control: what a change does to limits, who is refused, what is kept of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from datetime import datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest

from router.commands.changes import moment_text
from router.controls import ControlError, Desk
from router.domain.budgets import NEVER_MS, Budget
from router.domain.controls import (
    BaseLimit,
    Control,
    ControlState,
    Freezes,
    amount_text,
    base_limits,
    change_text,
    closed_deployments,
    decode_state,
    encode_state,
    limit_in_force,
    limits_in_force,
)
from router.errors import StoreUnavailable
from router.fleet import Fleet
from router.inputs import LATEST_MS, parse_amount, parse_until
from router.live_controls import LiveControls
from tests.control_fakes import MemoryControls
from tests.pipeline_fakes import World, ask, json_answer, snapshot

HERE = timezone(timedelta(hours=9))
NOW = datetime(2026, 11, 22, 18, 30, tzinfo=HERE)


def limit(target: str = "b", *, scope: str = "", add: int | None = None, to: int | None = None, until_ms: int | None = None) -> Control:
    return Control(kind="limit", target=target, scope=scope, add=add, to=to, reason="why", by="me", at_ms=0, until_ms=until_ms)


def closed(kind: str, target: str) -> Control:
    return msgspec.convert({"kind": kind, "target": target, "reason": f"of {target}", "by": "me", "at_ms": 0}, Control)


@pytest.mark.parametrize(
    ("controls", "expected"),
    [
        ((), 100),
        ((limit(add=50), limit(add=-20)), 130),
        ((limit(add=50), limit(to=7), limit(add=1)), 8),
        ((limit(add=-500),), 0),
        ((limit(add=-500), limit(add=10)), 10),
        ((limit(to=NEVER_MS), limit(add=1)), NEVER_MS),
        ((limit("other", add=50), closed("freeze", "all")), 100),
        ((limit(scope="team=a", add=50),), 100),
    ],
)
def test_changes_are_applied_in_the_order_in_which_they_were_made(controls: tuple[Control, ...], expected: int) -> None:
    """Never below nothing, never above what a counter can hold."""
    state = ControlState(base={"b": BaseLimit(100)}, controls=controls)
    assert limit_in_force(state, "b") == expected
    assert limits_in_force(state)["b"].limit == expected


def test_a_configuration_says_what_its_budgets_count() -> None:
    """An amount has no meaning without its unit, a scope none without what splits the budget."""
    budgets = [
        Budget(name="one", limit_nusd=5, window="day", each="team"),
        Budget(name="two", limit_nusd=6, window="day", unit="tokens", each=("team", "model")),
        Budget(name="three", limit_nusd=7, window="day", unit="requests"),
    ]
    assert base_limits(budgets) == {
        "one": BaseLimit(5, "usd", ("team",)),
        "two": BaseLimit(6, "tokens", ("team", "model")),
        "three": BaseLimit(7, "requests", ()),
    }


def test_what_is_kept_is_read_again() -> None:
    """By another process, of another release too: what is not known there is left out."""
    state = ControlState(version=3, base={"b": BaseLimit(1, each=("team",))}, controls=(limit(add=5, until_ms=9), limit(to=0)))
    assert decode_state(encode_state(state)) == state
    assert decode_state(b"") == ControlState()
    assert (state.ends_ms, ControlState().ends_ms) == (9, NEVER_MS)


def test_amounts_are_shown_with_their_unit() -> None:
    """For people."""
    assert [amount_text(1_500_000_000, "usd"), amount_text(1500, "tokens")] == ["1.50 USD", "1,500 tokens"]
    shown = [change_text(each, "usd") for each in (limit(add=10**9), limit(add=-(10**9)), limit(to=0))]
    assert shown == ["+1.00 USD", "-1.00 USD", "set to 0.00 USD"]


@pytest.mark.parametrize("target", ["all", "team=t", "key=id", "key=name", "user=u", "model=m"])
def test_a_freeze_finds_its_requests(target: str) -> None:
    """And no other ones."""
    freezes = Freezes([closed("freeze", target), closed("drain", "team=x")])
    found = freezes.of(team="t", key_id="id", key_name="name", user="u", model="m")
    assert found is not None
    assert found.target == target
    other = freezes.of(team="x", key_id="x", key_name="x", user="x", model="x")
    assert (other is not None) == (target == "all")
    assert not Freezes([closed("drain", "x")])


def test_deployments_are_closed_by_name_provider_and_model() -> None:
    """A drain names what is called, a freeze what was asked for."""
    deployments = {"up/m": ("m", "up"), "up/n": ("n", "up"), "other/m": ("m", "other"), "other/k": ("k", "other")}
    controls = [closed("drain", "up"), closed("drain", "other/k"), closed("freeze", "model=n"), limit(add=1)]
    assert closed_deployments(controls, deployments) == {
        "up/m": ("drained", "of up"),
        "up/n": ("frozen", "of model=n"),
        "other/k": ("drained", "of other/k"),
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("19:00", NOW.replace(hour=19, minute=0)),
        ("09:00", NOW.replace(day=23, hour=9, minute=0)),
        ("18:30", NOW + timedelta(days=1)),
        ("30m", NOW + timedelta(minutes=30)),
        ("2w", NOW + timedelta(days=14)),
        ("2026-12-01", datetime(2026, 12, 1, tzinfo=HERE)),
        ("2026-12-01T09:00+00:00", datetime(2026, 12, 1, 18, tzinfo=HERE)),
    ],
)
def test_the_end_of_a_change_is_read_as_people_write_it(text: str, expected: datetime) -> None:
    """A time of day is the next one, where the command runs."""
    assert parse_until(text, now=NOW) == round(expected.timestamp() * 1000)


@pytest.mark.parametrize("text", ["", "25:00", "tomorrow", "2026-11-22T18:00", "0m", "5"])
def test_what_is_no_end_is_refused(text: str) -> None:
    """Rather than guessed: a change without an end stays."""
    with pytest.raises(ValueError, match=r"no time|has passed"):
        parse_until(text, now=NOW)


@pytest.mark.parametrize("text", ["9999-12-31T23:59:59-23:59", "9999-12-31T23:59:59-00:01"])
def test_an_end_beyond_the_calendar_is_refused(text: str) -> None:
    """It could be kept, but never shown: every list with it in would fail."""
    assert parse_until("9999-12-31T23:59:59+00:00", now=NOW) == LATEST_MS
    with pytest.raises(ValueError, match="beyond the year 9999"):
        parse_until(text, now=NOW)


def test_amounts_are_read_in_the_unit_of_the_budget() -> None:
    """Of an unquoted `+$125` the shell leaves `+25`: it must not be taken for 25 USD."""
    for text in ("$50", "+$50", "50usd", "50 USD", "$50.00"):
        assert parse_amount(text, "usd") == 50 * 10**9
    assert [parse_amount(text, "tokens") for text in ("100", "+1_000", "1.5k", "2M")] == [100, 1000, 1500, 2_000_000]
    for text in ("+25", "+0", "50 EUR", "", "$"):
        with pytest.raises(ValueError, match="not an amount in USD"):
            parse_amount(text, "usd")
    for text in ("$5", "1.5", "many", "99999999999M"):
        with pytest.raises(ValueError, match="not an amount of tokens"):
            parse_amount(text, "tokens")
    for text, unit in (("-5usd", "usd"), ("-$5", "usd"), (" -5", "tokens")):
        with pytest.raises(ValueError, match="is below zero; write an amount without a sign"):
            parse_amount(text, unit)
    assert moment_text(None) == "-"


async def test_a_change_that_makes_no_sense_is_refused() -> None:
    """Before anything is written."""
    store = MemoryControls(b=BaseLimit(100), **{"team/search": BaseLimit(5, each=("team", "model"))})
    desk = Desk(store, who="alice", via="command")
    changes: list[tuple[str, Callable[[], Coroutine[Any, Any, object]]]] = [
        ("needs a reason", lambda: desk.change_limit("b", "raise", 5, reason=" ")),
        ("at most 500", lambda: desk.freeze("all", reason="x" * 501)),
        ("changes nothing", lambda: desk.change_limit("b", "raise", 0, reason="x")),
        ("changes nothing", lambda: desk.change_limit("b", "set", -1, reason="x")),
        ("has passed", lambda: desk.change_limit("b", "raise", 5, reason="x", until_ms=store.now_ms)),
        ("there is no budget 'c'; known: b, team/search", lambda: desk.change_limit("c", "raise", 5, reason="x")),
        ("split by team and model: write team=NAME&model=NAME", lambda: desk.change_limit("search", "set", 5, scope="team=a", reason="x")),
        ("is that of the configuration", lambda: desk.reset_limit("b", reason="x")),
        ("cannot be frozen", lambda: desk.freeze("teem=a", reason="x")),
        ("cannot be frozen", lambda: desk.freeze("team=", reason="x")),
        ("name a provider", lambda: desk.drain(" ", reason="x")),
        ("there is no drain of 'up'; in force: none", lambda: desk.undrain("up")),
    ]
    for message, work in changes:
        with pytest.raises(ControlError, match=message.replace("?", r"\?")):
            await work()
    assert store.log == []
    assert (await Desk(MemoryControls(), who="a", via="b").state()).base == {}
    with pytest.raises(ControlError, match="no configuration with budgets"):
        await Desk(MemoryControls(), who="a", via="b").change_limit("b", "raise", 5, reason="x")


async def test_many_changes_at_the_same_time_are_all_made() -> None:
    """Forty leaked keys are revoked by a script, all at once: in lockstep, most would lose each round."""

    class Lockstep(MemoryControls):
        async def load(self) -> bytes:
            found = await super().load()
            await asyncio.sleep(0)
            return found

    store = Lockstep()
    await asyncio.gather(*(Desk(store, who="alice", via="admin").keys_changed("key.revoke", f"k{number}") for number in range(40)))
    assert sorted(entry.target for entry in store.audit) == sorted(f"k{number}" for number in range(40))


async def test_a_change_is_tried_anew_if_somebody_was_faster() -> None:
    """On top of theirs; but not for ever."""
    store = MemoryControls(b=BaseLimit(100))
    theirs = ControlState(version=2, base={"b": BaseLimit(100)}, controls=(limit(add=5),))
    store.faster = [encode_state(theirs)]
    made = await Desk(store, who="alice", via="command").change_limit("b", "raise", 10, reason="x")
    assert (made.before, made.after) == (105, 115)
    assert store.limits["b"].limit == 115
    store.faster = [encode_state(msgspec.structs.replace(theirs, version=n)) for n in range(90, 3, -1)]
    with pytest.raises(StoreUnavailable):
        await Desk(store, who="alice", via="command").drain("up", reason="x")


async def test_an_instance_of_a_budget_split_twice_is_named_by_both() -> None:
    """In any order; it is kept as buckets name it."""
    store = MemoryControls(b=BaseLimit(100, each=("team", "model")))
    desk = Desk(store, who="alice", via="command")
    made = await desk.change_limit("b", "set", 7, scope="model=m|x&team=a", reason="x")
    assert made.scope == "team=a&model=m%7Cx"
    await desk.change_limit("b", "raise", 1, reason="x")
    assert store.limits["b"].scoped == {"team=a&model=m%7Cx": 8}
    assert (await desk.reset_limit("b", scope="team=a&model=m|x", reason="x")).after == 101


async def test_a_freeze_is_replaced_and_taken_back() -> None:
    """One of a target at a time, and the log says what was before."""
    store = MemoryControls(b=BaseLimit(100))
    desk = Desk(store, who="alice", via="admin")
    await desk.freeze("team=a", reason="one")
    await desk.freeze("team=a", reason="two", until_ms=store.now_ms + 1)
    assert [(c.target, c.reason) for c in (await desk.state()).controls] == [("team=a", "two")]
    store.now_ms += 1
    assert (await desk.state()).controls == ()
    await desk.drain("up", reason="three")
    await desk.undrain("up", reason="four")
    await desk.keys_changed("key.revoke", "k1", reason="leaked")
    assert [(e.via, e.action, e.target, e.before, e.after, e.reason) for e in store.audit] == [
        ("admin", "freeze", "team=a", "", "freeze", "one"),
        ("admin", "freeze", "team=a", "freeze: one", "freeze", "two"),
        ("clock", "freeze.end", "team=a", "freeze", "", "two"),
        ("admin", "drain", "up", "", "drain", "three"),
        ("admin", "undrain", "up", "drain: three", "", "four"),
        ("admin", "key.revoke", "k1", "", "", "leaked"),
    ]


async def test_a_worker_sees_what_changed() -> None:
    """Freezes, drains, and that keys are to be forgotten; what it saw last holds while the store is away."""
    store, fleet, forgotten = MemoryControls(), Fleet(lambda: 0.0), []
    worker = LiveControls(store, fleet, keys_changed=lambda: forgotten.append(1))
    config = snapshot()
    await worker.publish(config)
    assert store.audit[0].after == config.version
    writes = store.version
    await worker.publish(config)
    assert store.version == writes
    desk = Desk(store, who="alice", via="command")
    await desk.freeze("team=default", reason="x")
    name, deployment = next(iter(config.deployments.items()))
    await desk.drain(deployment.provider.name, reason="y", until_ms=store.now_ms + 5)
    await worker.poll()
    assert worker.freezes
    assert (fleet.view(name).health, fleet.view(name).closed_for) == ("drained", "y")
    assert fleet.look()[name].view.health == "drained"
    assert not fleet.claim_probe(name)
    assert not forgotten
    await desk.keys_changed("key.revoke", "k")
    store.now_ms += 5
    await worker.poll()
    assert forgotten == [1]
    assert {fleet.view(name).health for name in config.deployments} == {"up"}
    await desk.unfreeze("team=default")
    await worker.poll()
    assert worker.freezes is None


async def test_a_store_that_was_emptied_gets_back_what_workers_know() -> None:
    """A freeze must not end because a store lost its data. Of all workers one writes it."""
    store = MemoryControls(b=BaseLimit(100))
    workers = [LiveControls(store, Fleet(lambda: 0.0), keys_changed=lambda: None) for _ in range(2)]
    await Desk(store, who="alice", via="command").freeze("all", reason="x")
    await Desk(store, who="alice", via="command").change_limit("b", "raise", 5, reason="x")
    for worker in workers:
        await worker.poll()
    store.version, store.stored, store.log, store.limits = 0, b"", [], {}
    await asyncio.gather(*(worker.poll() for worker in workers))
    assert [entry.action for entry in store.audit] == ["controls.restore"]
    assert store.limits["b"].limit == 105
    for worker in workers:
        await worker.poll()
        assert worker.freezes


async def test_a_frozen_request_is_refused_before_anything_is_held() -> None:
    """403, with the reason and the end; the provider never hears of it."""
    world = World(snapshot(), json_answer())
    world.controls.freezes = Freezes([msgspec.structs.replace(closed("freeze", "user=u"), until_ms=1_795_000_000_000)])
    refused = await world.ask(ask(user="u"))
    assert refused.status == 403
    error = msgspec.json.decode(refused.sent)["error"]
    assert error["message"] == "Requests of user u are frozen until 2026-11-18T11:06:40Z: of user=u"
    assert world.ledger.calls == {}
    assert (await world.ask(ask())).status == 200


async def test_two_workers_that_start_at_once_load_a_configuration_once() -> None:
    """The audit log tells of one change, not of one for each process."""
    config, first, second = snapshot(), MemoryControls(), MemoryControls()
    worker, late = (LiveControls(store, Fleet(lambda: 0.0), keys_changed=lambda: None) for store in (first, second))
    await worker.publish(config)
    second.faster = [first.stored]
    await late.publish(config)
    assert (late.state, second.audit) == (worker.state, [])


async def test_a_configuration_that_changes_limits_says_so_in_the_audit_log() -> None:
    """Who asks a year later has the version's name at best, not its text."""
    store = MemoryControls(gone=BaseLimit(5_000_000_000))
    await LiveControls(store, Fleet(lambda: 0.0), keys_changed=lambda: None).publish(snapshot())
    (entry,) = store.audit
    assert (entry.action, entry.reason) == ("config.load", "gone: 5.00 USD -> none, for it is not in this configuration")


async def test_a_limit_that_spans_ledgers_is_not_changed_in_one() -> None:
    """It has a share of it only, and more would come from nowhere."""
    desk = Desk(MemoryControls(all=BaseLimit(100, shared=True)), who="me", via="test")
    with pytest.raises(ControlError, match="spans several ledgers: change it in the configuration"):
        await desk.change_limit("all", "raise", 5, reason="why")
