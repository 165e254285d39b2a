"""`faregate budget`, `freeze`, `drain` and `audit`: what people type, and what they are told."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from router import cli
from router.adapters.choose import visiting
from router.commands.changes import operator
from router.errors import ConfigError
from router.fleet import Fleet
from router.live_controls import LiveControls
from tests.running import compiled

CONFIG = """
version: 1
providers: {up: {kind: openai, base_url: "http://127.0.0.1:1/v1", api_key: $PROVIDER_KEY}}
models: {m: {at: up/m, price: {input: 10, output: 10}}}
budgets:
  company: {limit: $100/month}
  per-team: {limit: $10/month, each: team}
teams: {search: {budget: $20/month}}
"""


@pytest.fixture
def store(tmp_path: Path) -> str:
    """Books of a configuration that was served."""
    path = str(tmp_path / "ledger.sqlite")

    async def serve() -> None:
        async with visiting(path) as ledger:
            await LiveControls(ledger.control_store(), Fleet(lambda: 0.0), keys_changed=lambda: None).publish(compiled(CONFIG))

    asyncio.run(serve())
    return path


def run(store: str, verb: str, *words: str) -> Result:
    return CliRunner().invoke(cli.load(verb), [*words, "--store", store], catch_exceptions=False)


def test_limits_are_changed_and_shown(store: str) -> None:
    """By the name that people use for a team's budget, too."""
    made = run(store, "budget", "raise", "search", "50usd", "--until", "2h", "--reason", "launch")
    assert made.stdout.startswith("team/search: 20.00 USD -> 70.00 USD until 20")
    assert run(store, "budget", "lower", "company", "$1", "--reason", "x").stdout == "company: 100.00 USD -> 99.00 USD\n"
    made = run(store, "budget", "lower", "per-team", "$11", "--scope", "team=ads", "--reason", "typo")
    assert made.stdout == "per-team (team=ads): 10.00 USD -> 0.00 USD\n"
    assert "nothing is left" in made.stderr
    run(store, "budget", "reset-override", "per-team", "--scope", "team=ads", "--reason", "typo")
    made = run(store, "budget", "set", "per-team", "$3", "--scope", "team=search", "--reason", "y")
    assert made.stdout == "per-team (team=search): 10.00 USD -> 3.00 USD\n"
    rows = [line.split() for line in run(store, "budget", "list").stdout.splitlines()]
    assert rows[1][:6] == ["company", "-", "100.00", "USD", "99.00", "USD"]
    assert rows[4][:7] == ["set", "to", "3.00", "USD", "team=search", "3.00", "USD"]
    listed = {each["budget"]: each for each in json.loads(run(store, "budget", "list", "--json").stdout)}
    assert listed["team/search"]["limit"] == 70 * 10**9
    assert listed["per-team"]["changes"][0]["limit"] == 3 * 10**9
    shown = run(store, "ledger", "show").stdout
    assert f"per-team (team=search): set to 3.00 USD by {operator()}: y" in shown
    assert run(store, "budget", "reset-override", "search", "--reason", "z").stdout == "team/search: 70.00 USD -> 20.00 USD\n"


def test_a_canary_that_was_taken_back_begins_anew(store: str) -> None:
    """By its name; a name that was not taken back is answered with those that were."""

    async def stop() -> None:
        async with visiting(store) as ledger:
            worker = LiveControls(ledger.control_store(), fleet := Fleet(lambda: 0.0), keys_changed=lambda: None)
            fleet.memory.experiments.unsaid["auto", "default", "canary", ""] = "errors"
            await worker.poll()

    asyncio.run(stop())
    refused = run(store, "resume", "canari")
    assert (refused.exit_code, "taken back: auto/default/canary" in refused.output) == (2, True)
    assert run(store, "resume", "canary", "--reason", "mended").stdout == "auto/default/canary begins anew.\n"
    lines = [json.loads(line) for line in run(store, "audit", "--json").stdout.splitlines()]
    assert [line["action"] for line in lines if "experiment" in line["action"]] in (
        ["experiment.stop", "experiment.resume"],
        ["experiment.resume", "experiment.stop"],
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("raise", "search", "+25", "--reason", "x"), "for the shell eats $5"),
        (("set", "search", " -7usd", "--reason", "x"), "is below zero"),
        (("raise", "nobody", "$5", "--reason", "x"), "there is no budget 'nobody'"),
        (("raise", "search", "$5", "--reason", "x", "--until", "soon"), "is no time"),
        (("raise", "search", "$5", "--reason", ""), "needs a reason"),
        (("raise", "search", "$5"), "Missing option '--reason'"),
        (("reset-override", "search", "--reason", "x"), "is that of the configuration"),
    ],
)
def test_a_mistake_is_one_of_usage(store: str, words: tuple[str, ...], told: str) -> None:
    """Exit 2, a sentence, and nothing is changed."""
    result = run(store, "budget", *words)
    assert result.exit_code == 2
    assert told in " ".join(result.stderr.replace("│", " ").split())


