"""The catalogue of models: classes, what selects by them, and the floor under quality."""

from __future__ import annotations

from typing import Any

import pytest

from policies.engine import Branch, RoutePolicy, choose, decide
from policies.kinds.fixed import order as as_written
from policies.narrow import at_least
from policies.ranges import Range, RangeError, read_count, read_range, read_share, read_usd
from policies.types import Candidate, MissingSignal, RequestFacts, Signals, Traits, quality_of
from router.settings.effective import effective_yaml
from tests.settings_help import load, warnings, wrong

MODELS = """\
version: 1
providers: [openai, ollama]
models:
  big: {at: openai/large, size: large, quality: {default: 0.9, code: 0.5}, region: us}
  tiny: {at: openai/small, size: small, weights: closed, quality: 0.6, languages: [en]}
  home:
    at: [ollama/qwen3, {deployment: openai/qwen3, locality: cloud, region: eu, price: {input: 1, output: 3}}]
    size: small
    weights: open
    domain: [code, finance]
    languages: [ko, en]
    capabilities: [chat, stream, image]
routes:
"""


def selected(use: str) -> tuple[str, ...]:
    """What a route with this `use` leads to."""
    return load(MODELS + f"  auto: {{use: {use}}}\n").snapshot.routes["auto"].deployments


@pytest.mark.parametrize(
    ("use", "names"),
    [
        ("{size: small, weights: open, language: ko}", ("ollama/qwen3", "openai/qwen3")),
        ("{language: [ko, ja]}", ("ollama/qwen3", "openai/qwen3")),
        ("{locality: local}", ("ollama/qwen3",)),
        ("{region: [eu, us]}", ("openai/large", "openai/qwen3")),
        ("{size: small, not: {provider: openai}}", ("ollama/qwen3",)),
        ("{not: {size: small, weights: open}}", ("openai/large", "openai/small")),
        ("{capabilities: image}", ("openai/small", "ollama/qwen3", "openai/qwen3")),
        ('{context: ">= 100k"}', ("openai/large",)),
        ('{context: "1k..10k"}', ("openai/small",)),
        ('{quality: ">= 0.7"}', ("openai/large",)),
        ('{quality: "<70%"}', ("openai/small",)),
        ('{price: "< $1"}', ("openai/small", "ollama/qwen3")),
        ('{price: "1..5"}', ("openai/qwen3",)),
        ("{domain: finance, provider: ollama}", ("ollama/qwen3",)),
    ],
)
def test_models_are_selected_by_what_the_catalogue_says(use: str, names: tuple[str, ...]) -> None:
    """A model is exchanged in one line, without a look at the rules. What is not known of a model belongs to no class."""
    assert selected(use) == names


def test_what_a_rule_selects_is_listed() -> None:
    """Classes are only as good as what is seen of them."""
    loaded = load(MODELS + "  auto: {rules: [{when: {tools: true}, use: {size: large}}], use: {language: ko}}\n")
    lines = effective_yaml(loaded.settings, loaded.snapshot).splitlines()
    assert "# auto, rule-1: openai/large" in lines
    assert "# auto, default: ollama/qwen3, openai/qwen3" in lines
    assert any(
        line.startswith("# openai/large (big): large, closed, cloud, us, quality 0.9, quality 0.5 at code; input $5.00") for line in lines
    )


@pytest.mark.parametrize(
    ("use", "message"),
    [
        ("{size: medium}", "no model has these classes: size: medium"),
        ('{quality: "0.7"}', 'quality: "0.7" is not a range; write ">= 0.7" or "0.5..0.8"'),
        ('{context: "> a"}', 'context: "> a" is not a range; write ">= 100k" or "8k..32k"'),
        ('{price: "5..1"}', 'price: "5..1" is not a range; write "< $2" or "1..5"'),
        ("{not: {}, size: small}", "not is empty; name a class in it, such as {locality: cloud}"),
        ("{names: big, not: {size: small}}", "give names or classes, not both"),
    ],
)
def test_a_selector_that_cannot_be_meant_is_an_error(use: str, message: str) -> None:
    """It would lead requests nowhere, or anywhere."""
    (line,) = wrong(MODELS + f"  auto: {{use: {use}}}\n")
    assert line.endswith(message)


def test_a_quality_is_a_share() -> None:
    """Scores of other scales would pass every floor."""
    (line,) = wrong("version: 1\nproviders: [openai]\nmodels:\n  big: {at: openai/large, quality: {code: 80}}\n")
    assert line == "4:43: models.big.quality.code: must be at most 1; write 80%"


