"""The ledger in plain Python, as simple as can be: what every store is compared with."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

Key = tuple[str, str]
"""(budget, window)."""


@dataclass
class Hold:
    """One attempt."""

    replica: str
    keys: tuple[Key, ...]
    held: int = 0
    charged: int = 0
    debt: int = 0
    state: str = "open"
    """open, swept, settled or void."""


@dataclass
class Model:
    """Counters, attempts and the sums of the log."""

    limits: dict[str, int]
    spent: Counter[Key] = field(default_factory=Counter)
    held: Counter[Key] = field(default_factory=Counter)
    debt: Counter[Key] = field(default_factory=Counter)
    logged: Counter[Key] = field(default_factory=Counter)
    attempts: dict[str, Hold] = field(default_factory=dict)
    progress: dict[str, dict[str, int]] = field(default_factory=dict)
    """What the last heartbeat of each replica said of its attempts."""
    lines: list[tuple[str, str, int]] = field(default_factory=list)
    """(attempt, outcome, charge) of every record."""

    def left(self, key: Key) -> int:
        return self.limits[key[0]] - self.spent[key] - self.held[key]

    def fits(self, keys: tuple[Key, ...], by: int, hard: set[str]) -> bool:
        return by == 0 or all(self.left(key) >= by for key in keys if key[0] in hard)

    def reserve(self, attempt: str, amount: int, keys: tuple[Key, ...], replica: str, hard: set[str]) -> int | None:
        """What is held for the attempt; None: refused."""
        known = self.attempts.get(attempt)
        if known is not None:
            return known.held
        if not self.fits(keys, amount, hard):
            return None
        self.attempts[attempt] = Hold(replica=replica, keys=keys, held=amount)
        self._add(keys, 0, amount, 0)
        return amount

    def extend(self, attempt: str, total: int, replica: str, hard: set[str]) -> bool:
        hold = self.attempts[attempt]
        by = total - hold.held - hold.charged
        if hold.state in ("settled", "void") or by <= 0:
            return True
        if not self.fits(hold.keys, by, hard):
            return False
        self._add(hold.keys, 0, by, 0)
        hold.held += by
        hold.state, hold.replica = "open", replica
        return True

    def settle(self, attempt: str, charge: int) -> bool:
        hold = self.attempts[attempt]
        if hold.state in ("settled", "void"):
            return False
        corrects = hold.state == "swept" or hold.charged > 0
        self._book(attempt, hold, charge, "corrected" if corrects else "ok")
        hold.state = "settled"
        return True

    def void(self, attempt: str) -> bool:
        hold = self.attempts[attempt]
        if hold.state in ("settled", "void"):
            return False
        if hold.charged:
            self._book(attempt, hold, 0, "corrected")
        else:
            self._add(hold.keys, 0, -hold.held, 0)
            hold.held = 0
        hold.state = "void"
        return True

    def sweep(self, dead: set[str]) -> int:
        swept = 0
        for attempt, hold in self.attempts.items():
            if hold.state == "open" and hold.replica in dead:
                burnt = self.progress.get(hold.replica, {}).get(attempt, 0)
                self._book(attempt, hold, max(hold.charged + hold.held, burnt), "swept")
                hold.state = "swept"
                swept += 1
        for replica in dead:
            self.progress.pop(replica, None)
        return swept

    def _book(self, attempt: str, hold: Hold, charge: int, outcome: str) -> None:
        spent = charge - hold.charged
        change = spent - hold.held
        debt = change if change > 0 else -min(hold.debt, -change)
        self._add(hold.keys, spent, -hold.held, debt)
        self.logged.update(dict.fromkeys(hold.keys, spent))
        hold.held, hold.charged, hold.debt = 0, charge, hold.debt + debt
        self.lines.append((attempt, outcome, spent))

    def _add(self, keys: tuple[Key, ...], spent: int, held: int, debt: int) -> None:
        for key in keys:
            self.spent[key] += spent
            self.held[key] += held
            self.debt[key] += debt
