"""What takes candidates out of a branch for good: a floor under quality, and the classes of private requests."""

from __future__ import annotations

from collections.abc import Sequence

from policies.engine import Order
from policies.types import Candidate, Ranking, Rejection, RequestFacts, quality_of


def at_least(order: Order, quality: float) -> Order:
    """The same order without what does not reach a quality, for the task of the request."""

    def narrowed(facts: RequestFacts, kept: Sequence[Candidate], draw: float) -> Ranking:
        good: list[Candidate] = []
        rejected: list[Rejection] = []
        for candidate in kept:
            own = quality_of(candidate.traits, facts)
            if own is not None and own >= quality:
                good.append(candidate)
            else:
                known = "is not known" if own is None else f"{own:g}"
                rejected.append(Rejection(candidate.traits.deployment, "below_quality", f"quality {known}, at least {quality:g}"))
        ranking = order(facts, good, draw)
        return Ranking(ranking.order, (*rejected, *ranking.rejected), ranking.measure, ranking.plan)

    return narrowed
