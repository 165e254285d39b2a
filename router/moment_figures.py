"""Numbers of single budgets, providers, models and deployments that rules read of this moment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from router.domain.budgets import NEVER_MS, Budget
from router.domain.windows import window_at
from router.fleet import Fleet
from router.snapshot import Deployment

FEWEST_OF_TAIL: Final = 20
"""Calls that must be known for the time that 95 % of them took: of fewer, it would be the slowest one."""
TAIL: Final = 0.95
_NUSD: Final = 1_000_000_000

Number = int | float | None


def of_budget(field: str, budget: Budget, used: int, limit: int, now_ms: int) -> Number:
    """A number of one instance of a budget, of which so much is used. What is left is in USD or tokens, as the budget counts.

    None: there is none, since its window has no end.
    """
    if field == "used":
        return used / limit if limit > 0 else 1.0
    if field == "passed":
        return _passed(budget, now_ms)
    left = max(0, limit - used)
    return left / _NUSD if field == "left_usd" else left


def _passed(budget: Budget, now_ms: int) -> float | None:
    """The share of its window that is over."""
    _, starts_ms, ends_ms = window_at(budget.window, budget.timezone, now_ms)
    return None if ends_ms >= NEVER_MS else (now_ms - starts_ms) / (ends_ms - starts_ms)


def of_fleet(field: str, names: Sequence[str], fleet: Fleet, deployments: Mapping[str, Deployment]) -> Number:
    """A number of some deployments together: calls and room add up, times are those of the fastest; None: nobody knows.

    The fleet must have been brought up to date.
    """
    return _READERS[field](names, fleet, deployments)


def least(values: Iterable[float | None]) -> float | None:
    """The smallest that is known."""
    return min((value for value in values if value is not None), default=None)


def room(bounds: Iterable[tuple[int | None, int]]) -> int | None:
    """Calls that may still begin, of (most in flight, in flight) pairs; None: somewhere there is no bound."""
    left = 0
    for most, in_flight in bounds:
        if most is None:
            return None
        left += max(0, most - in_flight)
    return left


def _headroom(names: Sequence[str], fleet: Fleet, deployments: Mapping[str, Deployment]) -> int | None:
    return room((deployments[name].max_in_flight, fleet.seen(name).in_flight) for name in names)


def _first_token_tail(names: Sequence[str], fleet: Fleet, deployments: Mapping[str, Deployment]) -> float | None:
    # What is too old for the median is too old for the tail.
    fresh = [name for name in names if fleet.seen(name).first_token_ms is not None]
    return least(fleet.first_token_quantile(name, TAIL, FEWEST_OF_TAIL) for name in fresh)


def _total_tail(names: Sequence[str], fleet: Fleet, deployments: Mapping[str, Deployment]) -> float | None:
    fresh = [name for name in names if fleet.seen(name).total_ms is not None]
    return least(fleet.total_quantile(name, TAIL, FEWEST_OF_TAIL) for name in fresh)


_READERS: Final[Mapping[str, Callable[[Sequence[str], Fleet, Mapping[str, Deployment]], Number]]] = MappingProxyType(
    {
        "in_flight": lambda names, fleet, deployments: sum(fleet.seen(name).in_flight for name in names),
        "headroom": _headroom,
        "error_rate": lambda names, fleet, deployments: fleet.error_rate(names),
        "first_token_ms": lambda names, fleet, deployments: least(fleet.seen(name).first_token_ms for name in names),
        "first_token_p95_ms": _first_token_tail,
        "total_ms": lambda names, fleet, deployments: least(fleet.seen(name).total_ms for name in names),
        "total_p95_ms": _total_tail,
    }
)
