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

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

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
        return weights.get(traits.model, traits.weight) if weight is None else weight

    def order(facts: RequestFacts, kept: Sequence[Candidate], draw: float) -> Ranking:
        # Without weights in the options, which is the usual case, the look-ups are spared.
        found = [weight_of(c.traits) for c in kept] if weights else [c.traits.weight for c in kept]
        return Ranking(tuple(sample([c.traits.deployment for c in kept], found, draw)), (), "share")

    return order


def names(options: WeightedOptions) -> frozenset[str]:
    """Deployments and models that the options name."""
    return frozenset(options.weights)


_LEAST = 1e-6
"""A smaller sum of weights counts as none: what is so close to zero cannot be divided by."""
_BELOW_ONE = 1.0 - 2.0**-53
"""The largest draw."""


def sample(names: list[str], weights: list[float], draw: float) -> list[Ranked]:
    """Weighted sampling without replacement, all of it from one draw. Uses up both lists.

    A draw that falls into a share is, measured within that share, again uniform and independent of the
    choice just made; so it is stretched to [0, 1) and used for the next choice. A double carries 53 bits,
    and each choice uses up log2(1 / share) of them. Weights of zero are never drawn: they come last, as
    written.
    """
    ranked: list[Ranked] = []
    while names:
        # Not sum(): from Python 3.12 on it rounds differently, and a replay must give the same order everywhere.
        total = 0.0
        for weight in weights:
            total += weight
        if total < _LEAST:
            break
        point = draw * total
        below = 0.0
        index = 0
        # Ends within the list: a draw below 1 makes a point below the total, which was added up in the same order.
        weight = weights[0]
        while point >= below + weight:
            below += weight
            index += 1
            weight = weights[index]
        del weights[index]
        ranked.append(Ranked(names.pop(index), weight / total))
        rest = (point - below) / weight
        # Rounding may carry it to 1.0, which is no draw.
        draw = rest if rest < 1.0 else _BELOW_ONE
    ranked.extend([Ranked(name, 0.0) for name in names])
    return ranked
