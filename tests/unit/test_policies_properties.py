"""What holds for every policy kind, every request and every candidate."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.engine import Branch, decide
from policies.registry import KINDS
from policies.types import Candidate, Decision, RequestFacts, Restriction, Traits

NAMES = [f"p{n % 3}/d{n}" for n in range(6)]
WORDS = [*NAMES, "m0", "m1", "p0", "p1", "unknown"]
OPTIONS: dict[str, st.SearchStrategy[dict[str, object]]] = {
    "fixed": st.just({}),
    "least_busy": st.just({}),
    "cost": st.fixed_dictionaries({}, optional={"max_request_usd": st.sampled_from(["0.000001", "0.5", "100"])}),
    "weighted": st.fixed_dictionaries({"weights": st.dictionaries(st.sampled_from(WORDS), st.floats(0, 1_000_000), max_size=4)}),
    "latency": st.fixed_dictionaries(
        {"metric": st.sampled_from(["first_token", "total"]), "explore": st.floats(0, 1)},
        optional={"target_ms": st.floats(1, 1000)},
    ),
    "quality": st.fixed_dictionaries({"target": st.floats(0, 1)}),
    "pace": st.just({"budget": "month"}),
    "hedge": st.just({}),
    "vendors": st.fixed_dictionaries({"most": st.floats(0, 1)}),
    "bandit": st.just({"worth_usd": 0.01}),
    "cascade": st.just({"steps": [{"size": "small"}, {"size": "large"}]}),
}
DRAWS = st.floats(0, 1, exclude_max=True)
AMOUNTS = st.none() | st.integers(0, 2 * 10**9)
PRICES = st.just((None, None)) | st.tuples(*[st.integers(0, 2 * 10**9)] * 2)
"""Worst case and likely charge: both are known or none."""
TIMES = st.none() | st.floats(0, 2000)


@st.composite
def candidates(draw: st.DrawFn) -> list[Candidate]:
    names = draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=6))
    prices = [draw(PRICES) for _ in names]
    return [
        Candidate(
            traits=Traits(
                deployment=name,
                model=f"m{index % 2}",
                provider=name[:2],
                capabilities=draw(st.sampled_from([frozenset({"chat"}), frozenset({"chat", "tools", "stream"})])),
                context_tokens=draw(st.none() | st.integers(1, 10_000)),
                weight=draw(st.sampled_from([0.0, 1.0, 2.5, 1e-9]) | st.floats(0, 1e6)),
            ),
            allowed=draw(st.booleans()),
            health=draw(st.sampled_from(["up", "up", "up", "probe", "cooldown", "busy"])),
            in_flight=draw(st.integers(0, 50)),
            worst_case_nusd=prices[index][0],
            expected_nusd=prices[index][1],
            first_token_ms=draw(TIMES),
            total_ms=draw(TIMES),
        )
        for index, name in enumerate(names)
    ]


FACTS = st.builds(
    RequestFacts,
    operation=st.just("chat"),
    route=st.just("auto"),
    tools=st.booleans(),
    stream=st.booleans(),
    input_tokens=st.integers(0, 10_000),
    output_cap=st.none() | st.integers(1, 5_000),
)
RESTRICTIONS = st.none() | st.builds(
    Restriction,
    only=st.none() | st.frozensets(st.sampled_from(WORDS), max_size=4),
    ignore=st.frozensets(st.sampled_from(WORDS), max_size=2),
    order=st.lists(st.sampled_from(WORDS), max_size=3).map(tuple),
    max_cost_nusd=AMOUNTS,
)


@st.composite
def branches(draw: st.DrawFn, kinds: tuple[str, ...] = tuple(OPTIONS)) -> Branch:
    kind = KINDS[draw(st.sampled_from(kinds))]
    options = kind.options.model_validate(draw(OPTIONS[kind.name]))
    selected = draw(st.lists(st.sampled_from(NAMES), unique=True))
    return Branch(rule="r", deployments=tuple(selected), kind=kind.name, order=kind.bind(options))


def ordered(decision: Decision) -> list[str]:
    return [ranked.deployment for ranked in decision.order]


@settings(deadline=None)
@given(branches(), FACTS, candidates(), DRAWS, RESTRICTIONS)
def test_every_candidate_is_ordered_or_rejected_exactly_once(
    branch: Branch, facts: RequestFacts, offered: list[Candidate], draw: float, restrict: Restriction | None
) -> None:
    """Nothing gets lost, nothing is tried twice, and every rejection has its reason."""
    decision = decide(branch, facts, offered, draw, restrict=restrict)
    named = ordered(decision) + [rejected.deployment for rejected in decision.rejected]
    assert Counter(named) == Counter(c.traits.deployment for c in offered)


@settings(deadline=None)
@given(branches(), FACTS, candidates(), DRAWS, RESTRICTIONS)
def test_what_cannot_serve_is_never_tried(
    branch: Branch, facts: RequestFacts, offered: list[Candidate], draw: float, restrict: Restriction | None
) -> None:
    """No kind may bring back what the filters stopped, however cheap, fast or idle it is."""
    tried = set(ordered(decide(branch, facts, offered, draw, restrict=restrict)))
    for c in offered:
        if c.traits.deployment in tried:
            assert c.allowed
            assert c.worst_case_nusd is not None
            assert c.health in ("up", "probe")
            assert c.traits.deployment in branch.deployments
            assert not facts.tools or "tools" in c.traits.capabilities
            assert c.traits.context_tokens is None or facts.input_tokens <= c.traits.context_tokens


@settings(deadline=None)
@given(branches(), FACTS, candidates(), DRAWS, RESTRICTIONS)
def test_the_same_inputs_give_the_same_decision(
    branch: Branch, facts: RequestFacts, offered: list[Candidate], draw: float, restrict: Restriction | None
) -> None:
    """A decision can be replayed from the log, bit for bit."""
    first = decide(branch, facts, offered, draw, restrict=restrict)
    assert decide(branch, facts, list(offered), draw, restrict=restrict) == first


@settings(deadline=None)
@given(branches(), FACTS, candidates(), DRAWS, RESTRICTIONS)
def test_a_restriction_only_tightens(
    branch: Branch, facts: RequestFacts, offered: list[Candidate], draw: float, restrict: Restriction | None
) -> None:
    """Whatever a request asks, it never reaches a deployment that it would not have reached without asking."""
    free = set(ordered(decide(branch, facts, offered, draw)))
    bound = set(ordered(decide(branch, facts, offered, draw, restrict=restrict)))
    assert bound <= free


@settings(deadline=None)
@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=5), st.floats(0, 1))
def test_weights_become_shares_of_the_draws(weights: list[float], offset: float) -> None:
    """Over evenly spread draws each deployment comes first as often as its weight says."""
    kind = KINDS["weighted"]
    order = kind.bind(kind.options())
    facts = RequestFacts(operation="chat", route="auto")
    pool = [
        Candidate(traits=Traits(deployment=str(i), model="m", provider="p", weight=w), worst_case_nusd=1) for i, w in enumerate(weights)
    ]
    steps = 500
    firsts = Counter(order(facts, pool, (step + offset) / steps % 1.0).order[0].deployment for step in range(steps))
    for index, weight in enumerate(weights):
        assert firsts[str(index)] / steps == pytest.approx(weight / sum(weights), abs=2 / steps)


@settings(deadline=None)
@given(branches(kinds=("cost",)), FACTS, candidates(), DRAWS)
def test_cost_never_puts_the_dearer_first(branch: Branch, facts: RequestFacts, offered: list[Candidate], draw: float) -> None:
    """The likely charge never falls along the order."""
    decision = decide(branch, facts, offered, draw)
    likely = {c.traits.deployment: c.expected_nusd for c in offered}
    costs = [likely[name] or 0 for name in ordered(decision)]
    assert costs == sorted(costs)
