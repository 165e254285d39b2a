"""The real program as a process of its own, for end-to-end tests."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx2 as httpx

from router.adapters.choose import visiting
from router.domain.budgets import BucketState
from router.ports import Drift
from tests.conftest import free_port

START_SECONDS = 60
SETTLE_SECONDS = 15
KEY = "sk-test-0123456789abcdefghijklmnopqrstuv"


class Gateway:
    """`faregate serve` on a configuration; ended by SIGTERM, and the exit status must be 0."""

    def __init__(
        self,
        folder: Path,
        config: str,
        *,
        store: str | None = None,
        workers: int = 1,
        environment: Mapping[str, str] | None = None,
        expect_exit: int | None = 0,
    ) -> None:
        self.folder = folder
        self.store = store or str(folder / "ledger.sqlite")
        self.port = free_port()
        self._config = folder / "router.yaml"
        self._config.write_text(config)
        self._workers = workers
        self._environment = {"PROVIDER_KEY": "sk-provider", "TEST_KEY": KEY, **(environment or {})}
        self._expect_exit = expect_exit
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def run(self, *words: str, check: bool = True) -> str:
        """Another verb of the program on the same store; its standard output."""
        done = subprocess.run(
            [sys.executable, "-m", "router", *words], env=self._env(), capture_output=True, text=True, timeout=60, check=False
        )
        assert not check or done.returncode == 0, done.stderr
        return done.stdout

    def _env(self) -> dict[str, str]:
        return {
            **os.environ,
            "REDIS_URL": "",
            "FAREGATE_STORE": self.store,
            "XDG_STATE_HOME": str(self.folder / "state"),
            **self._environment,
        }

    def start(self) -> None:
        command = [sys.executable, "-m", "router", "serve", "--config", str(self._config), "--port", str(self.port)]
        command += ["--workers", str(self._workers)]
        environment = self._env()
        if "://" in self.store:
            environment["REDIS_URL"] = self.store
        with (self.folder / "out.log").open("ab") as out, (self.folder / "err.log").open("ab") as err:
            self._process = subprocess.Popen(command, env=environment, stdout=out, stderr=err, stdin=subprocess.DEVNULL)

    async def until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        assert self._process is not None
        async with httpx.AsyncClient() as client:
            while True:
                with contextlib.suppress(httpx.TransportError):
                    if (await client.get(f"{self.root}/readyz")).status_code == 200:
                        return
                assert self._process.poll() is None, self.errors()
                assert time.monotonic() < deadline, self.errors()
                await asyncio.sleep(0.02)

    def errors(self) -> str:
        """What the program wrote to standard error."""
        return (self.folder / "err.log").read_text()

    def log_lines(self) -> list[dict[str, Any]]:
        """The request log."""
        return [json.loads(line) for line in (self.folder / "out.log").read_text().splitlines()]

    def kill(self) -> None:
        """End it as a crash would."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    async def ended(self) -> int:
        """Wait until it has ended by itself; the exit status."""
        assert self._process is not None
        return await asyncio.to_thread(self._process.wait, 60)

    async def stop(self) -> int:
        """SIGTERM, and wait for the exit status."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        return await asyncio.to_thread(self._process.wait, 60)

    async def __aenter__(self) -> Self:
        self.start()
        try:
            await self.until_ready()
        except BaseException:
            self.kill()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._process is not None
        if self._process.poll() is not None and self._expect_exit is None:
            return
        status = await self.stop()
        if kind is None and self._expect_exit is not None:
            assert status == self._expect_exit, self.errors()

    def client(self, **more: Any) -> httpx.AsyncClient:
        """A client without limits of its own."""
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=1000)
        return httpx.AsyncClient(base_url=self.base_url, headers={"authorization": f"Bearer {KEY}"}, limits=limits, timeout=60, **more)

    async def records(self) -> list[dict[str, Any]]:
        """All spend records."""
        async with visiting(self.store) as ledger:
            return [json.loads(record) async for record in ledger.records()]

    async def settled(self) -> dict[str, BucketState]:
        """The buckets once no hold is open: the last settlement may arrive shortly after the answer."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while True:
            found = await self.buckets()
            if not any(state.held_nusd for state in found.values()) or time.monotonic() > deadline:
                return found
            await asyncio.sleep(0.02)

    async def buckets(self) -> dict[str, BucketState]:
        """The buckets of the current windows, by `budget|scope`."""
        async with visiting(self.store) as ledger:
            return {f"{state.budget}|{state.scope}": state for state in await ledger.bucket_states()}

    async def drifts(self) -> Sequence[Drift]:
        """What counters and log disagree on."""
        async with visiting(self.store) as ledger:
            return await ledger.verify()
