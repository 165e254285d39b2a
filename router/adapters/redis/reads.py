"""Reads of a ledger in Redis for people: states of buckets and the log."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final

from router.adapters.entries import CLOSED, Entry
from router.adapters.redis.keys import Keys, counter_fields, limit_field, more_field, read_counters, read_limit
from router.domain.budgets import BucketState
from router.domain.windows import SLOTS, budget_of, rolling_of, slot_ms, unit_of, window_of

Read = Callable[..., Awaitable[Any]]
PAGE: Final = 500


async def now_ms(read: Read) -> int:
    """The server's clock, Unix milliseconds."""
    seconds, micros = await read("TIME")
    return int(seconds) * 1000 + int(micros) // 1000


async def bucket_index(read: Read, keys: Keys, since: str) -> AsyncIterator[tuple[str, int]]:
    """(bucket id, end of its window) of all buckets whose window ends after `since`."""
    for index in (keys.index, keys.scopes):
        # By rank: to skip what was read already by score takes as long as to read it.
        at = await read("ZCOUNT", index, "-inf", since[1:]) if since.startswith("(") else 0
        while True:
            page = await read("ZRANGE", index, at, at + PAGE - 1, "WITHSCORES")
            for i in range(0, len(page), 2):
                yield page[i].decode(), int(float(page[i + 1]))
            if len(page) < 2 * PAGE:
                break
            at += PAGE


async def bucket_count(read: Read, keys: Keys) -> int:
    """See `Books.bucket_count`."""
    return int(await read("ZCARD", keys.index)) + int(await read("ZCARD", keys.scopes))


async def bucket_states(read: Read, keys: Keys, *, budget: str | None, current_only: bool) -> list[BucketState]:
    """Buckets by id; only those whose window has not ended, unless told otherwise."""
    since = f"({await now_ms(read)}" if current_only else "-inf"
    wanted = [(name, ends_ms) async for name, ends_ms in bucket_index(read, keys, since) if budget in (None, budget_of(name))]
    states: list[BucketState] = []
    for at in range(0, len(wanted), PAGE):
        states += await states_named(read, keys, wanted[at : at + PAGE])
    return sorted(states, key=lambda s: (s.budget, s.scope, s.window))


async def bucket_pages(read: Read, keys: Keys) -> AsyncIterator[list[BucketState]]:
    """See `Books.bucket_pages`."""
    page: list[tuple[str, int]] = []
    async for found in bucket_index(read, keys, f"({await now_ms(read)}"):
        page.append(found)
        if len(page) == PAGE:
            yield await states_named(read, keys, page)
            page = []
    if page:
        yield await states_named(read, keys, page)


async def states_named(read: Read, keys: Keys, names: Sequence[tuple[str, int]]) -> list[BucketState]:
    """The buckets of these ids, each with the end of its window."""
    if not names:
        return []
    fields = (field for name, _ in names for field in (*counter_fields(name), limit_field(name), more_field(name)))
    values = await read("HMGET", keys.books, *fields)
    states: list[BucketState] = []
    for i, (name, ends_ms) in enumerate(names):
        rolled = await _rolled(read, keys, name) if rolling_of(name) else None
        state = _state(name, ends_ms, values[5 * i : 5 * i + 5], rolled)
        states += [state] if state else []
    return states


async def _rolled(read: Read, keys: Keys, name: str) -> int:
    """What is used in a window that rolls, now."""
    slots = [f"{name}|{i}" for i in range(SLOTS)]
    newest, *amounts = await read("HMGET", keys.books, f"{name}|n", *slots)
    if newest is None:
        return 0
    first = await now_ms(read) // slot_ms(rolling_of(name)) - SLOTS
    # The slot of index i is the latest one up to the newest whose number is i modulo their count.
    numbers = [int(newest) - (int(newest) - i) % SLOTS for i in range(SLOTS)]
    return sum(int(amount or 0) for number, amount in zip(numbers, amounts, strict=True) if number > first)


def _state(name: str, ends_ms: int, values: Sequence[bytes | None], rolled: int | None) -> BucketState | None:
    """What the books say of a bucket; None if it has been dropped. `rolled`: what is used in a window that rolls."""
    *counters, limit, more = values
    if counters[0] is None:
        return None
    scope = name.split("|")[1]
    spent, held, debt = read_counters(counters)
    gone = 0 if rolled is None else spent + held - rolled
    carried = int(more or 0) if rolled is None else 0
    return BucketState(
        budget=budget_of(name),
        scope=scope,
        window=window_of(name),
        unit=unit_of(name),
        limit_nusd=None if limit is None else read_limit(limit, scope) + carried,
        spent_nusd=max(0, spent - gone),
        held_nusd=held,
        debt_nusd=debt,
        ends_ms=ends_ms,
    )


async def entries(read: Read, keys: Keys, *, since_ms: int, until_ms: int | None) -> AsyncIterator[Entry]:
    """The lines of the log in the order they were written."""
    start, end = str(since_ms), "+" if until_ms is None else str(until_ms - 1)
    while True:
        page = await read("XRANGE", keys.log, start, end, "COUNT", PAGE)
        for stream_id, flat in page:
            entry = _entry(stream_id, flat, len(keys.attempts))
            if entry.outcome != CLOSED:
                yield entry
        if len(page) < PAGE:
            return
        start = "(" + page[-1][0].decode()


async def entries_after(read: Read, keys: Keys, start: str, count: int) -> list[tuple[str, Entry]]:
    """Some lines of the log from `start` on, an id of its stream, each with its own id."""
    page = await read("XRANGE", keys.log, start, "+", "COUNT", count)
    return [(stream_id.decode(), _entry(stream_id, flat, len(keys.attempts))) for stream_id, flat in page]


def _entry(stream_id: bytes, flat: list[bytes], attempts: int) -> Entry:
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    return Entry(
        at_ms=int(stream_id.split(b"-")[0]),
        attempt_id=fields[b"a"][attempts:].decode(),
        outcome=fields.get(b"o", b"").decode(),
        spent_nusd=int(fields[b"s"]),
        debt_nusd=int(fields.get(b"d", 0)),
        held_nusd=int(fields[b"h"]),
        joined=fields[b"b"].decode(),
        record=fields[b"r"],
    )
