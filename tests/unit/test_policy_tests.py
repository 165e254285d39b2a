"""`faregate test`: what is expected of policies is compared with what the server would do."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from typer.testing import CliRunner, Result

from policies import presets
from router.cli import load
from router.errors import ConfigError
from router.settings.model_tests import read_tests
from tests.house.source import ROOT
from tests.unit.test_policies_presets import CONFIG as MODELS

PRESET_TESTS = sorted((ROOT / "tests" / "presets").glob("*.test.yaml"))
CONFIG = """
version: 1
providers:
  cloud: {kind: sim, base_url: "http://127.0.0.1:9/v1"}
  home: {kind: sim, base_url: "http://127.0.0.1:9/v1"}
  openai: {}
models:
  large: {at: [cloud/frontier-closed, openai/gpt-5.6], size: large}
  small: {at: home/small-edge, size: small, max_in_flight: 2}
routes:
  auto:
    rules:
      - {name: agents, when: {tags: {kind: agent}}, use: large, by: fixed}
      - {name: private, when: {header: {x-class: secret}}, use: small, otherwise: refuse}
    default: {use: [large, small], by: cost}
  plain: [small]
budgets:
  company: {limit: $10/month, at: {90%: downgrade}}
  per-team: {limit: $1/day, each: team}
teams: {search: {}}
keys:
  bot: {team: search, secret: $BOT_SECRET, tags: {kind: agent}}
"""


def write(folder: Path, tests: str, config: str = CONFIG) -> str:
    (folder / "router.yaml").write_text(config)
    (folder / "router.test.yaml").write_text(tests)
    return str(folder / "router.test.yaml")


def run(*words: str) -> Result:
    return CliRunner().invoke(load("test"), list(words))


@pytest.mark.parametrize("name", ["router", "demo"])
def test_the_configurations_in_the_repository_do_what_their_tests_say(name: str) -> None:
    """They are the examples that others begin with."""
    result = run(str(ROOT / "config" / f"{name}.test.yaml"))
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("path", PRESET_TESTS, ids=lambda path: path.name)
def test_presets_do_what_their_tests_say(path: Path, tmp_path: Path) -> None:
    """On a catalogue with a model of each kind; every rule of a preset is reached."""
    config = tmp_path / "router.yaml"
    config.write_text(yaml.safe_dump(MODELS | {"routes": {"auto": {"policy": path.name.removesuffix(".test.yaml")}}}))
    result = run(str(path), "--config", str(config), "--threshold", "100")
    assert result.exit_code == 0, result.output


def test_every_preset_has_tests() -> None:
    """A policy that nobody has tried is not ready-made."""
    shipped = {path.stem for path in Path(presets.__path__[0]).glob("*.yaml")}
    assert {path.name.removesuffix(".test.yaml") for path in PRESET_TESTS} == shipped


def test_what_holds_passes_and_missed_rules_are_named(tmp_path: Path) -> None:
    """Secrets are not needed; budgets, the fleet, the time and chance are as the test says."""
    path = write(
        tmp_path,
        """
tests:
  - {name: cheapest, ask: {model: auto, max_tokens: 50}, expect: {rule: default, model: small, provider: home, max_cost: $1}}
  - {name: busy, given: {fleet: {small: busy}}, ask: {model: auto}, expect: {model: large, rejected: {small: unhealthy}}}
  - {name: key, ask: {model: auto, key: bot}, expect: {rule: agents, never: [home]}}
  - {name: steps, given: {budgets: {company: 95%}}, ask: {model: auto}, expect: {order: [small], rejected: {large: budget_downgrade}}}
  - {name: spent, given: {budgets: {per-team: spent}}, ask: {model: auto, team: search}, expect: {refused: "402"}}
  - {name: unknown, ask: {model: nothing}, expect: {refused: 404}}
  - {name: embed, ask: {model: plain, body: {input: hello}}, expect: {model: small}}
""",
    )
    result = run(path)
    assert result.exit_code == 0, result.output
    assert result.output == "7 passed, 0 failed\n1 of 4 rules never matched: auto/private\n"
    assert run(path, "--threshold", "75").exit_code == 0
    low = run(path, "--threshold", "90")
    assert low.exit_code == 1
    assert "75 % of the rules are reached, fewer than 90 %" in low.stderr
    assert run("--config", str(tmp_path / "router.yaml"), "-v").stdout.startswith(f"passed {path}:3 cheapest\n")


def test_decimals_reach_the_body_as_numbers(tmp_path: Path) -> None:
    """Temperatures and limits of a request are numbers with a fraction; the limit here is one that nothing can keep."""
    path = write(
        tmp_path,
        """
