"""The kinds: each orders what is left, by its own rule, from the one draw it is given."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from policies.kinds.cost import expected, worst_case
from policies.registry import KINDS
from policies.types import Candidate, Ranking, Rejection, RequestFacts, Traits

FACTS = RequestFacts(operation="chat", route="auto")
NEEDED: dict[str, dict[str, Any]] = {
    "canary": {"to": "a"},
    "cascade": {"steps": ["a", "b"]},
    "pace": {"budget": "company"},
    "shadow": {"to": "a", "team": "lab"},
    "split": {"branches": [{"name": "one", "share": 0.5, "use": "a"}, {"name": "two", "share": "50%", "use": {"size": "small"}}]},
}
"""What kinds cannot be without."""


def candidate(name: str, *, weight: float = 1.0, model: str = "m", **changes: Any) -> Candidate:
    traits = Traits(deployment=name, model=model, provider="p", weight=weight)
    return Candidate(**{"traits": traits, "worst_case_nusd": 1_000, "expected_nusd": 500, **changes})


def rank(kind: str, candidates: list[Candidate], draw: float = 0.0, **options: Any) -> Ranking:
    entry = KINDS[kind]
    return entry.bind(entry.options(**{**NEEDED.get(kind, {}), **options}))(FACTS, candidates, draw)


def names(kind: str, candidates: list[Candidate], draw: float = 0.0, **options: Any) -> str:
    """Deployments in order, as one word: their names here are single letters."""
    return "".join(ranked.deployment for ranked in rank(kind, candidates, draw, **options).order)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_stands_under_its_name(kind: str) -> None:
    """`by: cost` and `by: {kind: cost}` are the same."""
    entry = KINDS[kind]
    assert entry.name == kind
    needed = NEEDED.get(kind, {})
    assert entry.options(**needed) == entry.options(**needed, kind=kind)
    with pytest.raises(ValidationError):
        entry.options(**needed, kind="other")


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_option_is_described_with_its_default(kind: str) -> None:
    """The schema of the YAML and its reference page are made from these."""
    for name, field in KINDS[kind].options.model_fields.items():
        if name != "kind":
            assert field.description, name
            of_numbers = any(word in str(field.annotation) for word in ("int", "float", "Decimal"))
            assert not of_numbers or "Unit: " in field.description or "Default: " in field.description, name
            assert field.is_required() or "Default: " in field.description or "must" in field.description, name
    assert KINDS[kind].options.__doc__


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_unknown_options_are_refused(kind: str) -> None:
    """An option that is read and ignored would be a trap."""
    with pytest.raises(ValidationError):
        KINDS[kind].options(**NEEDED.get(kind, {}), wieghts={})


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_nothing_left_is_ordered_as_nothing(kind: str) -> None:
    """All candidates may have been filtered out."""
    ranking = rank(kind, [])
    assert (ranking.order, ranking.rejected) == ((), ())


# -- fixed


def test_fixed_keeps_the_order_of_the_yaml() -> None:
    """Whatever it costs and whatever is drawn."""
    assert names("fixed", [candidate("b", expected_nusd=9), candidate("a", expected_nusd=1)], draw=0.99) == "ba"


# -- cost


def test_cost_puts_the_likely_cheapest_first_and_says_what_it_costs() -> None:
    """The score is in the log and in `faregate explain`."""
    ranking = rank("cost", [candidate("a", expected_nusd=2_000_000), candidate("b", expected_nusd=1_200_000)])
    assert ranking.measure == "expected_nusd"
    assert [(r.deployment, r.score) for r in ranking.order] == [("b", 1_200_000), ("a", 2_000_000)]


def test_cost_keeps_the_order_of_the_yaml_between_equals() -> None:
    """The operator's order decides where money does not."""
    assert names("cost", [candidate("c"), candidate("a"), candidate("b", expected_nusd=1)]) == "bca"


def test_cost_skips_what_could_cost_more_than_one_request_may() -> None:
    """The guard is the worst case, not the likely one."""
    dear = candidate("a", expected_nusd=1, worst_case_nusd=50_000_001)
    ranking = rank("cost", [dear, candidate("b", worst_case_nusd=50_000_000)], max_request_usd="0.05")
    assert [r.deployment for r in ranking.order] == ["b"]
    assert ranking.rejected == (Rejection("a", "too_expensive", "could cost 0.050000001 USD, limit 0.05 USD"),)


def test_only_a_limit_makes_cost_look_at_worst_cases() -> None:
    """What is not looked at is not worked out; a limit over amounts that nobody worked out must not let all pass."""
    entry = KINDS["cost"]
    assert not entry.reads_worst_case(entry.options())
    assert entry.reads_worst_case(entry.options(max_request_usd="0.05"))
    assert not KINDS["fixed"].reads_worst_case(KINDS["fixed"].options())
    with pytest.raises(ValueError, match="a has no price"):
        rank("cost", [candidate("a", worst_case_nusd=None)], max_request_usd="0.05")


@pytest.mark.parametrize("limit", ["0", "-1", "nan", "inf", "9007200"])
def test_a_limit_that_is_no_amount_is_refused(limit: str) -> None:
    """It would let everything or nothing pass."""
    with pytest.raises(ValidationError):
        KINDS["cost"].options(max_request_usd=limit)


def test_an_unpriced_candidate_is_never_ordered_by_cost() -> None:
    """The filter must have stopped it; to take it for free would be the worst mistake."""
    unpriced = candidate("a", worst_case_nusd=None, expected_nusd=None)
    with pytest.raises(ValueError, match="a has no price"):
        worst_case(unpriced)
    with pytest.raises(ValueError, match="a has no price"):
        expected(unpriced)


