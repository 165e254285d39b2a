"""What is read of answers: text, how they ended, and the part by which two of them are compared."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest

from policies.answers import Said, agree, extracted, said_in_body, said_in_events, without_logprobs
from policies.plans import Verify
from policies.verifiers import failed_check, fits

ENCODE = msgspec.json.encode


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ({"message": {"content": "Hi"}, "finish_reason": "stop"}, Said(text="Hi", finish="stop")),
        ({"text": "Hi", "logprobs": {"token_logprobs": [None, -1.0, -3]}}, Said(text="Hi", logprob=-2.0)),
        ({"message": {"content": [{"type": "text", "text": "a"}, 5, {"text": "b"}]}}, Said(text="ab")),
        ({"message": {"content": None, "tool_calls": [{}]}, "finish_reason": "tool_calls"}, Said(finish="tool_calls", tools=True)),
        ({"message": {"content": "", "refusal": "No."}}, Said(refused=True)),
        ({"message": {"content": "x"}, "logprobs": {"content": [{"logprob": -0.5}, {"logprob": "?"}]}}, Said(text="x", logprob=-0.5)),
        ({"message": {"content": "x"}, "logprobs": {"content": 7}}, Said(text="x")),
        ({"text": "x", "logprobs": {"token_logprobs": [-(2**63), -1.0]}}, Said(text="x", logprob=-1.0)),
        ("odd", Said()),
    ],
)
def test_a_whole_answer_is_read(choice: Any, said: Said) -> None:
    """Chat and completions; what is not as it should be says nothing."""
    assert said_in_body(ENCODE({"choices": [choice]})) == said


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"choices": 5}', b'{"choices": []}'])
def test_what_cannot_be_read_says_nothing(body: bytes) -> None:
    """Providers send such things."""
    assert said_in_body(body) == Said()
    assert said_in_events([body]) == Said()


def test_a_stream_is_read_as_the_same_answer() -> None:
    """Of several choices the first; the order of events does not matter for how it ended."""
    events = [
        {"choices": [{"index": 0, "delta": {"role": "assistant"}}, {"index": 1, "delta": {"content": "no"}}]},
        {"choices": [{"index": 0, "delta": {"content": "He"}, "logprobs": {"content": [{"logprob": -1}]}}, "odd"]},
        {"choices": [{"delta": {"content": "y", "tool_calls": [{}]}, "logprobs": {"content": [{"logprob": -2}]}}]},
        {"choices": [{"index": 0, "text": "!", "finish_reason": "stop"}]},
        {"choices": [], "usage": {}},
    ]
    said = said_in_events([*map(ENCODE, events), b"[DONE]"])
    assert said == Said(text="Hey!", finish="stop", tools=True, logprob=-1.5)


def test_a_number_beyond_all_bounds_is_no_probability() -> None:
    """A provider that sends one must not fail its client's request."""
    body = b'{"choices": [{"text": "x", "logprobs": {"token_logprobs": [-%s, -1.0]}}]}' % (b"9" * 400)
    assert said_in_body(body) == Said(text="x", logprob=-1.0)


def test_a_long_stream_is_read_in_one_go() -> None:
    """All others wait meanwhile: what each event says is not added to a text that is copied each time, which takes minutes here."""
    event = ENCODE({"choices": [{"index": 0, "delta": {"content": "0123456789" * 3}}]})
    assert len(said_in_events(itertools.repeat(event, 200_000)).text) == 6_000_000


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('Sure:\n```json\n{"b": 1, "a": [2]}\n```', 'json:{"a":[2],"b":1}'),
        ('{"a": 1', "number:1"),
        ("The answer is (B).", "choice:B"),
        ("정답: C", "choice:C"),
        ("b", None),
        ("D) because it is so", "choice:D"),
        ("A nice day", None),
        ("Answer: nothing", None),
        ("#### -1,234.50", "number:-1234.5"),
        ("so we have 3 and 4, \\boxed{007}", "number:7"),
        ("it costs 12 and then 30.0 dollars", "number:30"),
        ("The answer is nowhere, but 5", "number:5"),
        ("", None),
        ("no digits here", None),
    ],
)
def test_the_final_part_of_an_answer_is_extracted(text: str, found: str | None) -> None:
    """JSON before choices before numbers."""
    assert extracted(text, "auto") == found


