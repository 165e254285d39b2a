"""One score of what is known: the likely charge, what a cached prompt saves, the pace of a budget, and the time that there is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from policies.engine import Branch, decide
from policies.plans import Live
from policies.registry import KINDS
from policies.types import Candidate, Decision, RequestFacts, Restriction, Traits
from router.explain import as_text, explain
from router.fleet import Fleet
from router.replay.past import as_text as past_text
from router.replay.past import find_past
from router.replay.trace import read_trace, recall
from tests.books import typed
from tests.running import compiled, running
from tests.scripted_behaviours import Json, usage
from tests.scripted_upstream import ScriptedUpstream

HALF_SAVED = {"saves/p/dear": 600.0}
KINDS_BY_COST: list[dict[str, Any]] = [
    {"kind": "cost"},
    {"kind": "pace", "budget": "b", "price_weight": 0.5},
    {"kind": "quality", "target": 0.5},
    {"kind": "latency", "target_ms": 900},
]


def candidate(name: str, expected_nusd: int, *, quality: float = 0.7, **more: Any) -> Candidate:
    traits = Traits(deployment=f"p/{name}", model=name, provider="p", quality=quality)
    return Candidate(traits, worst_case_nusd=5000, expected_nusd=expected_nusd, first_token_ms=100.0, **more)


def decided(by: dict[str, Any], live: dict[str, float] | None = None, deadline_ms: float | None = None, **dear: Any) -> Decision:
    kind = KINDS[by["kind"]]
    options = kind.options(**by)
    branch = Branch(rule="r", deployments=("p/cheap", "p/dear"), kind=kind.name, order=kind.bind(options), live=kind.live(options))
    facts = RequestFacts(operation="chat", route="auto", session="s", live=live or {})
    restrict = None if deadline_ms is None else Restriction(deadline_ms=deadline_ms)
    offered = [candidate("cheap", 500), candidate("dear", 1000, **dear)]
    return decide(branch, facts, offered, 0.9, restrict)


def first(decision: Decision) -> str:
    return decision.order[0].deployment.removeprefix("p/")


@pytest.mark.parametrize("by", KINDS_BY_COST, ids=lambda by: str(by["kind"]))
def test_what_a_cached_prompt_saves_counts_in_every_kind_that_looks_at_prices(by: dict[str, Any]) -> None:
    """A session that goes elsewhere pays for its whole prompt again, whatever the rule orders by."""
    assert first(decided(by)) == "cheap"
    assert first(decided(by, HALF_SAVED)) == "cheap", "only where it is asked for"
    assert decided(by).plan is None
    kept = decided({**by, "keep_cache": True}, HALF_SAVED)
    assert first(kept) == "dear"
    assert kept.plan is not None
    assert kept.plan.keeps_cache
    parts = {ranked.deployment: ranked.parts for ranked in kept.order}
    assert [(parts[name] or {})[part] for name in ("p/dear", "p/cheap") for part in ("charge_nusd", "cached_nusd")] == [1000, -600, 500, 0]
    assert first(decided({**by, "keep_cache": True}, {"saves/p/dear": 400.0})) == "cheap", "less than the difference"
    options = KINDS[by["kind"]].options
    assert Live(what="cache") in KINDS[by["kind"]].live(options(**by, keep_cache=True))
    assert Live(what="cache") not in KINDS[by["kind"]].live(options(**by))


def test_pace_cache_and_charge_are_one_number() -> None:
    """Right on the pace a warm cache keeps the session; far ahead of it, both prices weigh more, and the net one decides."""
    by = {"kind": "pace", "budget": "b", "price_weight": 0.2, "keep_cache": True}
    good = {"quality": 0.75}
    ahead = {"spent/b": 0.54, "passed/b": 0.5}
    assert first(decided(by, None, **good)) == "cheap"
    assert first(decided(by, {"saves/p/dear": 300.0}, **good)) == "dear"
    assert first(decided(by, {"saves/p/dear": 300.0} | ahead, **good)) == "cheap"
    assert first(decided(by, HALF_SAVED | ahead, **good)) == "dear"
    for ranked in decided(by, HALF_SAVED | ahead, **good).order:
        parts = ranked.parts or {}
        assert ranked.score == pytest.approx(parts["quality"] + parts["price"])
        assert parts["price"] == pytest.approx(
            -0.2 * 2.718281828 ** (40 * 0.04 / 0.5) * (parts["charge_nusd"] + parts["cached_nusd"]) / 1000
        )


@pytest.mark.parametrize("by", KINDS_BY_COST, ids=lambda by: str(by["kind"]))
def test_what_would_be_late_comes_behind_what_is_in_time_and_says_by_how_much(by: dict[str, Any]) -> None:
    """No saving is worth an answer that comes when nobody waits any more."""
    kept = {**by, "keep_cache": True}
    assert first(decided(kept, HALF_SAVED, 2000, total_ms=1900.0)) == "dear"
    late = decided(kept, HALF_SAVED, 2000, total_ms=2600.0)
    assert first(late) == "cheap"
    assert [(ranked.parts or {}).get("late_ms") for ranked in late.order] == [None, 600.0]
    plain = decided({"kind": "fixed"}, None, 2000, total_ms=2600.0)
    assert (plain.order[0].parts, plain.order[1].parts) == (None, {"late_ms": 600.0})


def test_a_cache_without_prices_is_refused() -> None:
    """An option that changes nothing misleads."""
    with pytest.raises(ValidationError, match="keep_cache needs target_ms"):
        KINDS["latency"].options(keep_cache=True)


CONFIG = """
version: 1
server: {store: STORE, record_decisions: 100%}
providers:
  one: {kind: openai, base_url: "UP", api_key: $PROVIDER_KEY}
