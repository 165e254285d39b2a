"""The stores of the contract suite as fixtures."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from router.ports import Ledger
from tests.contract.stores import RedisStore, SqliteStore, Store


@pytest.fixture(params=["sqlite", "fakeredis", "redis"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """Every kind of store, empty."""
    made: SqliteStore | RedisStore
    if request.param == "sqlite":
        made = SqliteStore(tmp_path)
    else:
        made = RedisStore(request.getfixturevalue("fake_redis_url" if request.param == "fakeredis" else "redis_url"))
    yield made
    await made.close()


@pytest.fixture
async def ledger(store: Store) -> Ledger:
    """One replica of it."""
    return await store.replica("one")
