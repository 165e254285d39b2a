"""The trace of a decision: what stands in the books gives the same decision again, bit for bit."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from policies.types import RequestFacts
from router.cli import load
from router.domain.records import SpendRecord
from router.errors import ConfigError
from router.replay import SPREAD
from router.replay.past import as_text, find_past
from router.replay.report import short_of
from router.replay.requests import records_of_file
from router.replay.trace import Trace, facts_of_record, read_trace, recall, states_of
from tests.books import typed
from tests.gateway import KEY
from tests.running import compiled, running
from tests.scripted_behaviours import Fail, Json, usage
from tests.scripted_upstream import ScriptedUpstream

CONFIG = """
version: 1
server: {store: STORE, record_decisions: 100%}
providers:
  one: {kind: openai, base_url: "UP", api_key: $PROVIDER_KEY}
  two: {kind: openai, base_url: "UP", api_key: $PROVIDER_KEY}
models:
  big: {at: [one/big, two/big], size: large, price: {input: 10, output: 30}}
  small: {at: one/small, size: small, price: {input: 1, output: 2}, context: 4000}
routes:
  auto:
    rules:
      - {name: gold, when: {header: {x-tier: gold}}, use: big, by: {kind: weighted, weights: {one/big: 1, two/big: 3}}}
      - {name: secret, when: {header: {authorization: "*zzz"}}, use: big, by: fixed}
      - {name: dear, when: {tags: {kind: dear}}, use: [big, small], by: {kind: cost, max_request_usd: 0.02}}
    default: {use: [small, big], by: cost}
budgets:
  everyone: {limit: $100, at: {90%: downgrade}}
keys:
  tester: {secret: $TEST_KEY, tags: {from: key}}
"""


def scripted() -> ScriptedUpstream:
    up = ScriptedUpstream()
    up.on("big", Json(usage=usage(100, 20)))
    up.on("small", Json(usage=usage(100, 20)))
    return up


async def test_a_recorded_decision_is_made_again_bit_for_bit(tmp_path: Path) -> None:
    """Whatever kind decided and whatever the request asked: chance, worst cases, limits and latencies are all in the trace."""
    up = scripted()
    async with running(tmp_path, CONFIG, up=up) as run:
        for _ in range(3):
            await run.ask("auto")
            await run.ask("auto", headers={"x-tier": "gold"})
            await run.ask("auto", faregate={"tags": {"kind": "dear"}}, max_tokens=100)
            await run.ask("auto", max_tokens=50, headers={"x-faregate-max-cost-usd": "0.5", "x-faregate-use": "big"})
            await run.ask("auto", tools=[{"type": "function", "function": {"name": "f"}}])
        await run.settled()
        records = typed(await run.records())
        snapshot = run.app.service.snapshot
    assert {record.rule for record in records} == {"gold", "dear", "default"}
    for record in records:
        trace = read_trace(record)
        assert trace is not None
        assert recall(snapshot, record, trace) == trace.decision
        assert trace.decision.rule == record.rule
    assert any("total_ms" in states for record in records for states in states_of(read_trace(record) or trace).values())


KINDS = """
version: 1
server: {store: STORE, record_decisions: 100%}
providers:
  one: {kind: openai, base_url: "UP", api_key: $PROVIDER_KEY}
  two: {kind: openai, base_url: "UP", api_key: $PROVIDER_KEY}
models:
  big: {at: [one/big, two/big], size: large, quality: 0.9, price: {input: 10, output: 30}}
  small: {at: one/small, size: small, quality: 0.6, price: {input: 1, output: 2}}
routes:
  watched:
    rules:
      - {name: full, when: {budget_used: ">99%"}, use: small}
      - {name: hurried, when: "deadline_ms <= 60000.0", use: small}
      - {name: korean, when: {language: ko}, use: big, by: latency}
      - {name: day, when: {hour: "0..23", task: code}, use: small}
    default: {use: [big, small], by: {kind: quality, target: 0.8}}
  drawn: {default: {use: [big, small], by: {kind: bandit, name: b, worth_usd: 0.01}}}
  careful: {default: {use: [big, small], by: least_busy}}
privacy: {when: {pii: true}, only: {provider: one}}
budgets:
  everyone: {limit: $100}
keys:
  tester: {secret: $TEST_KEY}
