"""A real Prometheus scrapes a real service under traffic: no panel is empty, every alert is evaluated."""

from __future__ import annotations

import asyncio
import json
import math
import os
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from router.sim.server import Simulator
from tests.conftest import free_port

ROOT: Final = Path(__file__).resolve().parents[2]
DEPLOY: Final = ROOT / "deploy"
DEADLINE_SECONDS: Final = 60.0
POLL_SECONDS: Final = 0.5

CONFIG: Final = """
version: 1
server: {{port: {port}, workers: 2, store: {store}, baseline: mid}}
providers:
  cloud:    {{kind: sim, base_url: "{sim}"}}
  gpu-room: {{kind: sim, base_url: "{sim}"}}
models:
  frontier: {{at: cloud/frontier-closed, size: large}}
  mid:      {{at: cloud/mid-closed, size: medium}}
  open:     {{at: gpu-room/large-open-local, size: large}}
  pocket:   {{at: gpu-room/small-edge, size: small}}
routes:
  auto:
    rules:
      - {{name: best, when: {{tags: {{task: hard}}}}, use: [frontier], by: fixed}}
    default: {{use: [open, mid], by: fixed}}
  shaky:
    default: {{use: [pocket], by: fixed}}
budgets:
  everyone: $50/month
  tiny: {{limit: $0.0000001/day, when: {{team: poor}}}}
  per-team: {{limit: $10/day, each: team}}
teams:
  rich: {{}}
  poor: {{}}
keys:
  rich: {{team: rich, secret: $RICH_KEY}}
  poor: {{team: poor, secret: $POOR_KEY}}
"""
KEYS: Final = {"RICH_KEY": "key-of-the-rich-team", "POOR_KEY": "key-of-the-poor-team"}


@asynccontextmanager
async def process(*command: str, log: Path, **environment: str) -> AsyncIterator[None]:
    """A program of its own, which is told to end with the block and must do so by itself."""
    with log.open("wb") as output:
        running = await asyncio.create_subprocess_exec(*command, stdout=output, stderr=output, env=os.environ | environment, cwd=ROOT)
    try:
        yield
    finally:
        running.terminate()
        try:
            # The simulator lives in this loop: a wait that blocks it would keep the last calls from ending.
            await asyncio.wait_for(running.wait(), timeout=20)
        except TimeoutError:
            running.kill()
            await running.wait()
            pytest.fail(f"{command[:3]} did not end\n{log.read_text()[-3000:]}")


async def until(what: str, check: Callable[[], Awaitable[list[str]]], *, log: Path) -> None:
    """Ask again until nothing is missing any more."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while missing := await check():
        if time.monotonic() > deadline:
            pytest.fail(f"{what}: still missing after {DEADLINE_SECONDS:.0f} s: {missing}\n{log.read_text()[-3000:]}")
        await asyncio.sleep(POLL_SECONDS)


async def fetch(url: str, body: object = None, **headers: str) -> tuple[int, bytes]:
    """Status and body of one request, over the standard library's client in a thread."""

    def call() -> tuple[int, bytes]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, {"content-type": "application/json", **headers})
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    return await asyncio.to_thread(call)


async def answers(url: str) -> list[str]:
    with suppress(OSError):
        if (await fetch(url))[0] == 200:
            return []
    return [url]


@asynccontextmanager
async def traffic(base_url: str, sim: Simulator) -> AsyncIterator[None]:
    """Requests of every kind that a panel shows, over and over: served, streamed, moved, tried again, refused."""

    async def ask(model: str, *, key: str = "RICH_KEY", stream: bool = False, **more: Any) -> None:
        body = {"model": model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 20, "stream": stream} | more
        await fetch(f"{base_url}/chat/completions", body, authorization=f"Bearer {KEYS[key]}")

    async def play() -> None:
        control = f"{sim.base_url.removesuffix('/v1')}/sim/control"
        while True:
            await fetch(control, {"model": "large-open-local", "errors": 4, "status": 503})
            await fetch(control, {"model": "small-edge", "errors": 1, "status": 500})
            for _ in range(3):
                await ask("auto", stream=True)
                await ask("auto")
                await ask("auto", metadata={"tags": {"task": "hard"}})
            await ask("shaky")
            await ask("auto", key="POOR_KEY")
            await ask("no-such-model")
            await asyncio.sleep(0.1)

    playing = asyncio.create_task(play())
    try:
        yield
        if playing.done():
            playing.result()
    finally:
        playing.cancel()
        with suppress(asyncio.CancelledError):
            await playing


