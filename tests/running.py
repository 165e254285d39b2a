"""The real program inside the test's own process: the same server on a real socket, quick to start, easy to look into."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx

from router.adapters.choose import visiting
from router.domain.budgets import BucketState
from router.ports import Drift
from router.serving import RunningApp
from router.settings.load import load_text, price_book
from router.snapshot import Snapshot
from tests.gateway import KEY
from tests.scripted_upstream import ScriptedUpstream

PROVIDER_KEY = "sk-provider-0123456789abcdef"
SETTLE_SECONDS = 30


@dataclass(slots=True)
class Running:
    """A service that listens, the provider behind it, and a client in front."""

    app: RunningApp
    up: ScriptedUpstream
    client: httpx.AsyncClient
    log: Path
    store: str

    @property
    def base_url(self) -> str:
        """Ends in `/v1`."""
        return self.app.base_url

    @property
    def port(self) -> int:
        return int(self.app.base_url.rsplit(":", 1)[1].partition("/")[0])

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def ask(self, model: str = "m", *, headers: Mapping[str, str] | None = None, **more: object) -> httpx.Response:
        """A chat call; the whole answer, also of a stream."""
        return await self.client.post("/chat/completions", json=chat(model, **more), headers=headers or {})

    async def records(self) -> list[dict[str, Any]]:
        """All spend records."""
        async with visiting(self.store) as ledger:
            return [json.loads(record) async for record in ledger.records()]

    async def settled(self) -> dict[str, BucketState]:
        """The buckets by `budget|scope` once nothing is under way: the last settlement may arrive after the answer."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while True:
            async with visiting(self.store) as ledger:
                found = {f"{state.budget}|{state.scope}": state for state in await ledger.bucket_states()}
            if not self.app.service.live and not any(state.held_nusd for state in found.values()):
                return found
            assert time.monotonic() < deadline, found
            await asyncio.sleep(0.01)

    async def buckets(self) -> dict[str, BucketState]:
        """The buckets of the current windows, by `budget|scope`."""
        async with visiting(self.store) as ledger:
            return {f"{state.budget}|{state.scope}": state for state in await ledger.bucket_states()}

    async def drifts(self) -> Sequence[Drift]:
        """What counters and log disagree on."""
        async with visiting(self.store) as ledger:
            return await ledger.verify()

    def log_lines(self) -> list[dict[str, Any]]:
        """The request log so far; whole after the service has ended."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]


def chat(model: str = "m", **more: object) -> dict[str, object]:
    """The body of a small chat call."""
    return {"model": model, "messages": [{"role": "user", "content": "Hello"}], **more}


def compiled(config: str, *, environment: Mapping[str, str] | None = None) -> Snapshot:
    """A configuration as the program loads it."""
    environ = {"PROVIDER_KEY": PROVIDER_KEY, "TEST_KEY": KEY, **(environment or {})}
    return load_text(config, source="test.yaml", environ=environ, price_book=price_book()).snapshot


@asynccontextmanager
async def running(
    folder: Path,
    config: str,
    *,
    up: ScriptedUpstream | None = None,
    environment: Mapping[str, str] | None = None,
    key: str = KEY,
    store: str | None = None,
) -> AsyncIterator[Running]:
    """Serve a configuration; `UP` in it stands for the provider's base URL, `STORE` for the store: by default a file of its own.

    A provider that listens already stays the caller's.
    """
    async with nullcontext(up) if up is not None and up.listening else (up or ScriptedUpstream()) as upstream:
        store = store or str(folder / "ledger.sqlite")
        snapshot = compiled(config.replace("UP", upstream.base_url).replace("STORE", store), environment=environment)
        log = folder / "requests.log"
        log.touch()
        async with RunningApp(snapshot, port=0, log_target=str(log)) as app:
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
            headers = {"authorization": f"Bearer {key}"}
            async with httpx.AsyncClient(base_url=app.base_url, headers=headers, limits=limits, timeout=60) as client:
                yield Running(app, upstream, client, log, store)