tests:
  - {name: warm, ask: {model: auto, body: {temperature: 0.2, stop: [a], metadata: {x: "1.10"}}}, expect: {rule: default}}
  - {name: poor, ask: {model: auto, body: {faregate: {max_cost_usd: 0.0000001}}}, expect: {refused: max_cost_exceeded}}
""",
    )
    result = run(path)
    assert result.output.startswith("2 passed"), result.output


@pytest.mark.parametrize(
    ("asked", "status", "code", "part"),
    [
        ("given: {fleet: {small: drained}}, ask: {model: auto, headers: {x-class: secret}}", 403, "policy_refused", "No deployment"),
        ("given: {fleet: {small: down}}, ask: {model: plain}", 503, "no_deployment_available", "No deployment of 'plain'"),
        ("given: {budgets: {per-team: spent}}, ask: {model: auto, team: search}", 402, "budget_exceeded", "budget 'per-team'"),
        ("ask: {model: nothing}", 404, "model_not_found", "nothing"),
    ],
)
def test_a_refusal_is_known_by_status_code_or_message(asked: str, status: int, code: str, part: str, tmp_path: Path) -> None:
    """All three are what the server answers; another status is a failure even if its digits stand in the message."""
    cases = [f'  - {{name: "{word}", {asked}, expect: {{refused: "{word}"}}}}' for word in (status, code, part, 405)]
    result = run(write(tmp_path, "\n".join(["tests:", *cases])), "--json")
    failures = [one["failures"] for one in json.loads(result.stdout)["tests"]]
    assert failures[:3] == [[], [], []]
    assert failures[3][0].startswith(f"refused: expected '405', found {status} {code}: ")


def test_what_does_not_hold_says_what_was_found_and_why(tmp_path: Path) -> None:
    """Whoever broke it sees it in the report of the pipeline, with file and line."""
    path = write(
        tmp_path,
        """
tests:
  - {name: a, ask: {model: auto}, expect: {model: large, rule: agents, kind: fixed, max_cost: $0.0000001}}
  - {name: b, given: {fleet: {small: drained}}, ask: {model: auto}, expect: {model: small, never: [openai]}}
  - {name: c, ask: {model: auto}, expect: {refused: "402", rejected: {small: cooldown}}}
  - {name: d, given: {budgets: {per-team: spent}}, ask: {model: auto, team: search}, expect: {order: [small]}}
  - {name: e, ask: {model: auto}, expect: {signals: {language: ko}, order: [large]}}
