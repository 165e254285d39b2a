"""The tables of a ledger file, and how a connection to it is set up."""

from __future__ import annotations

import sqlite3
from typing import Final

VERSION: Final = 3
"""Of the tables below; kept in `user_version`."""

TABLES: Final = """
CREATE TABLE IF NOT EXISTS bucket (
    id TEXT PRIMARY KEY, budget TEXT NOT NULL, scope TEXT NOT NULL, label TEXT NOT NULL, ends_ms INTEGER NOT NULL,
    spent INTEGER NOT NULL, held INTEGER NOT NULL, debt INTEGER NOT NULL, more INTEGER, rolling BLOB
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS attempt (
    id TEXT PRIMARY KEY, state TEXT NOT NULL, amount INTEGER NOT NULL, held INTEGER NOT NULL, charged INTEGER NOT NULL,
    debt INTEGER NOT NULL, replica TEXT NOT NULL, buckets TEXT NOT NULL, note BLOB NOT NULL, done_ms INTEGER,
    units BLOB
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS attempt_done ON attempt (done_ms) WHERE done_ms IS NOT NULL;
CREATE TABLE IF NOT EXISTS log (
    seq INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, attempt_id TEXT NOT NULL, outcome TEXT NOT NULL, spent INTEGER NOT NULL,
    debt INTEGER NOT NULL, held INTEGER NOT NULL, buckets TEXT NOT NULL, record BLOB NOT NULL,
    tokens INTEGER NOT NULL, tokens_debt INTEGER NOT NULL, calls INTEGER NOT NULL, calls_debt INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS trimmed (bucket TEXT PRIMARY KEY, spent INTEGER NOT NULL, debt INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS budget (name TEXT PRIMARY KEY, limit_nusd INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS lease (replica TEXT PRIMARY KEY, until_ms INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS progress (
    replica TEXT NOT NULL, attempt_id TEXT NOT NULL, burnt INTEGER NOT NULL, PRIMARY KEY (replica, attempt_id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS virtual_key (key_id TEXT PRIMARY KEY, stored BLOB NOT NULL) WITHOUT ROWID;
"""


KEEP_COUNTER: Final = """
INSERT INTO bucket VALUES (?,?,?,?,?,?,?,?,?,?) ON CONFLICT (id) DO UPDATE SET spent=excluded.spent, held=excluded.held,
    debt=excluded.debt, ends_ms=excluded.ends_ms, more=excluded.more, rolling=excluded.rolling
"""
KEEP_ATTEMPT: Final = "INSERT OR REPLACE INTO attempt VALUES (?,?,?,?,?,?,?,?,?,?,?)"
FIND_ATTEMPTS: Final = """
SELECT id, state, amount, held, charged, debt, replica, buckets, note, done_ms, units FROM attempt
    WHERE id IN (SELECT value FROM json_each(?))
"""
APPEND_TO_LOG: Final = """
INSERT INTO log (at_ms, attempt_id, outcome, spent, debt, held, buckets, record, tokens, tokens_debt, calls, calls_debt)
    VALUES (?,?,?,?,?,?,?,?,?,?,?,?)
"""


def scoped_name(budget: str, scope: str) -> str:
    """Name in table `budget` of the limit that one instance of a budget has for itself."""
    return f"{budget}\t{scope}"


def connect(path: str, *, timeout_seconds: float) -> sqlite3.Connection:
    """Open the file for use by one thread at a time; transactions are begun and ended by hand.

    Raises:
        sqlite3.Error: the file cannot be opened or is not a database.
    """
    connection = sqlite3.connect(path, timeout=timeout_seconds, isolation_level=None, check_same_thread=False, cached_statements=64)
    # A commit in WAL mode with NORMAL is safe against a killed process; only a power loss can undo the last ones.
    # Source: sqlite.org/pragma.html#pragma_synchronous, read 2026-11.
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def prepare(connection: sqlite3.Connection) -> int:
    """Create the tables that are missing. Returns the version of the file's tables."""
    connection.execute("BEGIN IMMEDIATE")
    found: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if found in (0, VERSION):
        for statement in TABLES.split(";"):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version={VERSION}")
        found = VERSION
    connection.execute("COMMIT")
    return found
