"""The proxies: how each is started, broken, and asked what it has booked."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Final

import msgspec
import redis.asyncio as redis

from benchmarks.budget_race.cases import Case
from benchmarks.budget_race.provider import INPUT_NUSD, OUTPUT_NUSD
from router.adapters.choose import visiting

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parent.parent
KEY: Final = "sk-bench-0123456789abcdefghijklmnopqrstuv"
START_SECONDS: Final = 120.0
SETTLE_SECONDS: Final = 40.0
QUIET_SECONDS: Final = 5.0
FAKETIME: Final = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")
"""Where Debian's package `libfaketime` puts it."""
JUMPS: Final = ("+3h", "-2h")
"""Of the clock of the proxies, against the real one. A Redis does not bear libfaketime: its clock stays right."""
JUMP_SECONDS: Final = 4.0
"""From one jump to the next."""


def free_port() -> int:
    """A port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Process:
    """A program with a log of its own."""

    def __init__(self, folder: Path, name: str, command: list[str], environment: dict[str, str], port: int) -> None:
        self._log = folder / f"{name}.log"
        self._command, self._environment, self.port = command, {**os.environ, **environment}, port
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Raises `SystemExit` if it does not listen in time."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, cwd=ROOT, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        ends = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(OSError):
                (await asyncio.open_connection("127.0.0.1", self.port))[1].close()
                return
            if self._process.poll() is not None or time.monotonic() > ends:
                raise SystemExit(f"{self._command[0]} does not listen: {self._log.read_text(errors='replace')[-2000:]}")
            await asyncio.sleep(0.05)

    def kill(self) -> None:
        """End it and what it started, as a crash would."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def stop(self) -> None:
        """End it in order."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(20)
        self.kill()


class Target(ABC):
    """A proxy with one budget, made anew for every case."""

    name: str
    urls: list[str]
    key: str = KEY
    model: str = "m"
    breakable: frozenset[str] = frozenset({"", "kill", "stop", "empty", "clock"})
    """The faults that it can be put to."""
    windows: bool = True
    """Whether it can be run across the end of a window."""
    begins_with_a_call: bool = False
    """A window begins with the first call in it, not with the minute."""
    replicas: int = 2

    @abstractmethod
    async def start(self, case: Case, folder: Path, provider: int) -> None:
        """Run with the case's budget, nothing spent."""

    @abstractmethod
    async def booked_nusd(self) -> int | None:
        """What its books say that was spent, once they have come to rest; None: nobody knows."""

    @abstractmethod
    async def strike(self, fault: str) -> None:
        """Break it; returns when it runs again."""

    @abstractmethod
    async def stop(self) -> None:
        """End it."""

    def carries(self, case: Case) -> bool:
        """Whether the case can be run on it."""
        return case.fault in self.breakable and case.replicas <= self.replicas and (self.windows or not case.minute)


class Started(Target):
    """A proxy that is started here, with a Redis of its own."""

    faketime = FAKETIME

    def __init__(self) -> None:
        self.redis: Process | None = None
        self.processes: list[Process] = []
        self._clock: Path | None = None

    def carries(self, case: Case) -> bool:
        return super().carries(case) and (case.fault != "clock" or self.faketime.exists())

    def set_clock(self, case: Case, folder: Path) -> None:
        """Let the proxies of a case in which the clock jumps read theirs from a file."""
        self._clock = folder / "clock" if case.fault == "clock" else None
        if self._clock:
            self._clock.write_text("+0")

    def _environment(self) -> dict[str, str]:
        if self._clock is None:
            return {}
        # Waiting goes by the monotonic clock, which no correction of the time moves.
        never = {"FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1", "FAKETIME_DONT_RESET": "1"}
        return {"LD_PRELOAD": str(self.faketime), "FAKETIME_TIMESTAMP_FILE": str(self._clock), **never}

    async def run_redis(self, folder: Path) -> int:
        port = free_port()
        command = [shutil.which("redis-server") or shutil.which("valkey-server") or "redis-server", "--port", str(port)]
        command += ["--bind", "127.0.0.1", "--dir", str(folder), "--save", "", "--appendonly", "yes"]
        self.redis = Process(folder, "redis", command, {}, port)
        await self.redis.start()
        return port

    async def run(self, folder: Path, command: list[str], environment: dict[str, str], replicas: int) -> None:
        """Start the proxies; `PORT` in the command is each one's own."""
        self.processes = []
        for number in range(replicas):
            port = free_port()
            words = [word.replace("PORT", str(port)) for word in command]
            environment = {**environment, **self._environment(), "XDG_STATE_HOME": str(folder / f"state-{number}")}
            self.processes.append(Process(folder, f"proxy-{number}", words, environment, port))
        self.urls = [f"http://127.0.0.1:{process.port}/v1" for process in self.processes]
        await asyncio.gather(*(process.start() for process in self.processes))

    async def strike(self, fault: str) -> None:
        if fault == "kill":
            self.processes[0].kill()
            await self.processes[0].start()
        if fault == "stop" and self.redis:
            self.redis.kill()
            await asyncio.sleep(10)
            await self.redis.start()
        if fault == "clock" and self._clock:
            for jump in JUMPS:
                self._clock.write_text(jump)
                await asyncio.sleep(JUMP_SECONDS)
        if fault == "empty" and self.redis:
            async with redis.Redis(port=self.redis.port) as client:
                await client.flushall()

    async def stop(self) -> None:
        for process in self.processes:
            await asyncio.to_thread(process.stop)
        if self.redis:
            self.redis.kill()
        self.redis = None


