"""What people change while the service runs, as they do it: by command and by file, seen by clients of every worker."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx2 as httpx
import pytest

from tests.gateway import KEY, Gateway
from tests.running import chat
from tests.scripted_upstream import ScriptedUpstream
from tests.verbs import said

CONFIG = """
version: 1
server: {log_requests: false}
providers:
  up: {kind: openai, base_url: "UP", api_key: $PROVIDER_KEY}
  spare: {kind: openai, base_url: "UP", api_key: $PROVIDER_KEY}
models:
  m: {at: up/m, price: {input: 10, output: 10}, default_max_output: 100}
  n: {at: spare/n, price: {input: 20, output: 20}, default_max_output: 100}
routes:
  auto: [m, n]
budgets:
  everyone: {limit: $1}
  per-team: {limit: $1, each: team}
teams: {search: {}, other: {}}
keys:
  tester: {secret: $TEST_KEY, team: search}
  second: {secret: $SECOND_KEY, team: other}
"""
SECOND_KEY = "sk-test-second-0123456789abcdefghijklmnop"
SOON_SECONDS = 20
"""A change holds within a second; a busy machine gets more."""
WORKERS = 2
ASKED = 8
"""Calls on connections of their own: the kernel deals them to both workers."""


@pytest.fixture(params=["sqlite", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "ledger.sqlite") if request.param == "sqlite" else str(request.getfixturevalue("redis_url"))


def served(folder: Path, up: ScriptedUpstream, store: str, *, workers: int = WORKERS) -> Gateway:
    config = CONFIG.replace("UP", up.base_url)
    return Gateway(folder, config, store=store, workers=workers, environment={"SECOND_KEY": SECOND_KEY})


async def ask(gateway: Gateway, model: str = "m", **more: object) -> list[httpx.Response]:
    """The same call several times, so that every worker answers it."""

    async def once() -> httpx.Response:
        async with gateway.client() as client:
            return await client.post("/chat/completions", json=chat(model, **more))

    return [await once() for _ in range(ASKED)]


async def soon(look: Callable[[], Awaitable[bool]]) -> None:
    """Wait until a change holds."""
    deadline = time.monotonic() + SOON_SECONDS
    while not await look():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def run(gateway: Gateway, *words: str) -> str:
    """A verb on the store of the service; its standard output."""
    environment = {"PROVIDER_KEY": "sk-provider", "TEST_KEY": KEY, "SECOND_KEY": SECOND_KEY}
    return await said(*words, "--store", gateway.store, environment=environment)


async def metric(gateway: Gateway, line: str) -> bool:
    async with httpx.AsyncClient(timeout=60) as client:
        return line in (await client.get(f"{gateway.root}/metrics")).text.splitlines()


async def a_limit_is_changed_for_all_workers_at_once(gateway: Gateway, up: ScriptedUpstream) -> None:
    """A budget that is spent in the night is raised by one line, and ends by itself."""
    made = await run(gateway, "budget", "set", "everyone", "0.0001usd", "--reason", "try")
    assert made == "everyone: 1.00 USD -> 0.0001 USD\n"
    refused = await ask(gateway, max_tokens=100)
    assert {answer.status_code for answer in refused} == {402}
    assert "limit 0.0001 USD for now (1.00 USD in the configuration)" in refused[0].json()["error"]["message"]
    await run(gateway, "budget", "raise", "everyone", "$50", "--until", "2h", "--reason", "launch night")
    assert {answer.status_code for answer in await ask(gateway, max_tokens=100)} == {200}
    await soon(lambda: metric(gateway, 'faregate_budget_limit_usd{budget="everyone"} 50.0001'))
    assert await metric(gateway, 'faregate_controls{kind="limit"} 2')
    await run(gateway, "budget", "set", "per-team", "$0", "--scope", "team=search", "--reason", "over")
    refused = await ask(gateway)
    assert {answer.json()["error"]["scope"] for answer in refused} == {"team=search"}
    async with gateway.client() as client:
        other = await client.post("/chat/completions", json=chat("m"), headers={"authorization": f"Bearer {SECOND_KEY}"})
    assert other.status_code == 200
    shown = await run(gateway, "ledger", "show")
    assert "everyone: +50.00 USD until " in shown
    assert "launch night" in await run(gateway, "budget", "list")
    await run(gateway, "budget", "reset-override", "per-team", "--reason", "as it was")
    assert {answer.status_code for answer in await ask(gateway)} == {200}
    entries = [json.loads(line) for line in (await run(gateway, "audit", "--since", "1h", "--json")).splitlines()]
    assert [entry["action"] for entry in entries] == ["config.load", "budget.set", "budget.raise", "budget.set", "budget.reset"]
    assert entries[2]["who"].startswith(f"{os.environ.get('USER', '')}")
    assert (entries[2]["before"], entries[2]["after"], entries[2]["reason"]) == ("0.0001 USD", "50.0001 USD", "launch night")


async def who_is_frozen_is_refused_by_every_worker(gateway: Gateway, up: ScriptedUpstream) -> None:
    """A key that leaked, a team whose agents run wild: at once, and with the reason."""
    assert {answer.status_code for answer in await ask(gateway)} == {200}
    await run(gateway, "freeze", "team=search", "--reason", "agents run wild", "--until", "3h")

    async def frozen() -> bool:
        return {answer.status_code for answer in await ask(gateway)} == {403}

    await soon(frozen)
    (answer, *_) = await ask(gateway)
    error = answer.json()["error"]
    assert (error["code"], error["frozen"], error["reason"]) == ("frozen", "team=search", "agents run wild")
    assert answer.headers["x-should-retry"] == "false"
    async with gateway.client() as client:
        other = await client.post("/chat/completions", json=chat("m"), headers={"authorization": f"Bearer {SECOND_KEY}"})
    assert other.status_code == 200
    await run(gateway, "unfreeze", "team=search")

    async def thawed() -> bool:
        return {answer.status_code for answer in await ask(gateway)} == {200}

    await soon(thawed)


async def what_is_drained_is_called_no_more(gateway: Gateway, up: ScriptedUpstream) -> None:
    """A provider with trouble is taken out by one line; routes go on with the others."""
    assert {answer.headers["x-faregate-deployment"] for answer in await ask(gateway, "auto")} == {"up/m"}
    await run(gateway, "drain", "up", "--reason", "outage at the provider")

    async def drained() -> bool:
        return {answer.headers["x-faregate-deployment"] for answer in await ask(gateway, "auto")} == {"spare/n"}

    await soon(drained)
    calls = len([seen for seen in up.requests if seen.body["model"] == "m"])
    (answer, *_) = await ask(gateway, "m")
    assert answer.status_code == 503
    assert "up/m: drained (outage at the provider)" in answer.json()["error"]["message"]
    assert len([seen for seen in up.requests if seen.body["model"] == "m"]) == calls
    assert await metric(gateway, 'faregate_deployment_state{deployment="up/m",state="drained"} 1')
    body = gateway.folder / "body.json"
    body.write_text(json.dumps(chat("auto")))
    explained = await run(gateway, "explain", str(body), "--config", str(gateway.folder / "router.yaml"))
    assert "up/m (model m): drained, outage at the provider" in explained
    await run(gateway, "undrain", "up", "--reason", "it is back")

    async def back() -> bool:
        return {answer.headers["x-faregate-deployment"] for answer in await ask(gateway, "auto")} == {"up/m"}

    await soon(back)


async def test_a_changed_file_takes_effect_and_a_bad_one_does_not(tmp_path: Path) -> None:
    """Watched, and read at once on SIGHUP; what holds only from the start on is named."""
    async with ScriptedUpstream() as up, served(tmp_path, up, str(tmp_path / "ledger.sqlite")) as gateway:
        # A worker that starts with a bad file ends.
        await soon(lambda: metric(gateway, f"faregate_workers {WORKERS}"))
        file = gateway.folder / "router.yaml"
        good = file.read_text()
        file.write_text(good.replace("at: spare/n", "at: nobody/n"))
        await soon(lambda: metric(gateway, 'faregate_config_reloads_total{outcome="refused"} 2'))
        assert await metric(gateway, "faregate_config_last_reload_successful 0")
        assert {answer.status_code for answer in await ask(gateway, "n")} == {200}
        assert gateway.errors().count("the configuration has errors; the one before stays in force") == 1
        assert 'there is no provider \\"nobody\\"' in gateway.errors() or 'there is no provider "nobody"' in gateway.errors()

        await run(gateway, "budget", "raise", "everyone", "$1", "--reason", "must outlive the reload")
        changed = good.replace("limit: $1}\n  per", "limit: $2}\n  per").replace("  tester: {secret: $TEST_KEY, team: search}\n", "")
        file.write_text(changed.replace("log_requests: false", "log_requests: false, max_body: 1MB"))
        os.kill(gateway.pid, signal.SIGHUP)

        async def gone() -> bool:
            return {answer.status_code for answer in await ask(gateway)} == {401}

        await soon(gone)
        await soon(lambda: metric(gateway, 'faregate_config_reloads_total{outcome="ok"} 2'))
        assert await metric(gateway, 'faregate_budget_limit_usd{budget="everyone"} 3.0')
        assert await metric(gateway, "faregate_config_last_reload_successful 1")
        assert gateway.errors().count("needs a restart: server.max_body") == 1
        async with gateway.client() as client:
            other = await client.post("/chat/completions", json=chat("m"), headers={"authorization": f"Bearer {SECOND_KEY}"})
        assert other.status_code == 200


async def a_revoked_key_is_refused_by_every_worker(gateway: Gateway, up: ScriptedUpstream) -> None:
    """Workers remember good keys; a leaked one must not be good for another ten seconds."""
    key = (await run(gateway, "keys", "new", "leaky", "--team", "search", "--config", str(gateway.folder / "router.yaml"))).split()[0]

    async def statuses() -> set[int]:
        found = set()
        for _ in range(ASKED):
            async with gateway.client() as client:
                answer = await client.post("/chat/completions", json=chat("m"), headers={"authorization": f"Bearer {key}"})
            found.add(answer.status_code)
        return found

    assert await statuses() == {200}
    await run(gateway, "keys", "revoke", key[6:14], "--reason", "it leaked")
    began = time.monotonic()

    async def refused() -> bool:
        return await statuses() == {401}

    await soon(refused)
    assert time.monotonic() - began < 9, "the memory of a worker would have ended by itself"
    entries = [json.loads(line) for line in (await run(gateway, "audit", "--json")).splitlines()]
    assert [(entry["action"], entry.get("reason", "")) for entry in entries][-2:] == [("key.mint", ""), ("key.revoke", "it leaked")]


@pytest.mark.timeout(300)
async def test_every_worker_heeds_what_people_change_at_once(tmp_path: Path, store: str) -> None:
    """One after the other on one service: each change is taken back, and none of them needs a restart."""
    async with ScriptedUpstream() as up, served(tmp_path, up, store) as gateway:
        await a_limit_is_changed_for_all_workers_at_once(gateway, up)
        await who_is_frozen_is_refused_by_every_worker(gateway, up)
        await what_is_drained_is_called_no_more(gateway, up)
        await a_revoked_key_is_refused_by_every_worker(gateway, up)