def prometheus_config(folder: Path, port: int) -> Path:
    """The configuration that is deployed, with another address and a shorter interval."""
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [f"127.0.0.1:{port}"]
    (folder / "alerts.yml").write_text((DEPLOY / "prometheus" / "alerts.yml").read_text())
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    return path


def panel_queries() -> dict[str, str]:
    """Every query of the dashboard by panel, with the variables that Grafana fills in."""
    dashboard = json.loads((DEPLOY / "grafana" / "overview.json").read_text())
    filled = {"$__rate_interval": "15s", "$__range": "1m", "$route": ".*", "$team": ".*"}
    queries: dict[str, str] = {}
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            query = target["expr"]
            for name, value in filled.items():
                query = query.replace(name, value)
            queries[f"{panel['title']}/{target['refId']}"] = query
    return queries


async def query(prometheus: str, expression: str) -> list[float]:
    """The values of an instant query, without those that are no number."""
    _, body = await fetch(f"{prometheus}/api/v1/query?{urllib.parse.urlencode({'query': expression})}")
    answer = json.loads(body)
    assert answer["status"] == "success", f"{expression}: {answer}"
    values = [float(series["value"][1]) for series in answer["data"]["result"]]
    return [value for value in values if not math.isnan(value)]


async def test_no_panel_is_empty_and_every_alert_is_evaluated(tmp_path: Path) -> None:
    """An empty panel and an alert that cannot be evaluated look the same as a quiet night."""
    port, prometheus_port = free_port(), free_port()
    queries = panel_queries()
    assert len(queries) > 40
    serve_log, prometheus_log = tmp_path / "serve.log", tmp_path / "prometheus.log"
    async with Simulator(seed=1, speed=20, control=True) as sim:
        config = tmp_path / "router.yaml"
        config.write_text(CONFIG.format(port=port, store=tmp_path / "ledger.sqlite", sim=sim.base_url))
        async with process(sys.executable, "-m", "router", "serve", "--config", str(config), log=serve_log, **KEYS):
            base_url = f"http://127.0.0.1:{port}"
            await until("the service", lambda: answers(f"{base_url}/readyz"), log=serve_log)
            async with process(
                "prometheus",
                f"--config.file={prometheus_config(tmp_path, port)}",
                f"--storage.tsdb.path={tmp_path / 'tsdb'}",
                f"--web.listen-address=127.0.0.1:{prometheus_port}",
                log=prometheus_log,
            ):
                prometheus = f"http://127.0.0.1:{prometheus_port}"
                async with traffic(f"{base_url}/v1", sim):
                    await until("Prometheus", lambda: answers(f"{prometheus}/-/ready"), log=prometheus_log)

                    async def empty_panels() -> list[str]:
                        return [title for title, expression in queries.items() if not await query(prometheus, expression)]

                    await until("panels with data", empty_panels, log=prometheus_log)
                    await until("alerts that are evaluated", lambda: unhealthy_alerts(prometheus), log=prometheus_log)
                    assert await query(prometheus, "faregate_workers") == [2.0]
                    assert await query(prometheus, 'sum(faregate_cost_usd_total{rule="best"})') != [], "each rule is reached"
                _, scraped = await fetch(f"{base_url}/metrics")
    done = subprocess.run(["promtool", "check", "metrics"], input=scraped, capture_output=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, b"")


async def unhealthy_alerts(prometheus: str) -> list[str]:
    """Alerts of the file that Prometheus has not loaded, or could not evaluate."""
    groups = json.loads((await fetch(f"{prometheus}/api/v1/rules"))[1])["data"]["groups"]
    healthy = {rule["name"] for group in groups for rule in group["rules"] if rule["health"] == "ok"}
    wanted = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"]
    return [rule["alert"] for group in wanted for rule in group["rules"] if rule["alert"] not in healthy]
