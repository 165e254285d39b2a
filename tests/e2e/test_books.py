"""From a request over HTTP to the reports: what was bought is held, charged, recorded, exported and priced again."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from tests.running import running
from tests.scripted_behaviours import Json, usage
from tests.scripted_upstream import ScriptedUpstream
from tests.verbs import said

CONFIG = """
version: 1
server: {store: STORE}
providers:
  up: {kind: openai, base_url: "UP", api_key: $PROVIDER_KEY}
models:
  m:
    at: up/m
    price: {input: 10, output: 10, priority: 2, web_search: {low: 0.01, medium: 0.02, high: 0.03}, changes: [CHANGE]}
routes:
  auto: [m]
budgets:
  everyone: {limit: $100}
keys:
  tester: {secret: $TEST_KEY}
"""
CHANGE = "{from: 2020-01-01, input: 1, output: 1, priority: 3, web_search: 0.05}"


async def test_what_was_bought_beside_tokens_is_in_every_book(tmp_path: Path) -> None:
    """A priority answer with a search: the client's bill, the budget, `spend`, the export and the re-rating name one amount."""
    up = ScriptedUpstream()
    up.on("m", Json(usage=usage(100, 20), more={"service_tier": "priority"}))
    async with running(tmp_path, CONFIG.replace("CHANGE", CHANGE), up=up) as run:
        answer = await run.ask("auto", service_tier="priority", web_search_options={"search_context_size": "low"})
        assert answer.status_code == 200
        assert answer.json()["service_tier"] == "priority"
        buckets = await run.settled()
        (record,) = await run.records()
        store = run.store
    charge = 120 * 3_000 + 50_000_000
    assert buckets["everyone|"].spent_nusd == record["charge_nusd"] == charge
    assert (record["service_tier"], record["web_search"], record["price_date"]) == ("priority", "low", "2020-01-01")
    assert record["hold_nusd"] >= charge
    prices = tmp_path / "prices.yaml"
    prices.write_text("up/m: {input: 1, output: 1, priority: 4, web_search: 0.05}\n")
    shown = json.loads(await said("spend", "--store", store, "--by", "deployment,outcome", "--json"))
    assert shown["total"]["cost_nusd"] == charge
    await said("spend", "export", "--store", store, "--out", str(tmp_path / "out"))
    (path,) = (tmp_path / "out").glob("*.csv")
    with path.open(newline="") as file:
        assert [int(row["charge_nusd"]) for row in csv.DictReader(file)] == [charge]
    rerated = json.loads(await said("ledger", "rerate", "--store", store, "--prices", str(prices), "--json"))
    assert (rerated["total"]["charged_nusd"], rerated["total"]["difference_nusd"]) == (charge, 120 * 1_000)
