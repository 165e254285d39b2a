"""From facts and candidates to a decision: the first rule that matches, its filters, its kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

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
    """What must be filled in in `RequestFacts.moment` before it is asked: `time`, `budget`, `provider:openai`, `model:large`."""
    describe: str = ""
    """The condition in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutePolicy:
    """The rules of a route, in order, and what holds if none matches."""

    rules: tuple[Rule, ...]
    default: Branch


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
    if branch.reads is not None and getattr(facts.signals, branch.reads) is UNSET:
        raise MissingSignal(branch.reads)
    return branch


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
    late = {c.traits.deployment for c in kept if c.total_ms is not None and c.total_ms > deadline_ms}
    return tuple(sorted(order, key=lambda ranked: ranked.deployment in late))


def _preferred_first(order: tuple[Ranked, ...], kept: Sequence[Candidate], wanted: tuple[str, ...]) -> tuple[Ranked, ...]:
    """Move what the request names to the front; a name's place in `wanted` decides, the kind's order breaks ties."""
    place = {name: index for index, name in reversed(list(enumerate(wanted)))}
    last = len(wanted)
    rank = {
        c.traits.deployment: min(place.get(c.traits.deployment, last), place.get(c.traits.model, last), place.get(c.traits.provider, last))
        for c in kept
    }
    return tuple(sorted(order, key=lambda ranked: rank[ranked.deployment]))
