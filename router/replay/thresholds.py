"""What a plan must not make worse: `cost:+5%`, `refusals:+0`, `quality:-1%`."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from router.replay.compare import Comparison, Figure

_FORM: Final = re.compile(r"(cost|latency|p95|first_token|quality|refusals|changed):([+-]?)(\d+(?:\.\d+)?)(%?)")
MOST_UNREAD: Final = 0.05
"""Share of requests of whose prompts nobody knows what the rules ask, above which a figure is not the new configuration's."""
MEASURES: Final = "cost, latency, p95, first_token, quality, refusals, changed"


class Threshold(msgspec.Struct, frozen=True, kw_only=True):
    """The most that a figure may change for the worse."""

    text: str
    measure: str
    most: float
    """A share, or for `refusals` without `%` a number of requests."""
    counted: bool


def parse_threshold(text: str) -> Threshold:
    """Read `cost:+5%`, `latency:+10%`, `p95:+10%`, `first_token:+10%`, `quality:-1%`, `refusals:+0`, `refusals:+0.5%`, `changed:20%`.

    Raises:
        ValueError: none of these.
    """
    match = _FORM.fullmatch(text.strip().replace(" ", ""))
    measure, sign, number, percent = match.groups() if match else ("", "", "", "")
    lower = measure == "quality"
    if not match or (sign == "-") != lower or (not percent and measure != "refusals"):
        raise ValueError(f"{text!r} is no threshold: write cost:+5%, quality:-1%, refusals:+0 or changed:20%; known: {MEASURES}")
    return Threshold(text=text, measure=measure, most=float(number) / (100 if percent else 1), counted=not percent)


def broken(told: Comparison, thresholds: list[Threshold]) -> list[str]:
    """Those that a comparison breaks, in words. A figure that cannot be told breaks its threshold: it was asked for."""
    found = []
    for threshold in thresholds:
        worse = _worse(told, threshold)
        if threshold.measure == "cost" and told.unknown_steps:
            found.append(f"{threshold.text}: of {told.unknown_steps:,} requests, what steps beyond the first would cost is not known")
        elif told.unread > MOST_UNREAD * told.requests:
            found.append(f"{threshold.text}: of {told.unread:,} requests, what the rules ask of their prompts is not known; see --prompts")
        elif worse is None:
            found.append(f"{threshold.text}: the log says nothing of it")
        elif worse > threshold.most + 1e-12:
            shown = f"{worse:g} requests" if threshold.counted else f"{worse:.1%}"
            found.append(f"{threshold.text}: it is {shown} {'lower' if threshold.measure == 'quality' else 'higher'}")
    return found


def _worse(told: Comparison, threshold: Threshold) -> float | None:
    total = told.total
    if threshold.measure == "refusals":
        more = total.refused_new - total.refused_old
        return float(more) if threshold.counted else more / max(1, total.requests)
    if threshold.measure == "changed":
        return total.changed / max(1, total.requests)
    figures: dict[str, Figure] = {
        "cost": total.cost_per_month_nusd,
        "latency": total.total_ms,
        "p95": told.p95_ms,
        "first_token": told.first_ms,
        "quality": total.quality,
    }
    figure = figures[threshold.measure]
    if figure.old is None or figure.new is None:
        return None
    if not figure.old:
        return 0.0 if not figure.new else float("inf")
    by = figure.new / figure.old - 1
    return -by if threshold.measure == "quality" else by
