"""What all verbs have in common: one who knows one verb can guess the next."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from router import cli
from router.domain import keys
from router.errors import ConfigError

CONFIG = """version: 1
providers: {up: {kind: openai, base_url: "http://127.0.0.1:1/v1", api_key: $KEY}}
models: {small: {at: up/m, price: {input: 1, output: 2}}}
routes: {auto: small}
budgets: {everyone: $5/day}
teams: {search: {}}
server: {store: STORE}
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    for name in ("FAREGATE_CONFIG", "FAREGATE_STORE", "REDIS_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KEY", "0123456789abcdef")
    file = tmp_path / "router.yaml"
    file.write_text(CONFIG.replace("STORE", str(tmp_path / "ledger.sqlite")))
    return str(file)


def run(verb: str, *args: str, stdin: str = "") -> tuple[int, str, str]:
    result = CliRunner().invoke(cli.load(verb), list(args), input=stdin)
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("serve", "--port", "99999"),
        ("serve", "--port", "-1"),
        ("serve", "--log-level", "chatty"),
        ("serve", "--worker", "2"),
        ("demo", "--report", "/no/such/folder/x.json"),
    ],
    ids=" ".join,
)
def test_an_option_that_cannot_be_used_is_named(words: tuple[str, ...]) -> None:
    """Before anything is begun, and without a traceback."""
    status, out, error = run(*words)
    assert (status, out) == (2, "")
    assert words[1] in error


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("spend export --out x --format focuss", '--format: there is no "focuss"; did you mean "focus"?'),
        (
            "evaluate x --model m --out y --grade zzz",
            '--grade: there is no "zzz"; known: exact, choice, number, json, contains, schema, run, judge',
        ),
    ],
)
def test_a_word_that_is_misspelt_is_told_in_words(words: str, said: str) -> None:
    """Not in those of the library that reads it."""
    verb, *rest = words.split()
    code, _, error = run(verb, *rest)
    assert code == 2
    assert said in " ".join(error.replace("│", " ").split())


def test_a_port_that_is_taken_is_named() -> None:
    """The simulator says what to do, like the service."""
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ConfigError, match=r"cannot listen on .* --port"):
        CliRunner().invoke(cli.load("sim"), ["--port", str(taken.getsockname()[1])], catch_exceptions=False)


BODY = json.dumps({"model": "auto", "messages": [{"role": "user", "content": "x"}]})
READS_A_CONFIGURATION = [
    ("check", ""),
    ("explain", BODY),
    ("keys new bob", ""),
    ("keys list", ""),
    ("keys hash", keys.mint(bytes(64)).text),
    ("spend", ""),
    ("ledger show", ""),
    ("ledger verify", ""),
    ("prices", ""),
]


@pytest.mark.parametrize("flag", ["-c", "--config"])
@pytest.mark.parametrize(("words", "stdin"), READS_A_CONFIGURATION)
def test_every_verb_takes_a_configuration_in_the_same_way(config: str, flag: str, words: str, stdin: str) -> None:
    """And keeps to its store: nothing is looked for elsewhere."""
    assert run("keys", "new", "first", "-c", config)[0] == 0
    verb, *rest = words.split()
    code, out, err = run(verb, *rest, flag, config, stdin=stdin)
    assert code == 0, err
    assert out


@pytest.mark.parametrize("verb", ["check", "serve"])
def test_where_a_file_is_all_there_is_to_say_it_may_stand_alone(config: str, verb: str) -> None:
    """`check router.yaml`, `serve router.yaml`; two different files are a mistake."""
    code, _, err = run(verb, config, "--config", "other.yaml")
    assert code == 2
    assert "two configurations" in err
    text = typer.main.get_command(cli.load(verb)).get_params(typer.Context(typer.main.get_command(cli.load(verb))))
    assert {"file", "config"} <= {param.name for param in text}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--team", "serach"), 'has no team "serach"; did you mean "search"?'),
        (("--models", "auto,smal"), 'has no route or model "smal"; did you mean "small"?'),
        (("--models", "up/x"), 'has no route or model "up/x"; known: auto, small'),
    ],
)
def test_a_key_is_not_made_for_what_the_configuration_does_not_have(config: str, args: tuple[str, str], message: str) -> None:
    """It would never work, or escape the limits of its team."""
    code, out, err = run("keys", "new", "bob", "-c", config, *args)
    assert (code, out) == (2, "")
    assert message in " ".join(err.split())
    assert run("keys", "new", "bob", "-c", config, "--team", "search", "--models", "auto,up/m")[0] == 0


def test_names_that_cannot_be_checked_are_said_not_to_be(tmp_path: Path, config: str) -> None:
    """Silence would be taken for consent."""
    code, _, err = run("keys", "new", "bob", "--team", "any", "--store", str(tmp_path / "l.sqlite"))
    assert code == 0
    assert "not checked" in err


def test_prices_in_force_are_those_of_the_configuration(config: str) -> None:
    """What is written there wins over the book."""
    assert run("prices", "-c", config)[1].startswith("up/m (small): input $1.00, output $2.00 per million tokens")
    (data,) = json.loads(run("prices", "small", "-c", config, "--json")[1])
    assert (data["name"], data["price"]["output_usd_per_mtok"]) == ("up/m", "2.00")
    code, _, err = run("prices", "smal", "-c", config)
    assert code == 1
    assert 'did you mean "small"?' in err
