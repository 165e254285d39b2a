"""What a batch keeps in memory: counters of buckets, attempts, and what they count beside nano-USD."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from router.domain.budgets import Unit
from router.domain.windows import SLOTS, slot_ms

Pieces = Sequence[tuple[int, int]]
"""(when, amount) pairs."""
Change = tuple[int, int, int, Pieces]
"""What is added to spent, held and debt of a bucket, and when what of it was held, should its window roll."""


class Rolling:
    """A window that rolls: what was added in each of the last slots of time, and what has left them."""

    __slots__ = ("gone", "length_ms", "newest", "slots")

    def __init__(self, rolling_ms: int, gone: int = 0, newest: int = -1, slots: dict[int, int] | None = None) -> None:
        self.length_ms: Final = slot_ms(rolling_ms)
        self.gone = gone
        """Sum of all slots that have left the window."""
        self.newest = newest
        """Number of the newest slot that was begun; -1: none."""
        self.slots: dict[int, int] = slots or {}

    def roll(self, now_ms: int) -> None:
        """Begin the slot of this moment."""
        slot = now_ms // self.length_ms
        if slot <= self.newest:
            return
        self.newest = slot
        for number in [n for n in self.slots if n <= slot - SLOTS]:
            self.gone += self.slots.pop(number)

    @property
    def ends_ms(self) -> int:
        """When all that is in it will have left the window."""
        return (self.newest + SLOTS) * self.length_ms

    def add(self, at_ms: int, amount: int) -> None:
        """Add to the slot of a moment; if that has left the window, to what has left it."""
        slot = min(at_ms // self.length_ms, self.newest)
        if slot > self.newest - SLOTS:
            self.slots[slot] = self.slots.get(slot, 0) + amount
        else:
            self.gone += amount

    def wait_ms(self, short: int, now_ms: int) -> int | None:
        """After how long at least `short` has left the window; None: not by itself."""
        for number in sorted(self.slots):
            short -= self.slots[number]
            if short <= 0:
                return (number + SLOTS) * self.length_ms - now_ms
        return None

    def inside(self, now_ms: int) -> int:
        """What is in the window at a moment, even if its slot was not begun yet."""
        first = now_ms // self.length_ms - SLOTS
        return sum(amount for number, amount in self.slots.items() if number > first)

    def encode(self) -> bytes:
        """As it is kept."""
        return msgspec.json.encode((self.gone, self.newest, self.slots))


def rolling(rolling_ms: int, kept: bytes | None) -> Rolling:
    """A window as it was kept, or a new one."""
    return Rolling(rolling_ms, *msgspec.json.decode(kept, type=tuple[int, int, dict[int, int]])) if kept else Rolling(rolling_ms)


class Counter:
    """A bucket's counters, in its unit."""

    __slots__ = ("debt", "ends_ms", "exists", "held", "more", "name", "rolling", "spent")

    def __init__(
        self,
        name: tuple[str, str, str, str],
        spent: int,
        held: int,
        debt: int,
        ends_ms: int,
        more: int | None = None,
        *,
        exists: bool = False,
    ) -> None:
        self.name = name
        """Its id, budget, scope and window: what of its row never changes."""
        self.spent = spent
        self.held = held
        self.debt = debt
        self.ends_ms = ends_ms
        self.more = more
        """What was carried over from the window before; None: that was not asked yet."""
        self.exists = exists
        """Whether it was ever used."""
        self.rolling: Rolling | None = None

    def left(self, limit: int) -> int:
        """What is left of a limit; negative if more is used."""
        more = self.rolling.gone if self.rolling is not None else self.more or 0
        return limit + more - self.spent - self.held


def counter_row(c: Counter) -> tuple[Any, ...]:
    """A counter as it is kept."""
    if c.rolling is None:
        return *c.name, c.ends_ms, c.spent, c.held, c.debt, c.more, None
    return *c.name, c.rolling.ends_ms, c.spent, c.held, c.debt, c.more, c.rolling.encode()


class Units(msgspec.Struct, array_like=True):
    """What a hold has that counts more than nano-USD in windows of the calendar."""

    tokens: int
    """Held."""
    charged: int
    """Tokens."""
    debt: int
    """Tokens."""
    state: str
    """o: the call is open, c: it was charged, n: neither."""
    pieces: list[tuple[int, int]]
    """When what was held of the nano-USD, or is charged: it counts in that part of a window that rolls."""

    def end(self, nusd: tuple[int, int, int], total: int, tokens: int | None, calls: int) -> dict[Unit, Change]:
        """End it: what changes in a bucket of each unit.

        `nusd`: what is added to spent, held and debt. `total`: nano-USD charged in all; `tokens`: in all, None: what was
        held counts; `calls`: 1, or 0 if nothing is to be charged.
        """
        first = self.pieces[0][0] if self.pieces else 0
        tokens = self.tokens + self.charged if tokens is None else tokens
        spent, open_ = tokens - self.charged, int(self.state == "o")
        growth = spent - self.tokens
        owed = growth if growth > 0 else -min(self.debt, -growth)
        called = calls - int(self.state == "c")
        changes: dict[Unit, Change] = {
            "usd": (*nusd, self._fill(total)),
            "tokens": (spent, -self.tokens, owed, ((first, growth),)),
            "requests": (called, -open_, max(0, called - open_), ((first, called - open_),)),
            "concurrent": (0, -open_, 0, ((first, -open_),)),
        }
        self.tokens, self.charged, self.debt, self.state = 0, tokens, self.debt + owed, "c" if calls else "n"
        return changes

    def _fill(self, total: int) -> Pieces:
        """Each piece counts where it was held: the charge fills one after the other, the last takes what is left."""
        changes, kept = [], []
        for i, (at_ms, amount) in enumerate(self.pieces):
            part = total if i == len(self.pieces) - 1 else min(total, amount)
            total -= part
            changes.append((at_ms, part - amount))
            kept.append((at_ms, part))
        self.pieces = kept
        return changes


class Attempt:
    """An attempt as the store knows it.

    States: H held, S settled, V voided, X swept. `amount` is all that was ever allowed, `held` the part that is
    still set aside, `charged` what was booked, `debt` the part of it that was booked as debt.
    """

    __slots__ = ("amount", "buckets", "charged", "debt", "done_ms", "held", "note", "replica", "state", "units")

    def __init__(
        self, state: str, amount: int, held: int, charged: int, debt: int, replica: str, buckets: str, note: bytes, units: Units | None
    ) -> None:
        self.state = state
        self.amount = amount
        self.held = held
        self.charged = charged
        self.debt = debt
        self.replica = replica
        self.buckets = buckets
        self.note = note
        self.units = units
        """What it has beside nano-USD in windows of the calendar; None: nothing."""
        self.done_ms: int | None = None


def attempt_row(attempt_id: str, a: Attempt) -> tuple[Any, ...]:
    """An attempt as it is kept."""
    units = None if a.units is None else msgspec.json.encode(a.units)
    return attempt_id, a.state, a.amount, a.held, a.charged, a.debt, a.replica, a.buckets, a.note, a.done_ms, units


def attempt_of(row: Sequence[Any]) -> Attempt:
    """An attempt from its row."""
    _, state, amount, held, charged, debt, replica, buckets, note, done_ms, kept = row
    units = None if kept is None else msgspec.json.decode(kept, type=Units)
    attempt = Attempt(state, amount, held, charged, debt, replica, buckets, note, units)
    attempt.done_ms = done_ms
    return attempt
