"""What answers teach: holds come nearer to what is billed, and never go below what was seen."""

from __future__ import annotations

import json
import random

import pytest

from router.domain.learning import (
    INPUT_FLOOR,
    INPUT_MARGIN,
    LEAST_ANSWERS,
    LEAST_INPUTS,
    LEAST_SLICE,
    LOOK_EVERY,
    MOST_ANSWERS,
    WIDENED_ANSWERS,
    Learned,
    Lengths,
    Share,
    sample_of,
    script_of,
)
from router.domain.request import Operation, ParsedRequest, parse_request


def request(content: object = "Tell me of the sea, and of the ships.", operation: Operation = "chat", **more: object) -> ParsedRequest:
    given = {"chat": {"messages": [{"role": "user", "content": content}]}, "embeddings": {"input": "a text"}}[operation]
    return parse_request(json.dumps({"model": "m", **given, **more}, ensure_ascii=False).encode(), operation)


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("The quick brown fox jumps over the lazy dog. " * 4, "latin"),
        ("for (i = 0; i < n; ++i) { a[i] += b[i] * (c - 1); }", "code"),
        ("3.14159265358979 2.71828182845904", ""),
        (r"\uc548\ub155\ud558\uc138\uc694", "escaped"),
        ("Ein schöner Tag, und alle waren überall dabei, wie früher.", "latin"),
        ("The word 안녕하세요 is a greeting in Korean, as is 안녕.", "mixed"),
        ("오늘은 날씨가 아주 좋습니다 그래서 밖에 나갑니다", "dense"),
        ("🎉🎊🎈🎁🎂", ""),
    ],
)
def test_a_text_is_told_by_its_bytes(text: str, script: str) -> None:
    """Scripts differ in tokens per byte by a factor of five; digits and emoji are left to the certain bound."""
    assert script_of(text.encode()) == script


def test_an_input_is_held_at_its_bound_until_enough_were_billed() -> None:
    """One cheap answer proves nothing."""
    share = Share()
    for _ in range(LEAST_INPUTS - 1):
        share.add(250, 1000)
    assert (share.tokens(1000), share.rate) == (1000, 1.0)
    share.add(250, 1000)
    assert share.tokens(1000) == int(250 * INPUT_MARGIN) + INPUT_FLOOR
    assert 0.25 < share.rate < INPUT_MARGIN / 4


def test_a_miss_widens_the_bound_at_once_and_never_beyond_what_is_certain() -> None:
    """What was billed once can be billed again."""
    share = Share()
    for _ in range(LEAST_INPUTS):
        share.add(100, 1000)
    share.add(600, 1000)
    assert share.tokens(1000) >= 600
    share.add(1000, 1000)
    assert (share.tokens(1000), share.rate) == (1000, 1.0)


def lognormal(count: int, seed: int = 1) -> list[int]:
    rng = random.Random(seed)
    return [max(1, round(300 * rng.lognormvariate(0, 1.1))) for _ in range(count)]


def test_a_learned_cap_cuts_fewer_than_one_answer_in_a_hundred() -> None:
    """A cap that people notice is worse than a hold that is too large."""
    lengths = Lengths()
    for tokens in lognormal(LEAST_ANSWERS - 1):
        lengths.add(tokens)
    assert lengths.cap is None
    cut = asked = 0
    for tokens in lognormal(4000, seed=2):
        if lengths.cap is not None:
            asked += 1
            if tokens >= lengths.cap:
                cut += 1
                lengths.cut(lengths.cap)
                continue
        lengths.add(tokens)
    assert cut / asked < 0.01
    assert lengths.cap is not None
    assert 3000 < lengths.cap < 9000
    assert LEAST_SLICE <= lengths.first_slice < 400
    # E[L * L] / 2 E[L] of this distribution is 920.
    assert 600 < lengths.remaining < 1500


def test_a_cut_answer_widens_the_cap_at_once_and_for_a_while() -> None:
    """The next one of its kind must not be cut for the same reason."""
    lengths = Lengths()
    for _ in range(LEAST_ANSWERS):
        lengths.add(100)
    before = lengths.cap
    assert before is not None
    lengths.cut(before)
    assert lengths.cap is not None
    assert lengths.cap > before
    lengths.cut(lengths.cap)
    widened = lengths.cap
    for _ in range(WIDENED_ANSWERS + 4 * LEAST_ANSWERS + LOOK_EVERY):
        lengths.add(100)
    assert lengths.cap < widened


def test_old_answers_are_forgotten() -> None:
    """A model that is asked something else answers at other lengths."""
    lengths = Lengths()
    for _ in range(1000):
        lengths.add(5000)
    for _ in range(4 * MOST_ANSWERS):
        lengths.add(10)
    assert lengths.cap is not None
    assert lengths.cap < 100


def test_nothing_answered_has_no_quantile() -> None:
    """There is no longest of none."""
    assert Lengths().quantile(0.01) == 0


def test_habits_are_shared_by_what_is_alike() -> None:
    """Another key's traffic teaches too; another route's answers do not, other inputs of the deployment do."""
    learned = Learned()
    one = learned.habits(route="a", model="m", deployment="p/m", strict=False)
    same = learned.habits(route="a", model="m", deployment="p/m", strict=True)
    other = learned.habits(route="b", model="m", deployment="p/m", strict=False)
    assert one.share(request()) is same.share(request()) is other.share(request())
    assert one.lengths(request()) is same.lengths(request())
    assert one.lengths(request()) is not other.lengths(request())
    assert one.written() is other.written()


def test_what_cannot_be_learned_from_is_left_alone() -> None:
    """Images and digits keep their certain bound; a client's own cap, several answers and embeddings say nothing of lengths."""
    habits = Learned().habits(route="a", model="m", deployment="p/m", strict=False)
    image = [{"type": "image_url", "image_url": {"url": "https://images.test/a.png"}}]
    assert habits.share(request(image)) is None
    assert habits.share(request("0123456789" * 20)) is None
    assert habits.lengths(request(max_tokens=5)) is None
    assert habits.lengths(request(n=2)) is None
    assert habits.lengths(request(operation="embeddings")) is None


def test_a_long_text_is_told_by_a_sample_of_it() -> None:
    """Reading all of a book again for each request would cost more than the rest of the proxy."""
    prose, hangul, digits = b"The quick brown fox. " * 5000, "다람쥐 헌 쳇바퀴에 타고파. ".encode() * 3000, b"31415926" * 9000
    for text in (prose, hangul, digits, json.dumps("쳇바퀴" * 9000).encode()):
        assert script_of(sample_of(text)) == script_of(text)
        assert len(sample_of(text)) < 10_000
    assert sample_of(b"short") == b"short"
