"""Simulated providers of a configuration with faults of their own: fallbacks can be tried out with YAML alone."""

from __future__ import annotations

from pathlib import Path

from tests.running import running

CONFIG = """
version: 1
server: {store: "STORE"}
providers:
  good: {kind: sim, simulate: {speed: 1000}}
  bad: {kind: sim, simulate: {speed: 1000, seed: 3, down: [mid-closed]}}
  worse: {kind: sim, simulate: {speed: 1000, seed: 3, faults: true}}
models:
  first: bad/mid-closed
  second: good/mid-closed
  shaky: worse/frontier-closed
routes:
  auto: {use: [first, second], by: fixed, fallback: {retries: 0}}
budgets:
  everyone: $5
keys:
  tester: {secret: $TEST_KEY}
"""


async def test_a_provider_that_is_down_by_configuration_is_fallen_back_from(tmp_path: Path) -> None:
    """And one with faults fails now and then, at the rates of its profile."""
    async with running(tmp_path, CONFIG) as app:
        answer = await app.ask("auto")
        assert (answer.status_code, answer.headers["x-faregate-deployment"]) == (200, "good/mid-closed")
        assert (await app.ask("first")).status_code == 503
        simulators = app.app.service._lanes._simulators
        assert len(simulators) == 3
        assert [each.app.profiles["frontier-closed"].error_rate > 0 for each in simulators.values()] == [False, False, True]
