"""`least_busy`: the one with the fewest calls in flight first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from policies.engine import Order
from policies.types import Candidate, Ranked, Ranking, RequestFacts


class LeastBusyOptions(BaseModel):
    """Order by calls in flight from this process, in proportion to each deployment's `weight`; ties are drawn."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    kind: Literal["least_busy"] = "least_busy"


def bind(options: LeastBusyOptions) -> Order:
    """The order function; `least_busy` has no options."""
    return order


def order(facts: RequestFacts, kept: Sequence[Candidate], draw: float) -> Ranking:
    """Order by the load that each would have with this call on top: (in flight + 1) / weight.

    The draw says who is first among equals. Without it all processes would send their first call to the
    first deployment, since each sees its own calls only.
    """
    count = len(kept)
    turn = int(draw * count)
    place = count - turn
    loads: list[tuple[float, int, str]] = []
    for c in kept:
        weight = c.traits.weight
        load = (c.in_flight + 1) / weight if weight > 0 else _ENDLESS
        loads.append((load, place % count, c.traits.deployment))
        place += 1
    loads.sort()
    return Ranking(tuple([Ranked(name, load) for load, _, name in loads]), (), "load")


_ENDLESS = float("inf")
