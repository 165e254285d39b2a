"""JSON answers: what providers report, and what is booked."""

from __future__ import annotations

import json
from typing import Any

import pytest

from router.domain.metering import DOUBTS, Metered, estimate_tokens, meter_json, split_usage
from router.domain.openai_usage import Doubt
from router.domain.usage import Usage
from router.snapshot import Quirks

BESIDE = Quirks(reasoning_beside_output=True)
TEXT = "word " * 80
HUNDRED = {"prompt_tokens": 100, "completion_tokens": 5}
FIFTY = {"prompt_tokens": 10, "completion_tokens": 50}
TWENTY = {"prompt_tokens": 10, "completion_tokens": 20}
THIRTY = {"completion_tokens_details": {"reasoning_tokens": 30}}
THREE = {"output_tokens_details": {"reasoning_tokens": 3}}


def body(usage: object = ..., text: str | None = TEXT, **more: Any) -> bytes:
    answer: dict[str, Any] = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": "gpt-served",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        **more,
    }
    if usage is not ...:
        answer["usage"] = usage
    return json.dumps(answer).encode()


def meter(raw: bytes, *, cap: int = 1000, likely: int = 20, bound: int = 100, quirks: Quirks | None = None) -> Metered:
    return meter_json(raw, input_likely=likely, input_bound=bound, output_cap_total=cap, quirks=quirks)


def split(quirks: Quirks | None = None, **usage: object) -> Usage | Doubt:
    return split_usage(json.dumps(usage).encode(), quirks=quirks)


def exact(input_tokens: int, output_tokens: int, **parts: int) -> Usage:
    return Usage(input_tokens=input_tokens, output_tokens=output_tokens, evidence="exact", **parts)


def test_the_providers_count_is_booked() -> None:
    """The usual case, with the name of the model that really answered."""
    metered = meter(body({"prompt_tokens": 12, "completion_tokens": 80, "total_tokens": 92}))
    assert metered == Metered(usage=exact(12, 80), served_model="gpt-served")


@pytest.mark.parametrize(
    ("usage", "want"),
    [
        ({**HUNDRED, "prompt_tokens_details": {"cached_tokens": 64}}, exact(100, 5, cache_read_tokens=64)),
        ({**HUNDRED, "prompt_cache_hit_tokens": 64, "prompt_cache_miss_tokens": 36}, exact(100, 5, cache_read_tokens=64)),
        ({**HUNDRED, "cached_tokens": 64}, exact(100, 5, cache_read_tokens=64)),
        ({**HUNDRED, "prompt_tokens_details": {"cache_write_tokens": 7}}, exact(100, 5, cache_write_tokens=7)),
        ({**HUNDRED, "prompt_tokens_details": {"cache_creation_tokens": 7}}, exact(100, 5, cache_write_tokens=7)),
        ({"input_tokens": 100, "output_tokens": 5, "input_tokens_details": {"cached_tokens": 64}}, exact(100, 5, cache_read_tokens=64)),
        ({**HUNDRED, "cache_read_input_tokens": 64}, exact(100, 5, cache_read_tokens=64)),
    ],
)  # fmt: skip
def test_cached_tokens_inside_the_input_are_a_part_of_it(usage: dict[str, Any], want: Usage) -> None:
    """OpenAI, DeepSeek, Moonshot: the prompt count has them already."""
    assert split(**usage) == want


@pytest.mark.parametrize(
    "usage",
    [
        {"input_tokens": 36, "output_tokens": 5, "cache_read_input_tokens": 60, "cache_creation_input_tokens": 4},
        {"prompt_tokens": 36, "completion_tokens": 5, "cache_read_input_tokens": 60, "cache_creation_input_tokens": 4},
        {"prompt_tokens": 90, "completion_tokens": 5, "total_tokens": 159, "cache_read_input_tokens": 60, "cache_creation_input_tokens": 4},
    ],
)
def test_cached_tokens_beside_the_input_are_added(usage: dict[str, Any]) -> None:
    """The Anthropic wire leaves them out: told by its names, by a part above its whole, or by the total."""
    given = usage.get("prompt_tokens", 36)
    assert split(**usage) == exact(given + 64, 5, cache_read_tokens=60, cache_write_tokens=4)


@pytest.mark.parametrize(
    ("quirks", "usage", "want"),
    [
        (None, {**FIFTY, "total_tokens": 60, **THIRTY}, exact(10, 50, reasoning_tokens=30)),
        (None, {**TWENTY, "total_tokens": 60, **THIRTY}, exact(10, 50, reasoning_tokens=30)),
        (None, {**TWENTY, **THIRTY}, exact(10, 50, reasoning_tokens=30)),
        (None, {**FIFTY, **THIRTY}, exact(10, 50, reasoning_tokens=30)),
        (BESIDE, {**FIFTY, **THIRTY}, exact(10, 80, reasoning_tokens=30)),
        (BESIDE, {**FIFTY, "total_tokens": 60, **THIRTY}, exact(10, 50, reasoning_tokens=30)),
        (BESIDE, {**FIFTY, "total_tokens": 90}, exact(10, 80, reasoning_tokens=30)),
        (None, {**FIFTY, "total_tokens": 60, **THREE}, exact(10, 50, reasoning_tokens=3)),
        (None, {**FIFTY, "total_tokens": 0}, exact(10, 50)),
    ],
)  # fmt: skip
def test_reasoning_is_counted_once_wherever_it_is_reported(quirks: Quirks | None, usage: dict[str, Any], want: Usage) -> None:
    """Inside the output (OpenAI) or beside it (xAI, Gemini): the total decides, then the quirk, then the size."""
    assert split(quirks, **usage) == want


