"""The benchmarks of policies: recorded answers behind the real service, and what comes of a configuration in front of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.policy_quality import cascade, effects, holding, presets
from benchmarks.policy_quality.recorded import Answer, Made, Price, Recorded, read_recorded
from benchmarks.policy_quality.replay import replay
from router.learned.files import BUILTIN, load_model
from router.replay.evaluation import Score, points_of, read_lines
from router.settings.preset import presets as ready_made

PRICES = {"a": Price(0.1, 0.2), "b": Price(0.2, 0.4), "big": Price(2.0, 8.0)}
SAID = {"right": ("12", "12", "12"), "one": ("7", "12", "12"), "both": ("7", "9", "12"), "same": ("7", "7", "12")}


def answers(folder: Path) -> Path:
    """What three models said to four prompts; the last two small answers are wrong in the same way."""
    lines = []
    for prompt, said in SAID.items():
        told = {
            name: {"text": f"So it is.\nThe answer is {number}.", "input_tokens": 1000, "output_tokens": 100}
            for name, number in zip(PRICES, said, strict=True)
        }
        lines.append(json.dumps({"prompt": prompt, "expect": "12", "extract": "number", "answers": told}))
    path = folder / "answers.jsonl"
    path.write_text("\n".join(lines))
    return path


async def test_a_cascade_goes_on_where_two_small_answers_differ_and_every_step_is_in_the_books(tmp_path: Path) -> None:
    """The headline of the benchmark rests on it."""
    recorded = read_recorded(answers(tmp_path), list(PRICES))
    outcome = await replay(cascade.config(PRICES, cascade.cascade_of("a", "b", "big", "number")), recorded)
    assert outcome.asked == {"a": 1.0, "b": 1.0, "big": 0.5}
    assert outcome.quality == 0.75
    small, large = 120_000 + 240_000, 2_800_000
    assert [nusd for _, nusd in outcome.each] == [small, small + large, small + large, small]
    assert outcome.usd_per_1000 == pytest.approx((small + large / 2) / 1e6)


def test_the_frontier_places_a_cascade_among_the_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a policy, which no oracle chooses; and the break-even is printed."""
    out = tmp_path / "scores.jsonl"
    cascade.main([str(answers(tmp_path)), "--small", "a=0.1/0.2", "--small", "b=0.2/0.4", "--large", "big=2/8", "--scores", str(out)])
    printed = capsys.readouterr().out
    assert "| cascade a + b | 0.750 | 75.0 % | 50.0 % | 1.760 |" in printed
    assert "Break-even: 50.0 %." in printed
    points = {point.name: point for point in points_of(read_lines(out, Score))}
    assert (points["cascade a + b"].kind, points["cascade a + b"].cost_nusd) == ("policy", 1_760_000)
    assert points["oracle"].cost_nusd == (120_000 + 240_000 + 2 * 2_800_000) / 4


def test_wrong_answers_that_are_made_up_agree_as_often_as_is_said(tmp_path: Path) -> None:
    """Of a file that has scores only, nobody knows it: the two ends are what can be said."""
    path = tmp_path / "scores.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": f"p{n}", "scores": {"a": 0, "b": 0}}) for n in range(200)))
    for share in (0.0, 1.0):
        recorded = read_recorded(path, ["a", "b"], Made(PRICES, same_wrong=share))
        assert sum(one.answers["a"].text == one.answers["b"].text for one in recorded) == share * 200
    with pytest.raises(SystemExit, match="no prompt has answers"):
        read_recorded(path, ["a", "c"])


async def test_a_ready_made_route_is_measured_as_it_is_served() -> None:
    """Tags, classes and the pace of the budget are those that the service sees."""
    said = {name: Answer(text="42", input_tokens=100, output_tokens=10, score=0.5 + place / 10) for place, name in enumerate(presets.NAMES)}
    recorded = [Recorded(prompt=f"p{number}", cat="gsm8k" if number % 2 else "mmlu", answers=said) for number in range(6)]
    outcome = await presets.measured("cheapest-capable", recorded, dict.fromkeys(presets.NAMES, 0.5), 1.0)
    assert outcome.answered == {"meta-llama/llama-3.1-8b-instruct": 0.5, "mistralai/mistral-large-2512": 0.5}
    assert outcome.quality == pytest.approx((0.5 + 0.7) / 2)
    assert (await presets.measured("budget-pacing", recorded, {name: one.score for name, one in said.items()}, 1.0)).refused == 0


def test_the_documentation_has_what_every_ready_made_route_costs() -> None:
    """The table is written by the benchmark; a preset that is new has to be measured."""
    measured = (Path(__file__).parents[2] / presets.PAGE).read_text(encoding="utf-8").partition(presets.BEGIN)[2].partition(presets.END)[0]
    assert all(f"| `{name}` |" in measured for name in ready_made())
    assert presets.written(f"a{presets.BEGIN}old{presets.END}b", "new") == f"a{presets.BEGIN}\n\nnew\n\n{presets.END}b"


