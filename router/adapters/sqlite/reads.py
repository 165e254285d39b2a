"""Reads of a ledger file for people: states of buckets, and whether counters and log agree."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterable

from router.adapters.entries import split_ids
from router.domain.budgets import BucketState
from router.ports import Drift


def bucket_states(db: sqlite3.Connection, *, budget: str | None, now_ms: int | None) -> list[BucketState]:
    """Buckets by id; only those whose window has not ended at `now_ms`, unless that is None."""
    rows = db.execute(
        "SELECT b.budget, b.scope, b.label, l.limit_nusd, b.spent, b.held, b.debt, b.ends_ms FROM bucket b"
        " LEFT JOIN budget l ON l.name=b.budget"
        " WHERE (:budget IS NULL OR b.budget=:budget) AND (:now_ms IS NULL OR b.ends_ms > :now_ms) ORDER BY b.id",
        {"budget": budget, "now_ms": now_ms},
    )
    return [
        BucketState(budget=r[0], scope=r[1], window=r[2], limit_nusd=r[3], spent_nusd=r[4], held_nusd=r[5], debt_nusd=r[6], ends_ms=r[7])
        for r in rows
    ]


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
            self._add(db.execute("SELECT bucket, spent, debt, 0 FROM trimmed"))
        rows = db.execute("SELECT buckets, sum(spent), sum(debt), max(seq) FROM log WHERE seq > ? GROUP BY buckets", (self._last,))
        self._add(rows)
        held: dict[str, int] = defaultdict(int)
        for joined, amount in db.execute("SELECT buckets, sum(held) FROM attempt WHERE done_ms IS NULL GROUP BY buckets"):
            for name in split_ids(joined):
                held[name] += amount
        found: list[Drift] = []
        for name, s, h, d in db.execute("SELECT id, spent, held, debt FROM bucket ORDER BY id"):
            if s != self._spent.get(name, 0):
                found.append(Drift(name, s, self._spent.get(name, 0), "spent"))
            if h != held.get(name, 0):
                found.append(Drift(name, h, held.get(name, 0), "held"))
            if d != self._debt.get(name, 0):
                found.append(Drift(name, d, self._debt.get(name, 0), "debt"))
        return found

    def _add(self, sums: Iterable[tuple[str, int, int, int]]) -> None:
        for joined, spent, debt, last in sums:
            self._last = max(self._last, last)
            for name in split_ids(joined):
                self._spent[name] += spent
                self._debt[name] += debt
