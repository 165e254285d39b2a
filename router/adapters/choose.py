"""Which ledger an address means, and which address holds."""

from __future__ import annotations

import hashlib
import os
import secrets
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from router.domain.store_address import read_store, redis_problem
from router.errors import ConfigError, StoreUnavailable
from router.ports import Ledger
from router.snapshot import Snapshot

VISIT_SECONDS: Final = 20.0
"""Lease of a command: it holds nothing, so the length does not matter."""
VISIT_TIMEOUT_SECONDS: Final = 5.0
REGISTER_PREFIX: Final = "fg-shared"
"""Of the keys in Redis where ledgers agree on their shares."""


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


def simulated_store() -> str:
    """Where the books of simulated money are if nothing is said: it must not use up real budgets."""
    return str(state_folder() / "simulated.sqlite")


def store_of(snapshot: Snapshot) -> str:
    """Where a configuration keeps its books. A file's path is absolute.

    Raises:
        ConfigError: the address cannot be read.
    """
    store = snapshot.server.store or (simulated_store() if snapshot.is_simulated else default_store())
    path = file_of(store)
    return store if path is None else os.path.abspath(path)


def file_of(store: str) -> str | None:
    """The path of the file that an address means; None: it is a server's.

    Raises:
        ConfigError: it is neither.
    """
    try:
        return read_store(store)
    except ValueError as exc:
        raise ConfigError(f"store: {exc}") from None


def choose_store(store: str | None, config: str | None) -> str:
    """The address for a command: `--store`, else the configuration's, else `REDIS_URL`, else the default.

    Without a configuration nobody knows whether simulated or real models were served: if both have books, the real ones
    are taken and the others are named on standard error.

    Raises:
        ConfigError: the configuration cannot be used.
    """
    if store:
        return store
    config = config or os.environ.get("FAREGATE_CONFIG")
    if config:
        from router.settings import load_snapshot

        return store_of(load_snapshot(config))
    redis = os.environ.get("REDIS_URL")
    if redis:
        if problem := redis_problem(redis):
            raise ConfigError(f"REDIS_URL: {problem}")
        return redis
    return _found() if not os.environ.get("FAREGATE_STORE") else default_store()


def _found() -> str:
    """The default store, or that of simulated models if only they were served."""
    real, simulated = default_store(), simulated_store()
    if not Path(simulated).exists():
        return real
    if Path(real).exists():
        sys.stderr.write(f"There is also a ledger of simulated models: --store {simulated}\n")
        return real
    sys.stderr.write(f"The ledger of simulated models: {simulated}\n")
    return simulated


def open_ledger(store: str, *, timeout_seconds: float | None = None) -> Ledger:
    """The ledger at `store`, not connected yet: `redis://`, `rediss://`, `unix://`, else a SQLite file.

    `timeout_seconds` bounds every call; the default fits the kind of store.

    Raises:
        ConfigError: the address cannot be read.
    """
    path = file_of(store)
    if path is None:
        from router.adapters.redis.ledger import RedisLedger

        return RedisLedger(store) if timeout_seconds is None else RedisLedger(store, timeout_seconds=timeout_seconds)
    from router.adapters.sqlite.ledger import SqliteLedger

    return SqliteLedger(path) if timeout_seconds is None else SqliteLedger(path, timeout_seconds=timeout_seconds)


def open_register(store: str) -> Ledger:
    """Where ledgers agree on their shares, not connected yet: under keys of its own, so that it can be the Redis of one of them.

    Raises:
        ConfigError: the address cannot be read.
    """
    if file_of(store) is None:
        from router.adapters.redis.ledger import RedisLedger

        return RedisLedger(store, timeout_seconds=VISIT_TIMEOUT_SECONDS, prefix=REGISTER_PREFIX)
    return open_ledger(store)


def outbox_path(store: str, worker: int) -> str:
    """Where settlements wait: beside the ledger's file, or in the state folder if the ledger is on a server, one for each
    server, so that no settlement is delivered to another one's books. A changed password does not change the name.
    """
    path = file_of(store)
    if path is not None:
        ledger = Path(path)
        return str(ledger.with_name(f"{ledger.name}.outbox-{worker}.log"))
    server = hashlib.sha256(store.rpartition("://")[2].rpartition("@")[2].encode()).hexdigest()[:8]
    return str(state_folder() / f"outbox-{server}-{worker}.log")


def must_exist(store: str) -> str:
    """The address, if there are books at it: opening a file would make it, and hide a typing error.

    Raises:
        ConfigError: there is no such file.
    """
    path = file_of(store)
    if path is not None and not Path(path).exists():
        raise ConfigError(f"There is no ledger at {path}: nothing was served yet, or it is elsewhere (--store, --config, REDIS_URL).")
    return store


@asynccontextmanager
async def visiting(store: str, *, timeout_seconds: float = VISIT_TIMEOUT_SECONDS, register: bool = False) -> AsyncIterator[Ledger]:
    """The open ledger, for a command that looks in and leaves. `timeout_seconds` bounds every call; `register`: see `open_register`.

    Raises:
        ConfigError: it cannot be used, or does not answer.
    """
    ledger = open_register(store) if register else open_ledger(store, timeout_seconds=timeout_seconds)
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