@pytest.mark.parametrize(
    ("one", "other", "what", "same"),
    [
        ('{"a":1,"b":2}', '```\n{"b": 2, "a": 1}\n```', "auto", True),
        ("I think (A)? The answer is B", "Answer: **B**", "auto", True),
        ("B", "C", "auto", False),
        ("#### 42", "The answer is 42.00", "auto", True),
        ("#### 42", '{"answer": 42}', "auto", False),
        ("yes", "yes", "auto", False),
        ("Yes, it is. ", "yes,  it is", "text", True),
        ("", "", "text", False),
        ("12", "12", "number", True),
        ("12", "[12]", "json", False),
    ],
)
def test_two_answers_agree_if_the_same_is_extracted(one: str, other: str, what: Any, same: bool) -> None:
    """Whole texts never agree by chance, and are compared only if that is asked for."""
    assert agree(one, other, what) is same


def test_probabilities_that_nobody_asked_for_are_not_shown() -> None:
    """In a whole answer and in each event of a stream; what cannot be read stays as it is."""
    body = ENCODE({"id": 1, "choices": [{"index": 0, "logprobs": {"content": []}}, 5]})
    assert msgspec.json.decode(without_logprobs(body, stream=False)) == {"id": 1, "choices": [{"index": 0}, 5]}
    stream = b"data: " + body + b"\n\n: ping\n\ndata: [DONE]\n\n"
    told = without_logprobs(stream, stream=True)
    assert b"logprobs" not in told
    assert told.endswith(b": ping\n\ndata: [DONE]\n\n")
    assert without_logprobs(b'{"logprobs"', stream=False) == b'{"logprobs"'
    assert without_logprobs(b'{"choices":5,"logprobs":1}', stream=False) == b'{"choices":5,"logprobs":1}'


@pytest.mark.parametrize(
    ("said", "failed"),
    [
        (Said(text="Four.", finish="stop"), ""),
        (Said(text="Four.", finish="length"), "finish"),
        (Said(text=" ", finish="stop"), "finish"),
        (Said(finish="tool_calls", tools=True), ""),
        (Said(text="x", finish="content_filter"), "finish"),
        (Said(text="I'm sorry, but I can't help with that.", finish="stop"), "refusal"),
        (Said(text="I cannot provide that.", finish="stop"), "refusal"),
        (Said(text="죄송하지만 답변해 드릴 수 없습니다.", finish="stop"), "refusal"),
        (Said(text="申し訳ありませんが、お答えできません。", finish="stop"), "refusal"),
        (Said(text="抱歉，我无法回答。", finish="stop"), "refusal"),
        (Said(text="No.", finish="stop", refused=True), "refusal"),
        (Said(text="You can see why I asked. Sorry for the delay!", finish="stop"), ""),
    ],
)
def test_an_answer_that_is_cut_off_or_refuses_does_not_pass(said: Said, failed: str) -> None:
    """The two checks that cost nothing find most of what a small model cannot do."""
    assert failed_check(Verify(), said, schema=None, own_cap=False) == failed


def test_the_clients_own_cap_is_no_fault_of_the_model() -> None:
    """A larger model would be cut off at the same place."""
    assert failed_check(Verify(), Said(text="Once", finish="length"), schema=None, own_cap=True) == ""


@pytest.mark.parametrize(
    ("text", "schema", "failed"),
    [
        ('{"a": 1}', {"type": "object", "required": ["a"]}, ""),
        ('{"b": 1}', {"type": "object", "required": ["a"]}, "schema"),
        ("not JSON", {"type": "object"}, "schema"),
        ("1", {"minimum": "x"}, ""),
    ],
)
def test_an_answer_follows_the_schema_that_was_asked_for(text: str, schema: dict[str, Any], failed: str) -> None:
    """A schema that makes no sense is the provider's to refuse."""
    assert failed_check(Verify(), Said(text=text, finish="stop"), schema=schema, own_cap=False) == failed


@pytest.mark.parametrize(
    ("items", "good", "bad"),
    [
        ({"anyOf": [*[{"type": "string"}] * 20_000, {"type": "integer"}]}, 1, None),
        ({"enum": [*range(20_000)]}, 19_999, -1),
        ({"required": ["a"] * 20_000}, {"a": 1}, {}),
        ({"type": ["integer"] * 20_000}, 1, "x"),
    ],
)
def test_a_schema_that_would_take_minutes_is_looked_at_for_a_while(items: dict[str, Any], good: Any, bad: Any) -> None:
    """A client writes it, and may ask for an answer that takes long to hold against it: all others wait. What is not looked at passes."""
    schema = {"type": "array", "items": items}
    assert not fits([good, good, bad], schema)
    assert fits([*[good] * 20_000, bad], schema)


def test_an_uncertain_answer_does_not_pass() -> None:
    """Nor one whose probabilities the provider does not tell."""
    wants = Verify(logprob=-1.0)
    assert [failed_check(wants, Said(text="x", logprob=value), schema=None, own_cap=False) for value in (-0.5, -1.5, None)] == [
        "",
        "logprob",
        "logprob",
    ]
