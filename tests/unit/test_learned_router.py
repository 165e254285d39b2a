"""The learned router: what it sees, what it says, how it is trained, kept and held to a target."""

from __future__ import annotations

import gzip
import random
from pathlib import Path
from zlib import crc32

import msgspec
import pytest

from policies.learned.features import LONGEST_WORD, MAX_CHARACTERS, features_of
from policies.learned.glossary import GLOSSARY
from policies.learned.model import Head, Model, Scores
from policies.learned.thresholds import LEAST, MOST_WINDOWS, Target, Thresholds
from router.errors import ConfigError
from router.learned.files import BUILTIN, load_model, read_bytes, write_bytes
from router.learned.labels import Label, fold_of, read_labels, without_texts
from router.learned.measure import calibration_error, quality
from router.learned.train import cross_validate, points, ranks_of, train

HARD, EASY = "Prove the theorem about integrals", "Say hello to my friend"


def labels(count: int = 200) -> list[Label]:
    """Hard prompts that only the large model answers, easy ones that both do."""
    made = []
    for number in range(count):
        hard = number % 2
        made.append(
            Label(f"{HARD if hard else EASY}, case {'abcdefghij'[number % 10]} {number}", 1.0 - hard, 1.0, small_usd=0.1, large_usd=1.0)
        )
    return made


def test_features_are_the_same_everywhere() -> None:
    """A model is trained on one machine and used on another; Python's own hashes differ from process to process."""
    # CRC-32 of "hello", as every implementation has it.
    assert 0x3610A686 in features_of("Hello")
    assert len(features_of("")) > 5
    assert features_of("a" * MAX_CHARACTERS + "b" * 10_000 + "z") != features_of("a")


def test_a_korean_word_has_the_meaning_of_the_english_one() -> None:
    """All labels are in English; what was learned of a subject holds for Korean prompts too."""
    assert GLOSSARY["적분"] == "integral"
    found = features_of("다음 적분을 계산하시오") - features_of("안녕하세요 오늘")
    assert {crc32(b"integral"), crc32(b"calculate")} <= found & features_of("calculate the integral")


