"""What a Redis must promise before it is trusted with money."""

from __future__ import annotations

from typing import Final

import hiredis

from router.adapters.redis.scripts import command
from router.adapters.redis.wire import Wire
from router.errors import ConfigError, StoreUnavailable

MIN_MAJOR: Final = 7
"""First Redis whose scripts can be flagged `allow-oom`. Valkey 8 and later report 7.2.4. Source: redis.io/docs, Lua API, read 2026-11."""


async def check_server(wire: Wire) -> tuple[str, ...]:
    """Look at version, eviction and persistence. Returns warnings.

    Raises:
        ConfigError: the server may forget counters, or is too old.
        StoreUnavailable: it does not answer.
    """
    info = await _info(wire)
    version = info.get("redis_version", "")
    major = version.split(".", 1)[0]
    if not major.isdigit() or int(major) < MIN_MAJOR:
        raise ConfigError(f"store: Redis {version or 'of unknown version'} is too old: Redis 7 or Valkey 8 is needed.")
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction" and info.get("maxmemory", "0") != "0":
        raise ConfigError(
            f"store: Redis evicts keys when it is full (maxmemory-policy {policy}), which would reset budgets. "
            "Set `maxmemory-policy noeviction`, or use a Redis of its own for Faregate."
        )
    if info.get("aof_enabled", "1") == "0":
        return ("store: Redis keeps no append-only file: what is spent is lost when it restarts. Set `appendonly yes`.",)
    return ()


async def _info(wire: Wire) -> dict[str, str]:
    info = dict(wire.info)
    for section in ("memory", "persistence"):
        try:
            text = bytes(await wire.call(command("INFO", section))).decode(errors="replace")
        except hiredis.ReplyError as error:
            raise StoreUnavailable(f"Redis cannot serve: {error}") from error
        for line in text.splitlines():
            name, _, value = line.partition(":")
            info[name] = value
    return info
