"""`shadow`: a copy of some requests to another model; its answer is compared, and never shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from policies.engine import Order
from policies.kinds.fields import InnerEntry, PickEntry, Problem, Share, Word, bound
from policies.plans import Shadow, added
from policies.types import Candidate, Ranking, Rejection, RequestFacts, Traits


class ShadowOptions(BaseModel):
    """Send a copy of some requests to another model once the client has its answer."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    kind: Literal["shadow"] = "shadow"
    name: Word = Field(default="shadow", description="Name in records and metrics. Default: `shadow`.")
    to: PickEntry = Field(
        description="The other model: a name or classes, of those that the rule's `use` leads to. It never answers clients."
    )
    share: Share = Field(default=0.05, description="Share of the requests. Unit: 0 to 1 or a percentage. Default: 5%.")
    team: str = Field(description="Team whose budgets pay for the copies. It must have one.")
    at_most: int = Field(
        default=4, ge=1, le=1000, description="Copies under way at a time, per worker; further ones are left out. Default: 4."
    )
    by: InnerEntry = Field(
        default="cost", validate_default=True, description="How the models that do answer are ordered: any policy kind. Default: `cost`."
    )


def bind(options: ShadowOptions) -> Order:
    """The order function of these options."""
    by, share, pick = bound(options.by), options.share, options.to
    name, team, at_most = options.name, options.team, options.at_most

    def order(facts: RequestFacts, kept: Sequence[Candidate], draw: float) -> Ranking:
        own = [c for c in kept if not pick.fits(c.traits)]
        others = tuple([c.traits.deployment for c in kept if pick.fits(c.traits)])
        copied = draw < share
        # Within either part the draw is again uniform.
        rest = draw / share if copied else (draw - share) / (1.0 - share)
        ranking = by(facts, own, min(rest, 1.0 - 2.0**-53))
        out = tuple([Rejection(each, "not_selected", "it only gets copies") for each in others])
        if not copied or not others:
            return Ranking(ranking.order, ranking.rejected + out, ranking.measure, ranking.plan)
        plan = added(ranking.plan, shadow=Shadow(name=name, deployments=others, team=team, at_most=at_most))
        return Ranking(ranking.order, ranking.rejected + out, ranking.measure, plan)

    return order


def problems(options: ShadowOptions, offered: Sequence[Traits]) -> Sequence[Problem]:
    """A shadow of nothing, or nothing that answers."""
    found = list(options.to.problems(("to",), offered))
    if not found and all(options.to.fits(one) for one in offered):
        found.append((("to",), "are all models that `use` leads to: none is left to answer"))
    return found
