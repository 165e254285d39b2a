"""Escrow: calls go on while the budget store is away, paid from advances that were held in it before.

An advance is a hold like any other: nobody else can spend it, so what is paid from it never exceeds a limit. What a call
took from it is handed over to that call when its settlement reaches the store. The rest is given back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

import msgspec
import structlog

from router.adapters.entries import plan
from router.domain.advances import MARK, Cover, cover_of, sizes
from router.domain.budgets import Bucket, BucketSet, BucketState, Refusal, Reservation, WindowMoved
from router.domain.money import NUSD_PER_USD, format_usd
from router.errors import StoreUnavailable
from router.metrics import Metrics
from router.metrics_store import Scrape
from router.ports import Ledger
from router.snapshot import Snapshot

REFRESH_SECONDS: Final = 2.0
"""How often advances are fitted to what is left."""
IDLE_ROUNDS: Final = 30
"""After so many rounds without a call an advance is given back."""
MOST_ADVANCES: Final = 256
"""Per process: who has none is refused while the store is away."""
_COVER: Final = "escrow"

log = structlog.get_logger("faregate.escrow")


class Parking(Protocol):
    """What of an outbox is needed: advances that nobody used are given back even if this process is killed."""

    def park(self, held: Reservation) -> None:
        """Write on disk that the hold is given back, should this process not come back. Blocks for an fsync."""
        ...

    def intend(self, held: Reservation, record: bytes) -> None:
        """Write on disk that the hold is charged, should this process not come back. Blocks for an fsync."""
        ...

    def unpark(self, attempt_id: str) -> None:
        """Take the parking back. Blocks for an fsync."""
        ...

    async def void(self, held: Reservation) -> None:
        """Give the hold back now or later."""
        ...

    async def void_later(self, held: Reservation) -> None:
        """Give the hold back after what is to be delivered already."""
        ...


@dataclass(slots=True, eq=False)
class Advance:
    """Money that was held in the store before it went away."""

    held: Reservation
    left_nusd: int
    """What no call has taken."""
    used: bool = False
    owed: set[str] = field(default_factory=set)
    """Attempts that took from it and whose settlements the store does not have yet."""


@dataclass(slots=True)
class _Taken:
    """What an attempt under way took while the store was away."""

    nusd: int
    advance: Advance | None
    """None: it was let through under `open`."""
    budgets: tuple[str, ...] = ()
    note: bytes = b""
    """What the books say of it if this process is killed."""


class Escrow:
    """A ledger's `BudgetStore` that goes on while the ledger is away, as far as `when_store_is_down` allows."""

    def __init__(
        self,
        ledger: Ledger,
        *,
        snapshot: Snapshot,
        replica: str,
        states: Callable[[], Sequence[BucketState]],
        metrics: Metrics,
        clock: Callable[[], float],
        clock_ms: Callable[[], int],
    ) -> None:
        """`states` gives the buckets as they were read last; `clock` monotonic seconds, `clock_ms` Unix milliseconds."""
        self._ledger = ledger
        self._replica = replica
        self._states = states
        self._metrics = metrics
        self._clock = clock
        self._clock_ms = clock_ms
        self._outbox: Parking | None = None
        self._modes: Mapping[str, str] = {}
        self._default = ""
        self._covers: dict[str, Cover] = {}
        self._advances: dict[str, Advance] = {}
        """By the names of their covers."""
        self._leaving: dict[str, Advance] = {}
        """Advances that nothing more is taken from, by attempt id."""
        self._taken: dict[str, _Taken] = {}
        self._open: Counter[str] = Counter()
        """Nano-USD let through under `open` since the store went, by budget."""
        self._open_owed: set[str] = set()
        self._count = 0
        self._heard_at = clock()
        self.configure(snapshot)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)

    def configure(self, snapshot: Snapshot) -> None:
        """Go by another configuration from now on."""
        self._server = snapshot.server
        self._default = snapshot.server.when_store_is_down
        self._modes = {budget.name: budget.when_down for budget in snapshot.budgets}

    def attach(self, outbox: Parking) -> None:
        """Where advances are written down. Before the first `refresh`."""
        self._outbox = outbox

    # -- what others ask

    @property
    def pause_seconds(self) -> float:
        """Between two calls of `refresh`."""
        return min(REFRESH_SECONDS, self._server.lease_seconds / 4)

    def show(self, scrape: Scrape) -> None:
        """Set the gauges."""
        scrape.set("faregate_store_advances_usd", sum(advance.left_nusd for advance in self._advances.values()) / NUSD_PER_USD)
        scrape.set("faregate_store_open_usd", max(self._open.values(), default=0) / NUSD_PER_USD)

    def note(self) -> str:
        """What people are told while the store is away."""
        left = sum(advance.left_nusd for advance in self._advances.values())
        return f"the budget store is away; advances are left for calls that hold {format_usd(left)} USD"

    def covered(self) -> Iterator[Bucket]:
        """The buckets that advances are held in, or would be."""
        return (bucket for cover in self._covers.values() for bucket in cover.buckets.buckets)

    @property
    def serves(self) -> bool:
        """Whether any call could be let through while the store is away."""
        return bool(self._advances) or "open" in self._modes.values() or (not self._modes and self._default != "closed")

    # -- BudgetStore

    async def reserve(
        self, *, attempt_id: str, amount_nusd: int, buckets: BucketSet, note: bytes = b"", tokens: int = 0
    ) -> Reservation | Refusal | WindowMoved:
        """See `BudgetStore.reserve`."""
        cover: Cover | None = buckets.encoded.get(_COVER)
        if cover is None:
            cover = self._cover(buckets)
        if amount_nusd > cover.recent:
            cover.recent = amount_nusd
        ledger = self._ledger
        try:
            answer = await ledger.reserve(attempt_id=attempt_id, amount_nusd=amount_nusd, buckets=buckets, note=note, tokens=tokens)
            if type(answer) is Refusal and self._advances and await self._give_back(answer.bucket):
                return await ledger.reserve(attempt_id=attempt_id, amount_nusd=amount_nusd, buckets=buckets, note=note, tokens=tokens)
        except StoreUnavailable as exc:
            lender = self._take(attempt_id, amount_nusd, cover, exc, note)
            return self._intended(
                Reservation(attempt_id=attempt_id, amount_nusd=amount_nusd, buckets=buckets, lender=lender, tokens=tokens)
            )
        return answer

    async def extend(self, held: Reservation, *, by_nusd: int) -> Reservation | Refusal:
        """See `BudgetStore.extend`."""
        taken = self._taken.get(held.attempt_id)
        if taken is None or not self._has(taken, by_nusd):
            try:
                answer = await self._ledger.extend(held, by_nusd=by_nusd)
            except StoreUnavailable as exc:
                lender = self._take(held.attempt_id, by_nusd, self._cover(held.buckets), exc)
            else:
                if taken is not None and isinstance(answer, Reservation):
                    # All of it is held in the store now.
                    self._end(held.attempt_id, 0, 0)
                    self._delivered(held)
                return answer
        else:
            lender = held.lender
            self._add(taken, by_nusd)
        return self._intended(
            Reservation(
                attempt_id=held.attempt_id,
                amount_nusd=held.amount_nusd + by_nusd,
                buckets=held.buckets,
                tightest=held.tightest,
                tightest_left_nusd=held.tightest_left_nusd,
                tokens=held.tokens,
                lender=lender,
            )
        )

    async def settle(self, held: Reservation, *, charge_nusd: int, record: bytes, tokens: int | None = None) -> bool:
        """See `BudgetStore.settle`."""
        if held.attempt_id in self._taken:
            self._end(held.attempt_id, held.amount_nusd, charge_nusd)
        if held.lender:
            await self._ledger.lend(held.lender, to=held, total_nusd=min(charge_nusd, held.amount_nusd))
        done = await self._ledger.settle(held, charge_nusd=charge_nusd, record=record, tokens=tokens)
        self._delivered(held)
        return done

    async def void(self, held: Reservation) -> bool:
        """See `BudgetStore.void`."""
        if held.attempt_id in self._taken:
            self._end(held.attempt_id, held.amount_nusd, 0)
        done = await self._ledger.void(held)
        self._delivered(held)
        return done

    # -- while the store is away

    def _cover(self, buckets: BucketSet) -> Cover:
        cover: Cover = cover_of(plan(buckets).buckets, self._modes, self._default)
        if cover.mode == "lease":
            cover = self._covers.setdefault(cover.name, cover)
        buckets.encoded[_COVER] = cover
        return cover

    def _take(self, attempt_id: str, nusd: int, cover: Cover, exc: StoreUnavailable, note: bytes = b"") -> str:
        """Let a call through, if that is allowed. Returns the advance that pays for it. Raises what the store raised, or why not.

        Nothing is awaited here: the reserve that has failed is ours from now on, whether it was done or not.
        """
        taken = self._taken.get(attempt_id)
        if taken is None:
            advance = self._advances.get(cover.name) if cover.mode == "lease" else None
            taken = _Taken(0, advance, cover.budgets, note)
        if cover.mode == "closed" or not self._has(taken, nusd, cover.mode):
            self._metrics.served_alone(mode="refused")
            if cover.mode == "closed":
                raise exc
            what = "the advance of its budgets is used up" if cover.mode == "lease" else "server.open_up_to is reached"
            raise StoreUnavailable(f"{exc}; {what}") from exc
        self._ledger.trust(attempt_id)
        self._taken[attempt_id] = taken
        self._add(taken, nusd)
        self._metrics.served_alone(mode=cover.mode)
        if taken.advance is None:
            self._open_owed.add(attempt_id)
            return ""
        advance = taken.advance
        advance.owed.add(attempt_id)
        if not advance.used:
            advance.used = True
            # Should this process be killed from here on, the advance counts as spent.
            if self._outbox is not None:
                self._outbox.unpark(advance.held.attempt_id)
        return advance.held.attempt_id

    def _intended(self, held: Reservation) -> Reservation:
        """The same. What no advance pays for is in no book yet: it is on disk before it is sent, and charged should we be killed."""
        if not held.lender and self._outbox is not None:
            members = msgspec.json.decode(self._taken[held.attempt_id].note or b"{}")
            told = {"attempt_id": held.attempt_id, "at_ms": self._clock_ms(), "outcome": "swept", "evidence": "estimated"}
            amounts = {"hold_nusd": held.amount_nusd, "charge_nusd": held.amount_nusd}
            self._outbox.intend(held, msgspec.json.encode({"request_id": held.attempt_id, **members, **told, **amounts}))
        return held

    def _has(self, taken: _Taken, nusd: int, mode: Literal["lease", "open", "free", "closed"] = "lease") -> bool:
        if taken.advance is not None:
            return taken.advance.left_nusd >= nusd
        if mode == "lease" and not taken.budgets:
            return False
        return all(self._open[budget] + nusd <= self._server.open_up_to_nusd for budget in taken.budgets)

    def _add(self, taken: _Taken, nusd: int) -> None:
        taken.nusd += nusd
        if taken.advance is not None:
            taken.advance.left_nusd -= nusd
        self._open.update(dict.fromkeys(taken.budgets, nusd))

    def _end(self, attempt_id: str, amount_nusd: int, charge_nusd: int) -> None:
        """An attempt is charged so much of so much: what it does not need goes back to where it took it."""
        taken = self._taken.pop(attempt_id, None)
        if taken is None:
            return
        held_in_store = amount_nusd - taken.nusd
        needed = max(0, min(charge_nusd, amount_nusd) - held_in_store) if amount_nusd else 0
        self._add(taken, needed - taken.nusd)

    def _delivered(self, held: Reservation) -> None:
        """The store knows all of an attempt."""
        if held.lender:
            for advance in (*self._advances.values(), *self._leaving.values()):
                if advance.held.attempt_id == held.lender:
                    advance.owed.discard(held.attempt_id)
        elif self._open_owed:
            self._open_owed.discard(held.attempt_id)
            if not self._open_owed:
                self._open.clear()

    # -- while it is there

    async def refresh(self) -> None:
        """Fit the advances to what is left of the budgets, and give those back that are not needed.

        Raises:
            StoreUnavailable: the store is away.
        """
        now = self._clock()
        if now - self._heard_at > self._server.lease_seconds / 2:
            # Others may have taken us for dead and charged our holds.
            for advance in self._advances.values():
                advance.used = True
        await self._ledger.ping()
        self._heard_at = now
        covers = self._active()
        wanted = sizes(covers, self._states(), share_ppm=self._server.lease_ppm)
        for cover in covers:
            await self._fit(cover, wanted[cover.name])
        for advance in list(self._leaving.values()):
            await self._leave(advance)

    def _active(self) -> list[Cover]:
        """The covers that calls still come for, in windows that go on; the advances of others leave."""
        now_ms = self._clock_ms()
        for cover in list(self._covers.values()):
            cover.round()
            if cover.idle > IDLE_ROUNDS or now_ms >= cover.buckets.valid_until_ms:
                del self._covers[cover.name]
        for name in [name for name in self._advances if name not in self._covers]:
            self._retire(name)
        return list(self._covers.values())[:MOST_ADVANCES]

    async def _fit(self, cover: Cover, wanted_nusd: int) -> None:
        advance = self._advances.get(cover.name)
        if advance is None:
            fits = not wanted_nusd
        else:
            # Refilled when half is gone; no more than a quarter above its part is kept.
            fits = not advance.used and wanted_nusd <= 2 * advance.left_nusd and 4 * advance.left_nusd <= 5 * wanted_nusd
        if fits:
            return
        fresh = await self._fetch(cover.buckets, wanted_nusd) if wanted_nusd else None
        self._retire(cover.name)
        if fresh is not None:
            del self._leaving[fresh.held.attempt_id]
            self._advances[cover.name] = fresh

    async def _fetch(self, buckets: BucketSet, nusd: int) -> Advance | None:
        self._count += 1
        attempt_id = f"{self._replica}{MARK}{self._count}"
        note = b'{"request_id":"%b","reason":"advance"}' % attempt_id.encode()
        answer = await self._ledger.reserve(attempt_id=attempt_id, amount_nusd=nusd, buckets=buckets, note=note)
        if not isinstance(answer, Reservation):
            return None
        # Whatever comes between, it is given back.
        self._leaving[attempt_id] = advance = Advance(answer, nusd)
        if self._outbox is not None:
            self._outbox.park(answer)
        return advance

    def _retire(self, name: str) -> None:
        advance = self._advances.pop(name, None)
        if advance is not None:
            self._leaving[advance.held.attempt_id] = advance

    async def _leave(self, advance: Advance) -> None:
        """Give an advance back, unless calls that it pays for are still to be booked."""
        attempt_id = advance.held.attempt_id
        if advance.owed or attempt_id not in self._leaving:
            return
        await self._ledger.void(advance.held)
        self._leaving.pop(attempt_id, None)
        if self._outbox is not None and not advance.used:
            self._outbox.unpark(attempt_id)

    async def _give_back(self, bucket: Bucket) -> bool:
        """A budget has no room: its advances come first. True if there was one."""
        names = [name for name, cover in self._covers.items() if name in self._advances and bucket in cover.buckets.buckets]
        for name in names:
            advance = self._advances[name]
            self._retire(name)
            await self._leave(advance)
        return bool(names)

    async def close(self) -> None:
        """Give all advances back, now or, if the store is away, by whoever takes over what this process leaves."""
        for name in list(self._advances):
            self._retire(name)
        outbox, leaving = self._outbox, list(self._leaving.values())
        self._leaving.clear()
        for advance in leaving if outbox is not None else ():
            # The loop has no turn without one.
            assert outbox is not None  # noqa: S101
            if not advance.used:
                outbox.unpark(advance.held.attempt_id)
            await (outbox.void_later(advance.held) if advance.owed else outbox.void(advance.held))
