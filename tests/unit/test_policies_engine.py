"""Choosing a branch, filtering, restricting: every candidate is ordered or rejected with its reason."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from policies.engine import Branch, RoutePolicy, Rule, choose, decide
from policies.filters import required_capabilities, usd
from policies.kinds.fixed import order as as_written
from policies.matchers import compile_matcher
from policies.types import Candidate, Decision, Ranked, Ranking, Rejection, RequestFacts, Restriction, Traits

NAMES = ("p/one", "p/two", "q/three")


def traits(name: str, **changes: Any) -> Traits:
    return Traits(**{"deployment": name, "model": f"model-{name[2:]}", "provider": name[0], **changes})


def candidate(name: str = "p/one", *, of: Traits | None = None, **changes: Any) -> Candidate:
    return Candidate(**{"traits": of or traits(name), "worst_case_nusd": 1_000_000, "expected_nusd": 500_000, **changes})


def branch(*names: str, rule: str = "default") -> Branch:
    return Branch(rule=rule, deployments=names or NAMES, kind="fixed", order=as_written)


def facts(**changes: Any) -> RequestFacts:
    return RequestFacts(**{"operation": "chat", "route": "auto", **changes})


def decided(*candidates: Candidate, restrict: Restriction | None = None, **of_facts: Any) -> Decision:
    return decide(branch(), facts(**of_facts), candidates, 0.5, restrict=restrict)


def only_rejection(*candidates: Candidate, restrict: Restriction | None = None, **of_facts: Any) -> tuple[str, str]:
    decision = decided(*candidates, restrict=restrict, **of_facts)
    assert decision.order == ()
    (rejected,) = decision.rejected
    return rejected.reason, rejected.detail


def names(decision: Decision) -> list[str]:
    return [ranked.deployment for ranked in decision.order]


ALL = tuple(candidate(name) for name in NAMES)


# -- choosing


def test_the_first_rule_that_matches_wins() -> None:
    """Operators read rules from top to bottom."""
    teams = (("one", "search"), ("two", "ads"), ("three", "search"))
    rules = tuple(Rule(name=name, matches=compile_matcher({"team": team}).matches, branch=branch(rule=name)) for name, team in teams)
    policy = RoutePolicy(rules=rules, default=branch())
    assert choose(policy, facts(team="search")).rule == "one"
    assert choose(policy, facts(team="ads")).rule == "two"


def test_without_a_match_the_default_holds() -> None:
    """Every request of a route gets an answer from the policy."""
    policy = RoutePolicy(rules=(Rule(name="never", matches=lambda facts: False, branch=branch(rule="never")),), default=branch())
    assert choose(policy, facts()).rule == "default"


def test_a_decision_names_rule_and_kind() -> None:
    """They go into headers, metrics and records."""
    decision = decide(branch(rule="easy"), facts(), ALL, 0.0)
    assert (decision.rule, decision.kind) == ("easy", "fixed")
    assert names(decision) == list(NAMES)


def test_what_the_branch_did_not_select_is_out() -> None:
    """A rule that keeps data at home holds even if the caller offers other candidates."""
    decision = decide(branch("p/two"), facts(), ALL, 0.0)
    assert names(decision) == ["p/two"]
    assert decision.rejected == (Rejection("p/one", "not_selected"), Rejection("q/three", "not_selected"))


def test_without_candidates_there_is_an_empty_decision() -> None:
    """The shell turns it into an error; the policy does not raise."""
    assert decided() == Decision(order=(), rejected=(), rule="default", kind="fixed")


# -- filters


def test_a_model_that_the_key_may_not_use_is_out() -> None:
    """The allow-list holds inside routes too."""
    assert only_rejection(candidate(allowed=False)) == ("not_allowed", "the key may not use model 'model-one'")


@pytest.mark.parametrize(
    ("asked", "lacking"),
    [
        ({"operation": "embeddings"}, "embeddings"),
        ({"stream": True}, "stream"),
        ({"tools": True, "json_schema": True}, "json_schema, tools"),
        ({"modalities": frozenset({"text", "image"})}, "image"),
        ({"modalities": frozenset({"audio", "file", "video"})}, "audio, file, video"),
    ],
)
def test_a_deployment_that_cannot_do_what_is_asked_is_out(asked: dict[str, Any], lacking: str) -> None:
    """A 400 from the provider would cost a round trip, and looks like the client's fault."""
    plain = candidate(of=traits("p/one", capabilities=frozenset({"chat"})))
    assert only_rejection(plain, **asked) == ("missing_capability", f"lacks {lacking}")


