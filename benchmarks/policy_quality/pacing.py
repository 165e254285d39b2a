"""How near a month's spending comes to its budget with the kind `pace`: `python -m benchmarks.policy_quality.pacing`.

Months of 720 hours are simulated call by call through the kind as it is. Charges are lognormal (sigma 1.1, so that one in a hundred is
more than ten times the median); a large model costs ten times as much as a small one; the budget pays for a third of what large ones alone
would cost. What is known of the spending is 25 calls old. Stated: how far the whole month is from its budget, and the furthest that the
spending was from the pace on any evening from the third day on, as a share of the budget.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Callable, Sequence
from statistics import median
from typing import Final

from policies.registry import KINDS
from policies.types import Candidate, RequestFacts, Traits
from router.domain.pacing import Parts

HOURS: Final = 720
CALLS: Final = 12_000
SIGMA: Final = 1.1
STALE: Final = 25
"""Calls after which the spending is read again."""
SMALL, LARGE = 1.0, 10.0
"""Mean charge of a call."""

SHAPES: Final[dict[str, Callable[[int, random.Random], float]]] = {
    "even": lambda hour, chance: 1.0,
    "days and weekends": lambda hour, chance: (8.0 if 8 <= hour % 24 < 19 else 1.0) * (0.2 if hour // 24 % 7 >= 5 else 1.0),
    "bursts": lambda hour, chance: chance.choice([1.0] * 9 + [81.0]),
    "more and more": lambda hour, chance: 1.0 + 4.0 * hour / HOURS,
    "less and less": lambda hour, chance: 5.0 - 4.0 * hour / HOURS,
}
"""Weights of an hour: nine tenths of the traffic of `bursts` come in a tenth of the hours."""


def month(weigh: Callable[[int, random.Random], float], seed: int) -> tuple[float, float]:
    """(How far the month ends from its budget, how far it was from the pace at worst), as shares of the budget."""
    chance = random.Random(seed)
    weights = [weigh(hour, chance) for hour in range(HOURS)]
    calls = [round(CALLS * weight / sum(weights)) for weight in weights]
    budget = sum(calls) * LARGE / 3
    entry = KINDS["pace"]
    order = entry.bind(entry.options(budget="month"))
    candidates = [_candidate("small", SMALL), _candidate("large", LARGE)]
    price = {"p/small": SMALL, "p/large": LARGE}
    spent = known = furthest = 0.0
    made = 0
    parts = Parts("month", 0.0, 0.0)
    for hour, count in enumerate(calls):
        for _ in range(count):
            if made % STALE == 0:
                known = spent
            made += 1
            lead = parts.lead(known / budget, hour / HOURS)
            live = {"spent/month": known / budget, "passed/month": hour / HOURS, "lead/month": lead}
            first = order(RequestFacts(operation="chat", route="auto", live=live), candidates, chance.random()).order[0].deployment
            spent += price[first] * chance.lognormvariate(-SIGMA * SIGMA / 2, SIGMA)
        if hour % 24 == 23 and hour >= 72:
            furthest = max(furthest, abs(spent / budget - (hour + 1) / HOURS))
    return spent / budget - 1.0, furthest


def _candidate(name: str, nusd: float) -> Candidate:
    return Candidate(traits=Traits(deployment=f"p/{name}", model=name, provider="p", size=name), expected_nusd=int(nusd * 1_000_000))


def _row(name: str, found: Sequence[tuple[float, float]]) -> str:
    ends = [abs(end) for end, _ in found]
    return f"| {name} | {median(ends):.2%} | {max(ends):.2%} | {max(furthest for _, furthest in found):.1%} |".replace("%", " %")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--months", type=int, default=10, help="of each kind of traffic")
    parser.add_argument("--first", type=int, default=0, help="seed of the first month")
    given = parser.parse_args()
    print(f"{given.months} months of each traffic, {CALLS:,} calls, charges with sigma {SIGMA}; one in a hundred is above")
    print(f"{math.exp(2.326 * SIGMA):.0f} times the median.\n")
    print("| traffic | off its budget, median | worst | furthest from the pace on an evening |\n|---|---:|---:|---:|")
    for name, weigh in SHAPES.items():
        print(_row(name, [month(weigh, seed) for seed in range(given.first, given.first + given.months)]))


if __name__ == "__main__":
    main()
