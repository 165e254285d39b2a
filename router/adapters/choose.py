"""Which ledger an address means."""

from __future__ import annotations

import os
from pathlib import Path

from router.ports import Ledger


def default_store() -> str:
    """Where the books are if nothing is said: `FAREGATE_STORE`, else a file in the user's state folder."""
    chosen = os.environ.get("FAREGATE_STORE")
    if chosen:
        return chosen
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return str(Path(state) / "faregate" / "ledger.sqlite")


def open_ledger(store: str, *, timeout_seconds: float | None = None) -> Ledger:
    """The ledger at `store`, not connected yet: `redis://`, `rediss://`, `unix://`, else a SQLite file.

    `timeout_seconds` bounds every call; the default fits the kind of store.

    Raises:
        ConfigError: the address cannot be read.
    """
    if store.startswith(("redis://", "rediss://", "unix://")):
        from router.adapters.redis.ledger import RedisLedger

        return RedisLedger(store) if timeout_seconds is None else RedisLedger(store, timeout_seconds=timeout_seconds)
    from router.adapters.sqlite.ledger import SqliteLedger

    path = store.removeprefix("sqlite://")
    return SqliteLedger(path) if timeout_seconds is None else SqliteLedger(path, timeout_seconds=timeout_seconds)
