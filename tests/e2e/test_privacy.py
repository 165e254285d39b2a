"""Private requests reach only what may see them, on every way that leads to a provider."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.running import Running, running
from tests.scripted_upstream import Fail, Json, Sequence, usage

CONFIG = """
version: 1
server: {store: "STORE", on_short: [cheaper, clamp, refuse]}
signals: {timeout: 5s}
providers:
  house: {kind: openai, base_url: "UP", api_key: $PROVIDER_KEY}
  cloud: {kind: openai, base_url: "UP", api_key: $PROVIDER_KEY}
models:
  home: {at: house/home, locality: local, size: large, quality: 0.5, price: {input: 5, output: 5}, default_max_output: 100}
  spare: {at: house/spare, locality: edge, size: large, quality: 0.4, price: {input: 6, output: 6}, default_max_output: 100}
  far: {at: cloud/far, locality: cloud, size: small, quality: 0.9, price: {input: 1, output: 1}, default_max_output: 100}
  farther: {at: cloud/farther, locality: cloud, size: small, quality: 0.8, price: {input: 2, output: 2}, default_max_output: 100}
privacy:
  personal: {when: {pii: true}, only: {locality: [local, edge]}}
  secret: {when: 'tag("data") == "secret"', only: home}
routes:
  fixed: {use: [far, home, farther, spare], by: fixed, fallback: {on: [4xx, 5xx, timeout], tries: 8, retries: 1}}
  cost: [far, home, farther, spare]
  ruled:
    rules: [{when: {pii: true}, use: far, by: fixed}]
    use: [far, home]
  quality: {use: [far, home, farther, spare], by: {kind: quality, target: 0.7}}
  split: {use: [far, home], by: {kind: split, branches: [{name: out, use: far, share: 99%}, {name: in, use: home, share: 1%}]}}
  cascade: {use: [home, far, farther, spare], by: {kind: cascade, steps: [{size: large}, {size: small}], verify: {judge: {model: farther}}}}
  hedge: {use: [home, far], by: {kind: hedge, by: fixed}}
  shadow: {use: [home, far], by: {kind: shadow, to: far, share: 100%, team: lab, by: fixed}}
  bandit: {use: [home, far], by: {kind: bandit, worth_usd: 0.01}}
  agree: {use: [home, far], by: {kind: cascade, steps: [home, far], verify: {agree: {model: far}}}}
  canary: {use: [home, far], by: {kind: canary, to: far, share: 99%, sticky: none, by: fixed}}
  weighted: {use: [far, home], by: weighted}
  latency: {use: [far, home], by: {kind: latency, target_ms: 800}}
  least: {use: [far, home], by: least_busy}
  cached: {use: [far, home], by: {kind: cost, keep_cache: true}}
  vendors: {use: [far, home], by: {kind: vendors, most: 1%, by: fixed}}
  pace: {use: [far, home], by: {kind: pace, budget: month}}
  nested: {use: [far, home], by: {kind: canary, to: far, share: 99%, by: {kind: hedge, by: {kind: vendors, by: latency}}}}
  floor: {use: [far, home], at_least: {quality: 0.7}}
  away: {use: [far, farther]}
  short: {use: [home, far], by: fixed}
budgets:
  narrow: {limit: $0.0004, when: {route: short}, at: []}
  month: $1000/month
  full: {limit: $0.002, when: {route: fixed}, at: {1%: downgrade}}
teams: {lab: {budget: $1}}
keys:
  tester: {secret: $TEST_KEY}