def traits(name: str, **changes: Any) -> Traits:
    return Traits(**{"deployment": name, "model": name, "provider": "p", **changes})


def facts(**signals: Any) -> RequestFacts:
    return RequestFacts(operation="chat", route="auto", signals=Signals(**signals))


def test_quality_is_that_of_the_task_where_it_is_known() -> None:
    """A model that codes well may translate badly."""
    one = traits("a", quality=0.6, task_quality={"code": 0.9})
    assert [quality_of(one, facts(task="code")), quality_of(one, facts(task="chat")), quality_of(one, facts(task=None))] == [0.9, 0.6, 0.6]
    assert quality_of(one, facts()) == 0.6
    assert quality_of(traits("b"), facts(task="code")) is None


def test_what_does_not_reach_a_quality_is_out_with_its_number() -> None:
    """An unknown quality is none: it must not pass for a good one."""
    offered = [Candidate(traits(name, quality=quality), expected_nusd=1) for name, quality in (("a", 0.9), ("b", 0.6), ("c", None))]
    branch = Branch(rule="default", deployments=("a", "b", "c"), kind="fixed", order=at_least(as_written, 0.7))
    decision = decide(branch, facts(), offered, 0.5)
    assert [ranked.deployment for ranked in decision.order] == ["a"]
    assert [(out.deployment, out.reason, out.detail) for out in decision.rejected] == [
        ("b", "below_quality", "quality 0.6, at least 0.7"),
        ("c", "below_quality", "quality is not known, at least 0.7"),
    ]


def test_a_floor_by_task_asks_for_the_task() -> None:
    """The task is worked out only where something reads it."""
    loaded = load(MODELS + "  auto: {use: [big, tiny], at_least: {quality: 0.55}}\n  plain: {use: tiny, at_least: {quality: 0.5}}\n")
    policy = loaded.snapshot.routes["auto"].policy
    with pytest.raises(MissingSignal, match="task"):
        choose(policy, facts())
    assert choose(policy, facts(task=None)) is policy.default
    assert choose(loaded.snapshot.routes["plain"].policy, facts()).reads is None
    assert isinstance(policy, RoutePolicy)


def test_a_floor_that_nothing_can_reach_is_pointed_out() -> None:
    """Every request would be refused."""
    assert warnings(MODELS + "  auto: {use: [tiny, home], at_least: {quality: 0.7}}\n") == [
        "14:39: routes.auto.at_least: ollama/qwen3 has no quality: it is never tried here; give its model one",
        "14:39: routes.auto.at_least: openai/qwen3 has no quality: it is never tried here; give its model one",
        "14:39: routes.auto.at_least: no model reaches quality 0.7: nothing can be served here",
        "4:3: models.big: no route leads to this model; clients reach it by its own name only",
    ]


def test_a_route_may_refuse_what_it_cannot_serve() -> None:
    """The short form of a route can do what the long one can."""
    route = load(MODELS + "  auto: {use: tiny, otherwise: refuse}\n").snapshot.routes["auto"]
    assert route.policy.default.refuse
    (line,) = wrong(MODELS + "  auto: {default: {use: tiny}, otherwise: refuse}\n")
    assert line.endswith("give either default, or use and by")


def test_ranges_are_read_as_they_are_written() -> None:
    """They stand in selectors and conditions alike."""
    assert read_range(">= 4k", read_count) == Range(4000, float("inf"))
    assert not read_range("<0.4", read_share).holds(0.4)
    assert read_range("<= 40%", read_share).holds(0.4)
    assert not read_range(">1", read_usd).holds(1)
    for text, read in (
        ("4", read_count),
        ("<4.5", read_count),
        ("<", read_share),
        ("<-1", read_share),
        ("<1%", read_usd),
        ("9..1", read_count),
    ):
        with pytest.raises(RangeError):
            read_range(text, read)
    with pytest.raises(RangeError):
        read_range("<" + "9" * 13, read_share)


@pytest.mark.parametrize(
    ("narrow", "wide", "inside"),
    [("<4", "<5", True), ("<4", "<4", True), ("<=4", "<4", False), ("1..3", ">=1", True), ("1..3", ">1", False), (">2", "<9", False)],
)
def test_a_range_may_lie_in_another(narrow: str, wide: str, inside: bool) -> None:
    """A rule that an earlier one covers is never reached."""
    assert read_range(narrow, read_count).within(read_range(wide, read_count)) is inside
