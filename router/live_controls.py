"""A worker's view of what people change while the service runs: at most half a second old."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final

import msgspec
import structlog

from router.call import Call
from router.controls import TRIES, ControlError, change, drop_ended
from router.domain.controls import (
    DEFAULT_TEAM,
    EVERYBODY,
    AuditEntry,
    Control,
    ControlState,
    Freezes,
    Limit,
    base_limits,
    closed_deployments,
    decode_state,
    encode_state,
    limits_in_force,
)
from router.errors import FROZEN, RouterError
from router.experiments import Key, mark_of, target_of
from router.fleet import Fleet
from router.known import known_names
from router.limit_changes import changed_limits
from router.ports import ControlStore
from router.snapshot import Snapshot

log = structlog.get_logger("faregate.controls")

POLL_SECONDS: Final = 0.5
"""How often a worker looks for changes."""
MOST_TOLD: Final = 2000
"""Characters of the limits that a configuration changes, in its audit entry."""


class LiveControls:
    """One worker's view of the controls, at most `POLL_SECONDS` old while the store answers; the last known one while not."""

    def __init__(
        self, store: ControlStore, fleet: Fleet, *, keys_changed: Callable[[], None], reload: Callable[[], None] = lambda: None
    ) -> None:
        """`keys_changed` is called when what is remembered of minted keys is to be forgotten, `reload` when somebody asks for that."""
        self._store = store
        self._fleet = fleet
        self._experiments = fleet.memory.experiments
        self._keys_changed = keys_changed
        self._reload = reload
        self._deployments: Mapping[str, tuple[str, str]] = {}
        self.state = ControlState()
        self.freezes: Freezes | None = None
        """Who is refused; None: nobody."""
        self.limits: Mapping[str, Limit] = {}
        """What the store refuses by, by budget."""

    async def publish(self, snapshot: Snapshot) -> None:
        """Make a configuration's limits the ones that the store decides by, with what people changed of them on top.

        Raises:
            StoreUnavailable: the store does not answer.
        """
        base = base_limits((*snapshot.budgets, *snapshot.limits))
        known = known_names(snapshot)

        def edit(state: ControlState, now_ms: int) -> tuple[ControlState, AuditEntry] | None:
            if state.version and state.config == snapshot.version and state.base == base and state.known == known:
                return None
            entry = AuditEntry(
                who="faregate",
                via="config",
                action="config.load",
                target=snapshot.source,
                before=state.config,
                reason="; ".join(changed_limits(state.base, snapshot.budgets))[:MOST_TOLD],
            )
            return msgspec.structs.replace(state, base=base, known=known, config=snapshot.version), _after(entry, snapshot.version)

        self._deployments = {name: (each.model, each.provider.name) for name, each in snapshot.deployments.items()}
        self._take(await change(self._store, edit, limits=True))
        await self.poll()

    async def poll(self) -> None:
        """See what changed, and end what has ended.

        Raises:
            StoreUnavailable: the store does not answer.
        """
        version, now_ms = await self._store.look()
        if not version and self.state.version:
            await self._restore()
        elif version != self.state.version:
            self._take(decode_state(await self._store.load()))
        if self.state.ends_ms <= now_ms:
            await self._end()
        for key, reason in list(self._experiments.unsaid.items()):
            await self._say_stopped(key, reason)

    async def _say_stopped(self, key: Key, reason: str) -> None:
        """Have all others, and this process when it starts again, know that an experiment was taken back."""
        target, mark = target_of(key), mark_of(key)
        known = self._experiments.known.get(key)
        run = 0 if known is None else known.own.run

        def edit(state: ControlState, now_ms: int) -> tuple[ControlState, AuditEntry] | None:
            # Let begin anew meanwhile: what was found is of the run before.
            if any(each.scope == mark for each in state.of_kind("stop")) or state.runs.get(mark, 0) != run:
                return None
            control = Control(kind="stop", target=target, scope=mark, reason=reason, by="faregate", at_ms=now_ms)
            entry = AuditEntry(who="faregate", via="test", action="experiment.stop", target=target, after="stop", reason=reason)
            return msgspec.structs.replace(state, controls=(*state.controls, control)), entry

        try:
            self._take(await change(self._store, edit, limits=False))
        except ControlError as exc:
            log.error("an experiment is taken back by this process only", experiment=target, problem=str(exc))
        self._experiments.unsaid.pop(key, None)

    async def _restore(self) -> None:
        """The store was emptied: a freeze must not end by that."""
        state = msgspec.structs.replace(self.state, version=self.state.version + 1)
        entry = AuditEntry(who="faregate", via="clock", action="controls.restore", target="store", reason="the store had lost them")
        if await self._store.commit(
            encode_state(state), expected=0, version=state.version, entries=[msgspec.json.encode(entry)], limits=limits_in_force(state)
        ):
            log.error("the store had lost its controls and limits; they were written anew", controls=len(state.controls))
            self._take(state)

    async def _end(self) -> None:
        for _ in range(TRIES):
            expected, now_ms = await self._store.look()
            state = decode_state(await self._store.load())
            state, ended = drop_ended(state, now_ms)
            entries = [msgspec.json.encode(each) for each in ended]
            if ended:
                state = msgspec.structs.replace(state, version=expected + 1)
            limits = limits_in_force(state)
            if not ended or await self._store.commit(
                encode_state(state), expected=expected, version=state.version, entries=entries, limits=limits
            ):
                self._take(state)
                return

    def _take(self, state: ControlState) -> None:
        keys_changed = state.keys_epoch != self.state.keys_epoch and self.state.version
        reload = state.reload_epoch != self.state.reload_epoch and self.state.version
        self.state = state
        self.limits = limits_in_force(state)
        freezes = Freezes(state.controls)
        self.freezes = freezes if freezes else None
        self._fleet.close_deployments(closed_deployments(state.controls, self._deployments))
        self._experiments.take(state.controls, state.runs)
        if keys_changed:
            self._keys_changed()
        if reload:
            self._reload()


def _after(entry: AuditEntry, after: str) -> AuditEntry:
    return msgspec.structs.replace(entry, after=after)


def refuse_frozen(call: Call, freezes: Freezes) -> None:
    """Refuse what people froze.

    Raises:
        RouterError: 403 with the reason that they gave.
    """
    principal, request = call.principal, call.request
    found = freezes.of(
        team=principal.team or DEFAULT_TEAM, key_id=principal.key_id, key_name=principal.name, user=request.user, model=request.model
    )
    if found is None:
        return
    whose = "All requests are" if found.target == EVERYBODY else f"Requests of {found.target.replace('=', ' ', 1)} are"
    until = ""
    if found.until_ms is not None:
        until = f" until {datetime.fromtimestamp(found.until_ms // 1000, UTC):%Y-%m-%dT%H:%M:%SZ}"
    details: dict[str, object] = {"frozen": found.target, "reason": found.reason}
    raise RouterError(FROZEN, f"{whose} frozen{until}: {found.reason}", details=details)