@pytest.mark.parametrize(
    ("usage", "output"),
    [
        ({**FIFTY, "total_tokens": 90}, 80),
        ({**TWENTY, "total_tokens": 30, "reasoning_tokens": 30}, 50),
        ({**TWENTY, "total_tokens": 37, "reasoning_tokens": 30}, 50),
        ({**TWENTY, "total_tokens": 37, "reasoning_tokens": 5}, 27),
    ],
)
def test_counts_that_contradict_each_other_are_taken_high_and_doubted(usage: dict[str, Any], output: int) -> None:
    """What cannot be explained is charged as output, the dear class, and flagged."""
    assert split(**usage) == "inconsistent"
    metered = meter(body(usage))
    assert (metered.usage.output_tokens, metered.usage.evidence, metered.usage.doubt) == (output, "estimated", "inconsistent")


def test_audio_tokens_are_parts_of_both_sides() -> None:
    """Speech has rates of its own."""
    usage = {
        "prompt_tokens": 100,
        "completion_tokens": 50,
        "total_tokens": 150,
        "prompt_tokens_details": {"audio_tokens": 90},
        "completion_tokens_details": {"audio_tokens": 40, "reasoning_tokens": 0},
    }
    assert split(**usage) == exact(100, 50, audio_input_tokens=90, audio_output_tokens=40)


@pytest.mark.parametrize("total", [None, 15])
def test_parts_above_their_whole_are_cut_and_doubted(total: int | None) -> None:
    """Dear classes stay, the discount goes; a total that is right says nothing of the parts."""
    usage = {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "total_tokens": total,
        "prompt_tokens_details": {"cached_tokens": 8, "audio_tokens": 9},
        "completion_tokens_details": {"audio_tokens": 9},
    }
    booked = meter(body(usage)).usage
    assert (booked.audio_input_tokens, booked.cache_read_tokens, booked.audio_output_tokens) == (9, 1, 5)
    assert booked.doubt == "inconsistent"


@pytest.mark.parametrize(
    ("usage", "doubt"),
    [
        (..., "missing"),
        (None, "missing"),
        ({}, "missing"),
        ({"prompt_tokens": None, "completion_tokens": None}, "missing"),
        ({"prompt_tokens": 12, "completion_tokens": 0, "total_tokens": 12}, "zero_with_text"),
        ({"prompt_tokens": 12, "completion_tokens": -5}, "negative"),
        ({"prompt_tokens": 12, "completion_tokens": "80"}, "not_a_number"),
        ({"prompt_tokens": 12, "completion_tokens": True}, "not_a_number"),
        ({"prompt_tokens": 12, "completion_tokens": 80.5}, "not_a_number"),
        ({"prompt_tokens": 12, "completion_tokens": [80]}, "not_a_number"),
        ({"prompt_tokens": 12, "completion_tokens": 10**12}, "absurd"),
        ({"prompt_tokens": 12, "completion_tokens": 10**8}, "absurd"),
        ("80", "not_a_number"),
        ([], "not_a_number"),
    ],
)
def test_a_count_that_cannot_be_believed_is_replaced_by_our_own(usage: object, doubt: str) -> None:
    """Never zero: a provider that reports nonsense must not be free."""
    booked = meter(body(usage)).usage
    assert booked.output_tokens == estimate_tokens(len(TEXT))
    assert booked.input_tokens in (12, 20)
    assert (booked.evidence, booked.doubt) == ("estimated", doubt)
    assert doubt in DOUBTS


@pytest.mark.parametrize(
    ("usage", "doubt"),
    [
        ({"prompt_tokens": 0, "completion_tokens": 9}, "zero_input"),
        ({"prompt_tokens": -1, "completion_tokens": 9}, "negative"),
        ({"prompt_tokens": "12", "completion_tokens": 9}, "not_a_number"),
        ({"prompt_tokens": 10**9, "completion_tokens": 9}, "absurd"),
        ({"completion_tokens": 9}, "missing"),
    ],
)
def test_a_wrong_input_count_leaves_the_output_count_alone(usage: dict[str, Any], doubt: str) -> None:
    """Each side is judged by itself."""
    booked = meter(body(usage)).usage
    assert (booked.input_tokens, booked.output_tokens, booked.doubt) == (20, 9, doubt)


def test_a_whole_number_written_as_a_float_is_a_number() -> None:
    """Servers written in languages without integers send 12.0."""
    assert meter(body({"prompt_tokens": 12.0, "completion_tokens": 8e1})).usage == exact(12, 80)


