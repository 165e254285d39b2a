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
from router.learned.feedback import labels_of, read_prompts
from router.learned.files import load_model
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
    with pytest.raises(ConfigError, match='no answer of "x"'):
        labels_of(prompts, answers, given, small="x", large="l")


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
