"""`least_busy`: the one with the fewest calls in flight first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from policies.engine import Order
from policies.types import Candidate, Ranked, Ranking, RequestFacts


class LeastBusyOptions(BaseModel):
    """Order by calls in flight from this process, in proportion to each deployment's `weight`; ties are drawn."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["least_busy"] = "least_busy"


def bind(options: LeastBusyOptions) -> Order:
    """The order function; `least_busy` has no options."""
    return order


def order(facts: RequestFacts, kept: Sequence[Candidate], draw: float) -> Ranking:
    """Order by the load that each would have with this call on top: (in flight + 1) / weight.

    The draw turns the list before the stable sort. Without it all processes would send their first call
    to the first deployment, since each sees its own calls only.
    """
    turn = int(draw * len(kept))
    loads = [(_load(c), c.traits.deployment) for c in (*kept[turn:], *kept[:turn])]
    loads.sort(key=_first)
    return Ranking(tuple([Ranked(deployment, (("load", load),)) for load, deployment in loads]))


def _load(candidate: Candidate) -> float:
    weight = candidate.traits.weight
    return (candidate.in_flight + 1) / weight if weight > 0 else float("inf")


def _first(pair: tuple[float, str]) -> float:
    return pair[0]
