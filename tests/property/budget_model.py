"""Budgets in plain Python: to which a call belongs, in which window, what is left. The model of `test_budget_machine.py`.

Nothing here is taken from the code under test but what a budget is written down as. Money is in nano-USD, time in Unix ms.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Final
from zoneinfo import ZoneInfo

from router.domain.budgets import Budget

Key = tuple[str, str, str]
"""(budget, scope, window)."""
QUARTER_MS: Final = 900_000
"""Clocks are changed, and windows begin, at full quarters of an hour of Unix time."""
MINUTE_MS: Final = 60_000
DAY_MS: Final = 86_400_000
KEPT_MS: Final = 40 * DAY_MS
"""Counters outlive the end of their window by so much,"""
INVENTED_MS: Final = 8 * DAY_MS
"""and those of names that clients make up by so much."""
IDLE_MS: Final = 15 * DAY_MS
"""A session's lifetime is forgotten at the earliest after so long without use: each store looks for such once in a while."""
REMEMBERED_MS: Final = {"settled": 15 * MINUTE_MS, "void": 15 * MINUTE_MS, "swept": 7 * DAY_MS}
"""How long a second delivery is known as one."""
SLOTS: Final = 60


@cache
def window(kind: str, zone: str, now_ms: int) -> str:
    """What the calendar on the wall shows, as far as it matters for this kind of window."""
    wall = datetime.fromtimestamp(now_ms / 1000, ZoneInfo(zone))
    if kind == "week":
        return f"{wall.isocalendar().year}-W{wall.isocalendar().week:02}"
    shown = {"minute": "%Y-%m-%dT%H:%M%z", "hour": "%Y-%m-%dT%H", "day": "%Y-%m-%d", "month": "%Y-%m"}
    return wall.strftime(shown[kind]) if kind in shown else "all"


def window_of(budget: Budget, now_ms: int) -> str:
    return f"last-{budget.rolling_ms // 1000}s" if budget.rolling_ms else window(budget.window, budget.timezone, now_ms)


def window_before(budget: Budget, now_ms: int) -> str:
    """The one that ended when this one began: looked for backwards, quarter by quarter."""
    now = window_of(budget, now_ms)
    at_ms = now_ms - now_ms % QUARTER_MS
    while window_of(budget, at_ms - 1) == now:
        at_ms -= QUARTER_MS
    return window_of(budget, at_ms - 1)


def scope_of(budget: Budget, who: Mapping[str, str]) -> str | None:
    """`who` has every dimension of a call, tags as `tag:<name>`. None: the budget does not apply."""
    if any(who.get(name, "") not in accepted for name, accepted in budget.when):
        return None
    split = budget.dimensions
    if not all(who.get(name) for name in split):
        return None
    return "&".join(f"{name}={who[name]}" for name in split)


def is_invented(scope: str) -> bool:
    return any(word in scope for word in ("user=", "session=", "tag:"))


def refuses(budget: Budget) -> bool:
    return budget.hard and not budget.shadow


@dataclass
class Change:
    """What people changed of a limit, or whom they froze."""

    target: str
    scope: str
    add: int
    to: int | None
    until_ms: int | None


@dataclass
class Hold:
    """One attempt."""

    replica: str
    keys: tuple[Key, ...]
    pieces: list[tuple[int, int]]
    """(when, how much) of what was held; of what is charged when it has ended."""
    held: int
    charged: int = 0
    debt: int = 0
    state: str = "open"
    """open, swept, settled or void."""
    done_ms: int = 0