@pytest.mark.parametrize(
    ("verb", "target", "told"),
    [
        ("freeze", "team=serach", "there is no team 'serach'; did you mean 'search'?"),
        ("freeze", "key=nobody", "there is no key 'nobody'"),
        ("freeze", "model=nope", "there is no model 'nope'"),
        ("drain", "upp", "there is no provider or deployment 'upp'; did you mean 'up'?"),
    ],
)
def test_a_stop_of_what_does_not_exist_is_refused(store: str, verb: str, target: str, told: str) -> None:
    """Whoever pulls the brake in a hurry must not be told that it holds."""
    result = run(store, verb, target, "--reason", "wild")
    assert (result.exit_code, result.stdout) == (2, "")
    assert told in " ".join(result.stderr.replace("│", " ").split())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--team", "serach"), "--team: there is no team 'serach'; did you mean 'search'?"),
        (("--team", "search", "--models", "m,nope"), "--models: there is no model 'nope'; known: m"),
    ],
)
def test_a_key_of_a_team_that_does_not_exist_is_not_minted(store: str, words: tuple[str, ...], told: str) -> None:
    """It would spend beside the limits of the team that was meant; what was served last says which there are."""
    result = run(store, "keys", "new", "bot", *words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert told in " ".join(result.stderr.replace("│", " ").split())
    assert run(store, "keys", "list").stdout.count("\n") == 1
    kept = run(store, "keys", "new", "bot", "--team", "search", "--models", "m")
    assert (kept.exit_code, "not checked" in kept.stderr) == (0, False)


def test_a_key_that_is_called_by_its_name_is_told_its_id(store: str) -> None:
    """The list shows the name, too: nobody should look for what is wrong with it."""
    made = run(store, "keys", "new", "bot").stdout
    with pytest.raises(ConfigError, match=f"There is no key 'bot' .* A key of that name has the id: {made[6:14]}."):
        run(store, "keys", "revoke", "bot")


def test_keys_that_were_minted_and_users_can_be_frozen(store: str) -> None:
    """No configuration names them."""
    assert run(store, "keys", "new", "night").exit_code == 0
    for target in ("key=night", "user=anybody"):
        assert run(store, "freeze", target, "--reason", "wild").stdout == f"{target} is frozen.\n"


def test_freezes_and_drains_are_made_and_taken_back(store: str) -> None:
    """And everything is in the log, with who did it."""
    assert run(store, "freeze", "team=search", "--reason", "wild").stdout == "team=search is frozen.\n"
    assert run(store, "drain", "up", "--reason", "outage", "--until", "30m").stdout.startswith("up is drained until 20")
    assert run(store, "unfreeze", "team=search").stdout == "team=search is not frozen any more.\n"
    assert run(store, "undrain", "up", "--reason", "back").stdout == "up is not drained any more.\n"
    assert run(store, "undrain", "up").exit_code == 2
    entries = [json.loads(line) for line in run(store, "audit", "--json").stdout.splitlines()]
    assert [(e["action"], e["who"]) for e in entries[1:]] == [(w, operator()) for w in ("freeze", "drain", "unfreeze", "undrain")]
    text = run(store, "audit", "--since", "2020-01-01").stdout
    assert "wild" in text
    assert len(run(store, "audit", "--since", "2100-01-01").stdout.splitlines()) == 1
    assert run(store, "audit", "--since", "then").exit_code == 2
