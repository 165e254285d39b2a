"""Whether the counters of a ledger in Redis are what its log and its open holds add up to."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, Final

from router.adapters.entries import KEEP_INVENTED_MS, KEEP_MS, by_unit, in_unit, split_ids
from router.adapters.redis.keys import Keys, counter_fields, read_counters
from router.adapters.redis.reads import Read, bucket_index, now_ms
from router.adapters.redis.scripts import script
from router.domain.budgets import NEVER_MS
from router.domain.windows import is_invented
from router.ports import Drift

LOG_PAGE: Final = 256
"""Entries that one step of the server adds up: bounds how long others wait for it."""
COMPARED: Final = 250
"""Buckets that are compared in one step."""
PAUSE_SECONDS: Final = 0.002
"""Between two pages of the log."""
BEGINNING: Final = b"0-0"


class _Trimmed(Exception):
    """Entries that were not read yet have left the log: begin anew."""


class Audit:
    """Adds up the log once; every further run reads only what was written since.

    Counters, open holds and the end of the log are read in one step, so a ledger in use shows no drift that is none.
    """

    def __init__(self, read: Read, keys: Keys) -> None:
        self._read = read
        self._keys = keys
        self._forget()

    def _forget(self) -> None:
        self._last = BEGINNING
        self._trimmed = b""
        self._caught_up = False
        self._last_ms: dict[str, int] = {}
        self._spent: dict[str, int] = defaultdict(int)
        self._debt: dict[str, int] = defaultdict(int)

    async def run(self) -> list[Drift]:
        """What disagrees now."""
        while True:
            try:
                return await self._compare_all()
            except _Trimmed:
                self._forget()

    async def _compare_all(self) -> list[Drift]:
        if not self._caught_up:
            await self._begin()
        names = {name: ends_ms async for name, ends_ms in bucket_index(self._read, self._keys, "-inf")}
        now = await now_ms(self._read)
        # Of buckets whose counters are gone only those count that cannot have been dropped for their age yet.
        lost = (name for name, at_ms in self._last_ms.items() if name not in names and at_ms > now - _kept_ms(name))
        wanted = sorted({*names, *lost})
        found: list[Drift] = []
        held: dict[str, int] = {}
        for at in range(0, max(1, len(wanted)), COMPARED):
            some = wanted[at : at + COMPARED]
            values, held = await self._catch_up(some)
            for i, name in enumerate(some):
                counters = values[3 * i : 3 * i + 3]
                if counters[0] is not None or names.get(name, NEVER_MS) >= now - _kept_ms(name):
                    found += self._drifts(name, counters, held.get(name, 0))
        unknown = sorted(name for name in held if name not in names)
        return found + [Drift(name, 0, held[name], "held") for name in unknown]

    async def _begin(self) -> None:
        """Begin with what was trimmed before, then read the whole log."""
        flat = await self._read("HGETALL", self._keys.trimmed)
        sums = {name.decode(): value for name, value in zip(flat[::2], flat[1::2], strict=True)}
        self._trimmed = sums.pop("@", b"")
        for field, value in sums.items():
            name, _, kind = field.rpartition("|")
            (self._spent if kind == "s" else self._debt)[name] += int(value)
        await self._catch_up(())
        # From now on, what is trimmed has been read.
        self._caught_up = True

    async def _catch_up(self, names: Sequence[str]) -> tuple[list[bytes | None], dict[str, int]]:
        """Read the log to its end. Returns the counters of these buckets and what is held, as of that moment."""
        keys = self._keys
        fields = [field for name in names for field in counter_fields(name)]
        into = [keys.books, keys.open_holds, keys.log, keys.trimmed]
        while True:
            self._last, trimmed, sums, at_end, *compared = await self._read(
                "EVALSHA", script("audit").sha, len(into), *into, self._last, LOG_PAGE, *fields
            )
            if trimmed != self._trimmed and not self._caught_up:
                raise _Trimmed
            self._add(sums)
            if at_end:
                return compared[0], _held(compared[1])
            # Requests first.
            await asyncio.sleep(PAUSE_SECONDS)

    def _add(self, sums: Sequence[Any]) -> None:
        for at in range(0, len(sums), 8):
            ids, *added, at_ms = sums[at : at + 8]
            for name in split_ids(ids.decode()):
                spent, debt = by_unit(name, *added)
                self._spent[name] += spent
                self._debt[name] += debt
                self._last_ms[name] = max(at_ms, self._last_ms.get(name, 0))

    def _drifts(self, name: str, counters: Sequence[bytes | None], held: int) -> Iterator[Drift]:
        spent, counted, debt = read_counters(counters)
        if spent != self._spent[name]:
            yield Drift(name, spent, self._spent[name], "spent")
        if counted != held:
            yield Drift(name, counted, held, "held")
        if debt != self._debt[name]:
            yield Drift(name, debt, self._debt[name], "debt")


def _kept_ms(name: str) -> int:
    return KEEP_INVENTED_MS if is_invented(name.split("|")[1]) else KEEP_MS


def _held(holds: Sequence[bytes]) -> dict[str, int]:
    held: dict[str, int] = defaultdict(int)
    for amount, ids, units in zip(holds[::3], holds[1::3], holds[2::3], strict=True):
        # See `units.lua`.
        tokens, _, _, state = units.split(b" ")[:4] if units else (b"0", b"", b"", b"")
        for name in split_ids(ids.decode()):
            held[name] += in_unit(name, int(amount), int(tokens), int(state == b"o"))
    return held