def world(prompts: int = 40) -> effects.World:
    """Prompts that every model answers."""
    said = {
        name: Answer(text="42", input_tokens=1000, output_tokens=100 * (place + 1), score=0.5 + place / 10)
        for place, name in enumerate(effects.NAMES)
    }
    recorded = [Recorded(prompt=f"Prompt number {number} of some", answers=said) for number in range(prompts)]
    quality = {name: one.score or 0.0 for name, one in said.items()}
    by_task = {name: {"default": 0.8, "code": score} for name, score in quality.items()}
    code = ["```python\ndef f(x):\n    return x + 1\n```\nWhat does f(2) return?"]
    return effects.World(recorded=recorded, quality=quality, by_task=by_task, code=code, korean=["서울의 날씨를 알려 주세요"])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("cheapest-capable", "0.03 USD per 1,000 requests at a mean score of 0.500; gemini-2.5-pro for everything: 5.25 USD at 0.800."),
        ("code", "Of 1 questions of CRUXEval, MBPP and HumanEval 100 % went to the model with `domain: code`, of 40 others 0 %."),
        ("korean", "Of 1 Korean texts (messages of a program, 10 letters and more) 100 % went to the model with `languages: [ko]`"),
        ("small-first-cascade", "0 % of the clients got one (20 % by cost alone)"),
        ("local-first", "as restricted 0 % left the house"),
        ("local-private", "0 % of these left the house"),
        ("latency-slo", "of 12 streams began within 800 ms"),
        ("vendor-neutral", "had"),
        ("balanced-weighted", "With weights of 3 and 1"),
        ("budget-pacing", "the dearest model alone would have used it up"),
        ("quality-per-dollar", "by cost alone"),
    ],
)
async def test_what_a_ready_made_route_is_for_is_measured(name: str, said: str) -> None:
    """By the service itself; the sentence goes into the preset."""
    prompts = world(12 if name == "latency-slo" else 40)
    if name == "quality-per-dollar":
        prompts.recorded[0].prompt = prompts.code[0]
    assert said in await effects.EFFECTS[name](prompts)


async def test_a_provider_that_caches_tells_what_it_had_of_a_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or nothing would be saved by staying."""
    monkeypatch.setattr(effects, "RUNS", 2)
    monkeypatch.setattr(effects, "TURNS", 3)
    told = await effects.EFFECTS["agents"](world(1))
    costs = [float(word) for word in told.replace("(", "").split() if word.startswith("0.")]
    tokens = 2_000 + 4_000 * 0.1 + 2_000 * 0.9 + 6_000 * 0.1 + 2_000 * 0.9
    assert costs[0] == pytest.approx(tokens * 0.3 / 1e6 + 3 * 150 * 2.5 / 1e6, rel=0.3)


def test_every_ready_made_route_says_what_was_measured() -> None:
    """A promise without a figure is an advertisement."""
    assert set(effects.EFFECTS) == set(ready_made())
    for name, preset in ready_made().items():
        assert any(char.isdigit() for char in preset["measured"]), name
    old = "purpose: >-\n  For.\nmeasured: >-\n  old one\n  of two lines\nroute:\n  use: x\n"
    once = effects.written(old, "New, at 5 %.")
    assert once == "purpose: >-\n  For.\nmeasured: >-\n  New, at 5 %.\nroute:\n  use: x\n"
    assert effects.written(once, "New, at 5 %.") == once


def test_korean_texts_are_read_from_catalogues_of_translations(tmp_path: Path) -> None:
    """Messages of several lines, too; the head is none."""
    folder = tmp_path / "x" / "ko" / "LC_MESSAGES"
    folder.mkdir(parents=True)
    head = 'msgid ""\nmsgstr ""\n"Content-Type: text/plain; charset=UTF-8\\n"\n\n'
    (folder / "django.po").write_text(
        head + 'msgid "a"\nmsgstr ""\n"이 값은 올바른 "\n"숫자여야 합니다\\n"\n\nmsgid "b"\nmsgstr "짧다"\n\n'
    )
    assert effects.korean_texts([tmp_path]) == ["이 값은 올바른 숫자여야 합니다 "]


def test_a_share_is_held_for_every_language_alone(tmp_path: Path) -> None:
    """One threshold for all languages holds for one of them."""
    english = [f"What is {number} times {number + 1}, and why does it matter to {word}?" for number in range(600) for word in ("a", "b")]
    messages = [f"{number} 번째 값은 올바른 숫자여야 합니다" for number in range(holding.FEWEST)]
    texts = {"en": english, "ko": messages}
    lines = holding.table(texts, load_model(BUILTIN)[0]).splitlines()
    assert [line.split(" | ")[:2] for line in lines[2:4]] == [["| en", "100 %"], ["| ko", "100 %"]]
    assert float(lines[-1].partition("alone ")[2].partition(" ")[0]) <= 0.03
    mixed = holding.traffic(texts, 1)
    assert sum(name == "ko" for name, _ in mixed) == holding.REQUESTS
    folder = tmp_path / "de" / "LC_MESSAGES"
    folder.mkdir(parents=True)
    (folder / "django.po").write_text('msgid "a"\nmsgstr "Die Antwort "\n"auf alles"\n\nmsgid "b"\nmsgstr[0] "kurz"\n\n')
    assert holding.messages([tmp_path]) == {"de": ["Die Antwort auf alles"]}
