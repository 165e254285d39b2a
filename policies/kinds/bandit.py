"""`bandit`: Thompson sampling. Each candidate is chosen with the chance that it is the best one, as far as is known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from policies.engine import Order
from policies.kinds.fields import Share, Word
from policies.plans import Arm, Live, added
from policies.types import Candidate, Ranked, Ranking, RequestFacts

POINTS: Final = 41
"""Places at which the chances are added up."""
REACH: Final = 4.0
"""So many standard deviations to either side of the means."""


class BanditOptions(BaseModel):
    """Learn which model is worth most: good answers, less what they cost. The chance of each choice is in its record."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    kind: Literal["bandit"] = "bandit"
    name: Word = Field(default="bandit", description="Name in records and metrics. Default: `bandit`.")
    worth_usd: Decimal = Field(
        default=Decimal("0.01"),
        gt=0,
        le=9_007_199,
        description=(
            "What a good answer is worth: the reward is 1 for a good one and 0 for a failure, less the charge divided by this. "
            "Unit: USD. Default: 0.01."
        ),
    )
    explore: Share = Field(
        default=0.02, description="Least chance, shared evenly by all candidates. Unit: 0 to 1 or a percentage. Default: 2%."
    )
    memory: int = Field(
        default=1000,
        ge=10,
        le=1_000_000,
        description="About so many answers of a model count; older ones fade. Unit: answers. Default: 1000.",
    )


def bind(options: BanditOptions) -> Order:
    """The order function of these options."""
    name, explore = options.name, options.explore

    def order(facts: RequestFacts, kept: Sequence[Candidate], draw: float) -> Ranking:
        if not kept:
            return Ranking((), (), "chance")
        live = facts.live
        beliefs = []
        for c in kept:
            seen = live.get(f"n/{name}/{c.traits.deployment}", 0.0)
            mean = live.get(f"mean/{name}/{c.traits.deployment}", PRIOR_MEAN)
            beliefs.append((mean, PRIOR_DEVIATION / math.sqrt(1.0 + seen)))
        chances = [explore / len(kept) + (1.0 - explore) * chance for chance in best_chances(beliefs)]
        ranked = [(c.traits.deployment, chance) for c, chance in zip(kept, chances, strict=True)]
        index, place = 0, draw
        while index < len(ranked) - 1 and place >= ranked[index][1]:
            place -= ranked[index][1]
            index += 1
        chosen = ranked.pop(index)
        # Sorting is stable: it keeps the order of the YAML between equals.
        ranked.sort(key=lambda pair: -pair[1])
        arm = Arm(experiment=name, arm=chosen[0], propensity=chosen[1])
        plan = added(None, arms=(arm,), rewards=((name, worth_nusd),))
        return Ranking(tuple([Ranked(*pair) for pair in (chosen, *ranked)]), (), "chance", plan)

    worth_nusd = int(options.worth_usd * 1_000_000_000)
    return order


PRIOR_MEAN: Final = 0.5
PRIOR_DEVIATION: Final = 0.5
"""Of a reward between 0 and 1 at most."""


def best_chances(beliefs: Sequence[tuple[float, float]]) -> list[float]:
    """The chance of each to have the highest value, if values are normal with these means and standard deviations.

    The density of each times the chance that all others are below, added up over evenly spaced points.
    """
    if len(beliefs) == 1:
        return [1.0]
    low = min(mean - REACH * deviation for mean, deviation in beliefs)
    high = max(mean + REACH * deviation for mean, deviation in beliefs)
    sums = [0.0] * len(beliefs)
    for step in range(POINTS * len(beliefs)):
        value = low + (high - low) * (step + 0.5) / (POINTS * len(beliefs))
        scaled = [(value - mean) / deviation for mean, deviation in beliefs]
        below = [0.5 * math.erfc(-z / _ROOT_2) for z in scaled]
        for index, z in enumerate(scaled):
            weight = math.exp(-0.5 * z * z) / beliefs[index][1]
            for other, chance in enumerate(below):
                if other != index:
                    weight *= chance
            sums[index] += weight
    total = sum_in_order(sums)
    # Means so far apart that all points fall between them: the highest is the best.
    if total <= 0.0:
        best = max(range(len(beliefs)), key=lambda index: beliefs[index][0])
        return [float(index == best) for index in range(len(beliefs))]
    return [each / total for each in sums]


def sum_in_order(values: Sequence[float]) -> float:
    """Not sum(): from Python 3.12 on it rounds differently, and a replay must give the same order everywhere."""
    total = 0.0
    for value in values:
        total += value
    return total


_ROOT_2: Final = math.sqrt(2.0)


def live(options: BanditOptions) -> tuple[Live, ...]:
    """What is known of the candidates. The number: how many answers count."""
    # What an answer is worth is what was learned: at another price of it nothing is known.
    return (Live(what="bandit", name=options.name, number=float(options.memory), version=f"{options.worth_usd}"),)
