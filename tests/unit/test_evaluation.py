"""`faregate evaluate` and `faregate frontier`: what models are worth, asked through the running router."""

from __future__ import annotations

import asyncio
import json
import shlex
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import msgspec
import pytest
from typer.testing import CliRunner, Result

from router.adapters.choose import visiting
from router.cli import load
from router.domain.feedback import Feedback
from router.domain.records import SpendRecord
from router.errors import ConfigError
from router.replay.evaluation import Score, graded, judged, points_of, policy_point, read_lines
from tests.books import typed
from tests.gateway import KEY
from tests.replay_logs import START_MS, write_log
from tests.running import running
from tests.scripted_behaviours import Json, usage
from tests.scripted_upstream import ScriptedUpstream
from tests.unit.test_export import book
from tests.unit.test_spend import record

CONFIG = """
version: 1
server: {store: "STORE"}
providers:
  up: {kind: openai, base_url: "UP", api_key: $PROVIDER_KEY}
models:
  small: {at: up/small, price: {input: 1, output: 10}}
  large: {at: up/large, price: {input: 10, output: 100}}
  judge: {at: up/judge, price: {input: 1, output: 1}}
keys:
  tester: {secret: $TEST_KEY}
"""
PROMPTS = [
    {"prompt": "6 x 7?", "expect": "42", "task": "math"},
    {"prompt": "Again?", "expect": "41", "task": "math"},
    {"prompt": "Say it well.", "grade": "judge"},
]


def run(*words: str) -> Result:
    return CliRunner().invoke(load(words[0]), list(words[1:]))


async def test_why_calls_failed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt model, or a router elsewhere: a count alone tells nobody what to do, and a pipeline must not go on without scores."""
    monkeypatch.setenv("FAREGATE_KEY", KEY)
    prompts, written = tmp_path / "prompts.jsonl", tmp_path / "router.yaml"
    prompts.write_text(json.dumps(PROMPTS[0]))
    written.write_text("not touched")
    words = ["evaluate", str(prompts), "--model", "smal", "--grade", "number", "--write", str(written), "--out"]
    async with running(tmp_path, CONFIG) as app:
        misspelt = await asyncio.to_thread(run, *words, str(tmp_path / "a"), "--base-url", app.base_url)
        gone = app.base_url
    elsewhere = run(*words, str(tmp_path / "b"), "--base-url", gone)
    assert (misspelt.exit_code, elsewhere.exit_code, written.read_text()) == (1, 1, "not touched")
    assert "1 of smal: HTTP 404:" in misspelt.stderr
    assert "The model 'smal' does not exist here" in misspelt.stderr
    assert "1 of smal: <urlopen error" in elsewhere.stderr


async def test_models_are_scored_through_the_router_and_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a key's own budget; run again, nothing is asked twice; the catalogue's YAML and the picture come from the same file."""
    monkeypatch.setenv("FAREGATE_KEY", KEY)
    up = ScriptedUpstream()
    up.on("small", Json(text="The answer is 42.", usage=usage(100, 10)))
    up.on("large", Json(text="It is 41", usage=usage(100, 10)))
    up.on("judge", Json(text="7", usage=usage(100, 1)))
    prompts, out, svg = (tmp_path / name for name in ("prompts.jsonl", "scores.jsonl", "frontier.svg"))
    prompts.write_text("\n".join(map(json.dumps, PROMPTS)))
    words = ["evaluate", str(prompts), "--model", "small", "--model", "large", "--grade", "number", "--out", str(out)]
    async with running(tmp_path, CONFIG, up=up) as app:
        words += ["--base-url", app.base_url]
        assert run(*words).exit_code == 2
        words += ["--judge", "judge"]
        first = await asyncio.to_thread(run, *words)
        assert first.exit_code == 0, first.output
        await app.settled()
        asked = len(await app.records())
        log = write_log(tmp_path / "log.jsonl", typed(await app.records()))
        again = await asyncio.to_thread(run, *words)
        await app.settled()
        assert (again.exit_code, len(await app.records())) == (0, asked)
        short = await asyncio.to_thread(
            run, *words[:-6], "--out", str(tmp_path / "b"), "--base-url", app.base_url, "--judge", "judge", "--max-cost", "$0.0001"
        )
        monkeypatch.setenv("FAREGATE_KEY", "sk-wrong")
        wrong = await asyncio.to_thread(run, *words[:-6], "--out", str(tmp_path / "c"), "--base-url", app.base_url, "--judge", "judge")
    assert asked == 8
    assert '"small": {quality: {"default": 0.567, "math": 0.500}}' in first.stdout
    assert (short.exit_code, "are spent" in short.stderr) == (1, True)
    assert (wrong.exit_code, "HTTP 401" in wrong.stderr) == (1, True)
    (tmp_path / "router.yaml").write_text(CONFIG.replace("UP", "http://127.0.0.1:9/v1").replace("STORE", "none.sqlite"))
    where = ("--config", str(tmp_path / "router.yaml"), "--replay", str(log))
    told = run("frontier", str(out), "--svg", str(svg), "--json", *where)
    points = {point["name"]: point for point in json.loads(told.stdout)}
    assert points["small"]["cost_nusd"] == 200_000
    assert (points["small"]["on_frontier"], points["large"]["on_frontier"]) == (True, False)
    assert points["oracle"]["quality"] == pytest.approx(0.9)
    assert ElementTree.fromstring(svg.read_text()).tag.endswith("svg")
    assert "on the frontier" in run("frontier", str(out)).stdout
    assert points["today's policy"]["cost_nusd"] == pytest.approx((3 * 200_000 + 3 * 2_000_000) / 6)


