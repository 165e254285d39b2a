"""Which ledger an address means, and which address holds."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from router.errors import ConfigError, StoreUnavailable
from router.ports import Ledger

VISIT_SECONDS: Final = 20.0
"""Lease of a command: it holds nothing, so the length does not matter."""
VISIT_TIMEOUT_SECONDS: Final = 5.0


def default_store() -> str:
    """Where the books are if nothing is said: `FAREGATE_STORE`, else a file in the user's state folder."""
    chosen = os.environ.get("FAREGATE_STORE")
    if chosen:
        return chosen
    return str(state_folder() / "ledger.sqlite")


def state_folder() -> Path:
    """The user's folder for what must outlive the process."""
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state) / "faregate"


def choose_store(store: str | None, config: str | None) -> str:
    """The address for a command: `--store`, else the configuration's, else `REDIS_URL`, else the default.

    Raises:
        ConfigError: the configuration cannot be used.
    """
    if store:
        return store
    config = config or os.environ.get("FAREGATE_CONFIG")
    if config:
        from router.settings import load_snapshot

        configured = load_snapshot(config).server.store
        if configured:
            return configured
    return os.environ.get("REDIS_URL") or default_store()


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


def must_exist(store: str) -> str:
    """The address, if there are books at it: opening a file would make it, and hide a typing error.

    Raises:
        ConfigError: there is no such file.
    """
    path = store.removeprefix("sqlite://")
    if "://" not in path and not Path(path).exists():
        raise ConfigError(f"There is no ledger at {path}: nothing was served yet, or it is elsewhere (--store, --config, REDIS_URL).")
    return store


@asynccontextmanager
async def visiting(store: str) -> AsyncIterator[Ledger]:
    """The open ledger, for a command that looks in and leaves.

    Raises:
        ConfigError: it cannot be used, or does not answer.
    """
    ledger = open_ledger(store, timeout_seconds=VISIT_TIMEOUT_SECONDS)
    try:
        await ledger.open(replica_id=f"command-{secrets.token_hex(6)}", lease_seconds=VISIT_SECONDS)
        try:
            yield ledger
        finally:
            with suppress(StoreUnavailable):
                await ledger.release()
            await ledger.close()
    except StoreUnavailable as error:
        raise ConfigError(f"store: {error}") from error