""",
    )
    junit = tmp_path / "junit.xml"
    result = run(path, "--json", "--junit", str(junit))
    assert result.exit_code == 1
    failures = {one["name"]: one["failures"] for one in json.loads(result.stdout)["tests"]}
    assert failures["a"][0] == "model: expected 'large', found 'small' (large is number 2)"
    assert [text.partition(":")[0] for text in failures["a"]] == ["model", "max_cost", "rule", "kind"]
    assert failures["b"][0].endswith("(small is out: drained, as the test says)")
    assert failures["b"][1].startswith("never: 'openai' would be tried")
    assert failures["c"][0] == "refused: expected '402', but it is served"
    assert failures["c"][1] == "rejected: expected 'small' to be out (cooldown), but it is tried"
    assert failures["d"][0].startswith("it is refused: 402 budget_exceeded: budget 'per-team' (team=search) has 0.00 USD left")
    assert failures["e"][0] == "signals.language: expected 'ko', found None"
    suite = ElementTree.fromstring(junit.read_bytes())
    assert (suite.get("tests"), suite.get("failures")) == ("5", "5")
    assert "FAILED" in run(path).stdout


def test_a_file_of_tests_with_mistakes_names_all_of_them(tmp_path: Path) -> None:
    """As a configuration does: with line, and with what was probably meant."""
    path = write(tmp_path, "tests:\n  - {name: a, ask: {modle: auto}, expect: {}}\n  - {name: b, ask: {model: auto}, expect: {rul: x}}\n")
    with pytest.raises(ConfigError) as caught:
        read_tests(path)
    said = str(caught.value)
    assert ":2:20: tests[0].ask.model: is missing" in said
    assert 'tests[0].ask.modle: unknown field; did you mean "model"?' in said
    assert ":3:" in said
    hollow = ("{}", "{never: []}", "{rejected: {small: cooldwn}}")
    path = write(tmp_path, "tests:\n" + "".join(f"  - {{name: a, ask: {{model: auto}}, expect: {one}}}\n" for one in hollow))
    with pytest.raises(ConfigError) as caught:
        read_tests(path)
    nothing, never, reason = str(caught.value).splitlines()
    assert "tests[0].expect: nothing is expected" in nothing.lower()
    assert "tests[1].expect: nothing is expected" in never.lower()
    assert 'did you mean "cooldown"?' in reason
    assert isinstance(run(path).exception, ConfigError)
    assert isinstance(run("--config", str(tmp_path / "none" / "router.yaml")).exception, ConfigError)


@pytest.mark.parametrize(
    ("expect", "said"),
    [
        ("never: [clodu]", 'never: there is no deployment, model or provider "clodu"; did you mean "cloud"?'),
        ("model: smal", 'model: there is no model "smal"; did you mean "small"?'),
        ("deployment: home/smal-edge", 'deployment: there is no deployment "home/smal-edge"; did you mean "home/small-edge"?'),
        ("provider: hom", 'provider: there is no provider "hom"; did you mean "home"?'),
        ("rejected: {smal: cooldown}", 'rejected: there is no deployment or model "smal"; did you mean "small"?'),
        ("order: [small, larg]", 'order: there is no deployment or model "larg"; did you mean "large"?'),
        ("rule: agent", 'rule: there is no rule "agent"; did you mean "agents"?'),
        ("refused: 460", 'refused: there is no refusal with status "460"; known: 400, 401,'),
    ],
)
def test_names_that_the_configuration_does_not_have_are_errors(expect: str, said: str, tmp_path: Path) -> None:
    """A test that forbids a misspelt provider would pass whatever happens."""
    path = write(tmp_path, f"tests:\n  - {{name: a, ask: {{model: auto}}, expect: {{{expect}}}}}\n")
    error = run(path).exception
    assert isinstance(error, ConfigError)
    assert str(error).startswith(f"{path}:2: tests[0].expect.{said}")


def test_all_that_is_misspelt_is_told_at_once(tmp_path: Path) -> None:
    """Whoever mends one name must not be told of the next one only then."""
    path = write(
        tmp_path,
        """
given: {budgets: {compny: spent}}
tests:
  - {name: a, ask: {model: autoo}, expect: {rule: agent}}
  - {name: b, ask: {model: auto, team: serch}, expect: {rule: default}}
  - {name: c, given: {fleet: {hom: down}, budgets: {per-tem: spent}}, ask: {model: auto, key: bott}, expect: {refused: 999}}
  - {name: d, ask: {model: nothing}, expect: {refused: 404}}
  - {name: e, ask: {model: nothing, body: {model: auto}}, expect: {rule: default}}
""",
    )
    error = run(path).exception
    assert isinstance(error, ConfigError)
    assert [line.removeprefix(path).partition("; ")[0] for line in str(error).splitlines()] == [
        ': given.budgets: there is no budget "compny"',
        ':4: tests[0].ask.model: there is no route or model "autoo"',
        ':4: tests[0].expect.rule: there is no rule "agent"',
        ':5: tests[1].ask.team: there is no team "serch"',
        ':6: tests[2].given.fleet: there is no deployment, model or provider "hom"',
        ':6: tests[2].given.budgets: there is no budget "per-tem"',
        ':6: tests[2].ask.key: there is no key "bott"',
        ':6: tests[2].expect.refused: there is no refusal with status "999"',
    ]


def test_a_key_is_not_asked_for_as_another_team(tmp_path: Path) -> None:
    """The budgets of that team would not be looked at, and the test would show nothing."""
    config = CONFIG.replace("teams: {search: {}}", "teams: {search: {}, poor: {}}")
    tests = "tests:\n" + "".join(
        f"  - {{name: {team}, ask: {{model: auto, key: bot, team: {team}}}, expect: {{rule: agents}}}}\n" for team in ("search", "poor")
    )
    result = run(write(tmp_path, tests, config), "--json")
    failures = [one["failures"] for one in json.loads(result.stdout)["tests"]]
    assert failures == [[], ["ask.team: key 'bot' is not of team 'poor', but of 'search'"]]
