"""`faregate router train --from-feedback`: what clients said of answers, as labels."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from router.commands.router import app
from router.domain.feedback import Feedback
from router.domain.records import SpendRecord
from router.errors import ConfigError
from router.learned.feedback import doubt, labels_of, read_prompts
from router.learned.files import load_model
from router.learned.labels import Label
from tests.running import running
from tests.scripted_behaviours import Json, usage
from tests.scripted_upstream import ScriptedUpstream

CONFIG = """
version: 1
server: {store: "STORE"}
providers: {up: {kind: openai, base_url: "UP", api_key: $PROVIDER_KEY}}
models:
  small: {at: up/small, price: {input: 1, output: 1}}
  large: {at: up/large, price: {input: 9, output: 9}}
keys:
  tester: {secret: $TEST_KEY}
"""
HARD, EASY = "Prove the theorem about integrals", "Say hello to my friend"


def answer(request_id: str, model: str, outcome: str = "ok") -> SpendRecord:
    return SpendRecord(
        at_ms=1, attempt_id=f"{request_id}.0", request_id=request_id, key_id="k", model=model, deployment=f"up/{model}", outcome=outcome
    )


def test_each_rated_prompt_is_a_label_and_the_other_model_counts_by_its_mean() -> None:
    """Nobody rates what was not answered; and only the key that asked may say what the answer was worth."""
    prompts = {"a": "one", "b": "two", "c": "one", "d": "four", "e": "five", "f": "six"}
    answers = [
        answer("a", "s"),
        answer("b", "l"),
        answer("c", "l"),
        answer("d", "s"),
        answer("e", "other"),
        answer("f", "s", "upstream_lost"),
    ]
    ratings = {"a": 0.0, "b": 1.0, "c": 0.5, "e": 1.0, "f": 1.0}
    given = {(name, "k"): Feedback(request_id=name, key_id="k", at_ms=1, rating=rating) for name, rating in ratings.items()}
    given["d", "someone"] = Feedback(request_id="d", key_id="someone", at_ms=1, rating=1.0)
    labels = labels_of(prompts, answers, given, small="s", large="l")
    assert [(label.prompt, label.small, label.large) for label in labels] == [("one", 0.0, 0.5), ("two", 0.0, 1.0)]


@pytest.mark.parametrize(
    ("ratings", "said"),
    [
        ({"a": 1.0, "b": 0.5}, r"rated are: frontier, pocket\. did you mean 'pocket'\?$"),
        ({"b": 0.5}, r"rated are: frontier\.$"),
        ({}, ", and none of another model$"),
    ],
)
def test_a_model_without_ratings_is_told_from_those_that_have_some(ratings: dict[str, float], said: str) -> None:
    """Most often its name is misspelt."""
    given = {(name, "k"): Feedback(request_id=name, key_id="k", at_ms=1, rating=rating) for name, rating in ratings.items()}
    with pytest.raises(ConfigError, match=f'^no answer of "poket" to one of these prompts has a rating.*{said}'):
        labels_of({"a": "one", "b": "two"}, [answer("a", "pocket"), answer("b", "frontier")], given, small="poket", large="frontier")


def test_names_that_may_be_swapped_are_asked_about_with_both_means() -> None:
    """A router that was trained the wrong way round sends what is hard to the small model, and looks as good as any."""
    labels = [Label("one", 0.25, 1.0), Label("two", 0.5, 1.0)]
    assert doubt(labels, small="pocket", large="frontier") == ""
    assert doubt([Label("one", 0.5, 0.5)], small="a", large="b") == ""
    swapped = doubt([Label(each.prompt, each.large, each.small) for each in labels], small="frontier", large="pocket")
    assert 'of "frontier", the small model, is 1.00, that of "pocket", the large one, 0.38' in swapped
    assert "--small pocket --large frontier" in swapped
    assert "\n" not in swapped


async def test_ratings_over_http_make_a_router(tmp_path: Path) -> None:
    """From the ledger and the operator's own prompts, nothing in between."""
    up = ScriptedUpstream()
    for name in ("small", "large"):
        up.on(name, Json(usage=usage(10, 10)))
    prompts, out, store = tmp_path / "prompts.jsonl", tmp_path / "own.fgr", ""
    async with running(tmp_path, CONFIG, up=up) as served:
        lines = []
        for number in range(24):
            hard, model = number % 2, ("small", "large")[number // 2 % 2]
            request_id = (await served.ask(model)).headers["x-faregate-request-id"]
            lines.append(json.dumps({"request_id": request_id, "prompt": f"{HARD if hard else EASY} {'abcdef'[number % 6]}{number}"}))
            await served.client.post("feedback", json={"request_id": request_id, "rating": float(not hard or model == "large")})
        await served.settled()
        prompts.write_text("\n".join(lines))
        store = served.store
    words = ["train", "--from-feedback", str(prompts), "--store", store, "--out", str(out), "--bits", "10"]
    words += ["--small", "small", "--large", "large"]
    done = await asyncio.to_thread(CliRunner().invoke, app, words)
    assert done.exit_code == 0, done.output
    assert "from 24 labels" in done.output
    model, trained = load_model(str(out))
    assert trained["sources"] == {"feedback": 24}
    assert model.scores(HARD).gap > model.scores(EASY).gap
    assert "warning" not in done.output
    swapped = [*words[:-4], "--small", "large", "--large", "small"]
    done = await asyncio.to_thread(CliRunner().invoke, app, swapped)
    assert done.exit_code == 0, done.output
    assert done.stderr.startswith('warning: the mean rating of "large", the small model, is 1.00, that of "small", the large one, 0.50: ')
    assert len(done.stderr.splitlines()) == 1
    assert CliRunner().invoke(app, [*words[:-4], "--small", "large", "--large", "large"]).exit_code == 2
    ratings = ["--from-feedback", str(prompts), "--store", store, "--small", "small", "--large", "large", "--model", str(out)]
    told = await asyncio.to_thread(CliRunner().invoke, app, ["eval", *ratings, "--json"])
    assert (told.exit_code, json.loads(told.stdout)["labels"]) == (0, 24), told.output
    made = tmp_path / "calibrated.fgr"
    told = await asyncio.to_thread(CliRunner().invoke, app, ["calibrate", *ratings, "--out", str(made)])
    assert (told.exit_code, load_model(str(made))[1]["calibrated"]) == (0, str(out)), told.output
    for verb in ("eval", "calibrate"):
        assert CliRunner().invoke(app, [verb, "--out", "x"][: 1 + 2 * (verb == "calibrate")]).exit_code == 2


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    """Without a file, without names, with a file of something else."""
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "x"}')
    assert CliRunner().invoke(app, ["train", "--out", "x.fgr"]).exit_code == 2
    assert CliRunner().invoke(app, ["train", "--out", "x.fgr", "--from-feedback", str(file), "--small", "s"]).exit_code == 2
    with pytest.raises(ConfigError, match="request_id"):
        read_prompts(file)
    with pytest.raises(ConfigError, match="No such file"):
        read_prompts(tmp_path / "none")