CHECK = """
import os, subprocess, sys
out = subprocess.check_output([sys.executable], stdin=0)
assert out.decode().strip() == os.environ["GRADE_EXPECT"]
"""


async def test_code_is_graded_by_running_it_and_the_scores_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command is needed before anything is spent; routes have no place in the catalogue."""
    monkeypatch.setenv("FAREGATE_KEY", KEY)
    up = ScriptedUpstream()
    up.on("small", Json(text="```python\nprint(41)\n```", usage=usage(10, 10)))
    up.on("large", Json(text="```python\nprint(42)\n```", usage=usage(10, 10)))
    prompts, out, config = (tmp_path / name for name in ("prompts.jsonl", "scores.jsonl", "router.yaml"))
    prompts.write_text(json.dumps({"prompt": "Print 6 x 7.", "expect": "42", "task": "code"}))
    config.write_text(CONFIG.replace("UP", "http://127.0.0.1:9/v1").replace("STORE", "none.sqlite"))
    words = ["evaluate", str(prompts), "--model", "small", "--model", "large", "--grade", "run", "--out", str(out), "--write", str(config)]
    async with running(tmp_path, CONFIG, up=up) as app:
        words += ["--base-url", app.base_url]
        assert "name one" in (await asyncio.to_thread(run, *words)).output
        assert "no program nosuch" in (await asyncio.to_thread(run, *words, "--run", "nosuch -x")).output
        made = await asyncio.to_thread(run, *words, "--run", shlex.join([sys.executable, "-c", CHECK]), "--run-seconds", "60")
        assert made.exit_code == 0, made.output
    assert "the quality of 2 models was written" in made.stderr
    assert "  small: {quality: {default: 0.000, code: 0.000}, at: up/small" in config.read_text()
    assert "  large: {quality: {default: 1.000, code: 1.000}, at: up/large" in config.read_text()


def test_a_policy_lies_between_the_models_that_it_uses() -> None:
    """By the shares in which they served; models that were not evaluated count for nothing."""
    scores = [Score(prompt=1, model="a", score=1.0, cost_nusd=30), Score(prompt=1, model="b", score=0.5, cost_nusd=10)]
    points = points_of([*scores, Score(prompt=2, model="a", error="HTTP 500")])
    today = policy_point("today", {"a": 1, "b": 3, "c": 5}, points)
    assert today is not None
    assert (today.cost_nusd, today.quality, today.of_traffic) == (15, 0.625, 4 / 9)
    assert policy_point("today", {"c": 1}, points) is None
    assert points_of([]) == []


LEFT_OUT = "today's policy is drawn by 30 of 40 answers of the log (75.0%): the others came from models that were not evaluated: small 10."


@pytest.mark.parametrize(
    ("evaluated", "since", "says"),
    [
        (["big", "small"], "2026-01-01", ""),
        (["big"], "2026-01-01", LEFT_OUT),
        (["other"], "2026-01-01", "None of its models was evaluated: today's policy is not drawn."),
        (["big"], "1d", "The log has no answers in this time: today's policy is not drawn."),
    ],
)
def test_of_how_much_traffic_todays_policy_is_drawn_is_said(tmp_path: Path, evaluated: list[str], since: str, says: str) -> None:
    """What a part of the traffic costs is not what the policy costs."""
    scores, log, svg = (tmp_path / name for name in ("scores.jsonl", "log.jsonl", "frontier.svg"))
    scores.write_bytes(b"\n".join(msgspec.json.encode(Score(prompt=1, model=name, score=1.0, cost_nusd=9)) for name in evaluated))
    config = CONFIG.replace("UP", "http://127.0.0.1:9/v1").replace("STORE", "none.sqlite")
    (tmp_path / "router.yaml").write_text(config)
    models = ["big"] * 30 + ["small"] * 10
    write_log(
        log, [SpendRecord(attempt_id=f"{n}.1", request_id=str(n), at_ms=START_MS, model=m, deployment=m) for n, m in enumerate(models)]
    )
    words = ("frontier", str(scores), "--config", str(tmp_path / "router.yaml"), "--replay", str(log), "--since", since, "--svg", str(svg))
    shown = run(*words)
    assert (shown.exit_code, shown.stdout.splitlines()[1]) == (0, says)
    assert ("75% of the log" in svg.read_text()) == (says == LEFT_OUT)
    assert run(*words, "--json").stderr.strip() == says


def test_grades() -> None:
    """What is right in another form is right."""
    assert graded("So the answer is: 1,000", "1000", "number") == 1
    assert graded("(B)", "B", "choice") == 1
    assert graded('```json\n{"b": 1, "a": 2}\n```', '{"a":2,"b":1}', "json") == 1
    assert graded("  Paris. ", "paris", "exact") == 1
    assert graded("It is in Paris, France", "paris", "contains") == 1
    assert graded("London", "paris", "contains") == 0
    assert (judged("8"), judged("Rating: 7.5/10"), judged("none"), judged("99")) == (0.8, 0.75, None, None)


def test_an_answer_follows_a_schema_and_has_what_is_expected() -> None:
    """JSON that is right in form and wrong in substance is no answer, nor is prose."""
    schema = {"type": "object", "properties": {"n": {"type": "integer"}, "why": {"type": "string"}}, "required": ["n"]}
    fenced = 'Here it is:\n```json\n{"n": 42, "why": "so"}\n```'
    assert graded(fenced, "", "schema", schema) == 1
    assert graded(fenced, '{"n": 42}', "schema", schema) == 1
    assert graded(fenced, '{"n": 41}', "schema", schema) == 0
    assert graded('{"n": "42"}', "", "schema", schema) == 0
    assert graded("It is 42.", "", "schema", schema) == 0
    assert graded("[1]", "[1]", "schema", {"type": "array"}) == 1
    with pytest.raises(ConfigError, match="cannot be used"):
        graded('{"n": 1}', "", "schema", {"properties": {"n": {"minimum": "a"}}})


def test_a_prompt_without_a_schema_cannot_be_graded_by_one(tmp_path: Path) -> None:
    """Told before anything is spent."""
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "x"}')
    done = run("evaluate", str(prompts), "--model", "m", "--grade", "schema", "--out", str(tmp_path / "out"))
    assert done.exit_code == 2
    assert "no `json_schema`" in " ".join(done.output.replace("│", " ").split())


def test_a_picture_as_png_needs_an_extra_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything else works without it."""
    scores, png = tmp_path / "scores.jsonl", tmp_path / "frontier.png"
    scores.write_text('{"prompt": 1, "model": "a", "score": 1, "cost_nusd": 100}')
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    assert "pip install 'faregate[png]'" in str(run("frontier", str(scores), "--png", str(png)).exception)
    drawer: Any = ModuleType("resvg_py")
    drawer.svg_to_bytes = lambda *, svg_string, width: f"{width} of {svg_string}".encode()
    monkeypatch.setitem(sys.modules, "resvg_py", drawer)
    assert run("frontier", str(scores), "--png", str(png)).exit_code == 0
    assert png.read_bytes().startswith(b"1440 of <svg")


