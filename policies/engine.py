"""From facts and candidates to a decision: the first rule that matches, its filters, its kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from policies.types import Candidate, Decision, RequestFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """Where a rule leads: which deployments, ordered how."""

    rule: str
    deployments: tuple[str, ...]
    """Selected at load time from names and class selectors, in the order of the YAML."""
    kind: str
    order: Callable[[RequestFacts, Sequence[Candidate], float], Decision]
    """The kind's pure function with its options bound: (facts, kept candidates, draw in [0, 1))."""
    refuse: bool = False
    """True: a request that no deployment of this branch can serve is refused (403), never sent elsewhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A condition and where it leads."""

    name: str
    matches: Callable[[RequestFacts], bool]
    branch: Branch
    reads_headers: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutePolicy:
    """The rules of a route, in order, and what holds if none matches."""

    rules: tuple[Rule, ...]
    default: Branch


def choose(policy: RoutePolicy, facts: RequestFacts) -> Branch:
    """The branch of the first rule that matches, else the default."""
    for rule in policy.rules:
        if rule.matches(facts):
            return rule.branch
    return policy.default
