"""What one request may ask for, as the service, a route, a team and a key say; over real HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.running import Running, running
from tests.scripted_behaviours import Json

CONFIG = """
version: 1
server: {store: "STORE"}
providers:
  up: {kind: openai, base_url: "UP", api_key: $PROVIDER_KEY}
models:
  m: {at: [up/m, up/m2], price: {input: 1, output: 10}, default_max_output: 2000}
routes:
  small: {use: m, by: fixed, max_n: 1}
guards: {max_tools: 2}
teams:
  search: {max_tokens: 1000, max_cost: $0.0121, max_attempts: 1}
keys:
  tester: {team: search, secret: $TEST_KEY, max_images: 0, max_tokens: 800, over_max_tokens: clamp}
"""


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path, CONFIG) as served:
        yield served


@pytest.mark.parametrize(
    ("more", "guard", "whose"),
    [
        ({"tools": [{"type": "function"}] * 3}, "max_tools", "this service"),
        ({"n": 2}, "max_n", "route 'small'"),
        ({"max_tokens": 1001}, "max_tokens", "team 'search'"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u"}}]}]}, "max_images", "key 'tester'"),
    ],
)
async def test_every_place_that_sets_a_limit_is_obeyed(app: Running, more: dict[str, object], guard: str, whose: str) -> None:
    """A key cannot lift what its team forbids, nor a route what the service does."""
    answer = await app.ask("small", **more)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["code"], error["guard"]) == ("request_limit_exceeded", guard)
    assert whose in error["message"]
    assert answer.headers["x-should-retry"] == "false"
    metrics = (await app.client.get(f"{app.root}/metrics")).text
    assert f'faregate_guarded_requests_total{{guard="{guard}",action="refuse"}} 1' in metrics
    assert not app.up.requests


@pytest.mark.parametrize("asked", [{}, {"max_tokens": 900}, {"max_completion_tokens": 900, "max_tokens": 950}])
async def test_a_cap_is_clamped_whoever_set_it(app: Running, asked: dict[str, object]) -> None:
    """What is held, what is forwarded and what the key may have are the same number; 400 is for those that refuse."""
    assert (await app.ask("small", **asked)).status_code == 200
    body = app.up.requests[0].body
    assert [body[name] for name in ("max_completion_tokens", "max_tokens") if name in body] == [800]
    metrics = (await app.client.get(f"{app.root}/metrics")).text
    assert ('faregate_guarded_requests_total{guard="max_tokens",action="clamp"} 1' in metrics) == bool(asked)


async def test_a_team_bounds_what_one_request_can_cost(app: Running) -> None:
    """800 tokens of output and a short prompt fit; a long prompt does not."""
    assert (await app.ask("small")).status_code == 200
    answer = await app.ask("small", messages=[{"role": "user", "content": "word " * 1500}])
    assert answer.status_code == 402
    assert answer.json()["error"]["code"] == "max_cost_exceeded"
    assert "limit 0.0121 USD" in answer.json()["error"]["message"]


async def test_a_request_makes_no_more_calls_than_it_may(app: Running) -> None:
    """A failing provider must not multiply what a request costs; without the limit the second deployment would be called."""
    app.up.on("m", Json(status=500, body={"error": {"message": "no"}}))
    assert (await app.ask("small")).status_code == 500
    assert len(app.up.requests) == 1
