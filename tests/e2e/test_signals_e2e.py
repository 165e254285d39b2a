"""Rules that read prompts, from the YAML to where the request goes, and to what is told of it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from router.explain import as_text, explain
from router.fleet import Fleet
from router.signals_named import signals_named
from tests.running import Running, running

CONFIG = """
version: 1
server: {store: "STORE"}
providers:
  up: {kind: openai, base_url: "UP", api_key: $PROVIDER_KEY}
models:
  pocket: {at: up/pocket, price: {input: 1, output: 1}, locality: local, size: small}
  solar: {at: up/solar, price: {input: 1, output: 1}, locality: cloud, size: small, languages: [ko]}
  coder: {at: up/coder, price: {input: 1, output: 1}, locality: cloud}
  large: {at: up/large, price: {input: 9, output: 9}, locality: cloud, size: large}
routes:
  auto:
    rules:
      - {name: private, when: {pii: true}, use: {locality: local}, otherwise: refuse}
      - {name: code, when: {task: code}, use: coder}
      - {name: korean, when: {language: ko}, use: {language: ko}}
      - {name: hard, when: {difficulty: ">=0.5"}, use: large}
    default: pocket
  plain: pocket
signals: {timeout: 5s, difficulty: {target: {share: 30%}}}
keys:
  tester: {secret: $TEST_KEY}
"""


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path, CONFIG) as served:
        yield served


async def scraped(app: Running) -> str:
    return (await app.client.get(f"{app.root}/metrics")).text


async def test_requests_go_where_their_text_says(app: Running) -> None:
    """Personal data stays at home, code goes to the code model, Korean to a Korean-strong one: ten lines of YAML."""
    for text, model in (
        ("My number is 010-1234-5678, write me a Python function", "pocket"),
        ("Write a Python function that parses JSON", "coder"),
        ("서울에서 가 볼 만한 곳을 알려 줘", "solar"),
    ):
        answer = await app.ask("auto", messages=[{"role": "user", "content": text}])
        assert answer.status_code == 200
        assert app.up.requests[-1].model == model


async def test_a_share_of_the_requests_is_difficult(app: Running) -> None:
    """The target holds on whatever traffic there is, here of one question after the other."""
    for number in range(120):
        await app.ask("auto", messages=[{"role": "user", "content": f"Tell me about the history of town number {number}."}])
    assert 24 <= [seen.model for seen in app.up.requests].count("large") <= 54


async def test_signals_are_counted_and_cost_nothing_elsewhere(app: Running) -> None:
    """Whoever pays for a signal can see it."""
    await app.ask("plain")
    assert "faregate_signals_total{" not in await scraped(app)
    await app.ask("auto", messages=[{"role": "user", "content": "서울"}])
    metrics = await scraped(app)
    assert 'faregate_signals_total{outcome="ok",signal="language"} 1' in metrics or 'signal="language",outcome="ok"} 1' in metrics
    assert 'signal="difficulty"' not in metrics


async def test_explain_tells_the_signals(app: Running) -> None:
    """Why did this go there: because of this value."""
    body = json.dumps({"model": "auto", "messages": [{"role": "user", "content": "서울의 날씨는?"}]}).encode()
    told = as_text(explain(app.app.service.snapshot, body, fleet=Fleet(lambda: 0.0)))
    assert "rule korean" in told
    assert "language ko" in told
    assert "task other" in told
    assert "pii none" in told


async def test_what_rules_read_is_ready_before_the_first_request(app: Running, tmp_path: Path) -> None:
    """A first prompt must not run out of its time because a table is still being loaded; what no rule reads is not loaded."""
    ready = app.app.service.pipeline._signals
    assert ready is not None
    assert set(ready._detectors) == set(signals_named(app.app.service.snapshot))
    assert "language" in ready._detectors
    plain = CONFIG[: CONFIG.index("routes:")] + "routes: {auto: {use: [pocket]}}\nkeys: {tester: {secret: $TEST_KEY}}\n"
    async with running(tmp_path, plain) as other:
        assert other.app.service.pipeline._signals is None


async def test_a_new_configuration_serves_with_what_its_rules_read_ready(app: Running, tmp_path: Path) -> None:
    """The first prompts after a reload must not run out of their time, and so go by another rule, because a table is still being loaded."""
    service = app.app.service
    before, reading = service.pipeline._signals, service.snapshot
    await service.swap(reading)
    after = service.pipeline._signals
    assert after is not None
    assert after is not before
    assert set(after._detectors) == set(signals_named(reading))
