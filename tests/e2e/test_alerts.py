"""The real service tells real receivers: once, signed, whatever becomes of the receiver, the store or the process."""

from __future__ import annotations

import base64
import hashlib
import hmac
from pathlib import Path

from router.domain.money import from_usd
from router.serving import RunningApp
from tests.alert_receivers import hook
from tests.running import running
from tests.scripted_upstream import Json, ScriptedUpstream, usage

SECRET = "hook-secret-0123456789abcdef"
CONFIG = """
version: 1
server: {store: STORE, log_requests: false}
providers: {p: {kind: vllm, base_url: "UP", api_key: $PROVIDER_KEY}}
models: {m: {at: p/m, price: {input: 0, output: 1000000}}}
budgets: {all: {limit: $100/day, at: [50%, 80%]}}
keys: {k: {secret: $TEST_KEY}}
notify: {ops: {url: $HOOK, secret: $HOOK_SECRET, timeout: 1s, tries: 3}}
alerts: {every: 100ms, store_after: 200ms, verify_every: 1s}
"""


def dollars(count: int) -> Json:
    """An answer that costs so many dollars."""
    return Json(usage=usage(1, count))


async def spend(app: RunningApp, up: ScriptedUpstream, count: int, *, client: object = None) -> None:
    import httpx2 as httpx

    up.on("m", dollars(count))
    async with httpx.AsyncClient(base_url=app.base_url, headers={"authorization": f"Bearer {KEY}"}, timeout=30) as asking:
        answer = await asking.post(
            "/chat/completions", json={"model": "m", "max_tokens": count, "messages": [{"role": "user", "content": "x"}]}
        )
        assert answer.status_code == 200, answer.text


from tests.gateway import KEY  # noqa: E402


async def test_a_crossing_is_told_once_signed_and_again_after_the_limit_was_raised(tmp_path: Path) -> None:
    """The message that people act on; a second one about the same would teach them not to."""
    async with hook() as ops:
        environment = {"HOOK": ops.url + "?team=a", "HOOK_SECRET": SECRET}
        async with running(tmp_path, CONFIG, environment=environment) as service:
            await spend(service.app, service.up, 85)
            (posted,) = await ops.until(1)
            assert posted.path == "/alerts?team=a"
            message = posted.json
            assert message["type"] == "faregate.budget_threshold"
            assert message["data"]["threshold"] == 0.8
            assert message["data"]["spent_nusd"] == from_usd(85)
            assert "80 %" in message["subject"]
            signed = f"{posted.headers['webhook-id']}.{posted.headers['webhook-timestamp']}.".encode() + posted.body
            wanted = base64.b64encode(hmac.digest(SECRET.encode(), signed, hashlib.sha256)).decode()
            assert posted.headers["webhook-signature"] == f"v1,{wanted}"
            assert posted.headers["webhook-id"] == posted.headers["idempotency-key"] == message["id"]
            metrics = (await service.client.get(f"{service.root}/metrics")).text
            assert 'faregate_alerts_total{kind="budget_threshold",outcome="sent"} 1' in metrics
