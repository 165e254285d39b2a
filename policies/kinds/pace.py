"""`pace`: good models as long as the budget keeps pace with its window, cheaper ones as it runs ahead. Smooth, without steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from policies.engine import Order
from policies.kinds.cost import KeepCache, cost_parts, expected, likely, live_of, plan_of
from policies.plans import Live
from policies.types import Candidate, Ranked, Ranking, RequestFacts, quality_of

UNKNOWN_QUALITY: Final = {"small": 0.5, "medium": 0.65, "large": 0.8}
"""Assumed by size, where the catalogue gives no quality."""
STEEPNESS: Final = 40.0
"""How fast the weight of the price grows as a budget runs ahead of its window."""
LARGEST: Final = 20.0
LEAST_LEFT: Final = 0.02
"""Near the end of a window what is left of it is taken to be no less."""


class PaceOptions(BaseModel):
    """Order by quality less the price times a weight, which grows as the budget is spent faster than its window passes."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    kind: Literal["pace"] = "pace"
    budget: str = Field(description="Name of the budget that is to last. It needs a window with an end.")
    price_weight: float = Field(
        default=0.3,
        gt=0,
        le=1000,
        description="How much the price counts against quality while the budget is right on its pace. Default: 0.3.",
    )
    keep_cache: KeepCache = False


def bind(options: PaceOptions) -> Order:
    """The order function of these options."""
    name, usual, keep_cache = options.budget, options.price_weight, options.keep_cache

    def order(facts: RequestFacts, kept: Sequence[Candidate], draw: float) -> Ranking:
        live = facts.live
        weight = usual * pressure(live.get(f"spent/{name}"), live.get(f"passed/{name}"), live.get(f"lead/{name}", 0.0))
        dearest = max([expected(c) for c in kept], default=0) or 1
        scored = []
        for index, c in enumerate(kept):
            quality = quality_of(c.traits, facts)
            value = UNKNOWN_QUALITY.get(c.traits.size or "", 0.6) if quality is None else quality
            price = weight * likely(facts, c, keep_cache=keep_cache) / dearest
            costs = cost_parts(facts, c) if keep_cache else {"charge_nusd": expected(c)}
            parts = {"quality": value, "price": 0.0 - price, **costs}
            scored.append((price - value, index, c.traits.deployment, parts))
        scored.sort()
        order = tuple([Ranked(deployment, -score, parts) for score, _, deployment, parts in scored])
        return Ranking(order, (), "value", plan_of(keep_cache))

    return order


def pressure(spent: float | None, passed: float | None, lead: float = 0.0) -> float:
    """What the weight of the price is multiplied by: 1 on the pace, more as the budget runs ahead, less as it stays behind.

    The gap between the share spent and the share of the window that has passed counts the more the less of the window is
    left to make it up. `lead`: how far ahead of the pace it is to be now. None: nothing is known of the budget yet; it is
    taken to be on its pace.
    """
    if spent is None or passed is None:
        return 1.0
    gap = (spent - min(1.0, passed + lead)) / max(1.0 - passed, LEAST_LEFT)
    return math.exp(min(max(STEEPNESS * gap, -LARGEST), LARGEST))


def live(options: PaceOptions) -> tuple[Live, ...]:
    """How much of the budget is spent and of its window has passed, how far ahead it is to be, and where the session's prompt is cached."""
    return (Live(what="pace", name=options.budget), *live_of(options.keep_cache))
