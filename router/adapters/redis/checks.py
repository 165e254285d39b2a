"""What a Redis must promise before it is trusted with money."""

from __future__ import annotations

from typing import Final

import hiredis

from router.adapters.redis.scripts import command
from router.adapters.redis.wire import Wire, parse_info
from router.errors import ConfigError

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
    if not version or "maxmemory_policy" not in info:
        return ("store: Redis does not show its settings (INFO): make sure of `maxmemory-policy noeviction` and `appendonly yes`.",)
    major = version.split(".", 1)[0]
    if not major.isdigit() or int(major) < MIN_MAJOR:
        raise ConfigError(f"store: Redis {version} is too old: Redis 7 or Valkey 8 is needed.")
    policy = info["maxmemory_policy"]
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
    for section in ("memory", "persistence") if info else ():
        try:
            info.update(parse_info(await wire.call(command("INFO", section))))
        except hiredis.ReplyError:
            # Forbidden to us: the caller says what it could not see.
            continue
    return info
