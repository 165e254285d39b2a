"""Reads of a ledger file for people: states of buckets, and whether counters and log agree."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from router.adapters.entries import by_unit, in_unit, split_ids
from router.adapters.sqlite.counters import Units, rolling
from router.domain.budgets import BucketState
from router.domain.windows import rolling_of, unit_of
from router.ports import Drift

_STATES: Final = (
    "SELECT b.budget, b.scope, b.label, coalesce(s.limit_nusd, l.limit_nusd), b.spent, b.held, b.debt, b.ends_ms, b.id, b.more,"
    " b.rolling FROM bucket b LEFT JOIN budget l ON l.name=b.budget LEFT JOIN budget s ON s.name=b.budget || char(9) || b.scope "
)


def bucket_states(db: sqlite3.Connection, *, budget: str | None, clock_ms: int, current_only: bool) -> list[BucketState]:
    """Buckets by id; only those whose window has not ended at `clock_ms`, unless told otherwise."""
    rows = db.execute(
        _STATES + "WHERE (:budget IS NULL OR b.budget=:budget) AND (:now_ms IS NULL OR b.ends_ms > :now_ms) ORDER BY b.id",
        {"budget": budget, "now_ms": clock_ms if current_only else None},
    )
    return [_state(row, clock_ms) for row in rows]


def bucket_page(db: sqlite3.Connection, *, after: str, most: int, clock_ms: int) -> tuple[str, list[BucketState]]:
    """The next buckets of current windows by id, and the last of these ids; empty: there are no more."""
    rows = db.execute(_STATES + "WHERE b.id > ? AND b.ends_ms > ? ORDER BY b.id LIMIT ?", (after, clock_ms, most)).fetchall()
    return (rows[-1][8] if rows else ""), [_state(row, clock_ms) for row in rows]


def states_named(db: sqlite3.Connection, names: Sequence[str], *, clock_ms: int) -> list[BucketState]:
    """The buckets of these ids."""
    found: list[BucketState] = []
    for name in names:
        found += [_state(row, clock_ms) for row in db.execute(_STATES + "WHERE b.id = ?", (name,))]
    return found


def _state(row: Sequence[Any], now_ms: int) -> BucketState:
    budget, scope, window, limit, spent, held, debt, ends_ms, name, more, kept = row
    length_ms = rolling_of(name)
    if length_ms:
        # Of a window that rolls, what is in it now.
        spent = max(0, rolling(length_ms, kept).inside(now_ms) - held)
    return BucketState(
        budget=budget,
        scope=scope,
        window=window,
        unit=unit_of(name),
        limit_nusd=None if limit is None else limit + (more or 0),
        spent_nusd=spent,
        held_nusd=held,
        debt_nusd=debt,
        ends_ms=ends_ms,
    )


class Audit:
    """Adds up the log once; every further run reads only what was written since."""

    def __init__(self) -> None:
        self._last = -1
        """The last entry read; below zero: nothing was read yet."""
        self._spent: dict[str, int] = defaultdict(int)
        self._debt: dict[str, int] = defaultdict(int)

    def run(self, db: sqlite3.Connection) -> list[Drift]:
        """Where counters differ from what the log and the open holds add up to. `db` shows one moment: it is in a transaction."""
        if self._last < 0:
            for name, spent, debt in db.execute("SELECT bucket, spent, debt FROM trimmed"):
                self._spent[name] += spent
                self._debt[name] += debt
            self._last = 0
        self._add(
            db.execute(
                "SELECT buckets, max(seq), sum(spent), sum(debt), sum(tokens), sum(tokens_debt), sum(calls), sum(calls_debt)"
                " FROM log WHERE seq > ? GROUP BY buckets",
                (self._last,),
            )
        )
        held = _held(db)
        found: list[Drift] = []
        for name, s, h, d in db.execute("SELECT id, spent, held, debt FROM bucket ORDER BY id"):
            if s != self._spent.get(name, 0):
                found.append(Drift(name, s, self._spent.get(name, 0), "spent"))
            if h != held.get(name, 0):
                found.append(Drift(name, h, held.get(name, 0), "held"))
            if d != self._debt.get(name, 0):
                found.append(Drift(name, d, self._debt.get(name, 0), "debt"))
        return found

    def _add(self, sums: Iterable[Sequence[Any]]) -> None:
        for joined, last, *added in sums:
            self._last = max(self._last, last)
            for name in split_ids(joined):
                spent, debt = by_unit(name, *added)
                self._spent[name] += spent
                self._debt[name] += debt


def _held(db: sqlite3.Connection) -> dict[str, int]:
    """What open holds add up to in each bucket."""
    held: dict[str, int] = defaultdict(int)
    open_ = "SELECT buckets, {} FROM attempt WHERE done_ms IS NULL AND units IS {} NULL"
    for joined, amount in db.execute(open_.format("sum(held)", "") + " GROUP BY buckets"):
        for name in split_ids(joined):
            held[name] += amount
    for joined, amount, kept in db.execute(open_.format("held, units", "NOT")):
        units = msgspec.json.decode(kept, type=Units)
        for name in split_ids(joined):
            held[name] += in_unit(name, amount, units.tokens, int(units.state == "o"))
    return held
