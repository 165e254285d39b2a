"""Sums in blocks, and how sure they are: a seeded bootstrap over blocks of requests that belong together."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final

BLOCKS: Final = 100
"""Requests of one session fall into one block: they are alike, and count as one observation."""
REPEATS: Final = 400
LEAST_BLOCKS: Final = 20
"""Fewer say nothing about how sure a figure is."""
LEVEL: Final = 0.95
SEED: Final = 20260101

Interval = tuple[float, float]


def block_of(name: str) -> int:
    """The block of a session, or of a request without one."""
    return zlib.crc32(name.encode()) % BLOCKS


@lru_cache(maxsize=1)
def _samples() -> list[list[int]]:
    # Not for secrets: the same sample every time, so that a report can be repeated.
    chance = random.Random(SEED)  # noqa: S311
    return [chance.choices(range(BLOCKS), k=BLOCKS) for _ in range(REPEATS)]


class Sums:
    """Columns of sums, by block."""

    __slots__ = ("columns",)

    def __init__(self, columns: int) -> None:
        self.columns = [[0.0] * BLOCKS for _ in range(columns)]

    def totals(self) -> list[float]:
        """The sums over all blocks."""
        return [sum(column) for column in self.columns]

    def interval(self, figure: Callable[[Sequence[float]], float | None], *, count: int = 0) -> Interval | None:
        """Between which values the figure lies with 95 % confidence; None if that cannot be told.

        `figure` makes one number of the totals of all columns, or None. Column `count` counts what the blocks hold.
        """
        if sum(1 for value in self.columns[count] if value) < LEAST_BLOCKS:
            return None
        found = []
        for sample in _samples():
            value = figure([sum(map(column.__getitem__, sample)) for column in self.columns])
            if value is not None:
                found.append(value)
        if len(found) < REPEATS // 2:
            return None
        found.sort()
        cut = int(len(found) * (1 - LEVEL) / 2)
        return found[cut], found[-1 - cut]


def ratio(top: int, bottom: int) -> Callable[[Sequence[float]], float | None]:
    """One total over another."""
    return lambda totals: totals[top] / totals[bottom] if totals[bottom] else None


def change(new: int, old: int) -> Callable[[Sequence[float]], float | None]:
    """By what share one total is above another."""
    return lambda totals: totals[new] / totals[old] - 1 if totals[old] else None


def quantile(values: Sequence[float], share: float) -> float | None:
    """The value that this share of them does not exceed."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else None
