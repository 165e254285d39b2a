"""A key of the configuration that is known by its hash alone: made by the command, found by the service."""

from __future__ import annotations

import asyncio
from pathlib import Path

import yaml
from typer.testing import CliRunner

from router.cli import load
from router.domain import keys
from tests.running import running
from tests.scripted_behaviours import Json, usage

CONFIG = """
version: 1
server: {store: STORE}
providers:
  up: {kind: openai, base_url: "UP", api_key: $PROVIDER_KEY}
models:
  m: {at: up/m, price: {input: 1, output: 1}, default_max_output: 100}
budgets:
  per-key: {limit: $1/day, each: key}
teams: {search: {models: [m]}}
keys:
  ci-bot: {team: search, secret_hash: $CI_BOT_KEY_HASH, expires: 2030-01-01, tags: {kind: agent}}
"""
KEY, WRONG = keys.mint(bytes(range(64))), keys.mint(bytes(range(64, 128)))


async def test_the_hash_that_the_command_prints_lets_its_key_in_and_no_other(tmp_path: Path) -> None:
    """The file names no id; what is spent is booked under the name of the entry."""
    store = str(tmp_path / "ledger.sqlite")

    def printed() -> dict[str, str]:
        result = CliRunner().invoke(load("keys"), ["hash", "--store", store], input=KEY.text + "\n")
        assert result.exit_code == 0, result.output
        found: dict[str, str] = yaml.safe_load(result.stdout)
        return found

    hashed = (await asyncio.to_thread(printed))["secret_hash"]
    assert KEY.text not in hashed
    async with running(tmp_path, CONFIG, environment={"CI_BOT_KEY_HASH": hashed}, key=KEY.text, store=store) as app:
        app.up.on("m", Json(usage=usage(prompt=10, completion=90)))
        assert (await app.ask()).status_code == 200
        assert (await app.ask(headers={"authorization": f"Bearer {WRONG.text}"})).status_code == 401
        assert (await app.ask(headers={"authorization": f"Bearer {KEY.text[:-1]}"})).status_code == 401
        assert {name: state.spent_nusd for name, state in (await app.settled()).items()} == {"per-key|key=ci-bot": 100_000}
        (record,) = await app.records()
        assert (record["key_id"], record["team"], record["tags"]) == ("ci-bot", "search", {"kind": "agent"})
