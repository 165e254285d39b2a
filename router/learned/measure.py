"""How good a router is: how much of the large model's advantage it gets for which share of calls to it."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import msgspec

from router.learned.labels import Label


class Quality(msgspec.Struct, frozen=True, kw_only=True):
    """What a curve from share to quality says."""

    apgr: float
    """Mean share of the performance gap between small and large that is recovered, over all shares; random gives 0.5."""
    cpt50: float
    """Share of calls to the large model that recovers half of the gap."""
    cpt80: float
    """The same for four fifths."""
    s95: float
    """Share of calls to the large model for 95 % of its quality."""
    usd_per_1000: float | None = None
    """What 1,000 prompts cost at 95 % of the large model's quality; None: no costs are known."""


def curve(scores: Sequence[float], labels: Sequence[Label]) -> list[float]:
    """Mean quality if the n prompts with the highest scores go to the large model, for n from 0 to all."""
    order = sorted(range(len(labels)), key=lambda index: -scores[index])
    total = sum(label.small for label in labels)
    found = [total]
    for index in order:
        total += labels[index].gap
        found.append(total)
    return [value / len(labels) for value in found]


def quality(scores: Sequence[float], labels: Sequence[Label]) -> Quality:
    """Measure a router by its scores: the higher, the sooner a prompt goes to the large model."""
    path = curve(scores, labels)
    low, high, count = path[0], path[-1], len(labels)
    recovered = [(value - low) / (high - low) for value in path]
    apgr = (sum(recovered) - (recovered[0] + recovered[-1]) / 2) / count
    reached = next(index for index, value in enumerate(path) if value >= 0.95 * high)
    return Quality(
        apgr=apgr,
        cpt50=_first(recovered, 0.5) / count,
        cpt80=_first(recovered, 0.8) / count,
        s95=reached / count,
        usd_per_1000=_usd(scores, labels, reached),
    )


def _first(values: Sequence[float], least: float) -> int:
    return next(index for index, value in enumerate(values) if value >= least)


def _usd(scores: Sequence[float], labels: Sequence[Label], large: int) -> float | None:
    if any(label.small_usd is None or label.large_usd is None for label in labels):
        return None
    order = sorted(range(len(labels)), key=lambda index: -scores[index])
    costs = [labels[index].large_usd if place < large else labels[index].small_usd for place, index in enumerate(order)]
    return 1_000 * fmean(cost for cost in costs if cost is not None)


def calibration_error(predicted: Sequence[float], true: Sequence[float], bins: int = 10) -> float:
    """Expected calibration error: the mean distance between what was predicted and what came true, over equally full bins."""
    order = sorted(range(len(true)), key=lambda index: predicted[index])
    size = max(1, len(order) // bins)
    parts = [order[start : start + size] for start in range(0, len(order), size)]
    return sum(abs(fmean(predicted[i] for i in part) - fmean(true[i] for i in part)) * len(part) for part in parts) / len(order)
