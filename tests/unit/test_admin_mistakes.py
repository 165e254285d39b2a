"""What the admin API says of a request that it cannot read."""

from __future__ import annotations

from typing import Any

import httpx2 as httpx
import pytest
from fastapi import FastAPI

from router.admin.api import HANDLERS
from router.admin.shapes import ControlGiven, KeyGiven, RollbackGiven
from router.errors import RouterError
from router.keyring import check_names
from tests.running import compiled

FREEZE = {"target": "team=x", "reason": "r"}
CONFIG = """
version: 1
providers: {up: {kind: openai, base_url: "http://127.0.0.1:9/v1", api_key: $PROVIDER_KEY}}
models: {pocket: {at: up/m, price: free}}
"""


def app() -> FastAPI:
    made = FastAPI()

    @made.post("/freezes")
    async def freeze(given: ControlGiven) -> None:
        """As the real one reads its body."""

    @made.post("/keys")
    async def mint(given: KeyGiven) -> None:
        """As the real one reads its body."""

    @made.post("/rollback")
    async def rollback(given: RollbackGiven) -> None:
        """As the real one reads its body."""

    for kind, handler in HANDLERS:
        made.add_exception_handler(kind, handler)
    return made


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("freezes", {**FREEZE, "untill": "2h"}, 'untill: unknown field; did you mean "until"?'),
        ("freezes", {**FREEZE, "zzz": 1}, "zzz: unknown field; known: target, reason, until"),
        ("freezes", {**FREEZE, "sk-0123456789abcdefghij": 1}, "(not shown): unknown field; known: target, reason, until"),
        ("freezes", {"target": "team=x"}, "reason: is missing"),
        ("freezes", {**FREEZE, "reason": 5}, "reason: must be text"),
        ("freezes", {**FREEZE, "reason": " "}, "reason: must be visible characters, and not nothing"),
        ("freezes", [], "The body: must be an object"),
        ("keys", {"name": "k", "team": "t" * 65}, "team: must have 64 characters at most"),
        (
            "rollback",
            {"version": "newest", "reason": "r"},
            "version: must be 12 digits of 0-9 and a-f, as GET /admin/v1/config/versions lists them",
        ),
    ],
)
async def test_a_mistake_is_told_in_words(path: str, body: Any, message: str) -> None:
    """What was meant, and what may stand there; never what was sent."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app()), base_url="http://admin") as client:
        answer = await client.post(path, json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == message


@pytest.mark.parametrize(
    ("team", "models", "message"),
    [
        ("", ["poket"], "There is no route or model 'poket'; did you mean 'pocket'?"),
        ("serch", [], "There is no team 'serch'; known: none."),
    ],
)
def test_a_name_for_a_key_that_nothing_has_is_refused(team: str, models: list[str], message: str) -> None:
    """The key would never work."""
    with pytest.raises(RouterError) as caught:
        check_names(compiled(CONFIG), team, models)
    assert str(caught.value) == message
