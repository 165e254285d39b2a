"""Stores whose clock a test sets: a ledger file, a faked Redis, a real one."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Protocol

import pytest
from fakeredis.commands_mixins import server_mixin

from router.adapters.redis import audit, controls, reads, scripts
from router.domain.budgets import NEVER_MS
from tests.contract.stores import RedisStore, SqliteStore

CLOCK = "clock"


async def long_ago(_read: reads.Read) -> int:
    """Entries of a log in Redis have the server's time, not ours: whether one is too young to be forgotten is not asked here."""
    return NEVER_MS


class ClockedStore(Protocol):
    """Books as in `tests/contract/stores.py`, whose time stands still until it is set."""

    async def set_clock(self, now_ms: int) -> None: ...


class ClockedSqlite(SqliteStore):
    """A ledger file."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.clock_ms = 0

    async def set_clock(self, now_ms: int) -> None:
        self.clock_ms = now_ms


class ClockedFake(RedisStore):
    """A Redis in this process: its command TIME is asked of us."""

    def __init__(self, url: str, patch: pytest.MonkeyPatch) -> None:
        super().__init__(url)
        self._ms = 0
        patch.setattr(audit, "now_ms", long_ago)
        patch.setattr(server_mixin, "time", types.SimpleNamespace(time=lambda: self._ms / 1000))

    async def set_clock(self, now_ms: int) -> None:
        self._ms = now_ms


class ClockedRedis(RedisStore):
    """A real Redis, whose clock cannot be set: the scripts read the time from a list in it, and so do we."""

    def __init__(self, url: str, patch: pytest.MonkeyPatch) -> None:
        super().__init__(url)
        self._ms = 0

        async def now_ms(_read: reads.Read) -> int:
            return self._ms

        for module in (reads, controls):
            patch.setattr(module, "now_ms", now_ms)
        patch.setattr(audit, "now_ms", long_ago)

    async def set_clock(self, now_ms: int) -> None:
        self._ms = now_ms
        await self.command("DEL", CLOCK)
        await self.command("RPUSH", CLOCK, now_ms // 1000, now_ms % 1000 * 1000)


def read_clock_from_a_list(patch: pytest.MonkeyPatch) -> None:
    """Have all scripts do so that are loaded from now on. To be undone by `scripts.script.cache_clear`."""
    plain = scripts._text
    instead = b"redis.call('LRANGE', '%b', 0, 1)" % CLOCK.encode()
    patch.setattr(scripts, "_text", lambda name: plain(name).replace(b"redis.call('TIME')", instead))
    scripts.script.cache_clear()
