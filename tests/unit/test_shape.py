"""The size of an input: never counted too low, whatever it hides in."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.domain.shape import (
    AUDIO_BYTES_PER_TOKEN_BOUND,
    IMAGE_TOKENS_BOUND,
    LONGEST_COPIED,
    MAX_BRACKETS,
    UNSEEN_TOKENS_BOUND,
    InputShape,
    depth_exceeds,
    opens_few,
    shape_of_input,
    shape_of_messages,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20
)


def depth_of(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max((depth_of(item) for item in value.values()), default=0)
    if isinstance(value, list):
        return 1 + max((depth_of(item) for item in value), default=0)
    return 0


@given(JSON, st.integers(55, 70))
def test_depth_is_found_as_a_reader_finds_it(value: object, around: int) -> None:
    """Text full of brackets is no depth, and depth is not hidden by text."""
    most = 64
    for number in range(around):
        value = [value] if number % 3 else {"[{": value}
    body = json.dumps(value).encode()
    assert depth_exceeds(body, most) is (depth_of(value) > most)


@given(
    st.lists(JSON | st.sampled_from(["},{", "}, {", '"},{"', "}", "{"]), max_size=3),
    st.integers(60, 70),
    st.integers(0, 200),
    st.sampled_from([(",", ":"), (", ", ": "), (",\n", ":")]),
)
def test_depth_is_found_among_many_messages(contents: list[object], around: int, more: int, separators: tuple[str, str]) -> None:
    """Objects that follow each other are passed over: what nests in one of them, or before or after them, is not."""
    deep: object = "deep"
    for number in range(around):
        deep = [deep] if number % 9 == 0 else {"},{": deep}
    plain: list[object] = [{"role": "user", "content": "x"}] * more
    told = [{"role": "user", "content": content} for content in contents]
    for messages in (plain + told, [*plain, deep, *told], [deep, *told, *plain]):
        value = {"before": "},{", "messages": messages, "after": contents}
        body = json.dumps(value, separators=separators).encode()
        assert depth_exceeds(body, 64) is (depth_of(value) > 64)


def test_more_objects_than_anybody_needs_are_refused_however_they_stand() -> None:
    """To count them is quick, to read them is not."""
    allowed, refused = (b"[" + b",".join([b"{}"] * count) + b"]" for count in (MAX_BRACKETS // 2 - 2, MAX_BRACKETS // 2 + 1))
    assert depth_exceeds(allowed, 64) is False
    with pytest.raises(ValueError, match="100,000"):
        depth_exceeds(refused, 64)


@pytest.mark.parametrize(
    ("body", "exceeds"),
    [
        (b"[" * 100 + b"]" * 100, True),
        (b"[" * 65 + b"]" * 65, True),
        (b"[" * 64 + b"]" * 64, False),
        (b'{"a":"' + b"[{" * 100 + b'"}', False),
        (b'{"a":"' + b'\\"[' * 100 + b'"}', False),
        (b'{"a":"\\\\",' + b'"b":[' * 70 + b'"["' + b"]" * 70 + b"}", True),
        (b"[]" * 100, False),
        (b'{"a":"}","b":' * 100 + b"1" + b',"c":"{"}' * 100, True),
    ],
    ids=["deep", "just too deep", "just not", "in text", "behind quotes", "behind a backslash", "flat", "balanced by text"],
)
def test_depth_of_odd_bodies(body: bytes, exceeds: bool) -> None:
    """What is not JSON at all is the parser's to refuse; it does not recurse."""
    assert depth_exceeds(body, 64) is exceeds


@given(st.binary(), st.integers(0, 5))
def test_few_brackets_are_told_from_many(body: bytes, most: int) -> None:
    """The quick look that spares almost every body the careful one."""
    few = body.count(b"{") + body.count(b"[") <= most
    assert opens_few(body, most) is few
    assert opens_few(body + b" " * LONGEST_COPIED, most) is few