class Faregate(Started):
    """Ours, on Redis or on SQLite."""

    def __init__(self, store: str) -> None:
        super().__init__()
        self.name = f"Faregate, {'Redis' if store == 'redis' else 'SQLite'}"
        self._kind = store
        self._store = ""
        if store != "redis":
            self.breakable = frozenset({"", "kill", "clock"})

    async def start(self, case: Case, folder: Path, provider: int) -> None:
        self.set_clock(case, folder)
        self._store = str(folder / "ledger.sqlite")
        if self._kind == "redis":
            self._store = f"redis://127.0.0.1:{await self.run_redis(folder)}/0"
        config = folder / "router.yaml"
        config.write_text(
            f"""
version: 1
server: {{lease: 3s, drain: 5s}}
providers:
  up: {{kind: openai, base_url: "http://127.0.0.1:{provider}/v1", api_key: $PROVIDER_KEY}}
models:
  m: {{at: up/m, price: {{input: {INPUT_NUSD / 1000}, output: {OUTPUT_NUSD / 1000}}}, default_max_output: 100}}
budgets:
  all: {{limit: ${case.budget_usd}, window: {"minute" if case.minute else "lifetime"}}}
keys:
  bench: {{secret: $BENCH_KEY}}
"""
        )
        environment = {"PROVIDER_KEY": "sk-provider", "BENCH_KEY": KEY, "FAREGATE_STORE": self._store, "REDIS_URL": ""}
        if self._kind == "redis":
            environment["REDIS_URL"] = self._store
        command = [sys.executable, "-m", "router", "serve", "--config", str(config), "--port", "PORT", "--workers", "1"]
        await self.run(folder, command, environment, case.replicas)

    async def booked_nusd(self) -> int | None:
        ends = time.monotonic() + SETTLE_SECONDS
        last, since = -1, time.monotonic()
        while True:
            async with visiting(self._store) as ledger:
                states = [state for state in await ledger.bucket_states(current_only=False) if state.budget == "all"]
            spent = sum(state.spent_nusd for state in states)
            if spent != last:
                last, since = spent, time.monotonic()
            # What a dead process held is booked when its lease has run out; what an outbox keeps, when the store is back.
            quiet = time.monotonic() - since > QUIET_SECONDS and not any(state.held_nusd for state in states)
            if quiet or time.monotonic() > ends:
                return spent
            await asyncio.sleep(0.5)


class LiteLLM(Started):
    """LiteLLM's proxy without Postgres: a budget on the key and one on the provider, both in Redis."""

    name = "LiteLLM 1.106.2"
    begins_with_a_call = True

    def __init__(self, installed: Path) -> None:
        super().__init__()
        self._program = installed / "bin" / "litellm"
        self._period = "1d"

    async def start(self, case: Case, folder: Path, provider: int) -> None:
        self.set_clock(case, folder)
        port = await self.run_redis(folder)
        self._period = "1m" if case.minute else "1d"
        words = {"@PROVIDER@": provider, "@REDIS@": port, "@BUDGET@": case.budget_usd, "@KEY@": KEY, "@PERIOD@": self._period}
        # Its key has one window, which begins with the process: where windows are looked at, only the provider has a budget.
        words["@KEY_BUDGET@"] = None if case.minute else case.budget_usd
        words |= {"@INPUT@": f"{INPUT_NUSD / 1e9:.9f}", "@OUTPUT@": f"{OUTPUT_NUSD / 1e9:.9f}"}
        for name in ("litellm.yaml", "race_key.py"):
            text = (HERE / "peers" / name).read_text()
            for old, new in words.items():
                text = text.replace(old, str(new))
            (folder / name).write_text(text)
        command = [
            str(self._program),
            "--config",
            str(folder / "litellm.yaml"),
            "--host",
            "127.0.0.1",
            "--port",
            "PORT",
            "--num_workers",
            "1",
        ]
        environment = {"LITELLM_MODE": "PRODUCTION", "LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        await self.run(folder, command, environment, case.replicas)

    async def booked_nusd(self) -> int | None:
        """From the counter of its provider budget, which it writes once a second; it is of the present window only."""
        assert self.redis is not None
        if self._period != "1d":
            return None
        await asyncio.sleep(QUIET_SECONDS)
        async with redis.Redis(port=self.redis.port) as client:
            found = await client.get("provider_spend:openai:1d")
        return round(float(found or 0) * 1e9)


class Elsewhere(Target):
    """A proxy that somebody runs, whose upstream is ours: `--target`."""

    breakable = frozenset({""})
    windows = False
    replicas = 1

    def __init__(self, url: str, *, key: str, model: str, reset: str, books: str) -> None:
        self.name, self.urls, self.key, self.model = url, [url.rstrip("/")], key, model
        self._reset, self._books = reset, books

    async def start(self, case: Case, folder: Path, provider: int) -> None:
        if self._reset:
            environment = {**os.environ, "BUDGET_USD": str(case.budget_usd)}
            await asyncio.to_thread(subprocess.run, shlex.split(self._reset), env=environment, check=True)

    async def booked_nusd(self) -> int | None:
        if not self._books:
            return None
        await asyncio.sleep(QUIET_SECONDS)
        done = await asyncio.to_thread(subprocess.run, shlex.split(self._books), capture_output=True, text=True, check=True)
        return round(msgspec.json.decode(done.stdout.strip(), type=float) * 1e9)

    async def strike(self, fault: str) -> None:
        raise SystemExit(f"{fault}: only a proxy that is started here can be broken")

    async def stop(self) -> None:
        """Somebody else runs it."""