@dataclass
class Bucket:
    """What is counted of one budget, in one window, for one scope."""

    budget: Budget
    ends_ms: int
    used_ms: int
    """When something was held last."""
    spent: int = 0
    held: int = 0
    debt: int = 0
    carried: int = 0
    newest: int = -1
    slots: Counter[int] = field(default_factory=Counter)
    """Of a rolling window, by slot of time."""

    @property
    def slot_ms(self) -> int:
        return -(-self.budget.rolling_ms // (SLOTS - 1))

    def used(self) -> int:
        if self.budget.rolling_ms:
            return sum(amount for slot, amount in self.slots.items() if slot > self.newest - SLOTS)
        return self.spent + self.held

    def used_at(self, now_ms: int) -> int:
        """As `used`, for who looks at it without calling."""
        if not self.budget.rolling_ms:
            return self.used()
        return sum(amount for slot, amount in self.slots.items() if slot > max(self.newest, now_ms // self.slot_ms) - SLOTS)


@dataclass
class World:
    """All budgets, buckets, attempts, and the sums of the log."""

    budgets: dict[str, Budget] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    frozen: dict[str, int | None] = field(default_factory=dict)
    """Until when."""
    buckets: dict[Key, Bucket] = field(default_factory=dict)
    attempts: dict[str, Hold] = field(default_factory=dict)
    progress: dict[str, dict[str, int]] = field(default_factory=dict)
    lines: list[tuple[str, str, int]] = field(default_factory=list)
    """(attempt, outcome, charge) of every record."""
    now_ms: int = 0

    # -- what people change --------------------------------------------------------------------------------------

    def limit(self, budget: str, scope: str = "") -> int:
        limit = self.budgets[budget].limit_nusd
        for change in self.changes:
            if change.target == budget and change.scope in ("", scope):
                limit = max(0, limit + change.add if change.to is None else change.to)
        return limit

    def end_changes(self) -> None:
        """What has an end that is over."""
        self.changes = [each for each in self.changes if each.until_ms is None or each.until_ms > self.now_ms]
        self.frozen = {who: until for who, until in self.frozen.items() if until is None or until > self.now_ms}

    def is_frozen(self, who: Mapping[str, str]) -> bool:
        return any(target == "all" or who[target.partition("=")[0]] == target.partition("=")[2] for target in self.frozen)

    # -- what calls do -------------------------------------------------------------------------------------------

    def keys(self, who: Mapping[str, str], now_ms: int) -> list[Key]:
        """All budgets that a call falls under at this moment."""
        found = ((budget, scope_of(budget, who)) for budget in self.budgets.values())
        return [(budget.name, scope, window_of(budget, now_ms)) for budget, scope in found if scope is not None]

    def place(self, key: Key) -> Key | None:
        """Where a call is counted that belongs there: perhaps with all others that came too late. None: it is refused."""
        budget = self.budgets[key[0]]
        if key in self.buckets or not budget.dimensions or not is_invented(key[1]):
            return key
        same = [known for known in self.buckets if known[0] == key[0] and known[2] == key[2] and "*" not in known[1]]
        if len(same) < budget.max_scopes:
            return key
        if budget.beyond == "refuse" and refuses(budget):
            return None
        return key[0], "&".join(f"{name}=*" for name in budget.dimensions), key[2]

    def left(self, key: Key) -> int:
        """Before anything more is held."""
        limit = self.limit(key[0], key[1])
        bucket = self.buckets.get(key)
        if bucket is None:
            return limit + self.carried(key)
        if bucket.budget.rolling_ms:
            bucket.newest = max(bucket.newest, self.now_ms // bucket.slot_ms)
        return limit + bucket.carried - bucket.used()

    def carried(self, key: Key) -> int:
        """What a window that begins now gets of the one before."""
        budget = self.budgets[key[0]]
        if not budget.carry_ppm:
            return 0
        before = self.buckets.get((key[0], key[1], window_before(budget, self.now_ms)))
        if before is None:
            return 0
        limit = self.limit(key[0], key[1])
        return max(0, min(limit + before.carried - before.used(), limit * budget.carry_ppm // 1_000_000))

    def short(self, keys: Sequence[Key], by: int) -> list[Key]:
        """Those that have too little left, and refuse."""
        return [key for key in keys if by > 0 and refuses(self.budgets[key[0]]) and self.left(key) < by]

    def reserve(self, attempt: str, by: int, keys: Sequence[Key], ends_ms: Sequence[int], replica: str) -> None:
        """It has room; for the places of `keys`, and the ends of their windows."""
        for key, end in zip(keys, ends_ms, strict=True):
            if key not in self.buckets:
                carried = self.carried(key)
                self.buckets[key] = Bucket(budget=self.budgets[key[0]], ends_ms=end, used_ms=self.now_ms, carried=carried)
        self.attempts[attempt] = hold = Hold(replica=replica, keys=tuple(keys), pieces=[], held=0)
        self._hold(hold, by)

    def extend(self, attempt: str, total: int, replica: str) -> bool | None:
        """Whether it has room; None: nothing is to be done."""
        hold = self.attempts[attempt]
        by = total - hold.held - hold.charged
        if hold.state in ("settled", "void") or by <= 0:
            return None
        if self.short(hold.keys, by):
            return False
        self._hold(hold, by)
        hold.state, hold.replica = "open", replica
        return True

    def _hold(self, hold: Hold, by: int) -> None:
        hold.held += by
        hold.pieces.append((self.now_ms, by))
        for key in hold.keys:
            bucket = self.buckets[key]
            bucket.held += by
            bucket.used_ms = self.now_ms
            if bucket.budget.rolling_ms:
                bucket.newest = max(bucket.newest, self.now_ms // bucket.slot_ms)
                bucket.slots[min(bucket.newest, self.now_ms // bucket.slot_ms)] += by

    def settle(self, attempt: str, charge: int) -> bool:
        hold = self.attempts[attempt]
        if hold.state in ("settled", "void"):
            return False
        self._book(attempt, charge, "corrected" if hold.state == "swept" or hold.charged else "ok", "settled")
        return True

    def void(self, attempt: str) -> bool:
        hold = self.attempts[attempt]
        if hold.state in ("settled", "void"):
            return False
        special = any(self.is_special(self.buckets[key].budget) for key in hold.keys)
        was_swept = hold.state == "swept" or hold.charged > 0
        self._book(attempt, 0, "corrected" if hold.charged or (was_swept and special) else "", "void")
        return True

    @staticmethod
    def is_special(budget: Budget) -> bool:
        """What is left in it is told with every hold."""
        return bool(budget.rolling_ms or budget.shadow or budget.carry_ppm or budget.steps)

    def sweep(self, dead: set[str]) -> int:
        swept = [name for name, hold in self.attempts.items() if hold.state == "open" and hold.replica in dead]
        for name in swept:
            hold = self.attempts[name]
            burnt = self.progress.get(hold.replica, {}).get(name, 0)
            self._book(name, max(hold.charged + hold.held, burnt), "swept", "swept")
        for replica in dead:
            self.progress.pop(replica, None)
        return len(swept)

    def _book(self, attempt: str, charge: int, outcome: str, state: str) -> None:
        """An empty outcome leaves no record."""
        hold = self.attempts[attempt]
        spent, held = charge - hold.charged, hold.held
        debt = spent - held if spent > held else -min(hold.debt, held - spent)
        filled, rest = [], charge
        for i, (at_ms, amount) in enumerate(hold.pieces):
            part = rest if i == len(hold.pieces) - 1 else min(rest, amount)
            rest -= part
            filled.append((at_ms, part))
        for key in hold.keys:
            bucket = self.buckets[key]
            bucket.spent += spent
            bucket.held -= held
            bucket.debt += debt
            for (at_ms, before), (_, after) in zip(hold.pieces, filled, strict=True):
                if bucket.budget.rolling_ms:
                    bucket.slots[min(bucket.newest, at_ms // bucket.slot_ms)] += after - before
        if outcome:
            self.lines.append((attempt, outcome, spent))
        hold.pieces, hold.held, hold.charged, hold.debt = filled, 0, charge, hold.debt + debt
        hold.state, hold.done_ms = state, self.now_ms

    # -- what is forgotten ---------------------------------------------------------------------------------------

    def forget_attempts(self) -> None:
        """Those that ended long ago: a second delivery would be taken for a first one, so none is made."""
        self.attempts = {
            name: hold
            for name, hold in self.attempts.items()
            if hold.state == "open" or hold.done_ms + REMEMBERED_MS[hold.state] >= self.now_ms
        }

    def may_be_forgotten(self, key: Key) -> bool:
        """Whether a sweep may drop the bucket; if it is not of a session, whether it must."""
        bucket = self.buckets[key]
        kept_ms = INVENTED_MS if is_invented(key[1]) else KEPT_MS
        if bucket.held:
            return False
        if bucket.budget.rolling_ms:
            return (bucket.newest + SLOTS) * bucket.slot_ms + kept_ms < self.now_ms
        if key[2] == "all":
            return "session=" in key[1] and bucket.used_ms + IDLE_MS < self.now_ms
        return bucket.ends_ms + kept_ms < self.now_ms
