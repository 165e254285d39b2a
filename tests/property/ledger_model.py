"""The ledger in plain Python, as simple as can be: what every store is compared with."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Final

from router.domain.budgets import Unit

Key = tuple[str, str]
"""(budget, window)."""
Amounts = dict[str, int]
"""By unit."""
UNITS: Final[dict[str, Unit]] = {"calls": "requests", "tokens": "tokens", "live": "concurrent"}
"""What budgets count; all others USD."""
ROLLING: Final = "rolling"
"""The budget whose window rolls."""
SLOTS: Final = 60


def unit(key: Key) -> Unit:
    return UNITS.get(key[0], "usd")


def amounts(nusd: int, tokens: int, calls: int, live: int) -> Amounts:
    return {"usd": nusd, "tokens": tokens, "requests": calls, "concurrent": live}


@dataclass
class Hold:
    """One attempt."""

    replica: str
    keys: tuple[Key, ...]
    held: Amounts
    charged: Amounts = field(default_factory=lambda: amounts(0, 0, 0, 0))
    debt: Amounts = field(default_factory=lambda: amounts(0, 0, 0, 0))
    pieces: list[tuple[int, int]] = field(default_factory=list)
    """(slot, nano-USD) of what was held, and is charged."""
    state: str = "open"
    """open, swept, settled or void."""

    def amount(self, key: Key) -> int:
        return self.held[unit(key)]


@dataclass
class Model:
    """Counters, attempts and the sums of the log."""

    limits: dict[str, int]
    spent: Counter[Key] = field(default_factory=Counter)
    held: Counter[Key] = field(default_factory=Counter)
    debt: Counter[Key] = field(default_factory=Counter)
    attempts: dict[str, Hold] = field(default_factory=dict)
    progress: dict[str, dict[str, int]] = field(default_factory=dict)
    """What the last heartbeat of each replica said of its attempts."""
    lines: list[tuple[str, str, int]] = field(default_factory=list)
    """(attempt, outcome, charge) of every record."""
    slot: int = 0
    """The slot of time that it is now."""
    slots: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))
    """What the rolling window has by slot."""

    def used(self, key: Key) -> int:
        """What counts against the limit."""
        if key[0] == ROLLING:
            return sum(amount for slot, amount in self.slots.items() if slot > self.slot - SLOTS)
        return self.spent[key] + self.held[key]

    def left(self, key: Key) -> int:
        return self.limits[key[0]] - self.used(key)

    def fits(self, keys: tuple[Key, ...], add: Amounts, hard: set[str]) -> bool:
        return all(add[unit(key)] == 0 or self.left(key) >= add[unit(key)] for key in keys if key[0] in hard)

    def reserve(self, attempt: str, add: Amounts, keys: tuple[Key, ...], replica: str, hard: set[str]) -> int | None:
        """What is held for the attempt, nano-USD; None: refused."""
        known = self.attempts.get(attempt)
        if known is not None:
            return known.held["usd"]
        if not self.fits(keys, add, hard):
            return None
        self.attempts[attempt] = hold = Hold(replica=replica, keys=keys, held=dict(add))
        self._hold_more(hold, add)
        return add["usd"]

    def extend(self, attempt: str, total: int, replica: str, hard: set[str]) -> bool:
        hold = self.attempts[attempt]
        by = amounts(total - hold.held["usd"] - hold.charged["usd"], 0, 0, 0)
        if hold.state in ("settled", "void") or by["usd"] <= 0:
            return True
        if not self.fits(hold.keys, by, hard):
            return False
        hold.held["usd"] += by["usd"]
        self._hold_more(hold, by)
        hold.state, hold.replica = "open", replica
        return True

    def _hold_more(self, hold: Hold, add: Amounts) -> None:
        hold.pieces.append((self.slot, add["usd"]))
        for key in hold.keys:
            self.held[key] += add[unit(key)]
            if key[0] == ROLLING:
                self.slots[self.slot] += add["usd"]

    def settle(self, attempt: str, charge: int, tokens: int | None) -> bool:
        hold = self.attempts[attempt]
        if hold.state in ("settled", "void"):
            return False
        corrects = hold.state == "swept" or hold.charged["usd"] > 0
        used = hold.held["tokens"] + hold.charged["tokens"] if tokens is None else tokens
        self._book(attempt, hold, amounts(charge, used, 1, 0), "corrected" if corrects else "ok")
        hold.state = "settled"
        return True

    def void(self, attempt: str) -> bool:
        hold = self.attempts[attempt]
        if hold.state in ("settled", "void"):
            return False
        booked = hold.charged["usd"] or (hold.charged["requests"] and any(unit(key) != "usd" or key[0] == ROLLING for key in hold.keys))
        self._book(attempt, hold, amounts(0, 0, 0, 0), "corrected" if booked else "")
        hold.state = "void"
        return True

    def sweep(self, dead: set[str]) -> int:
        swept = 0
        for attempt, hold in self.attempts.items():
            if hold.state == "open" and hold.replica in dead:
                burnt = self.progress.get(hold.replica, {}).get(attempt, 0)
                charge = max(hold.charged["usd"] + hold.held["usd"], burnt)
                self._book(attempt, hold, amounts(charge, hold.held["tokens"] + hold.charged["tokens"], 1, 0), "swept")
                hold.state = "swept"
                swept += 1
        for replica in dead:
            self.progress.pop(replica, None)
        return swept

    def _book(self, attempt: str, hold: Hold, charge: Amounts, outcome: str) -> None:
        """An empty outcome leaves no record."""
        for name, total in charge.items():
            spent = total - hold.charged[name]
            change = spent - hold.held[name]
            debt = change if change > 0 else -min(hold.debt[name], -change)
            for key in hold.keys:
                if unit(key) == name:
                    self.spent[key] += spent
                    self.held[key] -= hold.held[name]
                    self.debt[key] += debt
            if name == "usd" and outcome:
                self.lines.append((attempt, outcome, spent))
            hold.held[name], hold.charged[name], hold.debt[name] = 0, total, hold.debt[name] + debt
        self._fill(hold, charge["usd"])

    def _fill(self, hold: Hold, left: int) -> None:
        """Every piece of a hold is charged where it was held; the last takes what is left."""
        filled: list[tuple[int, int]] = []
        for i, (slot, amount) in enumerate(hold.pieces):
            part = left if i == len(hold.pieces) - 1 else min(left, amount)
            left -= part
            filled.append((slot, part))
            if any(key[0] == ROLLING for key in hold.keys):
                self.slots[slot] += part - amount
        hold.pieces = filled