def test_what_is_too_long_for_a_word_has_no_meaning() -> None:
    """Text without spaces would fill the cache of words, and begin with a word only by chance."""
    longest = "적분" + "가" * (LONGEST_WORD // 3 - 2)
    assert crc32(b"integral") in features_of(longest)
    assert crc32(b"integral") not in features_of(longest + "가")


def test_a_model_learns_what_is_hard_and_survives_its_file(tmp_path: Path) -> None:
    """Trained, written, read back: the same scores."""
    model = train(labels(), bits=12)
    hard, easy = model.scores("Prove the theorem about sums"), model.scores("Say hello to my aunt")
    assert hard.gap > 0.5 > easy.gap
    assert hard.small < 0.5 < easy.small
    assert hard.difficulty > easy.difficulty
    file = tmp_path / "own.fgr"
    file.write_bytes(write_bytes(model, {"labels": 200}))
    again, trained = load_model("own.fgr", tmp_path)
    assert again.scores(HARD) == model.scores(HARD)
    assert trained == {"labels": 200}


def test_a_file_that_is_damaged_or_foreign_is_refused(tmp_path: Path) -> None:
    """A wrong number in a model would send requests the wrong way without a word."""
    data = write_bytes(train(labels(), bits=8), {})
    head = data.index(b"\n", 20)
    for broken, said in (
        (b"pickle", "no file of"),
        (data[:30], "manifest"),
        (data[:-1], "not as many"),
        (data[:-1] + bytes([data[-1] ^ 1]), "checksum"),
        (data[:head].replace(b'"features":2', b'"features":9') + data[head:], "features of version 9"),
    ):
        with pytest.raises(ConfigError, match=said):
            read_bytes(broken, "x")
    with pytest.raises(ConfigError, match="no such model"):
        load_model("builtin:v9")
    with pytest.raises(ConfigError, match="No such file"):
        load_model("missing.fgr", tmp_path)


def test_labels_are_read_in_every_form(tmp_path: Path) -> None:
    """A pair, named models, or a whole table of models whose halves stand for small and large."""
    file = tmp_path / "mine.jsonl"
    table = {"a": 0.0, "b": 0.2, "c": 0.8, "d": 1.0}
    file.write_bytes(
        b"\n".join(
            msgspec.json.encode(line)
            for line in (
                {"prompt": "one", "small": 0, "large": 1},
                {"prompt": "two", "scores": table, "cost_usd": {"d": 0.5}},
                {"prompt": "three", "scores": {"a": None}},
                {"prompt": "four", "scores": {"b": 1, "c": 1}},
            )
        )
    )
    assert read_labels(file)[:2] == [Label("one", 0, 1, "mine"), Label("two", 0.1, 1.0, "mine", "", None, 0.5)]
    packed = tmp_path / "mine.jsonl.gz"
    packed.write_bytes(gzip.compress(file.read_bytes()))
    assert [label.prompt for label in read_labels(packed, small=["b"], large=["c"])] == ["one", "two", "four"]
    file.write_bytes(b'{"prompt": 1}')
    with pytest.raises(ConfigError, match="not JSON lines"):
        read_labels(file)
    file.write_bytes(b'{"prompt": "x", "scores": {"a": null}}')
    with pytest.raises(ConfigError, match="no line has scores"):
        read_labels(file, small=["a"], large=["b"])
    with pytest.raises(ConfigError, match="No such file"):
        read_labels(tmp_path / "none")


def test_the_same_question_never_stands_in_two_parts() -> None:
    """Else a router is praised for knowing by heart."""
    assert fold_of("What is it?") == fold_of("what is  it")
    kept = without_texts([Label("A b.", 0, 1), Label("c", 0, 1)], [Label("a B", 1, 1)])
    assert [label.prompt for label in kept] == ["c"]


def test_quality_is_measured_against_both_models_alone() -> None:
    """The oracle recovers the whole gap with the prompts that gain; random order recovers it in proportion."""
    found = labels(100)
    best = quality([label.gap for label in found], found)
    assert (best.cpt50, best.cpt80, best.s95) == (0.25, 0.4, 0.45)
    assert best.apgr == pytest.approx(0.75)
    assert best.usd_per_1000 == pytest.approx(1000 * (0.45 * 1.0 + 0.55 * 0.1))
    mixed = list(range(100))
    random.Random(1).shuffle(mixed)
    assert quality([float(value) for value in mixed], found).apgr == pytest.approx(0.5, abs=0.1)
    assert calibration_error([0.2] * 10 + [0.8] * 10, [0.0, 1.0] * 5 + [1.0] * 10, bins=2) == pytest.approx(0.25)


def test_predictions_of_cross_validation_are_of_prompts_not_trained_on() -> None:
    """A label that can only be known by heart is not predicted."""
    rng = random.Random(3)
    noise = [Label(f"word{n} number{n}", float(rng.random() < 0.5), 1.0) for n in range(200)]
    assert quality(list(cross_validate(noise, bits=12).gap), noise).apgr < 0.65
    with pytest.raises(ConfigError, match="too few"):
        train(noise[:5])


def test_a_calibration_rises_and_is_level_outside() -> None:
    """A higher sum never means a lower chance."""
    line = points([0.1, 0.2, 0.3, 0.4], [0.0, 1.0, 0.0, 1.0])
    assert [y for _, y in line] == sorted(y for _, y in line)
    head = Head(weights=(), scale=1, bias=0, calibration=line)
    model = Model(
        bits=0,
        importance=(0,),
        small=Head(weights=(0,), scale=1, bias=9.0, calibration=line),
        gap=Head(weights=(0,), scale=1, bias=-9.0),
        ranks=(0.0, 1.0),
    )
    assert model.scores("x") == Scores(line[-1][1], -9.0, 0.0)
    assert head.calibration[0][1] <= head.calibration[-1][1]
    assert (model.rank(0.25), model.rank(5.0)) == (0.25, 1.0)
    low = Model(
        bits=0,
        importance=(0,),
        small=Head(weights=(0,), scale=1, bias=-9.0, calibration=line),
        gap=Head(weights=(0,), scale=1, bias=0.25, calibration=((0.0, 0.0), (1.0, 2.0))),
        ranks=(0.0, 1.0),
    )
    assert low.scores("x") == Scores(line[0][1], 0.5, 0.25)
    assert ranks_of([0.5, 0.5]) == (0.5, 1.5)


def said(difficulty: float, *, small: float = 0.5, gap: float = 0.2) -> Scores:
    return Scores(small, gap, difficulty)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.9])