"""


async def test_what_kinds_and_rules_read_of_the_moment_is_in_the_trace(tmp_path: Path) -> None:
    """Beliefs of a bandit, signals, the time, budgets, privacy: whatever a decision was made of stands beside it."""
    async with running(tmp_path, KINDS, up=scripted()) as run:
        for text in (
            "Hello",
            "안녕하세요, 오늘 서울 날씨가 어떤지 알려 주세요",
            "Write to kim@example.com",
            "def f(x): return x  # fix this code",
        ):
            for route in ("watched", "drawn", "careful"):
                body = {"messages": [{"role": "user", "content": text}]}
                assert (await run.ask(route, **body)).status_code == 200
        for route in ("careful", "watched"):
            late = await run.ask(route, headers={"x-faregate-deadline-ms": "60000"})
            assert late.status_code == 200
        await run.settled()
        records = typed(await run.records())
        snapshot = run.app.service.snapshot
    assert {"korean", "default"} <= {record.rule for record in records}
    assert len(records) == 14
    assert [record.rule for record in records if record.route == "watched"][-1] == "hurried"
    for record in records:
        trace = read_trace(record)
        assert trace is not None
        assert recall(snapshot, record, trace) == trace.decision
    assert any(out.reason == "private" for record in records for out in trace_of(record).decision.rejected)


def trace_of(record: SpendRecord) -> Trace:
    trace = read_trace(record)
    assert trace is not None
    return trace


async def test_a_trace_holds_neither_prompt_nor_credential_and_stands_in_one_record(tmp_path: Path) -> None:
    """A rule may read a credential's header; the books must not. A fallback's record need not say it all again."""
    up = scripted()
    up.on("small", Fail(status=500))
    async with running(tmp_path, CONFIG, up=up) as run:
        answer = await run.ask("auto", messages=[{"role": "user", "content": "a very private question"}])
        assert answer.status_code == 200
        await run.settled()
        raw = await run.records()
    first, second = typed(raw)
    assert (bool(first.trace), bool(second.trace)) == (True, False)
    assert b"private" not in msgspec.json.encode(raw)
    assert b"sk-test" not in msgspec.json.encode(raw)


async def test_a_request_of_the_past_is_explained_by_its_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks why a request was dear has its id: with what was kept, and without."""
    monkeypatch.setenv("PROVIDER_KEY", "p")
    monkeypatch.setenv("TEST_KEY", KEY)
    shown = []
    for share in ("100%", "0%"):
        folder = tmp_path / share.rstrip("%")
        folder.mkdir()
        async with running(folder, CONFIG.replace("100%", share, 1), up=scripted()) as run:
            answer = await run.ask("auto", tools=[{"type": "function", "function": {"name": "f"}}])
            await run.settled()
            (record,) = await run.records()
            store, base_url = run.store, run.up.base_url
        config = folder / "router.yaml"
        config.write_text(CONFIG.replace("100%", share, 1).replace("UP", base_url).replace("STORE", store))
        words = ("explain", "--record", answer.headers["x-request-id"], "--config", str(config))
        told = json.loads(await asyncio.to_thread(said, *words, "--json"))
        assert [line["cost_nusd"] for line in told["candidates"]] == [140_000, 1_600_000, 1_600_000]
        assert (told["charge_nusd"], told["attempts"][0]["deployment"]) == (record["charge_nusd"], "one/small")
        assert (told["facts"] is not None and told["facts"]["tools"]) == (share == "100%")
        assert (told["kept"], told["again"]) == ((True, True) if share == "100%" else (False, None))
        shown.append(await asyncio.to_thread(said, *words))
    assert "the configuration at hand makes the same decision" in shown[0]
    assert "its decision was not kept" in shown[1]
    assert "\nrequest: chat, about " in shown[0]
    assert ", tools," in shown[0]
    assert ("\nrules: " in shown[0], "\nrequest: " in shown[1]) == (True, False)
    assert "2. one/big (model big)\n   would have cost 0.0016 USD; expected_nusd" in shown[0]


REORDERED = """
version: 1
server: {store: ledger.sqlite}
providers:
  one: {kind: openai, base_url: "http://127.0.0.1:9/v1", api_key: $PROVIDER_KEY}
  two: {kind: openai, base_url: "http://127.0.0.1:9/v1", api_key: $PROVIDER_KEY}
models:
  dear: {at: one/dear, price: {input: 10, output: 30}}
  cheap: {at: two/cheap, price: {input: 1, output: 2}}
  new: {at: two/new, price: {input: 1, output: 3}}
routes:
  auto: {use: [dear, cheap], by: BY}
"""
KEPT = b"""{"draw": 0.5, "facts": {"live": {"share/vendors/two": 0.7, "share/vendors/one": 0.3}},
  "candidates": [{"deployment": "one/dear", "expected_nusd": 90}, {"deployment": "two/cheap", "expected_nusd": 9}],
  "decision": %s}"""


def kept_by(by: str) -> tuple[SpendRecord, str]:
    """The record of a request that this kind decided, and the configuration."""
    text = REORDERED.replace("BY", by)
    record = SpendRecord(attempt_id="a.1", request_id="a", at_ms=1, route="auto", model="dear", deployment="one/dear")
    record.trace = msgspec.Raw(KEPT % b'{"order":[],"rejected":[],"rule":"r","kind":"fixed"}')
    made = recall(compiled(text), record, trace_of(record))
    record.trace = msgspec.Raw(KEPT % msgspec.json.encode(made))
    return record, text


