"""`fixed`: in the order they are written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from policies.engine import Order
from policies.types import Candidate, Ranked, Ranking, RequestFacts


class FixedOptions(BaseModel):
    """Try the deployments in the order they are written."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    kind: Literal["fixed"] = "fixed"


def bind(options: FixedOptions) -> Order:
    """The order function; `fixed` has no options."""
    return order


def order(facts: RequestFacts, kept: Sequence[Candidate], draw: float) -> Ranking:
    """Keep the order of the YAML."""
    return Ranking(tuple([Ranked(c.traits.deployment) for c in kept]))
