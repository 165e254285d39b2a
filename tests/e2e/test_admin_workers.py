"""The admin API of a service with several workers: whoever answers, the answer is the same, and every worker obeys."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2 as httpx

from tests.conftest import free_port
from tests.gateway import KEY, Gateway
from tests.running import chat
from tests.scripted_behaviours import Gate, Json
from tests.scripted_upstream import ScriptedUpstream

CONFIG = """
version: 1
server: {log_requests: false, admin: {port: ADMIN}}
providers:
  up: {kind: openai, base_url: "UP", api_key: $PROVIDER_KEY}
models:
  m: {at: up/m, price: {input: 10, output: 10}, default_max_output: 100}
budgets:
  everyone: {limit: $1}
keys:
  tester: {secret: $TEST_KEY}
admins:
  alice: {secret: $ALICE, role: admin}
"""
ALICE = "alice-0123456789-0123456789"
ASKED = 24
"""Calls on connections of their own: the kernel deals them to both workers."""
SOON_SECONDS = 20
"""A change holds within a second; a busy machine gets more."""


class Office:
    """A client of the admin API that asks on a new connection each time, so that any worker answers."""

    def __init__(self, port: int) -> None:
        self._root = f"http://127.0.0.1:{port}/admin/v1"

    async def ask(self, method: str, path: str, **more: Any) -> Any:
        async with httpx.AsyncClient(timeout=60, headers={"authorization": f"Bearer {ALICE}"}) as client:
            answer = await client.request(method, f"{self._root}/{path}", **more)
        assert answer.status_code < 300, answer.text
        return answer.json()

    async def get(self, path: str) -> Any:
        return await self.ask("GET", path)

    async def post(self, path: str, **body: object) -> Any:
        return await self.ask("POST", path, json=body)


async def statuses(gateway: Gateway, key: str) -> set[int]:
    """What every worker answers to a call with this key."""
    found = set()
    for _ in range(ASKED):
        async with gateway.client() as client:
            answer = await client.post("/chat/completions", json=chat(), headers={"authorization": f"Bearer {key}"})
        found.add(answer.status_code)
    return found


async def soon(look: Callable[[], Awaitable[bool]]) -> float:
    """Wait until something holds; after how many seconds it did."""
    began = time.monotonic()
    while not await look():
        assert time.monotonic() - began < SOON_SECONDS
        await asyncio.sleep(0.02)
    return time.monotonic() - began


async def workers_of(office: Office) -> list[str]:
    """The version that each worker serves."""
    return [worker["version"] for worker in (await office.get("config"))["workers"]]


async def test_every_worker_obeys_and_any_answers_for_all(tmp_path: Path, redis_url: str) -> None:
    """Revoked means revoked everywhere, at once: not after the memory of some worker has run out, ten seconds later."""
    port = free_port()
    async with ScriptedUpstream(default=Json()) as up:
        config = CONFIG.replace("UP", up.base_url).replace("ADMIN", str(port))
        async with Gateway(tmp_path, config, store=redis_url, workers=2, environment={"ALICE": ALICE}) as gateway:
            office = Office(port)

            async def both() -> bool:
                return len(await workers_of(office)) == 2

            await soon(both)
            made = await office.post("keys", name="leaky")
            key, key_id = made["key"], made["card"]["id"]
            assert await statuses(gateway, key) == {200}
            await office.post(f"keys/{key_id}/revoke", reason="it leaked")

            async def refused() -> bool:
                return await statuses(gateway, key) == {401}

            assert await soon(refused) < 9, "the memory of a worker ends after ten seconds"
            await _holds(gateway, office, up)
            await _rolls_back(gateway, office)
            assert KEY not in gateway.errors()
            assert ALICE not in gateway.errors()
            assert key not in gateway.errors()


async def _holds(gateway: Gateway, office: Office, up: ScriptedUpstream) -> None:
    """Calls of both workers are shown, whoever is asked."""
    seen, gate = len(up.requests), Gate()
    up.default = Json(before=gate)

    async def ask() -> None:
        async with gateway.client() as client:
            assert (await client.post("/chat/completions", json=chat())).status_code == 200

    asking = [asyncio.create_task(ask()) for _ in range(ASKED)]
    await up.until_seen(seen + ASKED)
    for _ in range(3):
        shown = await office.get("holds")
        assert (len(shown["data"]), shown["workers"]) == (ASKED, 2)
    assert {hold["worker"] for hold in shown["data"]} == {0, 1}
    gate.open()
    await asyncio.gather(*asking)


async def _rolls_back(gateway: Gateway, office: Office) -> None:
    """All workers go back to a version, and to their file."""
    (first,) = set(await workers_of(office))
    file = gateway.folder / "router.yaml"
    file.write_text(file.read_text().replace("limit: $1}", "limit: $2}"))
    second = (await office.post("config/reload"))["version"]

    def all_serve(version: str) -> Callable[[], Awaitable[bool]]:
        async def look() -> bool:
            return set(await workers_of(office)) == {version}

        return look

    await soon(all_serve(second))

    async def kept() -> bool:
        return {each["version"] for each in (await office.get("config/versions"))["data"]} == {first, second}

    await soon(kept)
    await office.post("config/rollback", version=first, reason="too dear")
    await soon(all_serve(first))
    assert (await office.get("budgets/everyone"))["limit"] == "1.00"
    await office.post("config/unpin", reason="mended")
    await soon(all_serve(second))
