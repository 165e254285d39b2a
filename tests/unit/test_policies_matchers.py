"""Conditions of rules: what each field accepts, when it holds, and how mistakes are told."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.matchers import FIELDS, MatcherError, compile_matcher
from policies.types import RequestFacts

REQUEST = RequestFacts(
    operation="chat",
    route="auto",
    org="acme",
    team="search",
    key_id="ci-bot",
    user="ann@example.com",
    session="s-42",
    tags={"kind": "agent", "data": ""},
    headers={"x-tier": "gold"},
    input_tokens=4000,
    stream=True,
    tools=True,
    modalities=frozenset({"text", "image"}),
)


def holds(spec: dict[str, object]) -> bool:
    return compile_matcher(spec).matches(REQUEST)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, True),
        ({"operation": "chat"}, True),
        ({"operation": ["embeddings", "completions"]}, False),
        ({"route": "auto"}, True),
        ({"route": ("auto", "fast")}, True),
        ({"route": "fast"}, False),
        ({"org": "acme"}, True),
        ({"org": ["other", "ac"]}, False),
        ({"team": "search"}, True),
        ({"team": "sea*"}, True),
        ({"team": "*arch"}, True),
        ({"team": "s*r*h"}, True),
        ({"team": "s*x*h"}, False),
        ({"team": "search*search"}, False),
        ({"team": "ads*"}, False),
        ({"team": ["ads", "sea*"]}, True),
        ({"team": ["ads", "se*x"]}, False),
        ({"team": ["search", "x*"]}, True),
        ({"key": "ci-bot"}, True),
        ({"user": "*@example.com"}, True),
        ({"session": "s-42"}, True),
        ({"tags": {"kind": "agent"}}, True),
        ({"tags": {"kind": ["human", "agent"]}}, True),
        ({"tags": {"kind": "a*"}}, True),
        ({"tags": {"kind": "human"}}, False),
        ({"tags": {"missing": "x"}}, False),
        ({"tags": {"kind": "agent", "missing": "x"}}, False),
        ({"header": {"X-Tier": "gold"}}, True),
        ({"header": {"x-tier": ["silver", "bronze"]}}, False),
        ({"tools": True}, True),
        ({"tools": False}, False),
        ({"stream": [True, False]}, True),
        ({"json_schema": False}, True),
        ({"modality": "image"}, True),
        ({"modality": ["audio", "video"]}, False),
        ({"input_tokens": "<4000"}, False),
        ({"input_tokens": "<= 4000"}, True),
        ({"input_tokens": ">4000"}, False),
        ({"input_tokens": ">= 4_000"}, True),
        ({"input_tokens": ">= 4k"}, True),
        ({"input_tokens": "1000..4000"}, True),
        ({"input_tokens": "4K..5K"}, True),
        ({"input_tokens": ["<100", ">3999"]}, True),
        ({"input_tokens": ["<100", ">4000"]}, False),
        ({"team": "search", "tools": True}, True),
        ({"team": "ads", "tools": True}, False),
        ({"team": "search", "tools": True, "stream": True, "route": "auto"}, True),
        ({"team": "search", "tools": True, "stream": True, "route": "fast"}, False),
    ],
)
def test_a_condition_holds_if_all_fields_do_and_any_value_of_each(spec: dict[str, object], expected: bool) -> None:
    """This table is the language; `docs/routing.md` tells it in words."""
    assert holds(spec) is expected


def test_a_pattern_does_not_match_what_is_absent() -> None:
    """`user: "*"` asks whether there is a user."""
    nobody = RequestFacts(operation="chat", route="auto")
    for spec in ({"user": "*"}, {"team": "*"}, {"tags": {"kind": "*"}}, {"header": {"x-tier": "*"}}):
        assert compile_matcher(spec).matches(REQUEST)
        assert not compile_matcher(spec).matches(nobody)
    assert not holds({"tags": {"data": "*"}})


def test_a_matcher_names_the_headers_it_reads() -> None:
    """Only these are taken from a request, so that rules cost nothing where they read none."""
    assert compile_matcher({"header": {"X-Tier": "gold", "x-region": "eu"}}).headers == {"x-tier", "x-region"}
    assert compile_matcher({"team": "search"}).headers == frozenset()


def test_a_matcher_says_what_it_asks() -> None:
    """For `faregate explain`; cheap fields are checked first and stand first."""
    spec = {"tags": {"kind": ["agent", "bot"]}, "tools": True, "team": "search"}
    assert compile_matcher(spec).describe == "tools is true and team is search and tags.kind is one of agent, bot"
    assert compile_matcher({}).describe == "always"


def test_numbers_and_booleans_of_yaml_match_the_text_that_clients_send() -> None:
    """`tier: 3` and `beta: true` are not quoted by people."""
    request = RequestFacts(operation="chat", route="auto", tags={"tier": "3", "beta": "true"})
    assert compile_matcher({"tags": {"tier": 3, "beta": True}}).matches(request)


@pytest.mark.parametrize(
    ("spec", "path", "message"),
    [
        ({"taem": "x"}, ("taem",), "unknown condition 'taem'; did you mean 'team'?"),
        ({"zzz": "x"}, ("zzz",), f"unknown condition 'zzz'; known: {', '.join(FIELDS)}"),
        ({"operation": "chatt"}, ("operation",), "unknown operation 'chatt'; did you mean 'chat'?"),
        ({"modality": "smell"}, ("modality",), "unknown modality 'smell'; known: text, image, audio, file, video"),
        ({"tools": "yes"}, ("tools",), "tools is true or false, not 'yes'"),
        ({"tags": "agent"}, ("tags",), "tags takes a mapping from names to values, as in {tier: gold}"),
        ({"header": ["x-tier"]}, ("header",), "header takes a mapping from names to values, as in {tier: gold}"),
        ({"tags": {"kind": []}}, ("tags", "kind"), "tags.kind needs at least one value"),
        ({"team": []}, ("team",), "team needs at least one value"),
        ({"team": ""}, ("team",), "team cannot be ''"),
        ({"team": None}, ("team",), "team cannot be None"),
        ({"team": {"a": 1}}, ("team",), "team cannot be {'a': 1}"),
        ({"input_tokens": "5000..4000"}, ("input_tokens",), "input_tokens '5000..4000' is empty: 5000 is above 4000"),
    ],
)
def test_a_mistake_is_told_with_its_place(spec: dict[str, object], path: tuple[str, ...], message: str) -> None:
    """The loader adds file, line and column."""
    with pytest.raises(MatcherError, match=f"^{re.escape(message)}$") as caught:
        compile_matcher(spec)
    assert caught.value.path == path


@pytest.mark.parametrize("value", ["4000", 4000, "> many", "<", "..", "1..", "< -5", "<4.5", ">²", "<k", "<" + "9" * 13])
def test_a_size_that_cannot_be_read_shows_how_to_write_it(value: object) -> None:
    """A bare number would leave open whether more or less is meant."""
    with pytest.raises(MatcherError, match="write a number of tokens as '<4000'"):
        compile_matcher({"input_tokens": value})


def test_patterns_take_linear_time_on_hostile_text() -> None:
    """A client chooses the header's value; a backtracking pattern would stall the whole process."""
    matcher = compile_matcher({"header": {"x": "*a*a*a*a*a*a*a*b"}})
    request = RequestFacts(operation="chat", route="auto", headers={"x": "a" * 30_000 + "c" + "b"})
    began = time.process_time()
    assert matcher.matches(request)
    worst = RequestFacts(operation="chat", route="auto", headers={"x": "a" * 30_000})
    assert not matcher.matches(worst)
    assert time.process_time() - began < 1.0


@settings(deadline=None)
@given(st.lists(st.sampled_from(["a", "b", "*"]), min_size=1, max_size=8).map("".join), st.text("ab", max_size=10))
def test_patterns_agree_with_regular_expressions(pattern: str, text: str) -> None:
    """The oracle is slow and simple; an absent text matches nothing."""
    request = RequestFacts(operation="chat", route="auto", team=text)
    regex = ".*".join(re.escape(part) for part in pattern.split("*"))
    assert compile_matcher({"team": pattern}).matches(request) == bool(text and re.fullmatch(regex, text))
