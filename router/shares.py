"""Keeps this ledger's shares of budgets that span several ledgers fitted to what is used where. See `router/domain/shares.py`."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator
from typing import Final

import msgspec
import structlog

from router.controls import ControlError
from router.domain.budgets import Bucket, Budget
from router.domain.controls import AuditEntry, decode_state, encode_state, limits_in_force
from router.domain.money import NUSD_PER_USD
from router.domain.shares import TELL_MS, OwnShare, Register, Share, next_share, whole_limit
from router.domain.windows import bucket_at
from router.errors import ConfigError, StoreUnavailable
from router.metrics_store import Scrape
from router.ports import Books, Controls, Ledger
from router.snapshot import Snapshot

SHARES_SECONDS: Final = 1.0
"""How often shares are fitted."""
IDLE_ROUNDS: Final = 30
"""A ledger that has used nothing more for so long leaves the last of a budget to others."""
LATE_MS: Final = 900_000
"""So long after its end a window counts at least: clocks differ, and answers that began in it may still be extended."""
LEASE_SECONDS: Final = 20.0
"""In the register nothing is held, so the length does not matter."""
TRIES: Final = 5
SILENT_MS: Final = 3 * TELL_MS
"""Who told nothing for so long has no process that looks after its shares."""

log = structlog.get_logger("faregate.shares")


async def read_register(controls: Controls) -> Register:
    """All shares as they are written down. Raises `StoreUnavailable`."""
    stored = await controls.load()
    return msgspec.json.decode(stored, type=Register) if stored else Register()


async def forget(controls: Controls, ledger: str, *, who: str, reason: str) -> dict[str, Share]:
    """Free the shares of a ledger that is gone for ever. Returns them, by budget.

    Raises:
        ControlError: it has none, or it told of itself a moment ago: what it had could be spent twice.
        StoreUnavailable: the register does not answer, or others are always faster.
    """
    for _ in range(TRIES):
        version, now_ms = await controls.look()
        register = await read_register(controls)
        had = {budget: shares[ledger] for budget, shares in register.budgets.items() if ledger in shares}
        if not had:
            names = sorted({name for shares in register.budgets.values() for name in shares})
            raise ControlError(f"ledger '{ledger}' has no share; known: {', '.join(names) or 'none'}")
        silent_ms = now_ms - max(share.at_ms for share in had.values())
        if silent_ms < SILENT_MS:
            raise ControlError(
                f"ledger '{ledger}' told of itself {silent_ms // 1000} s ago: end its processes first, and wait until it was silent for"
                f" {SILENT_MS // 60_000} minutes"
            )
        entry = AuditEntry(who=who, via="command", action="shares.forget", target=ledger, reason=reason)
        changed = msgspec.json.encode(register.without(ledger))
        if await controls.commit(changed, expected=version, version=version + 1, entries=[msgspec.json.encode(entry)]):
            return had
    raise StoreUnavailable("shares are changed by others all the time")


class Shares:
    """Fits the shares of one ledger. Any number of processes of that ledger may do it: each step is one that others see or undo."""

    def __init__(self, ledger: Ledger, *, snapshot: Callable[[], Snapshot], open_register: Callable[[str], Ledger]) -> None:
        """`ledger` is this one's; `snapshot` gives the configuration that is served now; `open_register` what is at an address."""
        self._books: Books = ledger
        self._own = ledger.control_store()
        self._snapshot = snapshot
        self._open = open_register
        self._register: Ledger | None = None
        self._known = Register()
        self._before: dict[str, tuple[int, int]] = {}
        """What was used a round before, and for how many rounds that has not grown, by budget."""
        self._away = ""

    async def look(self) -> None:
        """Fit every share once. While the register is away, all shares stay as they are.

        Raises:
            StoreUnavailable: this ledger's own store is away.
        """
        budgets = [budget for budget in self._snapshot().budgets if budget.shared]
        if not budgets:
            return
        try:
            register = (await self._connected()).control_store()
            for budget in budgets:
                await self._fit(register, budget)
        except _OwnStoreAway as exc:
            raise StoreUnavailable(str(exc)) from exc
        except (StoreUnavailable, ConfigError) as exc:
            if not self._away:
                log.error("server.shared_store is away; the shares of this ledger stay as they are", reason=str(exc))
            self._away = str(exc)
        else:
            if self._away:
                log.info("server.shared_store is back")
            self._away = ""

    def show(self, scrape: Scrape) -> None:
        """Set the gauges."""
        snapshot = self._snapshot()
        ledger = snapshot.server.ledger
        for budget in snapshot.budgets:
            shares = self._known.of(budget.name)
            if budget.shared and budget.unit == "usd" and ledger in shares:
                whole = whole_limit(shares, budget.limit_nusd, ledger)
                scrape.set("faregate_shared_budget_limit_usd", whole / NUSD_PER_USD, budget=budget.name)
                used = sum(share.used for share in shares.values())
                scrape.set("faregate_shared_budget_used_usd", used / NUSD_PER_USD, budget=budget.name)
        scrape.set("faregate_shared_store_up", float(not self._away))

    async def close(self) -> None:
        """Let go of the register."""
        register, self._register = self._register, None
        if register is not None:
            with contextlib.suppress(StoreUnavailable):
                await register.release()
            await register.close()

    async def _connected(self) -> Ledger:
        if self._register is None:
            register = self._open(self._snapshot().server.shared_store)
            await register.open(replica_id=f"shares-{secrets.token_hex(6)}", lease_seconds=LEASE_SECONDS)
            self._register = register
            # What processes left that were killed.
            await register.sweep()
        return self._register

    async def _used_of(self, budget: Budget) -> tuple[int, int]:
        """What is used or held in the present window; and the most in any that goes on or has just ended."""
        with _own_store():
            _, now_ms = await self._own.look()
            states = await self._books.states_of(list(_windows(budget, now_ms, self._late_ms())))
        used = [(state.ends_ms, state.spent_nusd + state.held_nusd) for state in states]
        return max((amount for ends_ms, amount in used if ends_ms > now_ms), default=0), max((amount for _, amount in used), default=0)

    def _late_ms(self) -> int:
        """So long after its end a window still counts: as long as an answer that began in it may be extended."""
        snapshot = self._snapshot()
        own = [deployment.timeouts for deployment in snapshot.deployments.values()]
        every = own + [route.timeouts for route in snapshot.routes.values() if route.timeouts is not None]
        return max(LATE_MS, round(max((each.total_seconds for each in every), default=0.0) * 1000))

    async def _fit(self, register: Controls, budget: Budget) -> None:
        name, ledger = budget.name, self._snapshot().server.ledger
        used, floor = await self._used_of(budget)
        before, rounds = self._before.get(name, (used, 0))
        grown = used - before
        rounds = 0 if grown > 0 else rounds + 1
        self._before[name] = used, rounds
        for _ in range(TRIES):
            version, now_ms = await register.look()
            known = self._known = await read_register(register)
            known, held = await self._known_here(known, name, ledger)
            share = next_share(
                known.of(name), ledger, whole=budget.limit_nusd, used=used, grown=grown, idle=rounds > IDLE_ROUNDS, now_ms=now_ms
            )
            told = max(held, known.of(name).get(ledger, share).limit)
            if share.limit < told:
                share = await self._lowered(budget, share, version, floor=min(floor, told), told=told)
            if share == self._known.of(name).get(ledger):
                written: int | None = version
            else:
                written = await self._write(register, known.with_share(name, ledger, share), version)
            if written is not None:
                await self._set(name, OwnShare(share.limit, written), lower=False)
                return

    async def _lowered(self, budget: Budget, share: Share, version: int, *, floor: int, told: int) -> Share:
        """The share that the register may be told of after this ledger's has been lowered, in this order."""
        limit = max(share.limit, floor)
        if limit < told:
            await self._set(budget.name, OwnShare(limit, version), lower=True)
            # No more can be used from here on: but what came before that may be.
            _, floor = await self._used_of(budget)
        return msgspec.structs.replace(share, limit=max(limit, min(told, floor)))

    async def _known_here(self, register: Register, name: str, ledger: str) -> tuple[Register, int]:
        """The register, and the share that this ledger goes by. A register that was emptied is told what it forgot."""
        with _own_store():
            state = decode_state(await self._own.load())
        held = state.shares[name].limit if name in state.shares else 0
        if held and ledger not in register.of(name):
            log.error("server.shared_store forgot this ledger's share: it is written down again", budget=name)
            return register.with_share(name, ledger, Share(limit=held)), held
        return register, held

    async def _write(self, register: Controls, changed: Register, version: int) -> int | None:
        """The version of what is now in the register; None: somebody else was faster."""
        if not await register.commit(msgspec.json.encode(changed), expected=version, version=version + 1):
            return None
        self._known = changed
        return version + 1

    async def _set(self, name: str, share: OwnShare, *, lower: bool) -> None:
        """Have this ledger refuse by a share. What follows from an older state of the register does not undo what does from a newer
        one: so a share can be lowered at the state at which it was raised, and is not raised again by who was slow to say so.
        """
        with _own_store():
            for _ in range(TRIES):
                expected, _now = await self._own.look()
                state = decode_state(await self._own.load())
                if state.version != expected:
                    continue
                before = state.shares.get(name, OwnShare(0, -1))
                wanted = OwnShare(min(share.limit, before.limit), share.mark) if lower else share
                stale = share.mark < before.mark if lower else share.mark <= before.mark or share.limit == before.limit
                if stale or wanted == before:
                    return
                changed = msgspec.structs.replace(state, shares=state.shares | {name: wanted}, version=expected + 1)
                limits = limits_in_force(changed)
                if await self._own.commit(encode_state(changed), expected=expected, version=changed.version, limits=limits):
                    return
            raise StoreUnavailable("controls are changed by others all the time")


def _windows(budget: Budget, now_ms: int, late_ms: int) -> Iterator[Bucket]:
    """The bucket of the present window, and those of the ones that have just ended."""
    at_ms = now_ms
    while True:
        bucket = bucket_at(budget, "", at_ms)
        yield bucket
        at_ms = bucket.starts_ms - 1
        if budget.rolling_ms or at_ms <= now_ms - late_ms:
            return


class _OwnStoreAway(Exception):
    """The ledger's own store does not answer."""


@contextlib.contextmanager
def _own_store() -> Iterator[None]:
    try:
        yield
    except StoreUnavailable as exc:
        raise _OwnStoreAway(str(exc)) from exc
