"""Short conditions on the state of budgets, providers, models and deployments: the same as the longer expressions, and checked as early."""

from __future__ import annotations

from typing import Any

import pytest

from policies.expressions.compiled import compile_expression
from policies.figures import FIGURES, fields_of
from policies.matchers import MatcherError, compile_matcher
from policies.types import Moment, RequestFacts
from router.settings.effective import effective_yaml
from router.settings.lint_rules import spec_covers
from tests.settings_help import BASE, load, wrong

ROUTE = "routes:\n  auto:\n    {use: big, rules: [{when: WHEN, use: tiny}]}\nbudgets: {mine: $2/day, tokens: 5 tokens/day}\n"


def about(up: bool | None = None, error_rate: float | None = None, **numbers: float | None) -> RequestFacts:
    of_provider = {} if error_rate is None else {"provider:openai": error_rate}
    moment = Moment(
        up={} if up is None else {"provider:openai": up, "model:big": up},
        error_rate=of_provider,
        numbers={key.replace("_AT_", "@").replace("_OF_", ":"): value for key, value in numbers.items()},
    )
    return RequestFacts(operation="chat", route="auto", moment=moment)


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ({"provider": {"openai": {"up": False}}}, '!provider("openai").up'),
        ({"provider": {"openai": {"error_rate": ">30%"}}}, 'provider("openai").error_rate > 0.3'),
        ({"provider": {"openai": {"in_flight": [">= 2", "<1"]}}}, 'provider("openai").in_flight >= 2 || provider("openai").in_flight < 1'),
        ({"model": {"big": {"up": True, "headroom": "<2"}}}, 'model("big").up && model("big").headroom < 2'),
        ({"budget": {"mine": {"used": ">80%", "passed": "<50%"}}}, 'budget("mine").used > 0.8 && budget("mine").passed < 0.5'),
        ({"budget": {"mine": {"left_usd": "<$5"}}}, 'budget("mine").left_usd < 5.0'),
        ({"model": {"big": {"first_token_ms": ">1.5s"}}}, 'model("big").first_token_ms > 1500.0'),
        ({"model": {"big": {"first_token_ms": ">1500ms"}}}, 'model("big").first_token_ms > 1500.0'),
    ],
)
def test_the_short_form_says_what_the_long_one_says(short: dict[str, Any], long: str) -> None:
    """Also where nothing is known: then neither holds."""
    one, other = compile_matcher(short), compile_expression(long)
    assert one.reads == other.reads
    states = [
        about(),
        about(up=True, error_rate=0.31, in_flight_AT_provider_OF_openai=2, headroom_AT_model_OF_big=1, first_token_ms_AT_model_OF_big=1600),
        about(up=False, error_rate=0.3, in_flight_AT_provider_OF_openai=0, headroom_AT_model_OF_big=None, used_AT_budget_OF_mine=0.9),
        about(up=True, in_flight_AT_provider_OF_openai=1, headroom_AT_model_OF_big=2, first_token_ms_AT_model_OF_big=1500),
        about(used_AT_budget_OF_mine=0.9, passed_AT_budget_OF_mine=0.4, left_usd_AT_budget_OF_mine=4.99),
        about(used_AT_budget_OF_mine=0.8, passed_AT_budget_OF_mine=0.4, left_usd_AT_budget_OF_mine=5.0),
    ]
    told = [one.matches(state) for state in states]
    assert told == [other.matches(state) for state in states]
    assert True in told


def test_every_figure_has_a_short_form() -> None:
    """A number that only expressions can read is forgotten here."""
    written = {"up": True, "left_usd": "<$5", "used": ">1", "passed": ">50%", "error_rate": ">50%"}
    for section in FIGURES:
        for field in fields_of(section):
            assert compile_matcher({section: {"x": {field: written.get(field, ">5")}}}).reads


@pytest.mark.parametrize(
    ("when", "said"),
    [
        ("{provider: {openai: {eror_rate: '>1'}}}", 'provider.openai.eror_rate: a provider has no "eror_rate"; did you mean "error_rate"?'),
        ("{provider: {opnai: down}}", 'provider.opnai: there is no provider "opnai"; did you mean "openai"?'),
        ("{provider: {openai: off}}", 'provider.openai: cannot be "off"; write up, down, or figures such as {error_rate: ">30%"}'),
        ("{provider: {openai: {up: maybe}}}", 'provider.openai.up: up is true or false, not "maybe"'),
        ("{provider: {openai: {}}}", "provider.openai: provider openai takes figures, as in {up: ...}"),
        (
            "{provider: {openai: {error_rate: '>30'}}}",
            'error_rate cannot be ">30": it is a share, of which 1 is all, and 30% is 0.3; write ">30%"',
        ),
        ("{model: {big: {total_ms: '>5%s'}}}", 'total_ms cannot be ">5%s": it is no time; write ">800ms"'),
        ("{model: {big: {first_token_ms: '>50%'}}}", 'first_token_ms cannot be ">50%": it is no time; write ">800ms"'),
        ("{model: {big: {headroom: '<1.5'}}}", 'headroom cannot be "<1.5": it is no whole number; write "<5"'),
        ("{budget: {mine: {up: '>1'}}}", 'budget.mine.up: a budget has no "up"; known: used, left_usd, left_tokens, passed'),
        (
            "{budget: {tokens: {left_usd: '<$5'}}}",
            'budget.tokens.left_usd: budget "tokens" counts tokens and has no left_usd; it has left_tokens',
        ),
        ("{deployment: {openai/bigg: up}}", 'deployment.openai/bigg: there is no deployment "openai/bigg"'),
        ("{provider: openai}", "routes.auto.rules[0].when.provider: "),
    ],
)
def test_what_is_wrong_is_said_when_the_file_is_loaded(when: str, said: str) -> None:
    """A name or a figure with a typing error would make a rule that never holds."""
    (found,) = wrong(BASE + ROUTE.replace("WHEN", when))
    assert said in found


def test_words_and_the_effective_file_say_what_was_meant() -> None:
    """`up` and `down` are short for a flag; what is printed can be loaded again."""
    assert compile_matcher({"provider": {"openai": {"up": False}}}).describe == "up of provider openai is false"
    with pytest.raises(MatcherError, match="budget takes a mapping"):
        compile_matcher({"budget": "mine"})
    loaded = load(BASE + ROUTE.replace("WHEN", "{provider: {openai: down}, budget: {mine: {used: '>80%'}}}"))
    again = load(effective_yaml(loaded.settings, loaded.snapshot))
    assert again.settings.routes["auto"].rules == loaded.settings.routes["auto"].rules
    watch = loaded.snapshot.routes["auto"].watch
    assert watch is not None
    assert ([*watch.states], [figure.key for figure in watch.figures]) == (["provider:openai"], ["used@budget:mine"])


def test_a_rule_that_an_earlier_one_covers_is_seen() -> None:
    """By the names and figures that both look at."""
    wide = {"provider": {"openai": {"up": (False,)}}}
    assert spec_covers(wide, {"provider": {"openai": {"up": (False,), "in_flight": (">5",)}}})
    assert not spec_covers(wide, {"provider": {"openai": {"up": (True,)}}})
    assert not spec_covers(wide, {"provider": {"other": {"up": (False,)}}})
