"""Prompts are kept only if somebody asks for it: of answered requests, never of private ones."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from router.errors import ConfigError
from router.kept_prompts import KeptPrompts
from router.learned.feedback import read_prompts
from router.replay.evaluation import Prompt, read_lines
from router.snapshot import KeepPrompts
from tests.running import compiled, running
from tests.scripted_upstream import Fail, Json, Sequence, usage

CONFIG = """
version: 1
signals: {timeout: 5s}
server: {store: "STORE", log_requests: falseKEEP}
providers:
  up: {kind: openai, base_url: "UP", api_key: $PROVIDER_KEY}
  home: {kind: vllm, base_url: "UP", api_key: $PROVIDER_KEY}
models:
  m: {at: up/m, price: {input: 1, output: 1}}
  own: {at: home/own, price: free, locality: local}
privacy: {personal: {when: {pii: true}, only: {locality: local}}}
routes:
  auto: {use: [m, own], by: fixed, fallback: {tries: 1, retries: 0}}
"""


def config(tmp_path: Path, keep: str = "") -> str:
    return CONFIG.replace("KEEP", f", keep_prompts: {{file: '{tmp_path}/prompts.jsonl', share: 100%{keep}}}")


async def test_prompts_of_answered_requests_are_kept(tmp_path: Path) -> None:
    """A line each, which evaluations and the learned router read; not of failed requests, of private ones, or of embeddings."""
    async with running(tmp_path, config(tmp_path)) as app:
        app.up.on("m", Sequence([Json(usage=usage(1, 1)), Fail(), Json(usage=usage(1, 1))]))
        app.up.on("own", Json(usage=usage(1, 1)))
        pretty = json.dumps({"model": "auto", "messages": [{"role": "user", "content": "What\nis 6 x 7?"}]}, indent=1)
        first = await app.client.post("chat/completions", content=pretty, headers={"content-type": "application/json"})
        assert first.status_code == 200
        assert (await app.ask("auto")).status_code >= 500
        private = await app.ask("auto", messages=[{"role": "user", "content": "Write to jane.doe@example.com."}])
        assert (private.status_code, private.headers["x-faregate-model"]) == (200, "own")
        old = await app.client.post("completions", json={"model": "auto", "prompt": "Once upon"})
        assert old.status_code == 200, old.text
        await app.settled()
    file = tmp_path / "prompts.jsonl"
    assert file.stat().st_mode & 0o007 == 0
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert lines == [
        {
            "request_id": first.headers["x-faregate-request-id"],
            "model": "m",
            "route": "auto",
            "messages": [{"role": "user", "content": "What\nis 6 x 7?"}],
        },
        {"request_id": old.headers["x-faregate-request-id"], "model": "m", "route": "auto", "prompt": "Once upon"},
    ]
    assert list(read_prompts(file).values()) == ["What\nis 6 x 7?", "Once upon"]
    assert [(one.messages, one.prompt) for one in read_lines(file, Prompt)] == [(lines[0]["messages"], ""), ([], "Once upon")]


async def test_a_file_that_is_full_grows_no_further(tmp_path: Path) -> None:
    """Disks end; and without the setting nothing is kept."""
    async with running(tmp_path, config(tmp_path, ", most: 1B")) as app:
        app.up.on("m", Json(usage=usage(1, 1)))
        await app.ask("auto")
        while not (tmp_path / "prompts.jsonl").stat().st_size:
            await asyncio.sleep(0.01)
        await app.ask("auto")
    assert len((tmp_path / "prompts.jsonl").read_text().splitlines()) == 1
    assert compiled(CONFIG.replace("KEEP", "").replace("UP", "http://127.0.0.1:1/v1")).server.keep_prompts is None


def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    """Before the first request."""
    with pytest.raises(ConfigError, match=r"keep_prompts.file: .* cannot be written"):
        KeptPrompts(KeepPrompts(file=str(tmp_path), share=1.0, most_bytes=1))