# -- weighted


def test_the_draw_falls_into_shares_in_the_order_of_the_yaml() -> None:
    """With weights 3 and 1, three quarters of the draws go to the first."""
    pool = [candidate("a", weight=3), candidate("b", weight=1)]
    assert [names("weighted", pool, draw)[0] for draw in (0.0, 0.5, 0.7499, 0.75, 0.9999)] == ["a", "a", "a", "b", "b"]


def test_weights_in_the_options_count_before_those_of_the_deployment() -> None:
    """By deployment first, then by model, then the deployment's own."""
    pool = [candidate("a", weight=9, model="x"), candidate("b", weight=9, model="x"), candidate("c", weight=2, model="y")]
    shares = {r.deployment: r.score for draw in (0.0, 0.3, 0.99) for r in rank("weighted", pool, draw, weights={"a": 1, "x": 3}).order[:1]}
    assert shares == {"a": 1 / 6, "b": 3 / 6, "c": 2 / 6}


def test_what_follows_the_first_is_drawn_by_weight_too() -> None:
    """If the first fails, its traffic spreads over the rest as the weights say, not to one of them."""
    pool = [candidate("a", weight=2), candidate("b", weight=1), candidate("c", weight=1)]
    orders = [names("weighted", pool, (step + 0.5) / 8000) for step in range(8000)]
    shares = {order: orders.count(order) / 8000 for order in set(orders)}
    wanted = {"abc": 1 / 4, "acb": 1 / 4, "bac": 1 / 6, "bca": 1 / 12, "cab": 1 / 6, "cba": 1 / 12}
    assert shares == pytest.approx(wanted, abs=0.001)


def test_weight_zero_is_never_first_but_serves_if_nothing_else_can() -> None:
    """That is how a deployment is drained, or kept as a spare."""
    pool = [candidate("a", weight=0), candidate("b"), candidate("c", weight=0)]
    assert {names("weighted", pool, draw) for draw in (0.0, 0.5, 0.999)} == {"bac"}
    assert names("weighted", [candidate("a", weight=0), candidate("b", weight=0)], 0.7) == "ab"


def test_the_options_name_what_they_refer_to() -> None:
    """So that a misspelt name in `weights` is an error when the file is read."""
    options = KINDS["weighted"].options(weights={"p/one": 1, "large": 2})
    assert KINDS["weighted"].names(options) == {"p/one", "large"}
    assert KINDS["cost"].names(KINDS["cost"].options()) == frozenset()


@pytest.mark.parametrize("weight", [-1, float("nan"), float("inf"), 1_000_001])
def test_a_weight_that_is_no_share_is_refused(weight: float) -> None:
    """It would break the draw for every request."""
    with pytest.raises(ValidationError):
        KINDS["weighted"].options(weights={"a": weight})


# -- latency

SEEN = [candidate("a", first_token_ms=300.0, total_ms=900.0), candidate("b", first_token_ms=100.0, total_ms=2000.0)]


def test_latency_puts_the_fastest_first_by_the_metric_asked_for() -> None:
    """Chat waits for the first token, batch work for the last."""
    assert names("latency", SEEN, draw=0.5) == "ba"
    assert names("latency", SEEN, draw=0.5, metric="total") == "ab"
    ranking = rank("latency", SEEN, metric="total")
    assert (ranking.measure, ranking.order[0].score) == ("total_ms", 900.0)


def test_within_the_target_the_cheapest_comes_first() -> None:
    """Faster than needed is not worth paying for."""
    pool = [
        candidate("a", first_token_ms=900.0),
        candidate("b", first_token_ms=100.0, expected_nusd=700),
        candidate("c", first_token_ms=300.0, expected_nusd=600),
        candidate("d", first_token_ms=800.0),
    ]
    assert names("latency", pool, target_ms=300) == "cbda"


def test_a_share_of_draws_tries_what_was_never_seen() -> None:
    """Without it a new deployment would never get its first call."""
    pool = [candidate("n"), *SEEN, candidate("m")]
    assert names("latency", pool, draw=0.02) == "nbam"
    assert names("latency", pool, draw=0.04) == "mban"
    assert names("latency", pool, draw=0.05) == "banm"
    assert names("latency", pool, draw=0.0, explore=0) == "banm"


def test_if_nothing_was_seen_every_deployment_is_tried_alike() -> None:
    """At start, the first in the file must not get everything."""
    pool = [candidate("a"), candidate("b"), candidate("c")]
    assert [names("latency", pool, draw) for draw in (0.1, 0.5, 0.9)] == ["abc", "bac", "cab"]
    assert names("latency", pool, 0.9, explore=0) == "cab"


# -- least_busy


def test_least_busy_counts_calls_in_flight_by_weight() -> None:
    """A machine with weight 4 takes four times the calls."""
    pool = [candidate("a", in_flight=1), candidate("b", in_flight=3, weight=4), candidate("c", in_flight=0)]
    ranking = rank("least_busy", pool)
    assert ranking.measure == "load"
    assert [(r.deployment, r.score) for r in ranking.order] == [("b", 1.0), ("c", 1.0), ("a", 2.0)]


def test_ties_are_drawn() -> None:
    """Every process sees its own calls only; without the draw all would call the first."""
    pool = [candidate("a"), candidate("b"), candidate("c")]
    assert [names("least_busy", pool, draw) for draw in (0.0, 0.34, 0.999)] == ["abc", "bca", "cab"]


def test_weight_zero_is_the_last_resort() -> None:
    """As with `weighted`."""
    assert names("least_busy", [candidate("a", weight=0), candidate("b", in_flight=10**6)]) == "ba"
