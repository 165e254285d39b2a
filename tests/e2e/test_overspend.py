"""A burst of calls at the edge of a budget: what fits is served, the rest never reaches a provider."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from pathlib import Path

import pytest

from router.domain.budgets import BucketState
from tests.burst import BURST, Answer, burst, race
from tests.gateway import Gateway
from tests.running import running
from tests.scripted_behaviours import Gate, Json, Stream, usage
from tests.scripted_upstream import ScriptedUpstream

CENT = 10_000_000
ANSWER_TOKENS = 1000
"""At 10 USD per million output tokens and nothing for input: exactly 0.01 USD."""

CONFIG = """
version: 1
server: {store: "STORE"}
providers:
  up: {kind: openai, base_url: "UP", api_key: $PROVIDER_KEY, timeouts: {connect: 60s}}
models:
  m: {at: up/m, price: {input: 0, output: 10}, default_max_output: 1000}
budgets:
BUDGETS
teams:
  search: {}
keys:
  tester: {team: search, secret: $TEST_KEY}
"""

ONE = "  everyone: {limit: $0.50}\n"
ODD = "  everyone: {limit: $0.505}\n"
THREE = """  everyone: {limit: $0.90}
  per-team: {limit: $0.50, each: team}
  per-key: {limit: $0.70/month, each: key}
