"""The benchmarks of policies: recorded answers behind the real service, and what comes of a configuration in front of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.policy_quality import cascade, presets
from benchmarks.policy_quality.recorded import Answer, Made, Price, Recorded, read_recorded
from benchmarks.policy_quality.replay import replay
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