def test_a_wrong_detail_costs_its_discount_and_is_flagged() -> None:
    """The main counts stand."""
    booked = meter(body({"prompt_tokens": 12, "completion_tokens": 8, "prompt_tokens_details": {"cached_tokens": "4"}})).usage
    assert (booked.input_tokens, booked.output_tokens, booked.cache_read_tokens, booked.doubt) == (12, 8, 0, "not_a_number")
    booked = meter(body({"prompt_tokens": 12, "completion_tokens": 8, "completion_tokens_details": 5})).usage
    assert (booked.output_tokens, booked.doubt) == (8, "not_a_number")


def test_more_output_than_the_cap_is_the_truth_and_flagged() -> None:
    """It becomes debt: the provider will bill it."""
    metered = meter(body({"prompt_tokens": 200, "completion_tokens": 10_000}))
    assert metered.usage == exact(200, 10_000)
    assert metered.over_cap
    assert metered.over_bound


def test_a_missing_side_is_known_from_the_total() -> None:
    """Embeddings report no output; some servers leave a side out."""
    assert split(prompt_tokens=7, total_tokens=7) == exact(7, 0)
    assert split(completion_tokens=7, total_tokens=17) == exact(10, 7)
    assert split(total_tokens=7) == exact(7, 0)
    assert split(prompt_tokens=7) == exact(7, 0)
    assert split() == "missing"


def test_embeddings_have_no_output() -> None:
    """Nothing was written, so that a count of zero is right, and so is none."""
    vectors = {"object": "list", "data": [{"embedding": "AAAA", "index": 0}], "model": "embed"}
    raw = json.dumps({**vectors, "usage": {"prompt_tokens": 8, "total_tokens": 8}}).encode()
    assert meter(raw, cap=0) == Metered(usage=exact(8, 0), served_model="embed")
    booked = meter(json.dumps(vectors).encode(), cap=0).usage
    assert (booked.input_tokens, booked.output_tokens, booked.doubt) == (20, 0, "missing")


def test_our_own_count_reads_everything_that_the_model_wrote() -> None:
    """Tool calls, reasoning and refusals are output; names of roles, ids and sound data are not text."""
    message = {
        "role": "assistant",
        "content": [{"type": "text", "text": "abcd"}],
        "reasoning_content": "efgh",
        "audio": {"id": "a" * 100, "data": "b" * 100, "transcript": "ijkl"},
        "tool_calls": [{"id": "c" * 100, "type": "function", "function": {"name": "mnop", "arguments": "qrst"}}],
        "n": 5,
    }
    booked = meter(body(choices=[{"index": 0, "message": message, "finish_reason": None}]))
    assert booked.usage.output_tokens == 5


def test_korean_is_counted_by_its_bytes() -> None:
    """Three bytes a syllable, four bytes a token."""
    assert meter(body(text="가나다라")).usage.output_tokens == 3


def test_an_estimate_just_above_the_cap_is_the_cap() -> None:
    """Four bytes a token is a guess; that the provider kept to the cap is a better one. Twice the cap it did not."""
    assert meter(body(text="a" * 400), cap=60).usage.output_tokens == 60
    assert meter(body(text="a" * 400), cap=40).usage.output_tokens == 100


@pytest.mark.parametrize(
    ("raw", "output"),
    [(b"", 0), (b"not json", 2), (b'{"usage":', 3), (b"\xff\xfe", 1), (b"[" * 9000, 2250), (b'{"usage":{},"choices":' + b"[" * 8980, 2251)],
)
def test_a_body_that_is_no_json_is_counted_by_its_bytes(raw: bytes, output: int) -> None:
    """It was relayed, so it was paid for."""
    booked = meter(raw).usage
    assert (booked.input_tokens, booked.output_tokens, booked.doubt) == (20, output, "unreadable")


def test_a_body_of_another_shape_is_counted_by_its_text() -> None:
    """Whatever a server sends in place of choices, the client got it."""
    assert meter(b'{"output_text": "abcdefgh"}').usage.output_tokens == 2
    assert meter(b'{"error": {"message": "abcdefgh"}}').usage.output_tokens == 0
    assert meter(b'["abcdefgh"]').usage.output_tokens == 3


def test_fields_of_a_wrong_type_do_not_hide_the_usage() -> None:
    """A model name that is a number, choices that are no list: the counts are still there."""
    good = {"prompt_tokens": 12, "completion_tokens": 8}
    assert meter(body(good, model=5)) == Metered(usage=exact(12, 8))
    assert meter(body(good, choices="none")).usage == exact(12, 8)


def test_an_absurd_count_of_nothing_visible_is_held_to_the_cap() -> None:
    """All of it may have been hidden reasoning: the cap is the most that can be billed, and not zero."""
    booked = meter(body({"prompt_tokens": 12, "completion_tokens": 10**8}, text=None)).usage
    assert (booked.output_tokens, booked.doubt) == (1000, "absurd")


def test_a_usage_that_is_no_json_is_unreadable() -> None:
    """The function takes bytes from anywhere."""
    assert split_usage(b"{") == "unreadable"
    assert split_usage(b"null") == "missing"
