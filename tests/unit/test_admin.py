"""What is answered beside calls for models, and what that costs: nothing that is not asked for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from router.admin.app import make_app
from router.admin.front import Front
from router.edge import routes
from tests.running import Running, running

CONFIG = """
version: 1
server: {store: "STORE", log_requests: false}
providers:
  up: {kind: openai, base_url: "UP", api_key: $PROVIDER_KEY}
models:
  m: {at: up/m, price: {input: 1, output: 10}}
keys:
  tester: {secret: $TEST_KEY, expires: 2031-01-01T12:00:00.75+09:00}
"""


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path, CONFIG) as served:
        yield served


@pytest.mark.parametrize(
    "path", ["../livez", "../readyz", "../metrics", "models", "models/m", "models/none", "me", "none", "../openapi.json"]
)
async def test_every_answer_carries_the_ids_of_its_request(app: Running, path: str) -> None:
    """A ticket that names an id must lead to a request, whatever was asked."""
    plain = await app.client.get(path)
    assert plain.headers["x-request-id"] == plain.headers["x-faregate-request-id"]
    assert plain.headers["x-faregate-request-id"].startswith("fg-")
    own = await app.client.get(path, headers={"x-request-id": "ticket-7"})
    assert own.headers["x-request-id"] == "ticket-7"
    assert own.headers["x-faregate-request-id"] not in ("ticket-7", plain.headers["x-faregate-request-id"])


async def test_an_id_that_could_break_a_log_is_not_taken_over(app: Running) -> None:
    """It is shown again in answers: only short, visible ASCII is."""
    answer = await app.client.get("../livez", headers={"x-request-id": "a b"})
    assert answer.headers["x-request-id"].startswith("fg-")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "none", 404, "unknown_url"),
        ("GET", "..", 404, "unknown_url"),
        ("GET", "me/", 404, "unknown_url"),
        ("POST", "models", 405, "method_not_allowed"),
        ("DELETE", "none", 404, "unknown_url"),
        ("GET", "chat/completions", 405, "method_not_allowed"),
    ],
)
async def test_what_is_not_served_says_what_is(app: Running, method: str, path: str, status: int, code: str) -> None:
    """The commonest mistake is a base URL without /v1."""
    answer = await app.client.request(method, path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    if status == 404:
        assert "/v1/chat/completions" in answer.json()["error"]["message"]


async def test_fastapi_serves_the_same_pages(app: Running) -> None:
    """It describes them: what it says must be what is answered."""
    front = app.app.service.gate.asgi
    assert isinstance(front, Front)
    told = (await app.client.get("../openapi.json")).json()
    assert set(told["paths"]) == {path.replace(":path", "") for path in routes.OTHERS}
    complete = make_app(front._pages)
    for path in (routes.LIVE, routes.READY, routes.MODELS, "/v1/models/m", "/v1/models/none"):
        answers = []
        for asgi in (front, complete):
            sent: list[dict[str, object]] = []

            async def receive() -> dict[str, object]:
                return {"type": "http.request", "body": b"", "more_body": False}

            async def send(message: object, sent: list[dict[str, object]] = sent) -> None:
                assert isinstance(message, dict)
                sent.append(message)

            headers = [(b"authorization", app.client.headers["authorization"].encode())]
            scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": headers, "root_path": ""}
            await asgi(scope, receive, send)
            # Messages of ASGI have values of any type.
            answers.append((sent[0]["status"], b"".join(bytes(each.get("body", b"")) for each in sent)))  # type: ignore[call-overload]
        assert answers[0] == answers[1], path


async def test_what_a_client_gave_up_on_goes_on_loading_for_the_others(app: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """The framework is loaded by the first request that needs it, and only once."""
    front = app.app.service.gate.asgi
    assert isinstance(front, Front)
    loaded: list[int] = []

    def load() -> object:
        loaded.append(1)
        return make_app(front._pages)

    monkeypatch.setattr(front, "_load", load)
    first = asyncio.ensure_future(front._framework())
    await asyncio.sleep(0)
    first.cancel()
    assert (await app.client.get("none")).status_code == 404
    assert (await app.client.get("none")).status_code == 404
    assert loaded == [1]


async def test_times_are_written_in_one_way(app: Running) -> None:
    """ISO 8601 in UTC, whole seconds: what a person reads and every language parses."""
    assert (await app.client.get("me")).json()["expires_at"] == "2031-01-01T03:00:00Z"
