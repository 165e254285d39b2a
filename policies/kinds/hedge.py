"""`hedge`: a second call if the first one takes unusually long to begin; whoever begins first answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from policies.engine import Order
from policies.kinds.cost import expected
from policies.kinds.fields import InnerEntry, Seconds, Share, Word, bound
from policies.plans import Hedge, Live, added
from policies.types import Candidate, Ranking, RequestFacts


class HedgeOptions(BaseModel):
    """Call the next candidate too if the first has not begun to answer in its usual time. The later one is cancelled, and charged."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    kind: Literal["hedge"] = "hedge"
    name: Word = Field(default="hedge", description="Name in records and metrics. Default: `hedge`.")
    by: InnerEntry = Field(default="latency", validate_default=True, description="The order: any policy kind. Default: `latency`.")
    quantile: float = Field(
        default=0.95,
        ge=0.5,
        lt=1,
        description=(
            "The second call is made after the time in which this share of recent calls of the first deployment had begun. Default: 0.95."
        ),
    )
    after: Seconds | None = Field(
        default=None, description="A fixed time instead. Unit: a duration. Default: by `quantile`, once eight times are known."
    )
    most: Share = Field(default=0.05, description="Most second calls, as a share of requests. Unit: 0 to 1 or a percentage. Default: 5%.")
    cost_at_most: float = Field(
        default=3.0, gt=0, le=100, description="A second call may be expected to cost so many times the first at most. Default: 3."
    )


def bind(options: HedgeOptions) -> Order:
    """The order function of these options."""
    by, name, fixed, most_cost = bound(options.by), options.name, options.after, options.cost_at_most

    def order(facts: RequestFacts, kept: Sequence[Candidate], draw: float) -> Ranking:
        ranking = by(facts, kept, draw)
        if len(ranking.order) < 2 or not facts.live.get(f"allowed/{name}"):
            return ranking
        first, second = ranking.order[0].deployment, ranking.order[1].deployment
        after = facts.live.get(f"after/{name}/{first}")
        after_ms = after if fixed is None else fixed * 1000
        charge = {c.traits.deployment: expected(c) for c in kept}
        if after_ms is None or charge[second] > charge[first] * most_cost:
            return ranking
        plan = added(ranking.plan, hedge=Hedge(name=name, after_ms=after_ms))
        return Ranking(ranking.order, ranking.rejected, ranking.measure, plan)

    return order


def live(options: HedgeOptions) -> tuple[Live, ...]:
    """Whether one more is allowed, and after which time."""
    return (Live(what="hedge", name=options.name, number=options.most, quantile=options.quantile, cost_at_most=options.cost_at_most),)
