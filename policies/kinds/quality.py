"""`quality`: the cheapest that is good enough first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from policies.engine import Order
from policies.kinds.cost import KeepCache, cost_parts, likely, live_of, plan_of
from policies.kinds.fields import Problem, Share
from policies.plans import Live
from policies.types import Candidate, Ranked, Ranking, Rejection, RequestFacts, Traits, quality_of


class QualityOptions(BaseModel):
    """The cheapest candidate that reaches a quality comes first; then dearer ones that reach it, then the others, best first."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    kind: Literal["quality"] = "quality"
    target: Share = Field(
        default=0.7,
        description=(
            "Good enough: quality of the catalogue, for the request's task where that is given. Unit: 0 to 1 or a percentage. Default: 0.7."
        ),
    )
    unknown: Share = Field(
        default=0.0, description="What is assumed of a model without a quality. Unit: 0 to 1 or a percentage. Default: 0."
    )
    below: Literal["last", "never"] = Field(
        default="last",
        description="Those that do not reach it: tried `last`, or `never`. Default: `last`.",
    )
    keep_cache: KeepCache = False


def bind(options: QualityOptions) -> Order:
    """The order function of these options."""
    target, unknown, never, keep_cache = options.target, options.unknown, options.below == "never", options.keep_cache
    plan = plan_of(keep_cache)

    def order(facts: RequestFacts, kept: Sequence[Candidate], draw: float) -> Ranking:
        good: list[tuple[float, int, Ranked]] = []
        rest: list[tuple[float, int, str, float]] = []
        for index, c in enumerate(kept):
            found = quality_of(c.traits, facts)
            quality = unknown if found is None else found
            name = c.traits.deployment
            if quality >= target:
                parts = cost_parts(facts, c) if keep_cache else None
                good.append((likely(facts, c, keep_cache=keep_cache), index, Ranked(name, quality, parts)))
            else:
                rest.append((-quality, index, name, quality))
        good.sort()
        rest.sort()
        ranked = [one for _, _, one in good]
        if never:
            out = tuple([Rejection(name, "not_selected", f"quality {quality:g}, wanted {target:g}") for _, _, name, quality in rest])
            return Ranking(tuple(ranked), out, "quality", plan)
        return Ranking((*ranked, *[Ranked(name, quality) for _, _, name, quality in rest]), (), "quality", plan)

    return order


def live(options: QualityOptions) -> tuple[Live, ...]:
    """Where the session's prompt is cached."""
    return live_of(options.keep_cache)


def problems(options: QualityOptions, offered: Sequence[Traits]) -> Sequence[Problem]:
    """Nothing can be good enough if nothing says how good it is."""
    if offered and all(one.quality is None and not one.task_quality for one in offered):
        return [(("target",), "none of the models has a `quality`")]
    return []