@pytest.mark.parametrize("option", ["--svg", "--png", "--out", "--junit"])
def test_a_file_that_cannot_be_written_is_named_in_a_line(option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an evaluation before anything is asked: it would be spent for nothing."""
    drawer: Any = ModuleType("resvg_py")
    drawer.svg_to_bytes = lambda *, svg_string, width: b""
    monkeypatch.setitem(sys.modules, "resvg_py", drawer)
    lines, missing = tmp_path / "lines.jsonl", tmp_path / "no" / "folder"
    lines.write_text('{"prompt": 1, "model": "a", "score": 1}' if option in ("--svg", "--png") else '{"prompt": "x"}')
    words = {"--out": ("evaluate", str(lines), "--model", "m"), "--junit": ("test", "config/router.test.yaml", "-c", "config/router.yaml")}
    done = run(*words.get(option, ("frontier", str(lines))), option, str(missing))
    assert isinstance(done.exception, ConfigError)
    assert str(done.exception) == f"{missing} cannot be written: No such file or directory"


def test_a_file_of_something_else_is_told_what_a_line_is(tmp_path: Path) -> None:
    """The file, the line, and what is expected there."""
    scores = tmp_path / "prompts.jsonl"
    scores.write_text('\n{"prompt": "x", "model": "a"}')
    with pytest.raises(ConfigError, match=r"prompts\.jsonl:2: is not a score, .*: Expected int, got str"):
        read_lines(scores, Score)


async def test_the_log_alone_shows_cost_and_ratings(tmp_path: Path) -> None:
    """Of each model and route that is rated often enough, and of all together: what its answers really came to."""
    store = str(tmp_path / "ledger.sqlite")
    usual: dict[str, Any] = {"route": "auto", "key_id": "k", "at_ms": START_MS}
    made = {"a": ("small", 1.0), "b": ("small", 0.5), "c": ("large", 1.0), "d": ("large", None), "e": ("rare", 1.0)}
    calls = [(name, model, 10**7 * len(model)) for name, (model, _) in made.items()]
    await book(
        store, [record(attempt_id=f"{n}.0", request_id=n, model=m, deployment=f"one/{m}", charge_nusd=c, **usual) for n, m, c in calls]
    )
    async with visiting(store) as ledger:
        for number, (name, (_, rating)) in enumerate(made.items()):
            await ledger.feedback_store().put(Feedback(request_id=name, key_id="k", at_ms=START_MS + number, rating=rating))
    (tmp_path / "router.yaml").write_text(CONFIG.replace("UP", "http://127.0.0.1:9/v1").replace("STORE", store))
    words = ("frontier", "--config", str(tmp_path / "router.yaml"), "--since", "2026-01-01", "--least", "1")
    told = await asyncio.to_thread(run, *words, "--json")
    points = {point["name"]: (point["kind"], point["quality"], point["cost_nusd"], point["prompts"]) for point in json.loads(told.stdout)}
    assert points == {
        "rare": ("model", 1.0, 4 * 10**7, 1),
        "small": ("model", 0.75, 5 * 10**7, 2),
        "large": ("model", 1.0, 5 * 10**7, 1),
        "route auto": ("policy", 0.875, 4.8 * 10**7, 4),
        "today's policy": ("policy", 0.875, 4.8 * 10**7, 4),
    }
    shown = (await asyncio.to_thread(run, *words[:-1], "2", "--svg", str(tmp_path / "f.svg"))).stdout
    assert "left out: large 1, rare 1." in shown
    assert "s policy (0.048 USD, 0.875)" in (tmp_path / "f.svg").read_text()
