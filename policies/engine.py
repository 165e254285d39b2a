"""From facts and candidates to a decision: the first rule that matches, its filters, its kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from msgspec import UNSET

from policies.filters import rejection, required_capabilities
from policies.plans import Live
from policies.types import Candidate, Decision, MissingSignal, Ranked, Ranking, Rejection, RequestFacts, Restriction, SignalName

Order = Callable[[RequestFacts, Sequence[Candidate], float], Ranking]
"""A kind with its options bound: (facts, kept candidates in the order of the YAML, draw in [0, 1))."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """Where a rule leads: which deployments, ordered how."""

    rule: str
    deployments: tuple[str, ...]
    """Selected at load time from names and class selectors, in the order of the YAML."""
    kind: str
    order: Order
    """The kind's pure function with its options bound."""
    refuse: bool = False
    """True: a request that no deployment of this branch can serve is refused (403), never sent elsewhere."""
    reads_worst_case: bool = True
    """False: `order` never looks at the worst case, so that it need not be worked out for every candidate."""
    reads: SignalName | None = None
    """The signal that `order` looks at, if it looks at one."""
    live: tuple[Live, ...] = ()
    """What `order` reads of the moment; it comes in `RequestFacts.live`."""
    private: tuple[str, ...] = ()
    """The classes of private requests that it is for."""
    allowed: frozenset[str] | None = None
    """Deployments that may see the request, on whatever way it is sent there; None: all."""
    selected: frozenset[str] = field(init=False, repr=False, compare=False)
    """`deployments` as a set: whatever else is offered as a candidate is out."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "selected", frozenset(self.deployments))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A condition and where it leads."""

    name: str
    matches: Callable[[RequestFacts], bool | None]
    """None, it cannot be told: then it does not hold."""
    branch: Branch
    reads_headers: frozenset[str] = frozenset()
    reads: frozenset[str] = frozenset()
    """What must be filled in in `RequestFacts.moment` before it is asked: `time`, `budget`, `provider:openai`, `in_flight@model:large`."""
    describe: str = ""
    """The condition in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateClass:
    """Requests that only some deployments may see."""

    name: str
    matches: Callable[[RequestFacts], bool | None]
    """None, it cannot be told: then the request is private."""
    allowed: frozenset[str]
    """The deployments that may see them."""
    describe: str = ""
    """The condition in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutePolicy:
    """The rules of a route, in order, and what holds if none matches."""

    rules: tuple[Rule, ...]
    default: Branch
    privacy: tuple[PrivateClass, ...] = ()
    """Looked at whatever rule matches: a request may belong to several, and then only what all of them allow may see it."""
    confined: dict[tuple[str, tuple[str, ...]], Branch] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Branches as they are for private requests, by rule and classes; made when one comes."""


def choose(policy: RoutePolicy, facts: RequestFacts) -> Branch:
    """The branch of the first rule that matches, else the default.

    Raises:
        MissingSignal: what is reached reads a signal that has not been worked out yet.
    """
    branch = policy.default
    for rule in policy.rules:
        if rule.matches(facts):
            branch = rule.branch
            break
    if policy.privacy:
        branch = _confined(policy, branch, facts)
    if branch.reads is not None and getattr(facts.signals, branch.reads) is UNSET:
        raise MissingSignal(branch.reads)
    return branch


def _confined(policy: RoutePolicy, branch: Branch, facts: RequestFacts) -> Branch:
    """The branch without the deployments that may not see the request, if it is private."""
    # What cannot be told is private: only a plain no lets a request out.
    classes = [one for one in policy.privacy if one.matches(facts) is not False]
    if not classes:
        return branch
    key = (branch.rule, tuple([one.name for one in classes]))
    made = policy.confined.get(key)
    if made is None:
        made = policy.confined[key] = confine(branch, classes)
    return made


def confine(branch: Branch, classes: Sequence[PrivateClass]) -> Branch:
    """A branch that leads nowhere but to what all of these classes allow. Whatever its kind does, it is offered nothing else."""
    allowed = frozenset.intersection(*[one.allowed for one in classes])
    names = ", ".join(one.name for one in classes)
    withheld = tuple([Rejection(name, "private", f"may not see {names} requests") for name in branch.deployments if name not in allowed])
    order = branch.order

    def confined(facts: RequestFacts, kept: Sequence[Candidate], draw: float) -> Ranking:
        ranking = order(facts, kept, draw)
        return Ranking(ranking.order, (*withheld, *ranking.rejected), ranking.measure, ranking.plan)

    kept = tuple([name for name in branch.deployments if name in allowed])
    return replace(branch, deployments=kept, order=confined, refuse=True, private=tuple([one.name for one in classes]), allowed=allowed)


def decide(
    branch: Branch,
    facts: RequestFacts,
    candidates: Sequence[Candidate],
    draw: float,
    restrict: Restriction | None = None,
) -> Decision:
    """Filter the candidates, then let the branch's kind order what is left.

    Pure: the same arguments give the same decision, bit for bit. Every candidate is in `order` or in
    `rejected`, exactly once.

    Args:
        branch: what `choose` returned.
        facts: of the request.
        candidates: in the order of `branch.deployments`; others may follow and are rejected as `not_selected`.
        draw: a number in [0, 1), the only chance that a kind may use. Log it to replay the decision.
        restrict: what the request asks of its own routing.
    """
    needs = required_capabilities(facts.operation, facts.stream, facts.tools, facts.json_schema, facts.modalities)
    tokens = facts.input_tokens + (facts.output_cap or 0)
    selected = branch.selected
    kept: list[Candidate] = []
    rejected: list[Rejection] = []
    for candidate in candidates:
        traits = candidate.traits
        # What `rejection` finds nothing against, as nearly always; one call less for every candidate.
        if (
            candidate.health == "up"
            and restrict is None
            and candidate.expected_nusd is not None
            and needs <= traits.capabilities
            and (traits.context_tokens is None or tokens <= traits.context_tokens)
            and traits.deployment in selected
            and candidate.allowed
        ):
            kept.append(candidate)
            continue
        out = rejection(candidate, needs, tokens, selected, restrict)
        if out is None:
            kept.append(candidate)
        else:
            rejected.append(out)
    ranking = branch.order(facts, kept, draw)
    order = ranking.order
    if restrict is not None and restrict.sort:
        order = _sorted(order, kept, restrict.sort)
    if restrict is not None and restrict.order:
        order = _preferred_first(order, kept, restrict.order)
    if restrict is not None and restrict.deadline_ms is not None:
        order = _in_time_first(order, kept, restrict.deadline_ms)
    if ranking.rejected:
        rejected.extend(ranking.rejected)
    return Decision(order, tuple(rejected), branch.rule, branch.kind, ranking.measure, ranking.plan)


def order_all(branch: Branch, facts: RequestFacts, kept: Sequence[Candidate], draw: float) -> Decision:
    """What `decide` answers where nothing is asked of routing and `rejection` finds nothing against any candidate."""
    ranking = branch.order(facts, kept, draw)
    return Decision(ranking.order, ranking.rejected, branch.rule, branch.kind, ranking.measure, ranking.plan)


def _in_time_first(order: tuple[Ranked, ...], kept: Sequence[Candidate], deadline_ms: float) -> tuple[Ranked, ...]:
    """Move those to the end that usually take longer than there is time."""
    late = {c.traits.deployment: c.total_ms - deadline_ms for c in kept if c.total_ms is not None and c.total_ms > deadline_ms}
    if not late:
        return order
    behind = [_told_late(ranked, late[ranked.deployment]) for ranked in order if ranked.deployment in late]
    return (*[ranked for ranked in order if ranked.deployment not in late], *behind)


def _told_late(ranked: Ranked, late_ms: float) -> Ranked:
    return Ranked(ranked.deployment, ranked.score, {**(ranked.parts or {}), "late_ms": late_ms})


_MEASURES: Final[Mapping[str, Callable[[Candidate], float | None]]] = {
    "price": lambda candidate: candidate.expected_nusd,
    "latency": lambda candidate: candidate.first_token_ms,
    "throughput": lambda candidate: candidate.total_ms,
}


def _sorted(order: tuple[Ranked, ...], kept: Sequence[Candidate], by: str) -> tuple[Ranked, ...]:
    """By what the request wants least of; what is not known of comes last, and the kind's order breaks ties."""
    values = {c.traits.deployment: _MEASURES[by](c) for c in kept}
    return tuple(sorted(order, key=lambda ranked: (values[ranked.deployment] is None, values[ranked.deployment] or 0.0)))


def _preferred_first(order: tuple[Ranked, ...], kept: Sequence[Candidate], wanted: tuple[str, ...]) -> tuple[Ranked, ...]:
    """Move what the request names to the front; a name's place in `wanted` decides, the kind's order breaks ties."""
    place = {name: index for index, name in reversed(list(enumerate(wanted)))}
    last = len(wanted)
    rank = {
        c.traits.deployment: min(place.get(c.traits.deployment, last), place.get(c.traits.model, last), place.get(c.traits.provider, last))
        for c in kept
    }
    return tuple(sorted(order, key=lambda ranked: rank[ranked.deployment]))
