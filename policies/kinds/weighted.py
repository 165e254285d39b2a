"""`weighted`: shares of traffic by weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from policies.engine import Order
from policies.types import Candidate, Ranked, Ranking, RequestFacts, Traits

Weight = Annotated[float, Field(ge=0, le=1_000_000, allow_inf_nan=False)]


class WeightedOptions(BaseModel):
    """Spread requests in proportion to weights; what follows the first is drawn the same way from the rest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["weighted"] = "weighted"
    weights: dict[str, Weight] = Field(
        default_factory=dict,
        description=(
            "Weight by the name of a deployment, or of a model for each of its deployments. Unit: none, only ratios count; "
            "0: only after all others. Default: the deployment's own `weight`."
        ),
    )


def bind(options: WeightedOptions) -> Order:
    """The order function of these options."""
    weights = dict(options.weights)

    def weight_of(traits: Traits) -> float:
        weight = weights.get(traits.deployment)
        if weight is None:
            weight = weights.get(traits.model, traits.weight)
        return weight

    def order(facts: RequestFacts, kept: Sequence[Candidate], draw: float) -> Ranking:
        return Ranking(tuple(sample([(c.traits.deployment, weight_of(c.traits)) for c in kept], draw)))

    return order


def names(options: WeightedOptions) -> frozenset[str]:
    """Deployments and models that the options name."""
    return frozenset(options.weights)


def sample(pool: list[tuple[str, float]], draw: float) -> list[Ranked]:
    """Weighted sampling without replacement, all of it from one draw. Uses up `pool`.

    A draw that falls into a share is, measured within that share, again uniform and independent of the
    choice just made; so it is stretched to [0, 1) and used for the next choice. A double carries 53 bits,
    each choice uses up log2(1 / share) of them. Weights of zero are never drawn: they come last, as written.
    """
    ranked: list[Ranked] = []
    while pool and (total := sum([weight for _, weight in pool])) > 0:
        point = draw * total
        chosen, below = _pick(pool, point)
        name, weight = pool.pop(chosen)
        ranked.append(Ranked(name, (("share", weight / total),)))
        # Rounding may carry the quotient to 1.0 or beyond, which is no draw.
        draw = min((point - below) / weight, _BELOW_ONE)
    ranked.extend([Ranked(name, (("share", 0.0),)) for name, _ in pool])
    return ranked


_BELOW_ONE = 1.0 - 2.0**-53


def _pick(pool: Sequence[tuple[str, float]], point: float) -> tuple[int, float]:
    """Index of the share that `point` falls into, and the sum of the shares before it."""
    chosen, chosen_below, below = 0, 0.0, 0.0
    for index, (_, weight) in enumerate(pool):
        if weight > 0:
            chosen, chosen_below = index, below
            below += weight
            if point < below:
                break
    return chosen, chosen_below