models:
  big: {at: one/big, size: large, quality: 0.7, price: {input: 2, output: 2, cached_input: 0.1}}
  small: {at: one/small, size: small, quality: 0.7, price: {input: 1, output: 1}}
routes:
  auto: {use: [small, big], by: {kind: pace, budget: month, keep_cache: true}}
  begun: {use: [big]}
budgets:
  month: $100/month
keys:
  tester: {secret: $TEST_KEY}
"""


async def test_a_session_of_a_paced_route_stays_where_its_prompt_is_cached(tmp_path: Path) -> None:
    """The score is in the record part by part, and the record gives the same decision again."""
    up = ScriptedUpstream()
    up.on("big", Json(usage=usage(4000, 20)))
    up.on("small", Json(usage=usage(4000, 20)))
    long = {"messages": [{"role": "user", "content": "word " * 3600}], "metadata": {"session_id": "s"}, "max_tokens": 20}
    async with running(tmp_path, CONFIG, up=up) as run:
        alone = await run.ask("auto", **{**long, "metadata": {}})
        assert alone.headers["x-faregate-model"] == "small"
        only = await run.ask("auto", **long, headers={"x-faregate-use": "big"})
        assert only.headers["x-faregate-model"] == "big"
        again = await run.ask("auto", **long)
        assert again.headers["x-faregate-model"] == "big"
        await run.settled()
        raw = await run.records()
        snapshot = run.app.service.snapshot
    for record in typed(raw):
        trace = read_trace(record)
        assert trace is not None
        assert recall(snapshot, record, trace) == trace.decision
    last = read_trace(typed(raw)[-1])
    assert last is not None
    parts = last.decision.order[0].parts or {}
    assert parts["cached_nusd"] < 0 < parts["charge_nusd"]
    assert "cached_nusd -" in past_text(find_past(snapshot, typed(raw)[-1:]))


def test_explain_tells_the_parts_of_a_score(monkeypatch: pytest.MonkeyPatch) -> None:
    """A number alone convinces nobody."""
    text = CONFIG.replace("UP", "http://127.0.0.1:9/v1").replace("STORE", "sqlite:///x.db")
    monkeypatch.setenv("PROVIDER_KEY", "p")
    monkeypatch.setenv("TEST_KEY", "sk-fg-0123456789abcdef")
    fleet = Fleet(lambda: 0.0)
    for _ in range(3):
        fleet.succeeded("one/small", first_token_ms=None, total_ms=900.0, output_tokens=300)
    body = b'{"model": "auto", "messages": [{"role": "user", "content": "Hello"}], "faregate": {"deadline_ms": 500}}'
    told = explain(compiled(text), body, fleet=fleet)
    small, big = sorted(told.candidates, key=lambda line: line.model, reverse=True)
    assert (big.place, small.place) == (1, 2)
    assert set(small.parts) == {"quality", "price", "charge_usd", "cached_usd", "late_ms"}
    assert small.parts["charge_usd"] == pytest.approx((small.expected_nusd or 0) / 1e9)
    assert small.score["value"] == pytest.approx(small.parts["quality"] + small.parts["price"])
    assert "made of: quality 0.7, price -" in as_text(told)
    assert "late_ms 400" in as_text(told)
