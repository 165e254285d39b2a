"""`vendors`: no provider gets more than its share of the money."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from policies.engine import Order
from policies.kinds.fields import InnerEntry, Problem, Seconds, Share, Word, bound
from policies.plans import Full, Live, added
from policies.types import Candidate, Ranking, Rejection, RequestFacts, Traits


class VendorsOptions(BaseModel):
    """Candidates of a provider that has had more than its share of the money spent of late come after all others."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    kind: Literal["vendors"] = "vendors"
    name: Word = Field(default="vendors", description="Name in metrics. Default: `vendors`.")
    most: Share = Field(
        default=0.6, description="Most that one provider may have of what is spent. Unit: 0 to 1 or a percentage. Default: 60%."
    )
    each: Mapping[str, Share] = Field(
        default_factory=dict, description="The same for providers by name. Unit: 0 to 1 or a percentage. Default: `most` for all."
    )
    over: Annotated[Seconds, Field(ge=60)] = Field(
        default=86_400.0, description="After this time money counts half. Unit: a duration. At least 1m. Default: 1d."
    )
    by: InnerEntry = Field(default="cost", validate_default=True, description="The order beside it: any policy kind. Default: `cost`.")
    beyond: Literal["last", "never"] = Field(
        default="last", description="Those of a provider that has had its share: tried `last`, or `never`. Default: `last`."
    )


def bind(options: VendorsOptions) -> Order:
    """The order function of these options."""
    by, name, most, each, never = bound(options.by), options.name, options.most, dict(options.each), options.beyond == "never"

    def order(facts: RequestFacts, kept: Sequence[Candidate], draw: float) -> Ranking:
        shares = {c.traits.provider: facts.live.get(f"share/{name}/{c.traits.provider}", 0.0) for c in kept}
        full = {provider for provider, share in shares.items() if share > each.get(provider, most)}
        room = [c for c in kept if c.traits.provider not in full]
        # With nobody else there, all have room: somebody has to answer.
        ranking = by(facts, room or kept, draw)
        if not full:
            return Ranking(ranking.order, ranking.rejected, ranking.measure, added(ranking.plan, spends=(name,)))
        known = [Full(cap=name, provider=one, share=shares[one], most=each.get(one, most)) for one in sorted(full)]
        plan = added(ranking.plan, spends=(name,), full=tuple(known))
        if not room:
            return Ranking(ranking.order, ranking.rejected, ranking.measure, plan)
        beyond = [c for c in kept if c.traits.provider in full]
        if never:
            out = [Rejection(c.traits.deployment, "not_selected", _told(c.traits, shares, each, most)) for c in beyond]
            return Ranking(ranking.order, (*ranking.rejected, *out), ranking.measure, plan)
        last = by(facts, beyond, draw)
        return Ranking((*ranking.order, *last.order), (*ranking.rejected, *last.rejected), ranking.measure, plan)

    return order


def _told(traits: Traits, shares: Mapping[str, float], each: Mapping[str, float], most: float) -> str:
    return f"{traits.provider} has {shares[traits.provider]:.0%} of what was spent, at most {each.get(traits.provider, most):.0%}"


def problems(options: VendorsOptions, offered: Sequence[Traits]) -> Sequence[Problem]:
    """A provider that the rule does not lead to; a single one, which nothing can be kept from."""
    known = {one.provider for one in offered}
    there = ", ".join(sorted(known))
    unknown = [name for name in options.each if name not in known]
    found: list[Problem] = [(("each", name), f'no model that `use` leads to is at "{name}"; providers are {there}') for name in unknown]
    return [*found, (("most",), f"all models are at {there}: another provider is needed")] if len(known) == 1 else found


def live(options: VendorsOptions) -> tuple[Live, ...]:
    """What each provider has had."""
    return (Live(what="vendors", name=options.name, number=options.over),)
