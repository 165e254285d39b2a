"""Reads of a ledger in Redis for people: states of buckets, the log, and whether both agree."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, Final

from router.adapters.entries import KEEP_MS, SEPARATOR, Entry
from router.adapters.redis.keys import Keys
from router.domain.budgets import NEVER_MS, BucketState
from router.domain.windows import budget_of
from router.ports import Drift

Read = Callable[..., Awaitable[Any]]
PAGE: Final = 500


async def _now_ms(read: Read) -> int:
    seconds, micros = await read("TIME")
    return int(seconds) * 1000 + int(micros) // 1000


async def _index(read: Read, keys: Keys, since: str) -> AsyncIterator[tuple[str, int]]:
    """(bucket id, end of its window) of all buckets whose window ends after `since`."""
    at = 0
    while True:
        page = await read("ZRANGE", keys.index, since, "+inf", "BYSCORE", "LIMIT", at, PAGE, "WITHSCORES")
        for i in range(0, len(page), 2):
            yield page[i].decode(), int(float(page[i + 1]))
        if len(page) < 2 * PAGE:
            return
        at += PAGE


async def bucket_states(read: Read, keys: Keys, *, budget: str | None, current_only: bool) -> list[BucketState]:
    """Buckets by id; only those whose window has not ended, unless told otherwise."""
    limits = {}
    flat = await read("HGETALL", keys.limits)
    for i in range(0, len(flat), 2):
        limits[flat[i].decode()] = int(flat[i + 1])
    since = f"({await _now_ms(read)}" if current_only else "-inf"
    states = []
    async for name, ends_ms in _index(read, keys, since):
        _, scope, label = name.split("|")
        owner = budget_of(name)
        if budget is not None and owner != budget:
            continue
        spent, held, debt = await read("HMGET", keys.counters + name, "s", "h", "d")
        if spent is None:
            continue
        states.append(
            BucketState(
                budget=owner,
                scope=scope,
                window=label,
                limit_nusd=limits.get(owner),
                spent_nusd=int(spent),
                held_nusd=int(held or 0),
                debt_nusd=int(debt or 0),
                ends_ms=ends_ms,
            )
        )
    return sorted(states, key=lambda s: (s.budget, s.scope, s.window))


async def entries(read: Read, keys: Keys, *, since_ms: int, until_ms: int | None) -> AsyncIterator[Entry]:
    """The lines of the log in the order they were written."""
    start, end = str(since_ms), "+" if until_ms is None else str(until_ms - 1)
    while True:
        page = await read("XRANGE", keys.log, start, end, "COUNT", PAGE)
        for stream_id, flat in page:
            yield _entry(stream_id, flat)
        if len(page) < PAGE:
            return
        start = "(" + page[-1][0].decode()


def _entry(stream_id: bytes, flat: list[bytes]) -> Entry:
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    return Entry(
        at_ms=int(stream_id.split(b"-")[0]),
        attempt_id=fields[b"a"].decode(),
        outcome=fields[b"o"].decode(),
        spent_nusd=int(fields[b"s"]),
        debt_nusd=int(fields[b"d"]),
        held_nusd=int(fields[b"h"]),
        joined=fields[b"b"].decode(),
        record=fields[b"r"],
    )


async def drift(read: Read, keys: Keys) -> list[Drift]:
    """Where counters differ from what the log and the open holds add up to.

    Reads in many steps: on a ledger in use, charges that arrive meanwhile can show as drift that the next run does not find.
    """
    spent, debt, last_ms = await _log_sums(read, keys)
    held = await _open_holds(read, keys)
    found: list[Drift] = []
    names = {name: ends_ms async for name, ends_ms in _index(read, keys, "-inf")}
    now_ms = await _now_ms(read)
    lost = (name for name, at_ms in last_ms.items() if name not in names and at_ms > now_ms - KEEP_MS)
    for name in sorted({*names, *held, *lost}):
        counters = await read("HMGET", keys.counters + name, "s", "h", "d")
        if counters[0] is None and names.get(name, NEVER_MS) < now_ms - KEEP_MS:
            continue
        s, h, d = (int(v or 0) for v in counters)
        if s != spent[name]:
            found.append(Drift(name, s, spent[name], "spent"))
        if h != held[name]:
            found.append(Drift(name, h, held[name], "held"))
        if d != debt[name]:
            found.append(Drift(name, d, debt[name], "debt"))
    return found


async def _log_sums(read: Read, keys: Keys) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
    spent: dict[str, int] = defaultdict(int)
    debt: dict[str, int] = defaultdict(int)
    last_ms: dict[str, int] = {}
    async for entry in entries(read, keys, since_ms=0, until_ms=None):
        for name in entry.bucket_ids:
            spent[name] += entry.spent_nusd
            debt[name] += entry.debt_nusd
            last_ms[name] = entry.at_ms
    return spent, debt, last_ms


async def _open_holds(read: Read, keys: Keys) -> dict[str, int]:
    held: dict[str, int] = defaultdict(int)
    for replica in await read("ZRANGE", keys.leases, 0, -1):
        cursor = b"0"
        while True:
            cursor, ids = await read("SSCAN", keys.open_holds + replica.decode(), cursor, "COUNT", PAGE)
            if ids:
                _add_holds(held, await read("MGET", *[keys.attempts.encode() + i for i in ids]))
            if cursor == b"0":
                break
    return held


def _add_holds(held: dict[str, int], attempts: Iterable[bytes | None]) -> None:
    for stored in attempts:
        if stored is None or not stored.startswith(b"H"):
            continue
        fields = stored.decode().split(SEPARATOR)
        for name in fields[7 : 7 + int(fields[6])]:
            held[name] += int(fields[2])
