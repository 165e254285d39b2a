"""Several workers on one port: one service to its clients, its budgets and whoever reads its metrics."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2 as httpx
import pytest

from router.metrics_store import decode
from tests.books import typed
from tests.gateway import Gateway
from tests.running import chat
from tests.scripted_behaviours import Json, Stream
from tests.scripted_upstream import Gate, ScriptedUpstream

CONFIG = """
version: 1
providers:
  up: {kind: openai, base_url: "UP", api_key: $PROVIDER_KEY}
models:
  m: {at: up/m, price: {input: 10, output: 10}, default_max_output: 100}
budgets:
  everyone: {limit: $1}
keys:
  tester: {secret: $TEST_KEY}
"""
CALLS = 40


def value(text: str, name: str) -> float:
    """The sum of a metric over its labels."""
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith((f"{name}{{", f"{name} ")))


async def get(url: str) -> httpx.Response:
    """On a connection of its own: the kernel deals it to any worker."""
    async with httpx.AsyncClient(timeout=60) as client:
        return await client.get(url)


async def ask(gateway: Gateway, **more: object) -> httpx.Response:
    async with gateway.client() as client:
        return await client.post("/chat/completions", json={**chat(), **more})


async def both_serve(gateway: Gateway, folder: Path) -> Path:
    """Wait until two workers can be asked for their metrics; where they meet."""
    deadline = time.monotonic() + 30
    while True:
        sockets = list(folder.glob("faregate-*/worker-*.sock"))
        if len(sockets) == 2:
            await get(f"{gateway.root}/livez")
            return sockets[0].parent
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def requests_of(socket: Path) -> float:
    """What one worker alone has counted."""
    reader, writer = await asyncio.open_unix_connection(str(socket))
    state = decode(await reader.read())
    writer.close()
    return sum(float(point) for _, point in state.get("faregate_requests_total", []) if isinstance(point, int | float))


@asynccontextmanager
async def short_folder() -> AsyncIterator[Path]:
    """A folder whose sockets have short addresses: the system allows about a hundred bytes."""
    with tempfile.TemporaryDirectory(prefix="fg-") as folder:
        yield Path(folder)


async def test_metrics_are_those_of_all_workers_whoever_is_asked(tmp_path: Path) -> None:
    """A scrape reaches one worker; half the truth would halve every graph, and jump from scrape to scrape."""
    async with (
        short_folder() as meeting,
        ScriptedUpstream(default=Json()) as up,
        Gateway(tmp_path, CONFIG.replace("UP", up.base_url), workers=2, environment={"TMPDIR": str(meeting)}) as gateway,
    ):
        folder = await both_serve(gateway, meeting)
        statuses = Counter([(await ask(gateway)).status_code for _ in range(CALLS)])
        assert statuses == {200: CALLS}
        await gateway.settled()
        alone = [await requests_of(socket) for socket in folder.glob("*.sock")]
        assert sum(alone) == CALLS
        assert all(alone), "the kernel dealt every connection to one worker"
        for _ in range(8):
            text = (await get(f"{gateway.root}/metrics")).text
            assert value(text, "faregate_requests_total") == CALLS
            assert value(text, "faregate_cost_usd_total") == pytest.approx(CALLS * 14 * 1e-5)
            assert value(text, "faregate_request_seconds_count") == CALLS
            assert value(text, "faregate_requests_in_flight") == 0
        spent = (await gateway.settled())["everyone|"].spent_nusd
        assert spent == CALLS * 14 * 10_000 == sum(record.charge_nusd for record in typed(await gateway.records()))
        await _gauges_are_added(gateway, up)


async def _gauges_are_added(gateway: Gateway, up: ScriptedUpstream) -> None:
    """What is under way is under way somewhere."""
    seen, gate = len(up.requests), Gate()
    up.on("m", Stream(tokens=3, before=gate))
    calls = [asyncio.create_task(ask(gateway, stream=True)) for _ in range(12)]
    await up.until_seen(seen + 12)
    text = (await get(f"{gateway.root}/metrics")).text
    assert value(text, "faregate_requests_in_flight") == 12
    assert value(text, "faregate_holds_open") == 12
    assert value(text, "faregate_deployment_in_flight") == 12
    gate.open()
    assert {answer.status_code for answer in await asyncio.gather(*calls)} == {200}
    await gateway.settled()
    assert value((await get(f"{gateway.root}/metrics")).text, "faregate_requests_in_flight") == 0


async def test_a_configuration_that_cannot_be_served_ends_all_workers_with_a_reason(tmp_path: Path) -> None:
    """Starting them again and again would hide the reason in a flood of logs."""
    broken = tmp_path / "ledger.sqlite"
    broken.write_bytes(b"this is not a database, however long one looks at it" * 100)
    gateway = Gateway(tmp_path, CONFIG.replace("UP", "http://127.0.0.1:1/v1"), store=str(broken), workers=2)
    gateway.start()
    assert await gateway.ended() == 1
    assert "cannot be used" in gateway.errors()