def test_text_needs_no_capability() -> None:
    """Everything reads text, and no list of capabilities says so."""
    assert required_capabilities("chat", False, False, False, frozenset({"text"})) == {"chat"}


def test_a_request_longer_than_the_context_is_out_with_both_numbers() -> None:
    """Input and the asked-for output share the window."""
    small = candidate(of=traits("p/one", context_tokens=8_192))
    assert only_rejection(small, input_tokens=8_000, output_cap=1_120) == ("context_too_long", "needs 9,120 tokens, limit 8,192")
    assert names(decided(small, input_tokens=8_000, output_cap=192)) == ["p/one"]


def test_without_an_output_cap_only_the_input_counts_against_the_context() -> None:
    """The proxy fits its own cap into what is left."""
    small = candidate(of=traits("p/one", context_tokens=8_192))
    assert names(decided(small, input_tokens=8_192)) == ["p/one"]
    assert only_rejection(small, input_tokens=8_193) == ("context_too_long", "needs 8,193 tokens, limit 8,192")


def test_an_unknown_context_does_not_exclude() -> None:
    """Unknown is not zero."""
    assert names(decided(candidate(), input_tokens=10_000_000)) == ["p/one"]


def test_without_a_price_a_candidate_is_out() -> None:
    """No hold can be made for what has no worst case."""
    assert only_rejection(candidate(worst_case_nusd=None, expected_nusd=None)) == ("unpriced", "no price is known")


def test_free_is_a_price() -> None:
    """Zero is known; None is not."""
    assert names(decided(candidate(worst_case_nusd=0, expected_nusd=0))) == ["p/one"]


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ({"health": "cooldown"}, ("cooldown", "")),
        ({"health": "cooldown", "available_in_seconds": 4.25}, ("cooldown", "for another 4.2 s")),
        ({"health": "busy", "in_flight": 1200}, ("unhealthy", "busy: 1,200 calls in flight")),
    ],
)
def test_what_cannot_serve_now_is_out(state: dict[str, Any], expected: tuple[str, str]) -> None:
    """These two reasons mean: later it could."""
    assert only_rejection(candidate(**state)) == expected


def test_a_half_open_deployment_may_be_tried() -> None:
    """Otherwise it would never be found up again."""
    assert names(decided(candidate(health="probe"))) == ["p/one"]


def test_a_worst_case_that_nobody_worked_out_is_above_every_limit() -> None:
    """Unknown is not cheap."""
    unknown = candidate(worst_case_nusd=None)
    assert only_rejection(unknown, restrict=Restriction(max_cost_nusd=1)) == ("unpriced", "no worst case is known")
    assert names(decided(unknown)) == ["p/one"]


def test_lasting_reasons_come_before_passing_ones() -> None:
    """A client must not be told to wait for what will never work."""
    gone = candidate(health="cooldown", worst_case_nusd=None, expected_nusd=None)
    assert only_rejection(gone) == ("unpriced", "no price is known")


# -- restrictions


@pytest.mark.parametrize("name", ["p/two", "model-two"])
def test_only_keeps_what_the_request_names(name: str) -> None:
    """A client may name deployments and models."""
    decision = decided(*ALL, restrict=Restriction(only=frozenset({name})))
    assert names(decision) == ["p/two"]
    assert {r.reason for r in decision.rejected} == {"excluded_by_request"}


def test_ignore_takes_out_what_the_request_names() -> None:
    """By provider, as in OpenRouter's requests."""
    decision = decided(*ALL, restrict=Restriction(ignore=frozenset({"p"})))
    assert names(decision) == ["q/three"]
    assert {r.detail for r in decision.rejected} == {"the request ignores it"}


def test_only_cannot_bring_back_what_the_policy_excludes() -> None:
    """A request may tighten, never loosen."""
    reason, _ = only_rejection(candidate(allowed=False), restrict=Restriction(only=frozenset({"p/one"}), order=("p/one",)))
    assert reason == "not_allowed"