"""
MAIL = "Write to jane.doe@example.com that she is right."
HOUSE = {"home", "spare"}
EVERY_ROUTE = (
    *("fixed", "cost", "ruled", "quality", "split", "cascade", "hedge", "shadow", "bandit", "floor", "away", "agree", "canary"),
    *("weighted", "latency", "least", "cached", "vendors", "pace", "nested"),
)


def private(text: str = MAIL) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


async def seen_by(app: Running) -> set[str]:
    """The models that requests reached since it was last asked, copies included."""
    copies = app.app.service.fleet.memory.copies
    while copies:
        await next(iter(copies))
    found = {seen.model for seen in app.up.requests}
    app.up.requests.clear()
    return found


@pytest.mark.parametrize("stream", [False, True], ids=["json", "sse"])
async def test_no_route_and_no_failure_leads_a_private_request_out(tmp_path: Path, stream: bool) -> None:
    """Fallback, retry, cascade, judge, second opinion, hedge, shadow, split, canary, bandit: each is a way to another provider; so is a
    session whose cached prompt is there. And the log tells nobody."""
    async with running(tmp_path, CONFIG) as app:
        for route in EVERY_ROUTE:
            await app.ask(route, stream=stream, headers={"x-faregate-session": "s"})
        assert await seen_by(app) >= {"far", "farther"}, "otherwise what follows would show nothing"
        declined = Json(text="I'm sorry, I can't help with that.", usage=usage(10, 10))
        for behaviour in (Json(),) if stream else (Json(), declined, Fail(status=500)):
            app.up.on("home", Sequence([behaviour] * 100))
            app.up.on("spare", Sequence([behaviour] * 100))
            for route in EVERY_ROUTE:
                await app.ask(route, stream=stream, headers={"x-faregate-session": "s"}, **private())
        assert await seen_by(app) <= HOUSE
        await app.settled()
        told = app.log.read_text() + "".join(map(str, await app.records()))
        assert told
        assert "jane.doe" not in told


async def test_nothing_that_a_request_asks_for_leads_it_out(tmp_path: Path) -> None:
    """Its own name for the model, its restrictions, its order: they can only make the choice smaller."""
    async with running(tmp_path, CONFIG) as app:
        for name in ("far", "cloud/far", "away", "ruled"):
            refused = await app.ask(name, **private())
            assert (refused.status_code, refused.json()["error"]["code"]) == (403, "policy_refused")
            assert "cloud/far: private (may not see personal requests)" in refused.json()["error"]["message"]
        asked: tuple[dict[str, object], ...] = (
            {"faregate": {"use": ["far"]}},
            {"faregate": {"use": ["cloud", "far", "home"]}},
            {"provider": {"order": ["cloud"]}},
            {"provider": {"only": ["cloud"]}},
            {"provider": {"ignore": ["house"]}},
            {"faregate": {"max_cost_usd": 0.0001}},
        )
        for more in asked:
            await app.ask("fixed", **private(), **more)
        assert await seen_by(app) <= HOUSE


async def test_no_lack_of_money_leads_a_private_request_out(tmp_path: Path) -> None:
    """The next cheaper model, or the small ones of a budget that fills, may be the cloud's."""
    async with running(tmp_path, CONFIG) as app:
        plain = await app.ask("short")
        assert (plain.status_code, await seen_by(app)) == (200, {"far"})
        refused = await app.ask("short", **private())
        assert refused.status_code == 402
        assert (await app.ask("fixed", messages=private()["messages"], max_tokens=100)).status_code == 200
        await app.settled()
        await app.app.service._read_budgets()
        steered = await app.ask("fixed", **private())
        assert (steered.status_code, steered.json()["error"]["code"]) in ((403, "policy_refused"), (402, "budget_exceeded"))
        assert await seen_by(app) == {"home"}


async def test_what_cannot_be_told_is_private_and_classes_add_up(tmp_path: Path) -> None:
    """A picture may show anything. Who falls into two classes may be seen only by what both allow."""
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    async with running(tmp_path, CONFIG) as app:
        await app.ask("cost", messages=[{"role": "user", "content": [picture]}])
        assert await seen_by(app) == {"home"}
        app.up.on("home", Sequence([Fail(status=500)] * 10))
        failed = await app.ask("cost", headers={"x-faregate-tags": "data=secret"}, **private())
        assert failed.status_code >= 500
        assert await seen_by(app) == {"home"}
        metrics = (await app.client.get(f"{app.root}/metrics")).text
        assert 'deployment="cloud/far",reason="private"' in metrics


async def test_other_operations_are_read_too(tmp_path: Path) -> None:
    """A text that is embedded has been seen."""
    async with running(tmp_path, CONFIG) as app:
        for path, body in (("/embeddings", {"input": MAIL}), ("/completions", {"prompt": MAIL})):
            await app.client.post(path, json={"model": "cost", **body})
            assert await seen_by(app) <= HOUSE
