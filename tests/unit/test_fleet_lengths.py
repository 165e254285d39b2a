"""What the fleet learns of how long answers are."""

from __future__ import annotations

import pytest

from router import fleet as fleet_module
from router.fleet import Fleet


@pytest.fixture
def fleet() -> Fleet:
    return Fleet(lambda: 1000.0)


def test_answer_length_is_learned_by_input_size(fleet: Fleet) -> None:
    """Long inputs are often summarised, short ones answered at length."""
    fleet.succeeded("a", first_token_ms=None, total_ms=1.0, output_tokens=500, input_tokens=100)
    fleet.succeeded("a", first_token_ms=None, total_ms=1.0, output_tokens=50, input_tokens=9000)
    assert fleet.view("a", input_tokens=110).expected_output_tokens == 500
    assert fleet.view("a", input_tokens=9999).expected_output_tokens == 50


def test_an_unseen_input_size_gets_the_average_of_all(fleet: Fleet) -> None:
    """Better than nothing, and it is what a new route starts with."""
    fleet.succeeded("a", first_token_ms=None, total_ms=1.0, output_tokens=100, input_tokens=100)
    fleet.succeeded("a", first_token_ms=None, total_ms=1.0, output_tokens=200, input_tokens=9000)
    assert fleet.view("a", input_tokens=1).expected_output_tokens == pytest.approx(110)


def test_what_was_never_used_is_expected_to_answer_like_the_others(fleet: Fleet) -> None:
    """A model without a history must not look cheaper or dearer than those that have one."""
    assert fleet.usual_length(fleet_module.size_class(100)) == fleet_module.USUAL_LENGTH
    fleet.succeeded("a", first_token_ms=None, total_ms=1.0, output_tokens=50, input_tokens=100)
    fleet.succeeded("b", first_token_ms=None, total_ms=1.0, output_tokens=80, input_tokens=9000)
    assert fleet.usual_length(fleet_module.size_class(100)) == 50
    assert fleet.view("b", input_tokens=100).expected_output_tokens == 50
    assert fleet.view("new", input_tokens=9000).expected_output_tokens == 80
    assert fleet.usual_length(fleet_module.size_class(10**6)) == 53


def test_one_odd_first_answer_does_not_rule_a_deployment_out(fleet: Fleet) -> None:
    """Its own average starts from what is usual: after one answer nobody would try it again."""
    for _ in range(30):
        fleet.succeeded("a", first_token_ms=None, total_ms=1.0, output_tokens=10)
    fleet.succeeded("b", first_token_ms=None, total_ms=1.0, output_tokens=1010)
    assert 100 < (fleet.view("b").expected_output_tokens or 0) < 210


def test_calls_without_output_say_nothing_of_the_length_of_answers(fleet: Fleet) -> None:
    """Embeddings have none."""
    fleet.succeeded("a", first_token_ms=None, total_ms=1.0, output_tokens=0)
    assert fleet.view("a").expected_output_tokens is None


def test_the_average_follows_slowly(fleet: Fleet) -> None:
    """One odd answer must not move the expected cost much."""
    for tokens in (100, 1000):
        fleet.succeeded("a", first_token_ms=None, total_ms=1.0, output_tokens=tokens)
    assert fleet.view("a").expected_output_tokens == pytest.approx(190)
