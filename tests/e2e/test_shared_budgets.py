"""Two services with a ledger each and one budget over both: `server.shared_store`."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from router import cli
from router.shares import SILENT_MS
from tests.running import running
from tests.scripted_behaviours import Json, usage
from tests.scripted_upstream import ScriptedUpstream

CENT = 10_000_000
CONFIG = """
version: 1
server: {store: "LEDGER", shared_store: "SHARED", ledger: NAME, log_requests: false}
providers: {up: {kind: openai, base_url: "UP", api_key: $PROVIDER_KEY}}
models: {m: {at: up/m, price: {input: 0, output: 10}, default_max_output: 1000}}
budgets: {everywhere: {limit: $0.50, shared: true}}
keys: {tester: {secret: $TEST_KEY}}
"""


PROVIDERS = """
providers: {up: {kind: openai, base_url: "http://127.0.0.1:1/v1", api_key: none}}
models: {m: {at: up/m, price: {input: 0, output: 10}}}
"""


@pytest.fixture(params=["sqlite", "redis"])
def stores(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Where ledgers are, and where they agree."""
    if request.param == "sqlite":
        return "STORE", "FOLDER/shared.sqlite"
    url: str = request.getfixturevalue("redis_url")
    # Ledgers in one Redis need a database each; the register has keys of its own.
    return url.removesuffix("/0") + "/DATABASE", url


async def test_both_together_spend_the_limit_and_not_a_cent_more(tmp_path: Path, stores: tuple[str, str]) -> None:
    """Fifty calls of a cent fit, wherever they come; the others are refused and never reach the provider."""
    up = ScriptedUpstream()
    up.on("m", Json(usage=usage(0, 1000)))

    def config(name: str, number: int) -> str:
        (tmp_path / name).mkdir()
        ledger, shared = stores
        text = CONFIG.replace("LEDGER", ledger.replace("DATABASE", str(number))).replace("NAME", name)
        return text.replace("SHARED", shared.replace("FOLDER", str(tmp_path)))

    first, second = config("eu", 1), config("us", 2)
    async with running(tmp_path / "eu", first, up=up) as eu, running(tmp_path / "us", second, up=up) as us:
        served = refused = 0
        for busy in (eu, us, eu, us) + (us,) * 60:
            for service in (eu, us):
                await service.app.service.shares.look()
            answers = await asyncio.gather(*(busy.ask() for _ in range(6)))
            assert {answer.status_code for answer in answers} <= {200, 402}
            served += sum(answer.status_code == 200 for answer in answers)
            refused += sum(answer.status_code == 402 for answer in answers)
        assert served == 50
        assert refused > 50
        assert len(up.requests) == 50
        booked = [json.loads(record) for service in (eu, us) async for record in service.app.service.ledger.records()]
        assert sum(record["charge_nusd"] for record in booked) == 50 * CENT
        metrics = (await us.client.get(f"{us.root}/metrics")).text
        assert 'faregate_shared_budget_limit_usd{budget="everywhere"} 0.5\n' in metrics
    shares = tmp_path / "shares.yaml"
    shares.write_text(
        f"version: 1\nserver: {{shared_store: '{stores[1].replace('FOLDER', str(tmp_path))}', ledger: new, store: x.sqlite}}\n{PROVIDERS}"
    )
    told = await shown(shares, "--json")
    assert sum(share["limit"] for share in json.loads(told)["everywhere"].values()) == 50 * CENT
    assert "everywhere  us" in await shown(shares)
    refusal = await shown(shares, "--forget", "us", "--reason", "moved")
    assert f"silent for {SILENT_MS // 60_000} minutes" in " ".join(refusal.replace("│", " ").split())


async def shown(config: Path, *words: str) -> str:
    """What `faregate budget shares` says."""
    words = ("shares", "--config", str(config), *words)
    return (await asyncio.to_thread(CliRunner().invoke, cli.load("budget"), words)).output
