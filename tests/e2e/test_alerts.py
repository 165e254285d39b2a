"""The real service tells real receivers: once, signed, whatever becomes of the receiver, the store or the process."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2 as httpx

from router.adapters.choose import visiting
from router.domain.money import from_usd
from router.serving import RunningApp
from tests.alert_receivers import Hook, hook
from tests.conftest import RedisServer
from tests.gateway import KEY
from tests.running import chat, compiled
from tests.scripted_upstream import Fail, Json, ScriptedUpstream, usage

SECRET = "hook-secret-0123456789abcdef"
CONFIG = """
version: 1
server: {store: STORE, log_requests: false}
providers: {p: {kind: vllm, base_url: "UP", api_key: $PROVIDER_KEY}}
models: {m: {at: p/m, price: {input: 0, output: 1000000}}}
budgets: {all: {limit: LIMIT/day, at: [50%, 80%]}}
keys: {k: {secret: $TEST_KEY}}
notify: {ops: {url: $HOOK, secret: $HOOK_SECRET, timeout: 1s, tries: 2}}
alerts: {every: 100ms, store_after: 200ms}
"""


def crossings(ops: Hook) -> list[float]:
    """The shares that were told, in the order they came."""
    return [posted.json["data"]["threshold"] for posted in ops.posted if posted.json["type"] == "faregate.budget_threshold"]


@asynccontextmanager
async def serving(
    config: str, store: str, ops: Hook, up: ScriptedUpstream, *, limit: str = "$100", environment: Mapping[str, str] | None = None
) -> AsyncIterator[RunningApp]:
    """The service on a store, which tells the hook."""
    text = config.replace("STORE", f'"{store}"').replace("UP", up.base_url).replace("LIMIT", limit)
    snapshot = compiled(text, environment={"HOOK": ops.url, "HOOK_SECRET": SECRET, **(environment or {})})
    async with RunningApp(snapshot, port=0) as app:
        yield app


async def ask(app: RunningApp, up: ScriptedUpstream, dollars: int, *, wanted: int = 200) -> None:
    """A call that costs so much."""
    up.on("m", Json(usage=usage(1, dollars)))
    async with httpx.AsyncClient(base_url=app.base_url, headers={"authorization": f"Bearer {KEY}"}, timeout=30) as client:
        answer = await client.post("/chat/completions", json=chat(max_tokens=max(1, dollars)))
    assert answer.status_code == wanted, answer.text


async def metrics(app: RunningApp) -> str:
    async with httpx.AsyncClient() as client:
        return (await client.get(app.base_url.removesuffix("/v1") + "/metrics")).text


async def until_counted(app: RunningApp, line: str) -> None:
    """Wait until a series has this value."""
    async with asyncio.timeout(30):
        while line not in await metrics(app):
            await asyncio.sleep(0.05)


async def until_told(app: RunningApp, count: int) -> None:
    """Wait until the store remembers so many crossings."""
    async with asyncio.timeout(30), visiting(app.service.store) as ledger:
        while len([name for name in await ledger.alert_store().marks() if name.startswith("budget_threshold|")]) != count:
            await asyncio.sleep(0.05)


async def test_a_crossing_is_told_once_and_signed(tmp_path: Path) -> None:
    """The message that people act on; a second one about the same would teach them not to."""
    async with hook() as ops, ScriptedUpstream() as up:
        environment = {"HOOK": ops.url + "?team=a"}
        async with serving(CONFIG, str(tmp_path / "ledger.sqlite"), ops, up, environment=environment) as app:
            await ask(app, up, 85)
            (posted,) = await ops.until(1)
            await until_counted(app, 'faregate_alerts_total{kind="budget_threshold",outcome="sent"} 1')
    assert posted.path == "/alerts?team=a"
    message = posted.json
    assert message["type"] == "faregate.budget_threshold"
    assert message["subject"] == "Budget 'all' has reached 80 %: 85.00 of 100.00 USD"
    assert (message["data"]["threshold"], message["data"]["spent_nusd"]) == (0.8, from_usd(85))
    signed = f"{posted.headers['webhook-id']}.{posted.headers['webhook-timestamp']}.".encode() + posted.body
    wanted = base64.b64encode(hmac.digest(SECRET.encode(), signed, hashlib.sha256)).decode()
    assert posted.headers["webhook-signature"] == f"v1,{wanted}"
    assert posted.headers["webhook-id"] == posted.headers["idempotency-key"] == message["id"]


async def test_two_replicas_and_a_restart_tell_once_a_raised_limit_tells_anew(redis_url: str) -> None:
    """Over all replicas and restarts; and 80 % of the new limit is another crossing than 80 % of the old one."""
    async with hook() as ops, ScriptedUpstream() as up:
        async with serving(CONFIG, redis_url, ops, up) as one, serving(CONFIG, redis_url, ops, up) as two:
            await ask(one, up, 30)
            await ask(two, up, 55)
            await ops.until(1)
        async with serving(CONFIG, redis_url, ops, up, limit="$200") as again:
            # Of 200 USD, 85 are spent: neither 50 % nor 80 % is reached any more.
            await until_told(again, 0)
            await ask(again, up, 80)
            await ops.until(2)
    assert crossings(ops) == [0.8, 0.8]
    assert [posted.json["data"]["limit_nusd"] for posted in ops.posted] == [from_usd(100), from_usd(200)]


async def test_a_dead_receiver_is_given_up_and_holds_up_nobody(tmp_path: Path) -> None:
    """One of two receivers never answers; requests go on, the other one is told, and what was dropped is counted."""
    config = CONFIG.replace("notify: {", "notify: {dead: {url: $DEAD, timeout: 100ms, tries: 2}, ")
    async with hook() as ops, hook() as dead, ScriptedUpstream() as up:
        dead.silent = True
        async with serving(config, str(tmp_path / "ledger.sqlite"), ops, up, environment={"DEAD": dead.url}) as app:
            await ask(app, up, 55)
            await ops.until(1)
            await ask(app, up, 1)
            await until_counted(app, 'faregate_alerts_total{kind="budget_threshold",outcome="dropped"} 1')
            assert len(dead.posted) == 2
            assert dead.posted[0].headers["webhook-id"] == dead.posted[1].headers["webhook-id"]
            async with visiting(app.service.store) as ledger:
                assert [mark for mark in (await ledger.alert_store().marks()).values() if mark.event is not None] == []


async def test_a_receiver_that_fails_at_first_is_told_in_the_end(tmp_path: Path) -> None:
    """A deployment of the receiver takes seconds; the message must not be lost to it."""
    async with hook() as ops, ScriptedUpstream() as up:
        ops.answers = [503]
        async with serving(CONFIG, str(tmp_path / "ledger.sqlite"), ops, up) as app:
            await ask(app, up, 55)
            await ops.until(2)
            await until_counted(app, 'faregate_alerts_total{kind="budget_threshold",outcome="sent"} 1')
    assert len({posted.json["id"] for posted in ops.posted}) == 1


async def test_a_store_that_goes_away_and_comes_back_is_told(own_redis: RedisServer) -> None:
    """While it is away no mark can be set: the one that leads says it, once."""
    async with hook() as ops, ScriptedUpstream() as up, serving(CONFIG, own_redis.url, ops, up) as app:
        alerts = None
        async with asyncio.timeout(20):
            while alerts is None or not alerts.leads:
                alerts = app.service._alerts
                await asyncio.sleep(0.02)
        own_redis.kill()
        await ops.until(1)
        own_redis.start()
        await ops.until(2)
        assert ops.kinds() == ["store_away", "store_back"]


async def test_a_refusing_provider_and_a_refusing_budget_are_told(tmp_path: Path) -> None:
    """Only a person can mend either."""
    async with hook() as ops, ScriptedUpstream() as up:
        async with serving(CONFIG, str(tmp_path / "ledger.sqlite"), ops, up, limit="$10") as app:
            await ask(app, up, 50, wanted=402)
            await ops.until(1)
            up.on("m", Fail(status=401))
            async with httpx.AsyncClient(base_url=app.base_url, headers={"authorization": f"Bearer {KEY}"}, timeout=30) as client:
                assert (await client.post("/chat/completions", json=chat(max_tokens=1))).status_code == 502
            await ops.until(2)
        assert ops.kinds() == ["budget_refusing", "provider_refusing"]
        assert ops.posted[1].json["data"] == {"deployment": "p/m", "cause": "auth"}
