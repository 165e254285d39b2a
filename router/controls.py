"""Live control: what people change while the service runs reaches every worker within a second, each change with its reason.

`Desk` is for whoever changes something: commands, the admin API. A worker's view is in `live_controls.py`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Final, Literal

import msgspec

from router.domain.controls import (
    EVERYBODY,
    FREEZABLE,
    AuditEntry,
    BaseLimit,
    Control,
    ControlState,
    Pin,
    amount_text,
    decode_state,
    encode_state,
    limit_in_force,
    limits_in_force,
    without_ended,
)
from router.domain.money import MAX_NUSD
from router.domain.windows import escape_scope
from router.errors import StoreUnavailable
from router.known import unknown
from router.ports import Controls, ControlStore, KeyStore

TRIES: Final = 20
"""How often a change is tried anew because somebody else was faster."""
PAUSE_SECONDS: Final = 0.02
"""Longest pause before the first new try; before each further one it is so much longer."""
MOST_PAUSE_SECONDS: Final = 0.25
MOST_CONTROLS: Final = 1000
"""In force at a time: every worker keeps them all."""
MAX_REASON: Final = 500
MAX_TARGET: Final = 256

How = Literal["raise", "lower", "set"]
Edit = Callable[[ControlState, int], tuple[ControlState, AuditEntry] | None]
"""(what is kept, the store's clock) -> what to keep, and what the audit log says of it; None if there is nothing to change."""


class ControlError(Exception):
    """A change that cannot be made. The message says why, and what could be."""


class LimitChange(msgspec.Struct, frozen=True, kw_only=True):
    """What a change did to a limit; amounts in the budget's unit."""

    budget: str
    scope: str
    unit: str
    before: int
    after: int
    until_ms: int | None = None


class Desk:
    """Makes changes for one person. Each is one atomic step in the store, together with its entry in the audit log.

    Raises from every method:
        ControlError: the change makes no sense; nothing was written.
        StoreUnavailable: the store does not answer.
    """

    def __init__(self, store: ControlStore, *, who: str, via: str, keys: KeyStore | None = None) -> None:
        """`who` and `via`: see `AuditEntry`. `keys`: where minted ones are; None: any key can be frozen."""
        self._keys = keys
        self._store = store
        self._who = who
        self._via = via

    async def state(self) -> ControlState:
        """What is in force now."""
        _, now_ms = await self._store.look()
        state = decode_state(await self._store.load())
        return msgspec.structs.replace(state, controls=without_ended(state.controls, now_ms))

    async def change_limit(
        self, budget: str, how: How, amount: int, *, scope: str = "", reason: str, until_ms: int | None = None
    ) -> LimitChange:
        """Raise or lower a limit by an amount, or set it, for all replicas at once.

        Args:
            budget: its name; `search` also finds `team/search` and `key/search`.
            how: what to do.
            amount: in the budget's unit (nano-USD), not negative.
            scope: `team=search` for one instance of a split budget; empty: all.
            reason: why; shown to whoever asks.
            until_ms: when it ends, by the store's clock; None: when it is taken back.
        """
        made: list[LimitChange] = []

        def edit(state: ControlState, now_ms: int) -> tuple[ControlState, AuditEntry]:
            name, base = find_budget(state, budget)
            if base.shared:
                raise ControlError(f"the limit of budget '{name}' spans several ledgers: change it in the configuration of each of them")
            where = _scope_of(name, base, scope)
            before = limit_in_force(state, name, where)
            control = Control(
                kind="limit",
                target=name,
                scope=where,
                add=None if how == "set" else amount if how == "raise" else -amount,
                to=amount if how == "set" else None,
                reason=reason,
                by=self._who,
                at_ms=now_ms,
                until_ms=until_ms,
            )
            changed = _with(state, control)
            made[:] = [
                LimitChange(
                    budget=name, scope=where, unit=base.unit, before=before, after=limit_in_force(changed, name, where), until_ms=until_ms
                )
            ]
            return changed, self._limit_entry(f"budget.{how}", made[0], reason)

        if not 0 <= amount <= MAX_NUSD or (how != "set" and not amount):
            raise ControlError(f"an amount of {amount} changes nothing")
        await self._change(edit, reason=reason, until_ms=until_ms, limits=True)
        return made[0]

    async def reset_limit(self, budget: str, *, scope: str | None = None, reason: str) -> LimitChange:
        """Take back all changes of a budget's limit, or those of one of its instances. The configuration's holds again."""
        made: list[LimitChange] = []

        def edit(state: ControlState, now_ms: int) -> tuple[ControlState, AuditEntry]:
            name, base = find_budget(state, budget)
            where = "" if scope is None else _scope_of(name, base, scope)
            kept = tuple(
                control
                for control in state.controls
                if control.kind != "limit" or control.target != name or (scope is not None and control.scope != where)
            )
            if len(kept) == len(state.controls):
                raise ControlError(f"the limit of budget '{name}'{f' ({where})' if where else ''} is that of the configuration")
            changed = msgspec.structs.replace(state, controls=kept)
            before, after = limit_in_force(state, name, where), limit_in_force(changed, name, where)
            made[:] = [LimitChange(budget=name, scope=where, unit=base.unit, before=before, after=after)]
            return changed, self._limit_entry("budget.reset", made[0], reason)

        await self._change(edit, reason=reason, limits=True)
        return made[0]

    async def freeze(self, target: str, *, reason: str, until_ms: int | None = None) -> bool:
        """Refuse all requests of `team=...`, `key=...`, `user=...`, `model=...` or of `all`, until it is taken back or ends.

        Returns whether the name is known to exist; False: no served configuration says.
        """
        checked = check_freeze(target)
        what, _, name = checked.partition("=")
        known = what not in ("team", "key", "model") or await self._is_known(what, name)
        await self._put("freeze", checked, reason, until_ms)
        return known

    async def unfreeze(self, target: str, *, reason: str = "") -> None:
        """Take a freeze back."""
        await self._take_back("freeze", check_freeze(target), reason)

    async def drain(self, target: str, *, reason: str, until_ms: int | None = None) -> bool:
        """Call a provider or a deployment (`provider/id`) no more; what is under way ends. Returns the same as `freeze`."""
        name = _name(target, "provider or deployment")
        known = await self._is_known("target", name)
        await self._put("drain", name, reason, until_ms)
        return known

    async def _is_known(self, what: str, name: str) -> bool:
        """False: nothing says. Raises `ControlError` for a name that is none."""
        known = (await self.state()).known
        names: tuple[str, ...] = () if known is None else getattr(known, what)
        if name in names:
            return True
        if what == "key" and self._keys is not None:
            minted = await self._keys.list_keys()
            if any(name in (key.key_id, key.name) for key in minted):
                return True
            names += tuple(key.name for key in minted)
        if known is None or (what == "key" and self._keys is None):
            return False
        raise ControlError(unknown("provider or deployment" if what == "target" else what, name, names))

    async def undrain(self, target: str, *, reason: str = "") -> None:
        """Take a drain back."""
        await self._take_back("drain", _name(target, "provider or deployment"), reason)

    async def resume(self, target: str, *, reason: str = "") -> str:
        """Let an experiment that was taken back begin anew: `route/rule/name`, or its name alone if that is clear. Returns the former."""
        given = _name(target, "experiment")
        found: list[str] = []

        def edit(state: ControlState, now_ms: int) -> tuple[ControlState, AuditEntry]:
            stopped = dict.fromkeys(each.target for each in state.of_kind("stop"))
            found[:] = [given] if given in stopped else [each for each in stopped if each.rpartition("/")[2] == given]
            if len(found) != 1:
                what = "is the name of several" if found else "was not taken back"
                raise ControlError(f"experiment '{given}' {what}; taken back: {', '.join(found or stopped) or 'none'}")
            stops = [each for each in state.of_kind("stop") if each.target == found[0]]
            runs = state.runs | {each.scope: state.runs.get(each.scope, 0) + 1 for each in stops}
            entry = self._entry("experiment.resume", found[0], before=f"stop: {', '.join(each.reason for each in stops)}", reason=reason)
            return msgspec.structs.replace(_without(state, "stop", found[0]), runs=runs), entry

        await self._change(edit, reason=None)
        return found[0]

    async def keys_changed(self, action: str, target: str, *, before: str = "", after: str = "", reason: str = "") -> None:
        """Tell all workers that a minted key was revoked or changed: they believe nothing of before. Audited as `action`."""

        def edit(state: ControlState, now_ms: int) -> tuple[ControlState, AuditEntry]:
            entry = AuditEntry(who=self._who, via=self._via, action=action, target=target, before=before, after=after, reason=reason)
            return msgspec.structs.replace(state, keys_epoch=state.keys_epoch + 1), entry

        await self._change(edit, reason=None)

    async def has_noted(self, action: str, target: str, *, since_ms: int) -> bool:
        """Whether the audit log says that somebody did this since then, by the store's clock."""
        async for _, stored in self._store.history(since_ms=since_ms):
            entry = msgspec.json.decode(stored, type=AuditEntry)
            if (entry.action, entry.target) == (action, target):
                return True
        return False

    async def reload(self, *, reason: str = "") -> None:
        """Have all workers of all replicas read their configuration now."""

        def edit(state: ControlState, now_ms: int) -> tuple[ControlState, AuditEntry]:
            entry = self._entry("config.reload", "all workers", reason=reason)
            return msgspec.structs.replace(state, reload_epoch=state.reload_epoch + 1), entry

        await self._change(edit, reason=None)

    async def pin(self, version: str, *, reason: str) -> None:
        """Have all serve a version of the configuration that was served before, whatever their file says, also after a restart."""

        def edit(state: ControlState, now_ms: int) -> tuple[ControlState, AuditEntry]:
            before = state.config if state.pin is None else state.pin.version
            pin = Pin(version=version, reason=reason, by=self._who, at_ms=now_ms)
            return _reloaded(state, pin), self._entry("config.rollback", "all workers", before=before, after=version, reason=reason)

        await self._change(edit, reason=reason)

    async def unpin(self, *, reason: str = "") -> None:
        """Have all serve their file again."""

        def edit(state: ControlState, now_ms: int) -> tuple[ControlState, AuditEntry]:
            if state.pin is None:
                raise ControlError("the file's configuration is served: nothing was rolled back")
            return _reloaded(state, None), self._entry("config.unpin", "all workers", before=state.pin.version, reason=reason)

        await self._change(edit, reason=None)

    async def note(self, action: str, target: str, *, before: str = "", after: str = "", reason: str = "") -> None:
        """Write any other change that somebody made into the audit log."""
        entry = AuditEntry(who=self._who, via=self._via, action=action, target=target, before=before, after=after, reason=reason)
        await self._store.append(msgspec.json.encode(entry))

    async def note_approval(self, name: str) -> None:
        """Write down who let a session go on that was paused; `name` is `key|session`."""
        await self.note("session.approve", name.partition("|")[2][:MAX_TARGET], before="paused", after="approved")

    async def _put(self, kind: Literal["freeze", "drain"], target: str, reason: str, until_ms: int | None) -> None:
        def edit(state: ControlState, now_ms: int) -> tuple[ControlState, AuditEntry]:
            before = next((each for each in state.of_kind(kind) if each.target == target), None)
            control = Control(kind=kind, target=target, reason=reason, by=self._who, at_ms=now_ms, until_ms=until_ms)
            changed = _with(_without(state, kind, target), control)
            word = "" if before is None else f"{kind}: {before.reason}"
            return changed, self._entry(kind, target, before=word, after=kind, reason=reason, until_ms=until_ms)

        await self._change(edit, reason=reason, until_ms=until_ms)

    async def _take_back(self, kind: Literal["freeze", "drain"], target: str, reason: str) -> None:
        def edit(state: ControlState, now_ms: int) -> tuple[ControlState, AuditEntry]:
            before = next((each for each in state.of_kind(kind) if each.target == target), None)
            if before is None:
                known = ", ".join(each.target for each in state.of_kind(kind)) or "none"
                raise ControlError(f"there is no {kind} of '{target}'; in force: {known}")
            return _without(state, kind, target), self._entry(f"un{kind}", target, before=f"{kind}: {before.reason}", reason=reason)

        await self._change(edit, reason=None)

    def _limit_entry(self, action: str, change: LimitChange, reason: str) -> AuditEntry:
        before, after = amount_text(change.before, change.unit), amount_text(change.after, change.unit)
        return self._entry(action, change.budget, scope=change.scope, before=before, after=after, reason=reason, until_ms=change.until_ms)

    def _entry(
        self, action: str, target: str, *, scope: str = "", before: str = "", after: str = "", reason: str = "", until_ms: int | None = None
    ) -> AuditEntry:
        return AuditEntry(
            who=self._who,
            via=self._via,
            action=action,
            target=target,
            scope=scope,
            before=before,
            after=after,
            reason=reason,
            until_ms=until_ms,
        )

    async def _change(self, edit: Edit, *, reason: str | None, until_ms: int | None = None, limits: bool = False) -> None:
        """`reason` None: none is needed."""
        if reason is not None and not reason.strip():
            raise ControlError("a change needs a reason")
        if reason is not None and len(reason) > MAX_REASON:
            raise ControlError(f"a reason may have at most {MAX_REASON} characters")
        _, now_ms = await self._store.look()
        if until_ms is not None and until_ms <= now_ms:
            raise ControlError("the end of the change has passed already")
        await change(self._store, edit, limits=limits)


async def change(store: Controls, edit: Edit, *, limits: bool) -> ControlState:
    """Change what is kept, again if somebody else was faster. `limits`: publish those that follow from it, too.

    What has ended is dropped on the way, and noted.

    Raises:
        StoreUnavailable: the store does not answer, or others are always faster.
    """
    for tries in range(TRIES):
        if tries:
            # Of those that try at the same time one succeeds: at different times, more do.
            await asyncio.sleep(random.uniform(0, min(tries * PAUSE_SECONDS, MOST_PAUSE_SECONDS)))  # noqa: S311
        expected, now_ms = await store.look()
        state = decode_state(await store.load())
        if state.version != expected:
            continue
        state, ended = drop_ended(state, now_ms)
        edited = edit(state, now_ms)
        if edited is None:
            return state
        changed, entry = edited
        if len(changed.controls) > MOST_CONTROLS:
            raise ControlError(f"{MOST_CONTROLS} changes are in force already; take some back")
        changed = msgspec.structs.replace(changed, version=expected + 1)
        publish = limits_in_force(changed) if limits or ended else None
        entries = [msgspec.json.encode(each) for each in (*ended, entry)]
        if await store.commit(encode_state(changed), expected=expected, version=changed.version, entries=entries, limits=publish):
            return changed
    raise StoreUnavailable("controls are changed by others all the time")


def drop_ended(state: ControlState, now_ms: int) -> tuple[ControlState, list[AuditEntry]]:
    """The state without what has ended, and what the audit log says of that."""
    kept = without_ended(state.controls, now_ms)
    if len(kept) == len(state.controls):
        return state, []
    after = msgspec.structs.replace(state, controls=kept)
    return after, [_ended(state, after, control) for control in state.controls if control not in kept]


def _ended(state: ControlState, after: ControlState, control: Control) -> AuditEntry:
    name, scope = control.target, control.scope
    before, left = str(control.kind), ""
    if control.kind == "limit" and name in state.base:
        unit = state.base[name].unit
        before, left = (amount_text(limit_in_force(each, name, scope), unit) for each in (state, after))
    return AuditEntry(
        who="faregate",
        via="clock",
        action=f"{control.kind}.end",
        target=name,
        scope=scope,
        before=before,
        after=left,
        reason=control.reason,
    )


def find_budget(state: ControlState, name: str) -> tuple[str, BaseLimit]:
    """A budget by its name, or by that of its team or key.

    Raises:
        ControlError: there is none, or no configuration was served yet.
    """
    for full in (name, f"team/{name}", f"key/{name}"):
        if full in state.base:
            return full, state.base[full]
    known = ", ".join(state.base) or "none: no configuration with budgets was served from this store yet"
    raise ControlError(f"there is no budget '{name}'; known: {known}")


def _scope_of(name: str, base: BaseLimit, scope: str) -> str:
    """A scope as buckets name it."""
    if not scope:
        return ""
    if not base.each:
        raise ControlError(f"budget '{name}' is one for all; it has no scopes")
    given = dict(part.partition("=")[::2] for part in (scope.split("&") if len(base.each) > 1 else [scope]))
    if given.keys() != set(base.each) or not all(given.values()):
        raise ControlError(f"budget '{name}' is split by {' and '.join(base.each)}: write {'&'.join(f'{each}=NAME' for each in base.each)}")
    return "&".join(f"{escape_scope(each)}={escape_scope(given[each])}" for each in base.each)


def check_freeze(target: str) -> str:
    """A freeze's target as it is kept.

    Raises:
        ControlError: it is none.
    """
    dimension, equals, value = target.strip().partition("=")
    if dimension == EVERYBODY and not equals:
        return EVERYBODY
    if dimension not in FREEZABLE or not value or len(value) > MAX_TARGET:
        known = ", ".join(f"{each}=NAME" for each in FREEZABLE)
        raise ControlError(f"'{target[:MAX_TARGET]}' cannot be frozen; write {known} or {EVERYBODY}")
    return f"{dimension}={value}"


def _name(target: str, what: str) -> str:
    if not target.strip() or len(target) > MAX_TARGET:
        raise ControlError(f"name a {what}")
    return target.strip()


def _reloaded(state: ControlState, pin: Pin | None) -> ControlState:
    return msgspec.structs.replace(state, pin=pin, reload_epoch=state.reload_epoch + 1)


def _with(state: ControlState, control: Control) -> ControlState:
    return msgspec.structs.replace(state, controls=(*state.controls, control))


def _without(state: ControlState, kind: str, target: str) -> ControlState:
    kept = tuple(control for control in state.controls if control.kind != kind or control.target != target)
    return msgspec.structs.replace(state, controls=kept)
