"""Experiments by name: from the YAML to the provider that is called, the books, the roll-back and what commands tell."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from typer.testing import CliRunner

from policies.kinds.fields import point_of
from policies.types import RequestFacts
from router import cli
from tests.running import PROVIDER_KEY, chat, running
from tests.scripted_behaviours import Fail, Json, usage
from tests.verbs import said

CONFIG = """
version: 1
server: {store: STORE, record_decisions: 100%}
providers:
  up: {kind: openai, base_url: "UP", api_key: $PROVIDER_KEY}
  next: {kind: openai, base_url: "UP", api_key: $PROVIDER_KEY}
models:
  now: {at: up/now, price: {input: 1, output: 1}, default_max_output: 100}
  new: {at: next/new, price: {input: 2, output: 2}, default_max_output: 100}
  other: {at: up/other, price: {input: 1, output: 1}, default_max_output: 100}
routes:
  auto:
    rules:
      - {name: elsewhere, when: 'tag("kind") == "agent"', use: other}
      - {name: again, when: 'tag("kind") == "batch"', use: now}
    default: {use: [now, other], by: fixed}
    fallback: {retries: 0}
  plain: {use: [now, other], by: fixed}
experiments:
  next: {route: auto, swap: {now: new}, EXPERIMENT}
budgets:
  everyone: {limit: $10, at: []}
keys:
  tester: {secret: $TEST_KEY}
"""


def config(experiment: str) -> str:
    return CONFIG.replace("EXPERIMENT", experiment)


async def test_an_experiment_moves_its_share_of_a_route_and_nothing_else(tmp_path: Path) -> None:
    """Who is in it stays in it, in every rule; money, arms and chances are in the books."""
    async with running(tmp_path, config("share: 30%, sticky: session")) as app:
        for model in ("now", "new", "other"):
            app.up.on(model, Json(usage=usage(prompt=10, completion=90)))
        went: dict[str, set[str]] = {}
        for turn in range(60):
            session = f"s{turn % 20}"
            tags = {"x-faregate-session": session} | ({"x-faregate-tags": "kind=batch"} if turn >= 40 else {})
            answer = await app.ask("auto", headers=tags)
            went.setdefault(session, set()).add(answer.headers["x-faregate-model"])
        new = {name for name in went if (point_of(RequestFacts("chat", "auto", session=name), "session", "next") or 0.0) < 0.3}
        assert 0 < len(new) < 20
        assert went == {name: {"new" if name in new else "now"} for name in went}
        session = next(iter(new))
        for model, tags, expected in (("plain", "", "now"), ("now", "", "now"), ("auto", "kind=agent", "other")):
            answer = await app.ask(model, headers={"x-faregate-session": session, "x-faregate-tags": tags})
            assert answer.headers["x-faregate-model"] == expected
        spent = (await app.settled())["everyone|"].spent_nusd
        records = await app.records()
        assert spent == sum(record["charge_nusd"] for record in records) == 100_000 * (63 + 3 * len(new))
        arms = [(record["deployment"], record.get("arms"), record.get("propensity_ppm")) for record in records]
        assert arms.count(("next/new", {"next": "canary"}, 300_000)) == 3 * len(new)
        assert arms.count(("up/now", {"next": "control"}, 700_000)) == 60 - 3 * len(new)
        assert sum(not each[1] for each in arms) == 3


async def test_an_experiment_that_fails_is_taken_back_and_begins_anew_by_name(tmp_path: Path) -> None:
    """Under its own name, in the metrics, the ledger and the command; the old model answers all the while."""
    experiment = "share: 50%, sticky: none, stop_if: {errors: +5%, first_token: +30%, cost: +150%}"
    async with running(tmp_path, config(experiment)) as app:
        app.up.on("now", Json(text="ok"))
        app.up.on("new", Fail())
        service = app.app.service
        for turn in range(200):
            # The router's own memory of failures would keep the model out before the test can tell anything.
            service.fleet.succeeded("next/new", first_token_ms=None, total_ms=1.0, output_tokens=1)
            service.fleet._states["next/new"].cooled_until = None
            # What fails in one rule is taken back in all.
            answer = await app.ask("auto", headers={"x-faregate-tags": "kind=batch"} if turn % 2 else {})
            assert (answer.status_code, answer.headers["x-faregate-model"]) == (200, "now")
            if any(each.stopped for each in service.fleet.memory.experiments.known.values()):
                break
        assert [(key[:3], each.stopped) for key, each in service.fleet.memory.experiments.known.items()] == [
            (("auto", "*", "next"), "errors")
        ]
        counted = (await app.client.get(f"{app.root}/metrics")).text
        assert 'faregate_experiment_stops_total{experiment="next",reason="errors"} 1' in counted
        await service.controls.poll()
        assert await said("resume", "next", "--store", app.store, "--reason", "mended") == "auto/*/next begins anew.\n"
        await service.controls.poll()
        assert not any(each.stopped for each in service.fleet.memory.experiments.known.values())


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, str]:
    """The same configuration with a small share and with a whole one."""
    monkeypatch.setenv("PROVIDER_KEY", PROVIDER_KEY)
    monkeypatch.setenv("TEST_KEY", "tester-key-0123456789")
    paths = {}
    for share in ("1%", "100%"):
        path = tmp_path / f"{share[:-1]}.yaml"
        text = config(f"share: {share}").replace("STORE", str(tmp_path / "ledger.sqlite"))
        path.write_text(text.replace("UP", "http://127.0.0.1:1/v1"), encoding="utf-8")
        paths[share] = str(path)
    return paths


def test_explain_names_the_experiment_and_its_arm(files: Mapping[str, str]) -> None:
    """Before anything is sent."""
    request = json.dumps(chat("auto"))
    for share, arm, first in (("1%", "control", "up/now"), ("100%", "canary", "next/new")):
        result = CliRunner().invoke(cli.load("explain"), ["--config", files[share], "--no-store"], input=request)
        assert f"experiment next: arm {arm}" in result.output
        told = CliRunner().invoke(cli.load("explain"), ["--config", files[share], "--no-store", "--json"], input=request)
        assert next(c["deployment"] for c in json.loads(told.stdout)["candidates"] if c["place"] == 1) == first


async def test_a_plan_says_what_an_experiment_would_have_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Last month's requests under the next configuration: other models, other money."""
    monkeypatch.setenv("PROVIDER_KEY", PROVIDER_KEY)
    monkeypatch.setenv("TEST_KEY", "tester-key-0123456789")
    async with running(tmp_path, config("share: 0%")) as app:
        for model in ("now", "new", "other"):
            app.up.on(model, Json(usage=usage(prompt=10, completion=90)))
        for turn in range(10):
            await app.ask("auto", headers={"x-faregate-session": f"s{turn}"})
        await app.settled()
        paths = []
        for share in ("0%", "100%"):
            path = tmp_path / f"plan-{share[:-1]}.yaml"
            text = config(f"share: {share}").replace("STORE", app.store).replace("UP", app.up.base_url)
            path.write_text(text, encoding="utf-8")
            paths.append(str(path))
        told = json.loads(await said("plan", *paths, "--json", "--replay", app.store))
        assert told["plan"]["moves"] == [["now", "new", 10]]
        assert told["plan"]["total"]["cost_per_month_nusd"]["change"] == 1.0
