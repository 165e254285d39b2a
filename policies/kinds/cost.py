"""`cost`: the likely cheapest first. And what all kinds that look at prices mean by the cost of a request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import ROUND_FLOOR, Decimal
from operator import attrgetter
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from policies.engine import Order
from policies.filters import too_expensive
from policies.plans import Live, Plan
from policies.types import Candidate, Ranked, Ranking, Rejection, RequestFacts

KeepCache = Annotated[
    bool,
    Field(
        description=(
            "Count what a session saves at the deployment that answered it last and still has its prompt in its cache. Default: false."
        ),
    ),
]
"""An option of every kind that looks at prices."""


class CostOptions(BaseModel):
    """Order by what this request will likely cost at each deployment; ties keep the order of the YAML."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    kind: Literal["cost"] = "cost"
    max_request_usd: Decimal | None = Field(
        default=None,
        gt=0,
        le=9_007_199,
        description="Skip deployments where this one request could cost more, by its worst case. Unit: USD. Default: no limit.",
    )
    keep_cache: KeepCache = False


def bind(options: CostOptions) -> Order:
    """The order function of these options."""
    ceiling = options.max_request_usd
    ceiling_nusd = None if ceiling is None else int((ceiling * 1_000_000_000).to_integral_value(rounding=ROUND_FLOOR))

    if options.keep_cache:
        return _keeping_cache(ceiling_nusd)

    def order(facts: RequestFacts, kept: Sequence[Candidate], draw: float) -> Ranking:
        rejected: tuple[Rejection, ...] = ()
        if ceiling_nusd is not None:
            rejected = tuple([too_expensive(c.traits.deployment, w, ceiling_nusd) for c in kept if (w := worst_case(c)) > ceiling_nusd])
            kept = [c for c in kept if worst_case(c) <= ceiling_nusd]
        # Sorting is stable: it keeps the order of the YAML between equals.
        cheapest = sorted(kept, key=_EXPECTED)
        return Ranking(tuple(map(Ranked, map(_NAME, cheapest), map(_EXPECTED, cheapest))), rejected, "expected_nusd")

    return order


def _keeping_cache(ceiling_nusd: int | None) -> Order:
    """The same, less what the session's cached prompt saves."""

    def order(facts: RequestFacts, kept: Sequence[Candidate], draw: float) -> Ranking:
        rejected: list[Rejection] = []
        scored: list[tuple[float, int, Candidate]] = []
        for index, c in enumerate(kept):
            if ceiling_nusd is not None and (worst := worst_case(c)) > ceiling_nusd:
                rejected.append(too_expensive(c.traits.deployment, worst, ceiling_nusd))
            else:
                scored.append((likely(facts, c, keep_cache=True), index, c))
        # The index keeps the order of the YAML between equals, and no candidate is compared with another.
        scored.sort()
        order = tuple([Ranked(c.traits.deployment, score, cost_parts(facts, c)) for score, _, c in scored])
        return Ranking(order, tuple(rejected), "expected_nusd", KEEPS)

    return order


KEEPS: Final = Plan(keeps_cache=True)


def plan_of(keep_cache: bool) -> Plan | None:
    """What is to be done beside trying one after the other."""
    return KEEPS if keep_cache else None


def live_of(keep_cache: bool) -> tuple[Live, ...]:
    """Where the session's prompt is cached."""
    return (Live(what="cache"),) if keep_cache else ()


def live(options: CostOptions) -> tuple[Live, ...]:
    """Where the session's prompt is cached."""
    return live_of(options.keep_cache)


def reads_worst_case(options: CostOptions) -> bool:
    """Only a limit needs it."""
    return options.max_request_usd is not None


def worst_case(candidate: Candidate) -> int:
    """Highest possible charge, nano-USD. Raises ValueError for a candidate that the price filter must have stopped."""
    if candidate.worst_case_nusd is None:
        raise ValueError(f"{candidate.traits.deployment} has no price and must not be ordered")
    return candidate.worst_case_nusd


def expected(candidate: Candidate) -> int:
    """Likely charge, nano-USD. Raises ValueError for a candidate that the price filter must have stopped."""
    if candidate.expected_nusd is None:
        raise ValueError(f"{candidate.traits.deployment} has no price and must not be ordered")
    return candidate.expected_nusd


def likely(facts: RequestFacts, candidate: Candidate, *, keep_cache: bool) -> float:
    """What a request will likely cost, nano-USD: the charge, less what the prompt of its session saves where it is cached.

    The cached tokens times what they are cheaper by: that is lost by going anywhere else.
    """
    charge = expected(candidate)
    return charge - facts.live.get(f"saves/{candidate.traits.deployment}", 0.0) if keep_cache else charge


def cost_parts(facts: RequestFacts, candidate: Candidate) -> Mapping[str, float]:
    """What `likely` is made of."""
    return {"charge_nusd": expected(candidate), "cached_nusd": 0.0 - facts.live.get(f"saves/{candidate.traits.deployment}", 0.0)}


_NAME: Final = attrgetter("traits.deployment")
_EXPECTED: Final = attrgetter("expected_nusd")
