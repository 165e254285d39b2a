"""`latency`: the fastest seen first, with a share of requests for those not seen yet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from policies.engine import Order
from policies.kinds.cost import KeepCache, cost_parts, likely, live_of, plan_of
from policies.kinds.fields import Milliseconds, Share
from policies.plans import Live
from policies.types import Candidate, Ranked, Ranking, RequestFacts


class LatencyOptions(BaseModel):
    """Order by the time that recent calls took; ties keep the order of the YAML."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    kind: Literal["latency"] = "latency"
    metric: Literal["first_token", "total"] = Field(
        default="first_token",
        description=(
            "Which time counts: until the first token (known for streamed calls only), or of the whole call. Default: `first_token`."
        ),
    )
    target_ms: Milliseconds | None = Field(
        default=None,
        description=(
            "Fast enough: deployments within it come first, ordered by expected cost; the slower ones follow. "
            "Unit: a duration, `800ms`, or a number of milliseconds. Default: none, the fastest is first."
        ),
    )
    explore: Share = Field(
        default=0.05,
        description=(
            "Share of requests that try a deployment without recent times first, so that it gets some. "
            "Unit: 0 to 1 or a percentage. Default: 5%."
        ),
    )
    keep_cache: KeepCache = False

    @model_validator(mode="after")
    def _by_cost(self) -> Self:
        if self.keep_cache and self.target_ms is None:
            raise ValueError("keep_cache needs target_ms: without it, prices count for nothing")
        return self


def bind(options: LatencyOptions) -> Order:
    """The order function of these options."""
    first_token = options.metric == "first_token"
    label = f"{options.metric}_ms"
    target = options.target_ms
    explore, keep_cache = options.explore, options.keep_cache
    plan = plan_of(keep_cache)

    def order(facts: RequestFacts, kept: Sequence[Candidate], draw: float) -> Ranking:
        seen: list[tuple[bool, float, int, Ranked]] = []
        unseen: list[Ranked] = []
        for index, c in enumerate(kept):
            ms = c.first_token_ms if first_token else c.total_ms
            name = c.traits.deployment
            if ms is None:
                unseen.append(Ranked(name))
            elif target is None or ms > target:
                seen.append((True, ms, index, Ranked(name, ms)))
            else:
                parts = cost_parts(facts, c) if keep_cache else None
                seen.append((False, likely(facts, c, keep_cache=keep_cache), index, Ranked(name, ms, parts)))
        # The index keeps the order of the YAML between equals, and sorting tuples needs no key function.
        seen.sort()
        ranked = [one for _, _, _, one in seen]
        return Ranking(tuple(_explore(ranked, unseen, draw, explore) if unseen else ranked), (), label, plan)

    return order


def live(options: LatencyOptions) -> tuple[Live, ...]:
    """Where the session's prompt is cached."""
    return live_of(options.keep_cache)


def _explore(seen: list[Ranked], unseen: list[Ranked], draw: float, share: float) -> list[Ranked]:
    """Put one unseen deployment first for draws below `share` (for all draws, if none was seen), else all of them last."""
    if not seen:
        share = 1.0
    if draw >= share:
        return seen + unseen
    first = unseen.pop(min(int(draw / share * len(unseen)), len(unseen) - 1))
    return [first, *seen, *unseen]