def shape_of(raw: bytes) -> InputShape:
    """Of a list of messages that came alone."""
    return shape_of_messages(msgspec.Raw(raw), raw)


def messages(*contents: object) -> InputShape:
    return shape_of(json.dumps([{"role": "user", "content": content} for content in contents]).encode())


def test_text_is_bounded_by_its_bytes() -> None:
    """A byte-level tokenizer makes at most one token of a byte."""
    shape = messages("x" * 1000)
    assert 1000 < shape.tokens_bound < 1100
    assert 250 <= shape.tokens_likely < 270
    assert shape.modalities == {"text"}


def test_the_quick_way_counts_no_less_than_the_careful_one() -> None:
    """A shortcut for plain text must not be a shortcut around the budget."""
    quick, careful = (json.dumps([{"role": "user", "content": text}] * 3).encode() for text in ("hello", "h[llo"))
    assert shape_of(quick) == shape_of(careful)


def test_tools_and_schemas_count_as_text() -> None:
    """They become tokens of the prompt."""
    raw = b'[{"role":"user","content":"x"}]'
    for beside in (b"x" * 400, b"[" * 400):
        assert shape_of_messages(msgspec.Raw(raw), raw + beside).tokens_bound == shape_of(raw).tokens_bound + 400


@pytest.mark.parametrize(
    ("part", "modality", "tokens"),
    [
        ({"type": "image_url", "image_url": {"url": "https://a/b.png"}}, "image", IMAGE_TOKENS_BOUND),
        ({"type": "image_url", "image_url": "https://a/b.png"}, "image", IMAGE_TOKENS_BOUND),
        ({"type": "image", "source": {"data": "AAAA"}}, "image", IMAGE_TOKENS_BOUND),
        ({"image_url": {"url": "https://a/b.png"}}, "image", IMAGE_TOKENS_BOUND),
        ({"type": "input_audio", "input_audio": {"data": "A" * 5000}}, "audio", 5000 // AUDIO_BYTES_PER_TOKEN_BOUND + 1),
        ({"type": "input_audio", "input_audio": 5}, "audio", UNSEEN_TOKENS_BOUND),
        ({"type": "input_audio", "input_audio": {"data": 5}}, "audio", UNSEEN_TOKENS_BOUND),
        ({"type": "file", "file": {"file_id": "f"}}, "file", UNSEEN_TOKENS_BOUND),
        ({"type": "file", "file": "x"}, "file", UNSEEN_TOKENS_BOUND),
        ({"type": "file", "file": {"file_data": "A" * 20_000}}, "file", 20_000),
        ({"type": "video_url", "video_url": {"url": "https://a"}}, "video", UNSEEN_TOKENS_BOUND),
        ({"video_url": {"url": "https://a"}}, "video", UNSEEN_TOKENS_BOUND),
        ({"type": "audio_url", "audio_url": {"url": "https://a"}}, "audio", UNSEEN_TOKENS_BOUND),
    ],
)
def test_media_are_seen_and_counted(part: object, modality: str, tokens: int) -> None:
    """A model that cannot see must not be asked, and a picture costs more than its address."""
    shape = messages([{"type": "text", "text": "Look"}, part])
    assert modality in shape.modalities
    assert shape.tokens_bound >= tokens
    assert shape.tokens_bound <= tokens + 400


def test_an_inline_picture_is_counted_as_a_picture_not_as_text() -> None:
    """A megabyte of base64 is not a million tokens."""
    shape = messages([{"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 1_000_000}}])
    assert shape.tokens_bound < IMAGE_TOKENS_BOUND + 200
    assert shape.images == 1


def test_odd_parts_are_text() -> None:
    """What we do not know is at least counted by its bytes."""
    shape = messages(["just text", 5, None, {"type": "novelty", "a": "x" * 100}])
    assert shape.modalities == {"text"}
    assert shape.tokens_bound > 100


def test_a_hidden_type_is_found() -> None:
    """An escape inside the word must not hide an image, nor may a text before or after it."""
    hidden = b'{"c\\u006fntent":[{"t\\u0079pe":"im\\u0061ge_url","image_\\u0075rl":{"url":"https://a"}}]}'
    text = b'{"content":"[1] \\" [{"}'
    for raw in (b"[%b]" % hidden, b"[%b,%b]" % (text, hidden), b"[%b,%b,{}]" % (hidden, text)):
        assert shape_of(raw).images == 1


@pytest.mark.parametrize("raw", [b"[]", b'"text"', b"{}", b"[5]", b"5", b"[[]]"])
def test_messages_must_be_objects(raw: bytes) -> None:
    """The message of the error is the client's to read."""
    for beside in (b"", b'"["', b"[[]"):
        with pytest.raises((msgspec.MsgspecError, ValueError)):
            shape_of_messages(msgspec.Raw(raw), raw + beside)


@pytest.mark.parametrize(
    ("value", "prompts", "least", "most"),
    [
        ("x" * 100, 1, 100, 120),
        (["x" * 100, "y" * 50], 2, 150, 190),
        (list(range(100)), 1, 100, 110),
        ([[1] * 100, [2] * 50], 2, 150, 170),
    ],
    ids=["text", "texts", "tokens", "lists of tokens"],
)
def test_prompts_and_inputs(value: object, prompts: int, least: int, most: int) -> None:
    """Tokens are counted, text is bounded; each prompt of a list is answered for itself."""
    raw = json.dumps(value).encode()
    shape = shape_of_input(msgspec.Raw(raw), raw)
    assert shape.prompts == prompts
    assert least <= shape.tokens_bound <= most


def test_a_suffix_is_part_of_every_prompt() -> None:
    """It is sent, read and billed once for each of them."""
    raw = b'["a","b"]'
    with_suffix, without = shape_of_input(msgspec.Raw(raw), raw + b"x" * 1000), shape_of_input(msgspec.Raw(raw), raw)
    assert with_suffix.tokens_bound == without.tokens_bound + 2000
    assert with_suffix.tokens_likely == without.tokens_likely + 500


@pytest.mark.parametrize("raw", [b"5", b"{}", b"null", b"[]", b'["a", 5]', b'["a", [1]]', b"[1, [2]]", b"[1.5]", b'[["a"]]', b"[[[1]]]"])
def test_other_inputs_are_refused(raw: bytes) -> None:
    """Nothing is counted that is not understood."""
    with pytest.raises((msgspec.MsgspecError, ValueError)):
        shape_of_input(msgspec.Raw(raw), raw)


@pytest.mark.parametrize(
    "part",
    [
        {"type": "document_url", "document_url": "https://books.example/long.pdf"},
        {"type": "input_audio", "input_audio": "https://books.example/long.wav"},
        {"type": "input_audio", "input_audio": {"data": "https://books.example/long.wav"}},
        {"type": "input_file", "file_id": "file-1"},
        {"type": "file", "file": {"file_data": "https://books.example/long.pdf"}},
        {"type": "what_comes_next", "id": 1},
    ],
)
def test_what_is_named_by_its_address_may_be_of_any_length(part: dict[str, object]) -> None:
    """A book behind a link is billed as a book."""
    body = json.dumps([{"role": "user", "content": [{"type": "text", "text": "Hi"}, part]}]).encode()
    assert shape_of_messages(msgspec.Raw(body), body).tokens_bound >= UNSEEN_TOKENS_BOUND


def test_a_document_in_the_place_of_an_image_counts_by_its_bytes() -> None:
    """Only images have a size that is known to be small."""
    url = "data:application/pdf;base64," + "A" * 50_000
    body = json.dumps([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]).encode()
    assert shape_of_messages(msgspec.Raw(body), body).tokens_bound >= 50_000
