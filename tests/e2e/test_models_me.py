"""What a key may ask for, and what it has left: the pages for user interfaces and for people."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from router.errors import StoreUnavailable
from tests.running import Running, running

LIMITED = "sk-test-limited-0123456789abcdefghijklm"
OTHER = "sk-test-other-0123456789abcdefghijklmno"
CONFIG = """
version: 1
server: {store: "STORE"}
providers:
  up: {kind: openai, base_url: "UP", api_key: $PROVIDER_KEY}
models:
  m: {at: up/m, price: {input: 1, output: 10}, size: small, locality: cloud, weights: open, context: 8k, default_max_output: 100}
  b: {at: [up/b1, up/b2], price: {input: 2, output: 20}, default_max_output: 100}
routes:
  auto: [m, b]
budgets:
  all: $100/month
  per-key: {limit: $5, each: key}
  per-team: {limit: $20/day, each: team, timezone: Asia/Seoul}
  soft: {limit: $1, each: key, mode: soft}
  tagged: {limit: $2, when: {tags: {kind: agent}}}
  per-org: {limit: $50, each: org}
teams:
  search: {org: acme, models: [auto, m], tags: {cost-center: "1"}}
keys:
  tester: {secret: $TEST_KEY}
  limited: {secret: $LIMITED, team: search, models: [m, b], tags: {kind: agent}, expires: 2031-01-01}
  other: {secret: $OTHER}
"""


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path, CONFIG, environment={"LIMITED": LIMITED, "OTHER": OTHER}) as served:
        yield served


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


async def names(app: Running, headers: dict[str, str] | None = None) -> list[str]:
    answer = await app.client.get("/models", headers=headers or {})
    assert answer.status_code == 200
    assert answer.json()["object"] == "list"
    return [card["id"] for card in answer.json()["data"]]


async def test_routes_come_first_then_models_then_deployments(app: Running) -> None:
    """A menu shows what is meant to be chosen before what is there for experts."""
    assert await names(app) == ["auto", "b", "m", "up/b1", "up/b2", "up/m"]


async def test_a_key_sees_what_it_may_use(app: Running) -> None:
    """What the list shows works, and what works is shown."""
    shown = await names(app, bearer(LIMITED))
    assert shown == ["m", "up/m"]
    for name in ("auto", "b", "m", "up/b1", "up/b2", "up/m"):
        allowed = (await app.ask(name, headers=bearer(LIMITED))).status_code == 200
        assert allowed is (name in shown), name


async def test_a_card_says_what_is_behind_a_name(app: Running) -> None:
    """OpenAI's members for programs, ours for people; nothing that is a secret or an address."""
    card = (await app.client.get("/models/auto")).json()
    assert (card["id"], card["object"], card["owned_by"]) == ("auto", "model", "up")
    assert isinstance(card["created"], int)
    assert card["faregate"]["kind"] == "route"
    assert [each["name"] for each in card["faregate"]["deployments"]] == ["up/m", "up/b1", "up/b2"]
    first = card["faregate"]["deployments"][0]
    assert (first["size"], first["locality"], first["weights"], first["health"]) == ("small", "cloud", "open", "up")
    assert (first["input_usd_per_mtok"], first["output_usd_per_mtok"], first["context_tokens"]) == ("1", "10", 8000)
    assert str(app.up.port) not in str(card)


@pytest.mark.parametrize(("name", "status"), [("up/m", 200), ("up%2Fm", 200), ("nothing", 404), ("up/x", 404), ("b", 403)])
async def test_one_model_by_name(app: Running, name: str, status: int) -> None:
    """Names hold slashes, and clients write them both ways."""
    answer = await app.client.get(f"/models/{name}", headers=bearer(LIMITED))
    assert answer.status_code == status
    if status == 200:
        assert answer.json()["id"] == "up/m"


@pytest.mark.parametrize("path", ["/models", "/models/m", "/me"])
async def test_nothing_is_told_without_a_key(app: Running, path: str) -> None:
    """Names of models and prices are the company's own."""
    answer = await app.client.get(path, headers=bearer("sk-wrong-0123456789"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")


def budgets(me: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["budget"]: each for each in me["budgets"]}


async def test_me_shows_the_keys_own_limits_and_spending(app: Running) -> None:
    """An agent can look before it leaps; a person need not ask the operator."""
    await app.ask("m", headers=bearer(LIMITED))
    await app.settled()
    me = (await app.client.get("/me", headers=bearer(LIMITED))).json()
    assert (me["object"], me["key_id"], me["name"], me["team"]) == ("faregate.me", "limited", "limited", "search")
    assert me["models"] == ["m"]
    assert me["tags"] == {"kind": "agent", "cost-center": "1"}
    assert me["expires_at"] == "2031-01-01T00:00:00Z"
    own = budgets(me)
    assert set(own) == {"all", "per-key", "per-org", "per-team", "soft", "tagged"}
    spent = (11 * 1 + 3 * 10) / 1e6
    for name, limit in (("all", 100.0), ("per-key", 5.0), ("per-org", 50.0), ("per-team", 20.0), ("tagged", 2.0)):
        assert float(own[name]["spent_usd"]) == pytest.approx(spent)
        assert float(own[name]["limit_usd"]) == limit
        assert float(own[name]["left_usd"]) == pytest.approx(limit - spent)
        assert float(own[name]["held_usd"]) == 0
    assert own["per-key"]["resets_at"] is None
    assert own["per-team"]["resets_at"].endswith("T15:00:00Z"), "midnight in Seoul"
    assert own["per-key"]["scope"] == "key=limited"


async def test_me_shows_nobody_elses_spending(app: Running) -> None:
    """What another key spent is its owner's business, but for the budgets that both share."""
    await app.ask("m", headers=bearer(LIMITED))
    await app.settled()
    own = budgets((await app.client.get("/me", headers=bearer(OTHER))).json())
    assert float(own["per-key"]["spent_usd"]) == 0
    assert float(own["all"]["spent_usd"]) > 0
    assert "tagged" not in own


async def test_me_says_so_when_the_store_is_away(app: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zero would be a lie."""

    async def away(*_: object, **__: object) -> None:
        raise StoreUnavailable("for the test")

    monkeypatch.setattr(app.app.service.ledger, "states_of", away)
    answer = await app.client.get("/me")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "budget_store_unavailable")


async def test_without_keys_everybody_may_look(tmp_path: Path) -> None:
    """On one's own machine nothing asks for a key."""
    config = CONFIG[: CONFIG.index("teams:")]
    async with running(tmp_path, config, key="anything") as app:
        assert await names(app) == ["auto", "b", "m", "up/b1", "up/b2", "up/m"]
        me = (await app.client.get("/me")).json()
        assert (me["key_id"], me["name"], me["models"]) == ("", "anonymous", None)
        assert (await app.ask()).status_code == 200