"""
SHAPES = {"one-budget": ONE, "three-budgets": THREE, "odd-limit": ODD}


def with_budgets(budgets: str) -> str:
    return CONFIG.replace("BUDGETS", budgets)


@pytest.fixture(params=["sqlite", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "ledger.sqlite")
    url: str = request.getfixturevalue("redis_url")
    return url


@pytest.fixture
def upstream() -> ScriptedUpstream:
    return ScriptedUpstream()


def ask(stream: bool, **more: object) -> dict[str, object]:
    return {"model": "m", "messages": [{"role": "user", "content": "Hello"}], "stream": stream, **more}


def paid(stream: bool, gate: Gate) -> Json | Stream:
    """An answer for a cent, once the gate is open."""
    tokens = usage(completion=ANSWER_TOKENS)
    return Stream(tokens=3, usage=tokens, before=gate) if stream else Json(usage=tokens, before=gate)


def fifty_are_served(answers: list[Answer]) -> None:
    assert Counter(answer.status for answer in answers) == {200: 50, 402: 150}
    refusal = next(answer for answer in answers if answer.status == 402)
    error = refusal.json()["error"]
    assert error["code"] == "budget_exceeded"
    assert error["type"] == "insufficient_quota"
    assert error["needed_usd"] == "0.01"
    assert refusal.headers["x-should-retry"] == "false"
    assert "retry-after" not in refusal.headers


def booked(state: BucketState) -> tuple[int, int, int]:
    return state.spent_nusd, state.held_nusd, state.debt_nusd


@pytest.mark.parametrize("stream", [False, True], ids=["json", "sse"])
@pytest.mark.parametrize("budgets", SHAPES.values(), ids=SHAPES)
async def test_a_burst_is_served_up_to_the_budget_and_not_one_call_further(
    tmp_path: Path, store: str, upstream: ScriptedUpstream, budgets: str, stream: bool
) -> None:
    """The reason this program exists: with 0.50 USD, exactly fifty of two hundred calls for one cent are made."""
    gate = Gate()
    upstream.on("m", paid(stream, gate))
    async with running(tmp_path, with_budgets(budgets), up=upstream, store=store) as app:
        fifty_are_served(await race(app.port, upstream, gate.open, ask(stream, max_tokens=ANSWER_TOKENS)))
        assert len(upstream.requests) == 50
    found = await app.settled()
    assert {booked(state) for state in found.values()} == {(50 * CENT, 0, 0)}
    assert len(found) == budgets.count("limit")
    assert await app.drifts() == []


async def test_several_processes_together_keep_to_the_budget_too(tmp_path: Path, store: str) -> None:
    """Each sees a share of the burst only: what they know together is in the store."""
    cases = [(f"{shape}-{kind}", shape, kind) for shape in SHAPES for kind in ("json", "sse")]
    keys = {team: f"sk-test-{team}-0123456789abcdefghijklmnop" for team, _, _ in cases}
    config = CONFIG.replace("STORE", store).partition("budgets:")[0]
    config += "budgets:\n" + "".join(
        re.sub(r"  ([a-z-]+): {(.*)}", rf"  {team}-\1: {{\2, when: {{team: {team}}}}}", SHAPES[shape]) for team, shape, _ in cases
    )
    config += "teams: {" + ", ".join(f"{team}: {{}}" for team in keys) + "}\nkeys:\n"
    config += "".join(f"  {team}: {{team: {team}, secret: $KEY_{number}}}\n" for number, team in enumerate(keys))
    environment = {f"KEY_{number}": key for number, key in enumerate(keys.values())}
    async with (
        ScriptedUpstream() as upstream,
        Gateway(tmp_path, config.replace("UP", upstream.base_url), store=store, workers=2, environment=environment) as gateway,
    ):
        for number, (team, _, kind) in enumerate(cases, start=1):
            gate = Gate()
            upstream.on("m", paid(kind == "sse", gate))
            body = ask(kind == "sse", max_tokens=ANSWER_TOKENS)
            fifty_are_served(await race(gateway.port, upstream, gate.open, body, key=keys[team]))
            assert len(upstream.requests) == 50 * number
    found = await gateway.settled()
    assert {booked(state) for state in found.values()} == {(50 * CENT, 0, 0)}
    assert len(found) == config.count("limit:")
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
    async with running(tmp_path, with_budgets(ONE), up=upstream) as app:
        answers = await race(app.port, upstream, gate.open, ask(stream, max_tokens=ANSWER_TOKENS))
        assert Counter(answer.status for answer in answers) == {200: 50, 402: 150}
        spent = (await app.settled())["everyone|"].spent_nusd
        assert 45 * CENT <= spent <= 50 * CENT
        second = Counter(answer.status for answer in await burst(app.port, ask(stream, max_tokens=ANSWER_TOKENS)))
        assert second[402] >= BURST - 5
        assert (await app.settled())["everyone|"].spent_nusd <= 50 * CENT
        records = await app.records()
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
    async with running(tmp_path, with_budgets(ONE), up=upstream) as app:
        answers = await race(app.port, upstream, gate.open, ask(False, **more))
    served = min(expected, BURST)
    assert [answer.status for answer in answers].count(200) == served == len(upstream.requests)
    billed = served * price
    state = (await app.settled())["everyone|"]
    assert state.spent_nusd == billed <= 50 * CENT
    for seen in upstream.requests:
        caps = [seen.body[name] for name in ("max_tokens", "max_completion_tokens") if name in seen.body]
        assert caps == [cap_sent]


async def test_a_prompt_counted_higher_by_the_provider_stays_within_the_budget(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    """One token per byte is the most that a byte-level tokenizer can count: that is what is held."""
    words = "x" * 2000
    gate = Gate()
    upstream.on("m", Json(usage=usage(prompt=2000, completion=1), before=gate))
    config = with_budgets(ONE).replace("{input: 0, output: 10}", "{input: 5, output: 10}")
    body = {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": words}]}
    async with running(tmp_path, config, up=upstream) as app:
        answers = asyncio.ensure_future(burst(app.port, body))
        await upstream.until(lambda: len(upstream.requests) >= 40)
        gate.open()
        statuses = Counter(answer.status for answer in await answers)
    state = (await app.settled())["everyone|"]
    billed = statuses[200] * (2000 * 5_000 + 10_000)
    assert statuses[200] + statuses[402] == BURST
    assert state.spent_nusd == billed <= 50 * CENT
    assert state.held_nusd == 0


async def test_a_stream_far_above_its_cap_is_stopped_and_the_truth_is_booked(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    """A provider that ignores the cap must not empty the budget: we stop reading, book what came, and refuse the next call."""
    upstream.on("m", Stream(tokens=10_000, usage=usage(completion=10_000)))
    config = with_budgets("  everyone: {limit: $0.01}\n")
    async with running(tmp_path, config, up=upstream) as app:
        answer = await app.client.post("/chat/completions", json=ask(True, max_tokens=1000))
        assert answer.status_code == 200
        assert '"finish_reason":"length"' in answer.text
        assert answer.text.endswith("data: [DONE]\n\n")
        after = await app.client.post("/chat/completions", json=ask(False, max_tokens=1))
        assert after.status_code == 402
        await app.settled()
        (record,) = await app.records()
    state = (await app.settled())["everyone|"]
    assert record["outcome"] == "cut"
    assert record["overrun_cause"] == "provider_exceeded_cap"
    assert state.spent_nusd == record["charge_nusd"] > CENT
    assert state.debt_nusd == state.spent_nusd - CENT
    assert not upstream.requests[0].answered


async def test_a_json_answer_ten_times_its_cap_is_booked_in_full_as_debt(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    """The bill comes whether the cap was kept or not; the books follow the bill and the next call is refused."""
    upstream.on("m", Json(usage=usage(completion=10_000)))
    config = with_budgets("  everyone: {limit: $0.05}\n")
    async with running(tmp_path, config, up=upstream) as app:
        assert (await app.client.post("/chat/completions", json=ask(False, max_tokens=1000))).status_code == 200
        assert (await app.client.post("/chat/completions", json=ask(False, max_tokens=1))).status_code == 402
        await app.settled()
        (record,) = await app.records()
    state = (await app.settled())["everyone|"]
    assert state.spent_nusd == record["charge_nusd"] == 10 * CENT
    assert state.debt_nusd == 9 * CENT
    assert (record["overrun_nusd"], record["overrun_cause"]) == (9 * CENT, "provider_exceeded_cap")


@pytest.mark.parametrize("end", ["reset", "truncate", "error_event"])
async def test_a_stream_lost_half_way_is_booked_by_what_was_relayed(tmp_path: Path, upstream: ScriptedUpstream, end: str) -> None:
    """The client sees an error, never a clean end; the words it got and the prompt are paid for."""
    # One of End.
    upstream.on("m", Stream(tokens=100, end=end))  # type: ignore[arg-type]
    config = with_budgets(ONE).replace("{input: 0, output: 10}", "{input: 10, output: 10}")
    async with running(tmp_path, config, up=upstream) as app:
        answer = await app.client.post("/chat/completions", json=ask(True, max_tokens=1000))
        assert answer.status_code == 200
        assert '"error"' in answer.text
        assert "[DONE]" not in answer.text
        await app.settled()
        (record,) = await app.records()
    # A reset drops what the upstream had not sent yet.
    relayed = answer.text.count('"content":')
    assert relayed > 0 if end == "reset" else relayed >= 100
    assert record["outcome"] in ("upstream_lost", "upstream_error")
    assert record["evidence"] == "partial"
    assert relayed - 1 <= record["output_tokens"] <= 2 * relayed
    assert record["input_tokens"] > 0
    state = (await app.settled())["everyone|"]
    assert state.spent_nusd == record["charge_nusd"] == (record["input_tokens"] + record["output_tokens"]) * 10_000
    assert state.held_nusd == 0


async def test_hanging_up_is_no_way_to_spend_unseen(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    """Many providers finish a JSON answer and bill it though nobody waits: what the cap allows is booked."""
    upstream.on("m", Json(usage=usage(completion=ANSWER_TOKENS), before=Gate()))
    config = with_budgets("  everyone: {limit: $0.05}\n")
    body = ask(False, max_tokens=ANSWER_TOKENS)
    async with running(tmp_path, config, up=upstream) as app:
        calls = [asyncio.ensure_future(app.client.post("/chat/completions", json=body)) for _ in range(20)]
        await upstream.until_seen(5)
        done, waiting = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        while len(done) < 15:
            more, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            done |= more
        for call in waiting:
            call.cancel()
        await asyncio.wait(waiting)
        assert (await app.settled())["everyone|"].spent_nusd == 5 * CENT
        again = await app.client.post("/chat/completions", json=body)
        assert again.status_code == 402
        assert len(upstream.requests) == 5
        assert {record["outcome"] for record in await app.records()} == {"client_left"}
