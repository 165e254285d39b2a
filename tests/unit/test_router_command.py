"""`faregate router`: train, calibrate and evaluate on labels of one's own; and the settings of signals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from router.commands.router import app
from router.errors import ConfigError
from router.learned.files import load_model
from router.settings.load import load_text, price_book
from router.snapshot import Snapshot


def write_labels(path: Path, count: int = 120, start: int = 0) -> Path:
    """Prompts on proofs, which only the large model answers, and greetings, which both do."""
    lines = []
    for number in range(start, start + count):
        hard = number % 2
        prompt = f"{'Prove the theorem about integrals' if hard else 'Say hello to my friend'} number {number} {'abcdef'[number % 6]}"
        lines.append(json.dumps({"prompt": prompt, "scores": {"s": 1 - hard, "l": 1}, "cost_usd": {"s": 0.001, "l": 0.01}}))
    path.write_text("\n".join(lines))
    return path


def run(*words: str | Path) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words])
    if isinstance(done.exception, ConfigError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def test_own_labels_make_a_router_that_beats_the_length(tmp_path: Path) -> None:
    """Two hundred labels of the own traffic are worth more than any benchmark."""
    mine, others, out = write_labels(tmp_path / "mine.jsonl"), write_labels(tmp_path / "others.jsonl", start=500), tmp_path / "own.fgr"
    assert "from 120 labels" in run("train", "--bits", "12", "--data", mine, "--out", out, "--small", "s", "--large", "l")
    told = json.loads(run("eval", "--data", others, "--model", out, "--json"))
    assert told["routers"][str(out)]["apgr"] > 0.7 > told["routers"]["length of the prompt"]["apgr"] - 0.1
    assert told["calibration_error"] < 0.1
    table = run("eval", "--data", tmp_path, "--model", out)
    assert "| oracle | 0.7" in table
    assert "240 labels" in table


def test_a_few_labels_add_to_what_is_known(tmp_path: Path) -> None:
    """Begun from a trained model, what the labels do not speak of stays as it was; calibration changes the promises only."""
    first, second, third = (tmp_path / name for name in ("first.fgr", "second.fgr", "third.fgr"))
    run("train", "--bits", "12", "--data", write_labels(tmp_path / "a.jsonl"), "--out", first)
    run("train", "--bits", "12", "--data", write_labels(tmp_path / "b.jsonl", 40, 900), "--out", second, "--from", first)
    run("calibrate", "--data", tmp_path / "b.jsonl", "--out", third, "--model", first)
    known, added, calibrated = (load_model(str(path))[0] for path in (first, second, third))
    hard, easy = "Prove the theorem about integrals again", "Say hello to my friend again"
    assert added.scores(hard).gap > 0.5 > added.scores(easy).gap
    assert calibrated.raw(hard) == known.raw(hard)
    assert calibrated.small.calibration != known.small.calibration


def test_what_cannot_be_learned_from_is_refused(tmp_path: Path) -> None:
    """With a sentence, not with a traceback."""
    few = write_labels(tmp_path / "few.jsonl", 6)
    with pytest.raises(ConfigError, match="too few to learn"):
        run("train", "--bits", "12", "--data", few, "--out", tmp_path / "x.fgr")
    with pytest.raises(ConfigError, match="too few to calibrate"):
        run("calibrate", "--data", few, "--out", tmp_path / "x.fgr")
    few.write_text('{"prompt": "x", "small": 1, "large": 1}')
    with pytest.raises(ConfigError, match="nothing to route"):
        run("eval", "--data", few)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no files of labels"):
        run("eval", "--data", tmp_path / "empty")
    with pytest.raises(ConfigError, match="No such file"):
        run("train", "--bits", "12", "--data", write_labels(tmp_path / "many.jsonl"), "--out", tmp_path / "none" / "x.fgr")


def configured(signals: str, folder: Path | None = None) -> Snapshot:
    text = f"""
version: 1
providers: {{one: {{kind: openai, base_url: "http://127.0.0.1:1/v1", api_key: k}}}}
models: {{a: {{at: one/a, price: {{input: 1, output: 1}}}}, b: {{at: one/b, price: {{input: 9, output: 9}}}}}}
signals: {signals}
"""
    return load_text(text, source="test.yaml", environ={}, price_book=price_book(), folder=folder).snapshot


def test_signals_are_configured(tmp_path: Path) -> None:
    """A model of one's own is read when the configuration is, so that its errors are found then."""
    run("train", "--bits", "12", "--data", write_labels(tmp_path / "mine.jsonl"), "--out", tmp_path / "own.fgr")
    rules = configured("{difficulty: {model: own.fgr, target: {price_per_1000: $2}, between: {small: a, large: one/b}}}", tmp_path).signals
    assert rules.difficulty.model is not None
    assert rules.difficulty.target is not None
    assert (rules.difficulty.target.kind, rules.difficulty.target.value) == ("price", 0.002)
    assert (rules.difficulty.small, rules.difficulty.large) == ("one/a", "one/b")
    quality = configured("{timeout: 50ms, unread: ignore, difficulty: {target: {quality: 95%}}}").signals
    assert quality.difficulty.target is not None
    assert (quality.difficulty.target.kind, quality.difficulty.target.value) == ("quality", 0.95)
    assert (quality.timeout_seconds, quality.unread_is_private) == (0.05, False)


@pytest.mark.parametrize(
    ("signals", "said"),
    [
        ("{difficulty: {model: missing.fgr}}", "No such file"),
        ("{difficulty: {target: {}}}", "one of share, price_per_1000, quality"),
        ("{difficulty: {target: {share: 30%, quality: 90%}}}", "one of share, price_per_1000, quality"),
        ("{difficulty: {target: {price_per_1000: $2}}}", "needs between"),
        ("{difficulty: {target: {price_per_1000: $2}, between: {small: a, large: c}}}", 'no model or deployment "c"'),
    ],
)
def test_signals_that_cannot_be_are_refused(signals: str, said: str) -> None:
    """At the place, when the file is loaded."""
    with pytest.raises(ConfigError, match=said):
        configured(signals)
