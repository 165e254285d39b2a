"""What rules a candidate out before any kind sees it, and the numbers behind each reason."""

from __future__ import annotations

from functools import lru_cache

from policies.types import Candidate, Rejection, Restriction


# Bounded by what the edge can produce: three operations, three flags, the subsets of five modalities.
@lru_cache(maxsize=1024)
def required_capabilities(operation: str, stream: bool, tools: bool, json_schema: bool, modalities: frozenset[str]) -> frozenset[str]:
    """What a deployment must be able to do for a request. Everything can read text."""
    needs = {operation} | (modalities - {"text"})
    if stream:
        needs.add("stream")
    if tools:
        needs.add("tools")
    if json_schema:
        needs.add("json_schema")
    return frozenset(needs)


def rejection(
    candidate: Candidate, needs: frozenset[str], tokens: int, selected: frozenset[str], restrict: Restriction | None
) -> Rejection | None:
    """Why the candidate is out, or None if it may be ordered.

    Lasting reasons come before passing ones, so `cooldown` and `unhealthy` mean: later it could serve.

    Args:
        candidate: to look at.
        needs: from `required_capabilities`.
        tokens: likely input tokens plus the output cap, if the client set one.
        selected: deployments of the branch.
        restrict: what the request asks of its own routing.
    """
    traits = candidate.traits
    if traits.deployment not in selected:
        return Rejection(traits.deployment, "not_selected")
    if not candidate.allowed:
        return Rejection(traits.deployment, "not_allowed", f"the key may not use model {traits.model!r}")
    if not needs <= traits.capabilities:
        return Rejection(traits.deployment, "missing_capability", f"lacks {', '.join(sorted(needs - traits.capabilities))}")
    if traits.context_tokens is not None and tokens > traits.context_tokens:
        return Rejection(traits.deployment, "context_too_long", f"needs {tokens:,} tokens, limit {traits.context_tokens:,}")
    if candidate.expected_nusd is None:
        return Rejection(traits.deployment, "unpriced", "no price is known")
    if restrict is not None and (out := _restricted(candidate, restrict)) is not None:
        return out
    return _unavailable(candidate) if candidate.health in _UNAVAILABLE else None


_UNAVAILABLE = frozenset({"cooldown", "busy", "drained", "frozen"})


def _unavailable(candidate: Candidate) -> Rejection:
    if candidate.health == "busy":
        return Rejection(candidate.traits.deployment, "unhealthy", f"busy: {candidate.in_flight:,} calls in flight")
    if candidate.health in ("drained", "frozen"):
        return Rejection(candidate.traits.deployment, candidate.health, candidate.closed_for)
    left = candidate.available_in_seconds
    detail = "" if left is None else f"for another {left:.1f} s"
    return Rejection(candidate.traits.deployment, "cooldown", detail)


def _restricted(candidate: Candidate, restrict: Restriction) -> Rejection | None:
    traits, worst_nusd = candidate.traits, candidate.worst_case_nusd
    names = {traits.deployment, traits.model, traits.provider}
    if restrict.only is not None and restrict.only.isdisjoint(names):
        return Rejection(traits.deployment, "excluded_by_request", "not among those the request allows")
    if not restrict.ignore.isdisjoint(names):
        return Rejection(traits.deployment, "excluded_by_request", "the request ignores it")
    if traits.deployment in restrict.dear:
        return Rejection(traits.deployment, "excluded_by_request", "its price is above the request's max_price")
    if restrict.max_cost_nusd is None:
        return None
    if worst_nusd is None:
        return Rejection(traits.deployment, "unpriced", "no worst case is known")
    return too_expensive(traits.deployment, worst_nusd, restrict.max_cost_nusd) if worst_nusd > restrict.max_cost_nusd else None


def too_expensive(deployment: str, worst_case_nusd: int, ceiling_nusd: int) -> Rejection:
    """A rejection that names what the request could cost and what it may."""
    return Rejection(deployment, "too_expensive", f"could cost {usd(worst_case_nusd)} USD, limit {usd(ceiling_nusd)} USD")


def usd(nusd: int) -> str:
    """Write nano-USD as USD, exactly, without trailing zeros."""
    whole, fraction = divmod(nusd, 1_000_000_000)
    return f"{whole}.{fraction:09d}".rstrip("0").rstrip(".")