@pytest.mark.parametrize("by", ["fixed", "{kind: hedge, by: fixed}"])
def test_another_order_in_the_file_is_another_decision(by: str) -> None:
    """Who is told that the change does nothing applies it: kinds that go by the order of the file must be given that of the new one."""
    record, text = kept_by(by)

    def again(new: str) -> bool | None:
        return find_past(compiled(new), [record]).again

    assert again(text)
    assert again(text.replace("[dear, cheap]", "[cheap, dear]")) is False
    assert again(text.replace("[dear, cheap]", "[dear, cheap, new]")) is False
    assert again(text.replace("[dear, cheap]", "dear")) is False
    # Which language it is was not looked at then.
    ruled = "auto: {rules: [{when: {language: ko}, use: cheap}], use: [dear, cheap]"
    assert again(text.replace("auto: {use: [dear, cheap]", ruled)) is None


def test_the_order_of_the_file_is_no_decision_where_no_kind_goes_by_it() -> None:
    """Sorting a list must not look like a change."""
    record, text = kept_by("{kind: vendors, most: 60%, beyond: never}")
    assert find_past(compiled(text.replace("[dear, cheap]", "[cheap, dear]")), [record]).again


def test_who_was_beyond_its_share_is_told() -> None:
    """The dearer one came first: without the shares of then, nobody can see why."""
    record, text = kept_by("{kind: vendors, most: 60%}")
    told = find_past(compiled(text), [record])
    assert [line.deployment for line in told.candidates] == ["one/dear", "two/cheap"]
    assert told.plan[1:] == [
        "cap vendors: two has had 70.0% of the money, more than 60.0%",
        "known then: share/vendors/one 0.3",
        "known then: share/vendors/two 0.7",
    ]
    assert "plan: cap vendors: two has had 70.0%" in as_text(told)
    # Written before records said who was beyond: still the same decision.
    record.trace = msgspec.Raw(bytes(record.trace).replace(b'"most":0.6', b'"most":0.5'))
    assert find_past(compiled(text), [record]).again


def said(*words: str) -> str:
    result = CliRunner().invoke(load(words[0]), list(words[1:]))
    assert result.exit_code == 0, result.output
    return result.stdout


async def test_nothing_is_kept_where_nothing_is_asked_for(tmp_path: Path) -> None:
    """Records take room in the store."""
    async with running(tmp_path, CONFIG.replace("100%", "0%", 1), up=scripted()) as run:
        await run.ask("auto")
        await run.settled()
        (record,) = typed(await run.records())
    assert read_trace(record) is None


def test_a_sample_says_nothing_about_the_choice() -> None:
    """Sampled draws are spread over all choices as evenly as the others."""
    draws = [number / 99_991 for number in range(99_991)]
    sampled = [draw for draw in draws if draw * SPREAD % 1.0 < 0.01]
    assert 0.008 < len(sampled) / len(draws) < 0.012
    assert 0.45 < sum(draw < 0.5 for draw in sampled) / len(sampled) < 0.55


def test_a_record_without_a_trace_tells_what_it_can() -> None:
    """Most records have none: who asked for what, and how long the prompt was, is known all the same."""
    record = SpendRecord(attempt_id="a.1", request_id="a", at_ms=1, route="auto", team="t", tags={"k": "v"}, input_tokens=7, stream=True)
    facts = facts_of_record(record, None)
    assert facts == RequestFacts("chat", "auto", "t", tags={"k": "v"}, input_tokens=7, input_tokens_bound=7, stream=True)


def test_an_unreadable_trace_counts_as_none() -> None:
    """A log may come from another release; an unknown route or deployment cannot be decided on."""
    record = SpendRecord(attempt_id="a.1", request_id="a", at_ms=1, route="gone", trace=msgspec.Raw(b'{"draw":"x"}'))
    assert read_trace(record) is None
    told = b'{"draw":0.5,"facts":{},"candidates":[],"decision":{"order":[],"rejected":[],"rule":"r","kind":"fixed"}}'
    record.trace = msgspec.Raw(told)
    trace = read_trace(record)
    assert trace is not None
    snapshot = compiled(CONFIG.replace("UP", "http://127.0.0.1:9/v1").replace("STORE", "ledger.sqlite"))
    assert recall(snapshot, record, trace) is None


def test_a_folder_in_place_of_a_log_is_answered_with_what_is_in_it(tmp_path: Path) -> None:
    """An export writes files by the day into one."""
    (tmp_path / "2026-11-23.000001.jsonl").touch()
    (tmp_path / "state").touch()
    with pytest.raises(ConfigError, match=r"is a folder; name a file in it: 2026-11-23.000001.jsonl$"):
        list(records_of_file(tmp_path))


@pytest.mark.parametrize(
    ("minutes", "said"),
    [(0.3, "0.3 minutes: sums by the month are that span times 146,100,"), (120, "spans 2.0 hours"), (24 * 60, "")],
)
def test_sums_by_the_month_of_a_short_log_are_called_a_guess(minutes: float, said: str) -> None:
    """Of a day and more they are not."""
    told = " ".join(short_of(0, int(minutes * 60_000)))
    assert (said in told) if said else not told
