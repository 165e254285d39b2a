"""From what a model says of a prompt to a difficulty whose middle, 0.5, holds a target: a share, a price, or a quality.

A threshold that was set on one traffic is wrong on another: set for half of the requests, it sent 92 % of one traffic to the large
model and none of the Korean one. So the threshold follows what came last, for each language by itself.
"""

from __future__ import annotations

from collections import deque
from typing import Final, Literal

import msgspec

from policies.learned.model import Scores

LEAST: Final = 12
"""Requests in a window before it decides; until then those of all languages do, and before there are so many the prompts of the
training."""
REFRESH: Final = 8
"""Requests after which a threshold is worked out anew."""
HORIZON: Final = 30.0
"""Requests over which a past excess or lack is made up for."""
MOST_WINDOWS: Final = 64
"""Languages that have a window of their own; the rest share one."""
OTHERS: Final = ""


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """What the threshold is to hold."""

    kind: Literal["share", "price", "quality"]
    value: float
    """`share`: of requests that are difficult, from 0 to 1; `price`: mean of a request in USD if the difficult ones go to the large
    model; `quality`: least mean quality, as a share of the large model's alone."""


class Seen(msgspec.Struct, frozen=True, gc=False):
    """A request of the window."""

    rank: float
    small: float
    gap: float
    small_usd: float
    extra_usd: float
    """What the large model costs more."""


class Window:
    """The last requests of one language, and the threshold that follows from them."""

    def __init__(self, target: Target, size: int) -> None:
        self._target = target
        self._seen: deque[Seen] = deque(maxlen=size)
        self._since = 0
        self._owed = 0.0
        """By how much the target was missed, in its unit times requests; above 0: too few went to the large model."""
        self.threshold = 1.0 - target.value if target.kind == "share" else 0.5

    def place(self, seen: Seen, usual: float | None = None) -> bool:
        """Whether a request is difficult; it then belongs to the window. `usual`: the threshold while the window is too short."""
        if len(self._seen) < LEAST:
            self.threshold = self.threshold if usual is None else usual
        elif self._since >= REFRESH:
            self._since = 0
            self.threshold = self._found()
        difficult = seen.rank >= self.threshold
        self._since += 1
        self._seen.append(seen)
        if self._target.kind == "share":
            self._owe(self._target.value - difficult)
        elif self._target.kind == "price":
            self._owe(self._target.value - seen.small_usd - difficult * seen.extra_usd)
        return difficult

    def _owe(self, lack: float) -> None:
        # Bounded: a traffic that cannot hold the target must not be made up for by hours of the opposite.
        most = HORIZON if self._target.kind == "share" else HORIZON * self._target.value
        self._owed = min(max(self._owed + lack, -most), most)

    def _found(self) -> float:
        """The rank from which on requests are difficult."""
        kind, value = self._target.kind, self._target.value
        hardest = sorted(self._seen, key=lambda one: -one.rank)
        count = len(hardest)
        if kind == "share":
            wanted = min(max(value + self._owed / HORIZON, 0.0), 1.0) * count
            return _at(hardest, round(wanted))
        if kind == "price":
            left = (value + self._owed / HORIZON) * count - sum(one.small_usd for one in hardest)
            return _at(hardest, _affordable(hardest, left))
        lack = sum(value * (one.small + one.gap) - one.small for one in hardest)
        return _at(hardest, _needed(hardest, lack))


def _affordable(hardest: list[Seen], left: float) -> int:
    for index, one in enumerate(hardest):
        left -= one.extra_usd
        if left < 0:
            return index
    return len(hardest)


def _needed(hardest: list[Seen], lack: float) -> int:
    for index, one in enumerate(hardest):
        if lack <= 0:
            return index
        lack -= one.gap
    return len(hardest)


def _at(hardest: list[Seen], count: int) -> float:
    """The threshold that makes the first `count` difficult: halfway to the next one, so that equals are not all above it."""
    if count <= 0:
        return 2.0
    if count >= len(hardest):
        return 0.0
    return (hardest[count - 1].rank + hardest[count].rank) / 2


class Thresholds:
    """A window for each language."""

    def __init__(self, target: Target, *, size: int) -> None:
        self._target = target
        self._size = size
        self._every = Window(target, size)
        """Of all languages: texts that are taken for another language now and then stand in windows that never fill."""
        self._windows: dict[str, Window] = {}

    def difficulty(self, language: str, scores: Scores, *, small_usd: float = 0.0, large_usd: float = 0.0) -> float:
        """The difficulty of a request, from 0 to 1; from 0.5 on it is above the threshold. The request counts for those to come."""
        if language not in self._windows and len(self._windows) >= MOST_WINDOWS:
            language = OTHERS
        window = self._windows.get(language)
        if window is None:
            window = self._windows[language] = Window(self._target, self._size)
        rank = scores.difficulty
        seen = Seen(rank, scores.small, scores.gap, small_usd, large_usd - small_usd)
        self._every.place(seen)
        difficult = window.place(seen, self._every.threshold)
        # The threshold may lie outside of what ranks can be: then all are on one side of it.
        threshold = min(max(window.threshold, 1e-6), 1.0)
        if not difficult:
            return min(0.5 * rank / threshold, 0.499)
        return max(0.5, 0.5 + 0.5 * (rank - threshold) / (1.0 - threshold)) if threshold < 1.0 else 0.5
