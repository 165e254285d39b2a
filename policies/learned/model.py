"""A trained model: two heads over hashed features, as plain numbers."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from math import sqrt
from typing import Final

import msgspec

from policies.learned.features import features_of

LEVELS: Final = 255.0
"""Steps of a feature's weight, from 0 to the heaviest."""


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is predicted, as a sum over features."""

    weights: Sequence[int]
    """By the hash of a feature, its importance counted in."""
    scale: float
    """What one step of a weight is."""
    bias: float
    calibration: tuple[tuple[float, float], ...] = ()
    """Points (sum, what came true on average), both rising; empty: the sum is taken as it is."""


class Scores(msgspec.Struct, frozen=True, gc=False):
    """What a model says of a prompt."""

    small: float
    """Chance that the small model's answer is good, from 0 to 1."""
    gap: float
    """By how much the large model's answer is likely better, from -1 to 1."""
    difficulty: float
    """Share of the prompts that the model was trained on which gain less from the large model, from 0 to 1."""


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """A trained router."""

    bits: int
    """Of a hash that count."""
    importance: Sequence[int]
    """The square of a feature's weight in a prompt, by its hash, in steps; the most: never seen."""
    small: Head
    gap: Head
    ranks: tuple[float, ...]
    """Sums of the gap's head that cut the training prompts into equal parts, rising."""

    def scores(self, text: str) -> Scores:
        """Look at a prompt."""
        small, gap = self.raw(text)
        return Scores(along(small, self.small.calibration), along(gap, self.gap.calibration), self.rank(gap))

    def difficulty(self, text: str) -> float:
        """The same number as in `scores`, for less."""
        places, length = self._places(text)
        return self.rank(_sum(self.gap, places, length))

    def raw(self, text: str) -> tuple[float, float]:
        """The sums of both heads, before they are calibrated."""
        places, length = self._places(text)
        return _sum(self.small, places, length), _sum(self.gap, places, length)

    def _places(self, text: str) -> tuple[set[int], float]:
        """Where a prompt's features stand in the tables, and the length of the vector that they make."""
        places = set(map(((1 << self.bits) - 1).__and__, features_of(text)))
        return places, sqrt(sum(map(self.importance.__getitem__, places))) or 1.0

    def rank(self, gap: float) -> float:
        """Where a sum of the gap's head stands among those of the training prompts, from 0 to 1."""
        ranks = self.ranks
        above = bisect_right(ranks, gap)
        if above == 0:
            return 0.0
        if above == len(ranks):
            return 1.0
        low, high = ranks[above - 1], ranks[above]
        return (above - 1 + (gap - low) / (high - low)) / (len(ranks) - 1)


def _sum(head: Head, places: set[int], length: float) -> float:
    return head.bias + head.scale * sum(map(head.weights.__getitem__, places)) / length


def along(value: float, points: tuple[tuple[float, float], ...]) -> float:
    """Along the straight lines between the points; level beyond the first and the last."""
    if not points:
        return value
    after = bisect_right(points, (value, float("inf")))
    if after == 0:
        return points[0][1]
    if after == len(points):
        return points[-1][1]
    (x0, y0), (x1, y1) = points[after - 1], points[after]
    return y0 + (y1 - y0) * (value - x0) / (x1 - x0)
