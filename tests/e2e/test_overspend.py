"""A burst of calls at the edge of a budget: what fits is served, the rest never reaches a provider."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2 as httpx
import pytest

from tests.gateway import Gateway
from tests.scripted_behaviours import Gate, Json, Stream, usage
from tests.scripted_upstream import ScriptedUpstream

CENT = 10_000_000
BURST = 200
ANSWER_TOKENS = 1000
"""At 10 USD per million output tokens and nothing for input: exactly 0.01 USD."""

CONFIG = """
version: 1
providers:
  up: {{kind: openai, base_url: "{url}", api_key: $PROVIDER_KEY}}
models:
  m: {{at: up/m, price: {{input: 0, output: 10}}, default_max_output: 1000}}
budgets:
{budgets}
teams:
  search: {{}}
keys:
  tester: {{team: search, secret: $TEST_KEY}}
"""

ONE = "  everyone: {limit: $0.50}\n"
ODD = "  everyone: {limit: $0.505}\n"
THREE = """  everyone: {limit: $0.90}
  per-team: {limit: $0.50, each: team}
  per-key: {limit: $0.70/month, each: key}
"""


@pytest.fixture(params=["sqlite", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "ledger.sqlite")
    url: str = request.getfixturevalue("redis_url")
    return url


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream() as up:
        yield up


def ask(stream: bool, **more: object) -> dict[str, object]:
    return {"model": "m", "messages": [{"role": "user", "content": "Hello"}], "stream": stream, **more}


async def burst(gateway: Gateway, body: dict[str, object], count: int = BURST) -> list[httpx.Response]:
    """All at once; every answer read whole."""
    async with gateway.client() as client:
        return await asyncio.gather(*(client.post("/chat/completions", json=body) for _ in range(count)))


async def race(
    gateway: Gateway, upstream: ScriptedUpstream, gate: Gate, body: dict[str, object], expected: int
) -> tuple[list[httpx.Response], Counter[int]]:
    """A burst against a provider that answers only when everything that fits has arrived and the rest was refused."""
    running = asyncio.ensure_future(burst(gateway, body))
    await upstream.until_seen(expected)
    async with gateway.client() as client:
        while True:
            metrics = (await client.get(f"{gateway.root}/metrics")).text
            refused = sum(
                float(line.rsplit(" ", 1)[1]) for line in metrics.splitlines() if line.startswith("faregate_budget_refusals_total{")
            )
            if refused >= BURST - expected:
                break
            await asyncio.sleep(0.05)
    gate.open()
    answers = await running
    return answers, Counter(answer.status_code for answer in answers)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("stream", [False, True], ids=["json", "sse"])
@pytest.mark.parametrize("budgets", [ONE, THREE, ODD], ids=["one-budget", "three-budgets", "odd-limit"])
async def test_a_burst_is_served_up_to_the_budget_and_not_one_call_further(
    tmp_path: Path, store: str, upstream: ScriptedUpstream, budgets: str, stream: bool, workers: int
) -> None:
    """The reason this program exists: with 0.50 USD, exactly fifty of two hundred calls for one cent are made."""
    gate = Gate()
    tokens = usage(completion=ANSWER_TOKENS)
    upstream.on("m", Stream(tokens=3, usage=tokens, before=gate) if stream else Json(usage=tokens, before=gate))
    config = CONFIG.format(url=upstream.base_url, budgets=budgets)
    async with Gateway(tmp_path, config, store=store, workers=workers) as gateway:
        answers, statuses = await race(gateway, upstream, gate, ask(stream, max_tokens=ANSWER_TOKENS), expected=50)
        assert statuses == {200: 50, 402: 150}
        assert len(upstream.requests) == 50
        refusal = next(answer for answer in answers if answer.status_code == 402)
        error = refusal.json()["error"]
        assert error["code"] == "budget_exceeded"
        assert error["type"] == "insufficient_quota"
        assert error["needed_usd"] == "0.01"
        assert refusal.headers["x-should-retry"] == "false"
        assert "retry-after" not in refusal.headers
    booked = {name: (state.spent_nusd, state.held_nusd, state.debt_nusd) for name, state in (await gateway.settled()).items()}
    assert set(booked.values()) == {(50 * CENT, 0, 0)}
    assert len(booked) == budgets.count("limit")
    assert await gateway.drifts() == []


@pytest.mark.parametrize("stream", [False, True], ids=["json", "sse"])
@pytest.mark.parametrize(
    "told",
    [
        None,
        usage(prompt=0, completion=0),
        usage(prompt=11, completion=-5),
        {"prompt_tokens": "many", "completion_tokens": "a few", "total_tokens": None},
    ],
    ids=["missing", "zero", "negative", "strings"],
)
async def test_usage_that_cannot_be_believed_is_counted_by_ourselves(
    tmp_path: Path, upstream: ScriptedUpstream, told: object, stream: bool
) -> None:
    """A provider that does not say what it used must not make the call free, and a second wave finds the budget spent."""
    gate = Gate()
    text = " word" * ANSWER_TOKENS
    upstream.on(
        "m", Stream(tokens=ANSWER_TOKENS, usage=told, before=gate, pieces="whole") if stream else Json(text=text, usage=told, before=gate)
    )
    async with Gateway(tmp_path, CONFIG.format(url=upstream.base_url, budgets=ONE)) as gateway:
        _, statuses = await race(gateway, upstream, gate, ask(stream, max_tokens=ANSWER_TOKENS), expected=50)
        assert statuses == {200: 50, 402: 150}
        spent = (await gateway.settled())["everyone|"].spent_nusd
        assert 45 * CENT <= spent <= 50 * CENT
        second = Counter(answer.status_code for answer in await burst(gateway, ask(stream, max_tokens=ANSWER_TOKENS)))
        assert second[402] >= BURST - 5
        assert (await gateway.settled())["everyone|"].spent_nusd <= 50 * CENT
        records = await gateway.records()
    assert all(record["evidence"] in ("estimated", "partial") and record["doubt"] for record in records)
    assert all(record["charge_nusd"] > 0 for record in records)


@pytest.mark.parametrize(
    ("more", "tokens", "cap_sent"),
    [
        ({}, 1000, 1000),
        ({"max_tokens": 900, "max_completion_tokens": 500}, 500, 500),
        ({"max_tokens": 400, "max_completion_tokens": 700}, 400, 400),
        ({"max_tokens": 100, "n": 8}, 800, 100),
    ],
    ids=["no-cap", "conflict", "conflict-reversed", "n-8"],
)
async def test_what_the_provider_really_bills_stays_within_the_budget(
    tmp_path: Path, upstream: ScriptedUpstream, more: dict[str, object], tokens: int, cap_sent: int
) -> None:
    """The cap that the hold assumes is the cap that the provider gets, whatever the client sent or left out."""
    gate = Gate()
    upstream.on("m", Json(usage=usage(completion=tokens), before=gate))
    price = tokens * 10_000
    expected = 50 * CENT // price
    async with Gateway(tmp_path, CONFIG.format(url=upstream.base_url, budgets=ONE)) as gateway:
        _, statuses = await race(gateway, upstream, gate, ask(False, **more), expected=min(expected, BURST))
    served = min(expected, BURST)
    assert statuses[200] == served == len(upstream.requests)
    billed = served * price
    state = (await gateway.settled())["everyone|"]
    assert state.spent_nusd == billed <= 50 * CENT
    for seen in upstream.requests:
        caps = [seen.body[name] for name in ("max_tokens", "max_completion_tokens") if name in seen.body]
        assert caps == [cap_sent]


async def test_a_prompt_counted_higher_by_the_provider_stays_within_the_budget(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    """One token per byte is the most that a byte-level tokenizer can count: that is what is held."""
    words = "x" * 2000
    gate = Gate()
    upstream.on("m", Json(usage=usage(prompt=2000, completion=1), before=gate))
    config = CONFIG.format(url=upstream.base_url, budgets=ONE).replace("{input: 0, output: 10}", "{input: 5, output: 10}")
    body = {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": words}]}
    async with Gateway(tmp_path, config) as gateway:
        answers = asyncio.ensure_future(burst(gateway, body))
        await upstream.until(lambda: len(upstream.requests) >= 40)
        gate.open()
        statuses = Counter(answer.status_code for answer in await answers)
    state = (await gateway.settled())["everyone|"]
    billed = statuses[200] * (2000 * 5_000 + 10_000)
    assert statuses[200] + statuses[402] == BURST
    assert state.spent_nusd == billed <= 50 * CENT
    assert state.held_nusd == 0


async def test_a_stream_far_above_its_cap_is_stopped_and_the_truth_is_booked(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    """A provider that ignores the cap must not empty the budget: we stop reading, book what came, and refuse the next call."""
    upstream.on("m", Stream(tokens=10_000, usage=usage(completion=10_000)))
    config = CONFIG.format(url=upstream.base_url, budgets="  everyone: {limit: $0.01}\n")
    async with Gateway(tmp_path, config) as gateway, gateway.client() as client:
        answer = await client.post("/chat/completions", json=ask(True, max_tokens=1000))
        assert answer.status_code == 200
        assert '"finish_reason":"length"' in answer.text
        assert answer.text.endswith("data: [DONE]\n\n")
        after = await client.post("/chat/completions", json=ask(False, max_tokens=1))
        assert after.status_code == 402
        await gateway.settled()
        (record,) = await gateway.records()
    state = (await gateway.settled())["everyone|"]
    assert record["outcome"] == "cut"
    assert record["overrun_cause"] == "provider_exceeded_cap"
    assert state.spent_nusd == record["charge_nusd"] > CENT
    assert state.debt_nusd == state.spent_nusd - CENT
    assert not upstream.requests[0].answered


async def test_a_json_answer_ten_times_its_cap_is_booked_in_full_as_debt(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    """The bill comes whether the cap was kept or not; the books follow the bill and the next call is refused."""
    upstream.on("m", Json(usage=usage(completion=10_000)))
    config = CONFIG.format(url=upstream.base_url, budgets="  everyone: {limit: $0.05}\n")
    async with Gateway(tmp_path, config) as gateway, gateway.client() as client:
        assert (await client.post("/chat/completions", json=ask(False, max_tokens=1000))).status_code == 200
        assert (await client.post("/chat/completions", json=ask(False, max_tokens=1))).status_code == 402
        await gateway.settled()
        (record,) = await gateway.records()
    state = (await gateway.settled())["everyone|"]
    assert state.spent_nusd == record["charge_nusd"] == 10 * CENT
    assert state.debt_nusd == 9 * CENT
    assert (record["overrun_nusd"], record["overrun_cause"]) == (9 * CENT, "provider_exceeded_cap")


@pytest.mark.parametrize("end", ["reset", "truncate", "error_event"])
async def test_a_stream_lost_half_way_is_booked_by_what_was_relayed(tmp_path: Path, upstream: ScriptedUpstream, end: str) -> None:
    """The client sees an error, never a clean end; the words it got and the prompt are paid for."""
    # One of End.
    upstream.on("m", Stream(tokens=100, end=end))  # type: ignore[arg-type]
    config = CONFIG.format(url=upstream.base_url, budgets=ONE).replace("{input: 0, output: 10}", "{input: 10, output: 10}")
    async with Gateway(tmp_path, config) as gateway, gateway.client() as client:
        answer = await client.post("/chat/completions", json=ask(True, max_tokens=1000))
        assert answer.status_code == 200
        assert '"error"' in answer.text
        assert "[DONE]" not in answer.text
        await gateway.settled()
        (record,) = await gateway.records()
    # A reset drops what the upstream had not sent yet.
    relayed = answer.text.count('"content":')
    assert relayed > 0 if end == "reset" else relayed >= 100
    assert record["outcome"] in ("upstream_lost", "upstream_error")
    assert record["evidence"] == "partial"
    assert relayed - 1 <= record["output_tokens"] <= 2 * relayed
    assert record["input_tokens"] > 0
    state = (await gateway.settled())["everyone|"]
    assert state.spent_nusd == record["charge_nusd"] == (record["input_tokens"] + record["output_tokens"]) * 10_000
    assert state.held_nusd == 0


async def test_hanging_up_is_no_way_to_spend_unseen(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    """Many providers finish a JSON answer and bill it though nobody waits: what the cap allows is booked."""
    upstream.on("m", Json(usage=usage(completion=ANSWER_TOKENS), before=Gate()))
    config = CONFIG.format(url=upstream.base_url, budgets="  everyone: {limit: $0.05}\n")
    body = ask(False, max_tokens=ANSWER_TOKENS)
    async with Gateway(tmp_path, config) as gateway, gateway.client() as client:
        calls = [asyncio.ensure_future(client.post("/chat/completions", json=body)) for _ in range(20)]
        await upstream.until_seen(5)
        done, waiting = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        while len(done) < 15:
            more, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            done |= more
        for call in waiting:
            call.cancel()
        await asyncio.wait(waiting)
        assert (await gateway.settled())["everyone|"].spent_nusd == 5 * CENT
        again = await client.post("/chat/completions", json=body)
        assert again.status_code == 402
        assert len(upstream.requests) == 5
        assert {record["outcome"] for record in await gateway.records()} == {"client_left"}
