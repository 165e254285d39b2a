"""Reads of a ledger file for people: states of buckets, and whether counters and log agree."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from router.adapters.entries import SEPARATOR
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


def drift(db: sqlite3.Connection) -> list[Drift]:
    """Where counters differ from what the log and the open holds add up to."""
    spent: dict[str, int] = {}
    debt: dict[str, int] = {}
    held: dict[str, int] = {}
    for joined, s, d in db.execute("SELECT buckets, sum(spent), sum(debt) FROM log GROUP BY buckets"):
        for name in _names(joined):
            spent[name] = spent.get(name, 0) + s
            debt[name] = debt.get(name, 0) + d
    for joined, h in db.execute("SELECT buckets, sum(held) FROM attempt WHERE done_ms IS NULL GROUP BY buckets"):
        for name in _names(joined):
            held[name] = held.get(name, 0) + h
    found: list[Drift] = []
    for name, s, h, d in db.execute("SELECT id, spent, held, debt FROM bucket ORDER BY id"):
        if s != spent.get(name, 0):
            found.append(Drift(name, s, spent.get(name, 0), "spent"))
        if h != held.get(name, 0):
            found.append(Drift(name, h, held.get(name, 0), "held"))
        if d != debt.get(name, 0):
            found.append(Drift(name, d, debt.get(name, 0), "debt"))
    return found


def _names(joined: str) -> Iterator[str]:
    if joined:
        yield from joined.split(SEPARATOR)
