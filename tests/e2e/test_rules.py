"""Rules over real HTTP: by what the prompt says, what was spent, who is up, and expressions in CEL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from router.explain import as_text, explain
from router.fleet import Fleet
from router.replay.trace import read_trace, recall
from tests.books import typed
from tests.running import Running, chat, compiled, running
from tests.scripted_upstream import Fail, Json, Sequence, usage

CONFIG = """
version: 1
server: {store: "STORE", record_decisions: 1}
signals: {timeout: 5s}
providers:
  up: {kind: openai, base_url: "UP", api_key: $PROVIDER_KEY}
  side: {kind: openai, base_url: "UP", api_key: $PROVIDER_KEY}
models:
  small: {at: up/small, size: small, price: {input: 1, output: 1}, default_max_output: 100}
  coder: {at: up/coder, size: large, quality: {code: 0.9, default: 0.3}, price: {input: 2, output: 2}, default_max_output: 100}
  solar: {at: up/solar, size: large, languages: [ko], price: {input: 2, output: 2}, default_max_output: 100}
  side: {at: side/side, size: large, quality: 0.6, price: {input: 3, output: 3}, default_max_output: 100}
routes:
  auto:
    timezone: Asia/Seoul
    rules:
      - {name: broke, when: budget.used > 0.5, use: {size: small}}
      - {name: gold, when: 'header("x-tier") == "gold" && tag("kind").matches("^a.e") && time.hour >= 0', use: side}
      - {name: korean, when: {language: ko}, use: {language: ko}}
      - {name: good, when: 'task.domain == "code" && !stream', use: {size: large}, by: fixed, at_least: {quality: 0.5}}
    use: small
  watched:
    rules: [{name: moved, when: '!provider("side").up || provider("side").error_rate >= 0.5', use: small}]
    use: side
    fallback: {retries: 0}
budgets:
  all: {limit: $0.01, at: []}
keys:
  tester: {secret: $TEST_KEY}
"""


async def rule_of(app: Running, text: str = "Hello there, how are you?", route: str = "auto", **more: Any) -> tuple[str, str]:
    """The rule and the deployment that an answer names."""
    headers = more.pop("headers", {})
    answer = await app.ask(route, messages=[{"role": "user", "content": text}], headers=headers, **more)
    assert answer.status_code == 200, answer.text
    return answer.headers["x-faregate-rule"], answer.headers["x-faregate-deployment"]


async def test_rules_read_the_prompt_the_labels_and_what_was_spent(tmp_path: Path) -> None:
    """From YAML to the provider that is called, and back to the decision that the books can repeat."""
    async with running(tmp_path, CONFIG) as app:
        assert await rule_of(app) == ("default", "up/small")
        gold = {"x-tier": "gold", "x-faregate-tags": "kind=agent"}
        assert await rule_of(app, headers=gold) == ("gold", "side/side")
        assert await rule_of(app, headers={**gold, "x-faregate-tags": "kind=batch"}) == ("default", "up/small")
        assert await rule_of(app, "오늘 서울 날씨가 어떤지 알려 주시겠어요? 우산이 필요할까요?") == ("korean", "up/solar")
        code = "Write a Python function that reverses a linked list:\n```python\ndef reverse(head):\n    return head\n```"
        assert await rule_of(app, code) == ("good", "up/coder")
        assert await rule_of(app, code, stream=True) == ("default", "up/small")
        app.up.on("small", Sequence([Json(usage=usage(6000, 100)), Json()]))
        assert await rule_of(app) == ("default", "up/small")
        await app.settled()
        assert await rule_of(app) == ("default", "up/small"), "its own hold is what tells that the budget is more than half used"
        assert await rule_of(app) == ("broke", "up/small")
        await app.settled()
        await app.app.service._read_budgets()
        assert (await rule_of(app))[0] == "broke"
        await app.settled()
        for record in typed(await app.records()):
            trace = read_trace(record)
            assert trace is not None
            assert recall(app.app.service.snapshot, record, trace) == trace.decision


async def test_rules_read_who_is_up(tmp_path: Path) -> None:
    """A vendor that fails is left before its cooldown begins, and while it lasts."""
    async with running(tmp_path, CONFIG) as app:
        app.up.on("side", Sequence([Fail(status=500), Fail(status=401), Json()]))
        assert (await app.ask("watched")).status_code >= 500
        assert await rule_of(app, route="watched") == ("moved", "up/small")
        assert (await app.ask("side")).status_code >= 400
        assert await rule_of(app, route="watched") == ("moved", "up/small")


def test_explain_shows_what_the_rules_read() -> None:
    """Without the time and the budgets a decision by them cannot be understood."""
    snapshot = compiled(CONFIG.replace("UP", "http://127.0.0.1:9/v1").replace('"STORE"', "null"))
    body = msgspec.json.encode(chat("auto"))
    told = as_text(explain(snapshot, body, fleet=Fleet(lambda: 0.0), clock_ms=lambda: 1_795_219_200_000))
    assert "sat 09:00, budgets 0% used, 0.01 USD left" in told
    watched = as_text(explain(snapshot, msgspec.json.encode(chat("watched")), fleet=Fleet(lambda: 0.0)))
    assert "provider side up" in watched
