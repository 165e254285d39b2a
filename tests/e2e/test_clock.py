"""Clocks: a window that ends while streams are under way, and clocks that jump."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from router import app as application
from router.adapters.sqlite.ledger import SqliteLedger
from router.ports import Ledger
from tests.running import running
from tests.scripted_behaviours import Json, Stream
from tests.scripted_upstream import Gate

CONFIG = """
version: 1
server: {store: STORE, slice_tokens: 16, learn_lengths: false}
providers:
  up: {kind: openai, base_url: "UP", api_key: $PROVIDER_KEY}
models:
  m: {at: up/m, price: {input: 0, output: 10}, default_max_output: 400}
  n: {at: up/n, price: {input: 0, output: 10}, default_max_output: 100}
budgets:
  hourly: {limit: $0.1/hour}
keys:
  tester: {secret: $TEST_KEY}
"""
PRICE = 10_000
NOON_MS = 1_795_348_800_000
"""2026-11-22T12:00:00Z."""
HOUR_MS = 3_600_000
SHORT = {"prompt_tokens": 5, "completion_tokens": 20, "total_tokens": 25}


class Clocks:
    """Of this machine, and of the store."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, now_ms: int) -> None:
        self.machine_ms = self.store_ms = now_ms
        monkeypatch.setattr(application, "wall_clock_ms", lambda: self.machine_ms)
        monkeypatch.setattr(application, "open_ledger", self._open)

    def _open(self, store: str, *, timeout_seconds: float | None = None) -> Ledger:
        return SqliteLedger(store, clock_ms=lambda: self.store_ms)

    def set(self, now_ms: int) -> None:
        self.machine_ms = self.store_ms = now_ms


async def test_a_stream_over_the_end_of_a_window_is_booked_where_it_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is held, extended and charged in one window; what begins after that is in the next, which starts empty."""
    clocks = Clocks(monkeypatch, NOON_MS - 500)
    pace = Gate()
    async with running(tmp_path, CONFIG) as service:
        service.up.on("m", Stream(tokens=60, pacer=pace))
        service.up.on("n", Json(usage=SHORT))
        streams = [asyncio.create_task(service.ask("m", stream=True)) for _ in range(4)]
        await service.up.until_seen(4)
        pace.step(4)
        clocks.set(NOON_MS + 500)
        assert (await service.ask("n")).status_code == 200
        pace.open()
        answers = await asyncio.gather(*streams)
        assert all(answer.text.endswith("data: [DONE]\n\n") and '"length"' not in answer.text for answer in answers)
        assert (await service.ask("n")).status_code == 200
        while service.app.service.live:
            await asyncio.sleep(0.01)
        ledger = service.app.service.ledger
        states = {state.window: state for state in await ledger.bucket_states(current_only=False)}
        records = await service.records()
        begun = sum(record["charge_nusd"] for record in records if record["model"] == "m")
        assert begun >= 4 * 60 * PRICE
        assert (states["2026-11-22T11"].spent_nusd, states["2026-11-22T11"].held_nusd) == (begun, 0)
        assert (states["2026-11-22T12"].spent_nusd, states["2026-11-22T12"].held_nusd) == (2 * 20 * PRICE, 0)
        assert [list(record["buckets"]) for record in records if record["model"] == "m"] == [["hourly||2026-11-22T11"]] * 4
        assert await ledger.verify() == []


async def test_clocks_that_jump_lose_no_money_and_the_stores_clock_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine is three days ahead, then both go back by an hour with a stream under way: every call is served, and booked once."""
    clocks = Clocks(monkeypatch, NOON_MS + 1000)
    pace = Gate()
    async with running(tmp_path, CONFIG) as service:
        service.up.on("m", Stream(tokens=60, pacer=pace))
        service.up.on("n", Json(usage=SHORT))
        clocks.machine_ms += 72 * HOUR_MS
        assert (await service.ask("n")).status_code == 200
        stream = asyncio.create_task(service.ask("m", stream=True))
        await service.up.until_seen(2)
        pace.step(1)
        clocks.set(NOON_MS - HOUR_MS + 1000)
        assert (await service.ask("n")).status_code == 200
        pace.open()
        assert (await stream).status_code == 200
        while service.app.service.live:
            await asyncio.sleep(0.01)
        ledger = service.app.service.ledger
        await ledger.heartbeat({})
        assert await ledger.sweep() == 0
        states = {state.window: (state.spent_nusd, state.held_nusd) for state in await ledger.bucket_states(current_only=False)}
        stream_cost = next(record["charge_nusd"] for record in await service.records() if record["model"] == "m")
        assert states == {"2026-11-22T12": (20 * PRICE + stream_cost, 0), "2026-11-22T11": (20 * PRICE, 0)}
        assert len(await service.records()) == 3
        assert await ledger.verify() == []
