"""What says that a session runs away."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from router.domain.runaway import MOST_CHARGES, Run, RunawayRules, signal

NOW = 1_790_000_000_000


def said(*messages: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(list(messages)))


def user(text: str) -> dict[str, object]:
    return {"role": "user", "content": text}


def called(name: str, arguments: str = "{}") -> list[dict[str, object]]:
    function = {"name": name, "arguments": arguments}
    return [
        {"role": "assistant", "tool_calls": [{"id": "1", "function": function}]},
        {"role": "tool", "tool_call_id": "1", "content": "no"},
    ]


def test_what_was_charged_within_a_minute_is_the_slope() -> None:
    """A budget says how much in all; this says how fast, before the budget is gone."""
    rules, run = RunawayRules(spend_nusd_per_minute=100), Run(NOW)
    run.spent(NOW, 100)
    assert signal(rules, run, None, NOW) is None
    run.spent(NOW + 30_000, 1)
    found = signal(rules, run, None, NOW + 30_000)
    assert found is not None
    assert found[0] == "spend"
    assert signal(rules, run, None, NOW + 60_000) is None


def test_charges_are_remembered_in_bounded_memory() -> None:
    """A session that sends thousands of calls a minute must not fill the worker; nothing of the sum is lost."""
    run = Run(NOW)
    for _ in range(MOST_CHARGES * 2):
        run.spent(NOW, 1)
    assert len(run.charges) == MOST_CHARGES
    assert run.slope(NOW) == MOST_CHARGES * 2


def test_the_same_message_again_and_again_is_noticed_and_another_one_ends_it() -> None:
    """An agent that is stuck sends the same question; the conversation before it may grow meanwhile."""
    rules, run = RunawayRules(same_prompt=3), Run(NOW)
    asked = [said(user("a"), *[user("b")] * i, user("again")) for i in range(3)]
    assert [signal(rules, run, messages, NOW) is not None for messages in asked] == [False, False, True]
    assert signal(rules, run, said(user("other")), NOW) is None
    assert signal(rules, run, asked[0], NOW) is None


@pytest.mark.parametrize(
    ("messages", "looping"),
    [
        ([*called("look") * 3], True),
        ([*called("look") * 20], True),
        ([user("go"), *called("other"), *called("look") * 3], True),
        ([*called("look") * 2], False),
        ([*called("look") * 2, *called("look", '{"page": 2}')], False),
        ([*called("look", "1"), *called("look", "2"), *called("look", "1")], False),
        ([{"tool_calls": "odd"}, {"tool_calls": ["odd", {"function": "odd"}]}, *called("look") * 2], False),
        ([[{"tool_calls": []}]] * 3, False),
        ([*called("look", '{"a": 1, "b": 2}'), *called("look", '{"b":2,"a":1}'), *called("look", '{ "a":1,"b":2 }')], True),
        ([*called("a"), *called("b")] * 3, True),
        ([user("go"), *([*called("a"), *called("b"), *called("c"), *called("d")] * 3)], True),
        ([*called("a"), *called("b")] * 2 + called("a"), False),
        ([*called("a"), *called("b"), *called("c"), *called("d"), *called("e")] * 3, False),
        ([{"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}}] * 3, True),
        ([{"role": "assistant", "function_call": None, "tool_calls": None}] * 3, False),
    ],
)
def test_one_tool_with_the_same_arguments_in_a_row_is_a_loop(messages: list[Any], looping: bool) -> None:
    """The conversation itself shows it, whichever worker gets the request."""
    found = signal(RunawayRules(same_tool_call=3), Run(NOW), said(*messages), NOW)
    assert (found is not None and found[0] == "same_tool_call") == looping


def test_what_is_no_list_of_messages_is_not_looked_at() -> None:
    """The check of the request answers it."""
    rules = RunawayRules(same_prompt=2, same_tool_call=2)
    assert signal(rules, Run(NOW), msgspec.Raw(b"7"), NOW) is None
    assert signal(rules, Run(NOW), said(), NOW) is None
    assert signal(RunawayRules(), Run(NOW), said(), NOW) is None


def test_arguments_nested_beyond_all_depth_are_taken_as_they_are() -> None:
    """They are text to the check of a body's depth; a request must not fail by them."""
    function = {"name": "f", "arguments": "[" * 100_000 + "]" * 100_000}
    said = msgspec.Raw(msgspec.json.encode([{"role": "assistant", "tool_calls": [{"function": function}] * 3}]))
    found = signal(RunawayRules(same_tool_call=3), Run(0), said, 1)
    assert found is not None
    assert found[0] == "same_tool_call"


@pytest.mark.parametrize("number", ["1" * 5000, "1e999"])
def test_numbers_beyond_all_bounds_are_the_providers_to_refuse(number: str) -> None:
    """A client that sends one is not to get an internal error for it."""
    rules, run = RunawayRules(same_prompt=2, same_tool_call=2), Run(NOW)
    messages = msgspec.Raw(b'[{"role": "assistant", "tool_calls": [], "x": %s}]' % number.encode())
    assert signal(rules, run, messages, NOW) is None
    found = signal(rules, run, messages, NOW)
    assert found is not None
    assert found[0] == "same_prompt"