def test_a_share_holds_on_every_language_by_itself(share: float) -> None:
    """A static threshold gave 92 % on one traffic and 0 % on Korean."""
    rng = random.Random(7)
    thresholds = Thresholds(Target(kind="share", value=share), size=500)
    centres = {"en": 0.6, "ko": 0.05, "ja": 0.95}
    for language, centre in centres.items():
        hard = sum(thresholds.difficulty(language, said(min(max(rng.gauss(centre, 0.05), 0.0), 1.0))) >= 0.5 for _ in range(500))
        assert hard / 500 == pytest.approx(share, abs=0.03)


def test_a_share_holds_when_all_prompts_are_alike() -> None:
    """One template a thousand times: the threshold lies on it, and requests must not all fall on one side."""
    thresholds = Thresholds(Target(kind="share", value=0.3), size=200)
    hard = [thresholds.difficulty("en", said(0.4)) >= 0.5 for _ in range(1000)]
    assert sum(hard) / 1000 == pytest.approx(0.3, abs=0.05)


def test_a_price_holds() -> None:
    """So much per request on average, with the large model for the hardest."""
    rng = random.Random(7)
    thresholds = Thresholds(Target(kind="price", value=0.004), size=500)
    spent = 0.0
    for _ in range(1000):
        hard = thresholds.difficulty("en", said(rng.random()), small_usd=0.001, large_usd=0.010) >= 0.5
        spent += 0.010 if hard else 0.001
    assert spent / 1000 == pytest.approx(0.004, rel=0.05)
    rich = Thresholds(Target(kind="price", value=1.0), size=50)
    assert all([rich.difficulty("en", said(rng.random()), small_usd=0.1, large_usd=0.2) >= 0.5 for _ in range(200)][100:])
    poor = Thresholds(Target(kind="price", value=0.05), size=50)
    assert not any([poor.difficulty("en", said(1.0), small_usd=0.1, large_usd=0.2) >= 0.5 for _ in range(200)][100:])


@pytest.mark.parametrize(("floor", "share"), [(1.0, 1.0), (0.5, 0.0)])
def test_a_floor_under_quality_asks_for_as_many_as_it_needs(floor: float, share: float) -> None:
    """All of the large model's quality needs the large model; half of it the small one has too."""
    rng = random.Random(7)
    thresholds = Thresholds(Target(kind="quality", value=floor), size=200)
    hard = [thresholds.difficulty("en", said(rng.random(), small=0.6, gap=0.2)) >= 0.5 for _ in range(400)]
    assert sum(hard[200:]) / 200 == share


def test_texts_that_are_taken_for_another_language_now_and_then_do_not_shift_the_share() -> None:
    """They stand in windows that never fill, and the prompts of the training were harder: none of them would count as difficult."""
    rng = random.Random(7)
    thresholds = Thresholds(Target(kind="share", value=0.5), size=500)
    read = [f"l{rng.randrange(10)}" if rng.random() < 0.1 else "fi" for _ in range(500)]
    hard = [thresholds.difficulty(language, said(rng.uniform(0.0, 0.3))) >= 0.5 for language in read]
    assert sum(hard) / 500 == pytest.approx(0.5, abs=0.03)


def test_the_first_requests_go_by_the_prompts_of_the_training() -> None:
    """A window that is nearly empty says nothing; and languages that somebody makes up do not fill the memory."""
    thresholds = Thresholds(Target(kind="share", value=0.3), size=100)
    assert [thresholds.difficulty("en", said(rank)) >= 0.5 for rank in (0.1, 0.69, 0.71, 1.0)] == [False, False, True, True]
    for number in range(2 * MOST_WINDOWS):
        thresholds.difficulty(f"l{number}", said(0.5))
    assert len(thresholds._windows) == MOST_WINDOWS + 1
    everything = Thresholds(Target(kind="share", value=0.0), size=LEAST)
    assert everything.difficulty("en", said(1.0)) == 0.5


def test_the_builtin_model_is_small_and_knows_hard_from_easy() -> None:
    """It comes with every install: at most a megabyte, no download, Korean included."""
    model, trained = load_model(BUILTIN)
    assert trained["labels"] > 10_000
    assert len(write_bytes(model, trained)) <= 1_000_000
    trivia, code = "Who wrote Romeo and Juliet?", "Write a Python function that finds the longest common subsequence of two strings."
    assert model.scores(code).difficulty > model.scores(trivia).difficulty
    assert 0 <= model.scores("다음 적분을 계산하고 증명하시오.").difficulty <= 1
    # Of a text of which nothing is known, little is said.
    assert 0.2 < model.scores("Ωμέγα ψυχή θάλασσα ουρανός " * 5).difficulty < 0.8