def test_the_requests_limit_is_held_against_the_worst_case() -> None:
    """A promise about cost counts only if it holds whatever the model answers."""
    dear = candidate(worst_case_nusd=20_000_001)
    expected = ("too_expensive", "could cost 0.020000001 USD, limit 0.02 USD")
    assert only_rejection(dear, restrict=Restriction(max_cost_nusd=20_000_000)) == expected
    assert names(decided(candidate(worst_case_nusd=20_000_000), restrict=Restriction(max_cost_nusd=20_000_000))) == ["p/one"]


def test_the_requests_order_goes_first_and_the_rest_follows() -> None:
    """A preference for a provider keeps the policy's order within and after it."""
    assert names(decided(*ALL, restrict=Restriction(order=("q", "p/two")))) == ["q/three", "p/two", "p/one"]
    assert names(decided(*ALL, restrict=Restriction(order=("nobody",)))) == list(NAMES)


def test_what_a_request_wants_least_of_goes_first() -> None:
    """What is not known of comes last; the policy's order holds between equals, and names that are asked for go before all."""
    one = candidate("p/one", expected_nusd=7, first_token_ms=90.0, total_ms=None)
    two = candidate("p/two", expected_nusd=5, first_token_ms=None, total_ms=800.0)
    three = candidate("q/three", expected_nusd=5, first_token_ms=20.0, total_ms=700.0)
    wanted: tuple[tuple[Literal["price", "latency", "throughput"], list[str]], ...] = (
        ("price", ["p/two", "q/three", "p/one"]),
        ("latency", ["q/three", "p/one", "p/two"]),
        ("throughput", ["q/three", "p/two", "p/one"]),
    )
    for sort, order in wanted:
        assert names(decided(one, two, three, restrict=Restriction(sort=sort))) == order
    assert names(decided(one, two, three, restrict=Restriction(sort="price", order=("p/one",)))) == ["p/one", "p/two", "q/three"]


def test_a_dearer_price_than_the_request_allows_is_told() -> None:
    """List prices are compared before: what is named here is out."""
    told = ("excluded_by_request", "its price is above the request's max_price")
    assert only_rejection(candidate(), restrict=Restriction(dear=frozenset({"p/one"}))) == told
    assert names(decided(candidate(), restrict=Restriction(dear=frozenset({"p/two"})))) == ["p/one"]


def test_a_name_twice_in_the_requests_order_counts_where_it_stands_first() -> None:
    """The first wish is the stronger one."""
    assert names(decided(*ALL, restrict=Restriction(order=("q", "model-two", "q")))) == ["q/three", "p/two", "p/one"]


def test_what_a_kind_rejects_is_among_the_rejected() -> None:
    """Kinds have limits of their own."""
    gone = Rejection("p/two", "too_expensive", "could cost 1 USD, limit 0.5 USD")
    picky = Branch(rule="r", deployments=NAMES, kind="picky", order=lambda facts, kept, draw: Ranking((Ranked("p/one"),), (gone,)))
    decision = decide(picky, facts(), [candidate("p/one"), candidate("p/two"), candidate("q/three", health="cooldown")], 0.0)
    assert decision.rejected == (Rejection("q/three", "cooldown"), gone)


@pytest.mark.parametrize(
    ("nusd", "text"), [(0, "0"), (1, "0.000000001"), (20_000_000, "0.02"), (10**9, "1"), (12_300_000_000, "12.3"), (100 * 10**9, "100")]
)
def test_amounts_are_written_exactly(nusd: int, text: str) -> None:
    """A rounded limit would contradict the decision it explains."""
    assert usd(nusd) == text


def test_what_usually_takes_longer_than_there_is_time_comes_last() -> None:
    """It is still better than nothing; what was never seen may be fast."""
    kept = [candidate("p/slow", total_ms=900.0), candidate("p/new"), candidate("p/fast", total_ms=100.0)]
    decision = decide(branch("p/slow", "p/new", "p/fast"), facts(), kept, 0.0, Restriction(deadline_ms=500))
    assert names(decision) == ["p/new", "p/fast", "p/slow"]
