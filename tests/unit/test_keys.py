"""Virtual keys: their form, and the commands that make them."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import typer
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from router import inputs
from router.commands import keys as command
from router.commands import ledger as ledger_command
from router.domain import keys
from router.errors import ConfigError

RANDOM = st.binary(min_size=keys.RANDOM_BYTES, max_size=keys.RANDOM_BYTES)


@given(RANDOM)
def test_a_minted_key_can_be_parsed(random_bytes: bytes) -> None:
    """The id is public, the secret is the rest."""
    minted = keys.mint(random_bytes)
    parsed = keys.parse(minted.text)
    assert parsed is not None
    assert parsed[0] == minted.key_id
    assert minted.text.startswith(f"sk-fg-{minted.key_id}-{parsed[1]}")
    assert (len(minted.key_id), len(parsed[1]), len(minted.text)) == (8, 32, 53)


@given(RANDOM, st.integers(min_value=0, max_value=52), st.characters(codec="ascii"))
def test_a_key_with_one_wrong_character_is_none(random_bytes: bytes, at: int, other: str) -> None:
    """A typing error is told from a wrong key without asking the store."""
    text = keys.mint(random_bytes).text
    if text[at] != other:
        assert keys.parse(text[:at] + other + text[at + 1 :]) is None


@pytest.mark.parametrize("text", ["", "sk-proj-abc", "sk-fg-", "sk-fg-" + "é" * 47, "x" * 10_000])
def test_what_is_no_key_of_ours_is_none(text: str) -> None:
    """Other vendors' keys are recognised as such."""
    assert keys.parse(text) is None


def test_too_little_randomness_is_refused() -> None:
    """A short read from the random source must not make a weak key."""
    with pytest.raises(ValueError, match="64 random bytes"):
        keys.mint(b"x" * 63)


def test_the_digest_is_an_hmac_of_the_whole_key() -> None:
    """Anyone with the pepper can make it with standard tools."""
    assert keys.digest(b"pepper", "sk-fg-x") == hmac.new(b"pepper", b"sk-fg-x", hashlib.sha256).hexdigest()


NOW = datetime(2026, 11, 22, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30d", "2026-12-22T00:00+00:00"),
        ("12h", "2026-11-22T12:00+00:00"),
        ("2027-01-01", "2027-01-01T00:00+00:00"),
        ("2027-01-01T09:00+09:00", "2027-01-01T00:00+00:00"),
    ],
)
def test_expiry_is_written_as_people_write_it(text: str, expected: str) -> None:
    """A date is its first moment in UTC."""
    assert inputs.parse_expiry(text, now=NOW) == datetime.fromisoformat(expected).timestamp() * 1000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("soon", "is no time"),
        ("2020-01-01", "has passed"),
        ("d", "is no time"),
        ("999999w", "beyond the year 9999"),
        ("9999-12-31T23:59:59-09:00", "beyond the year 9999"),
    ],
)
def test_an_expiry_that_makes_no_sense_is_refused(text: str, message: str) -> None:
    """A key that has expired already is a mistake."""
    with pytest.raises(ValueError, match=message):
        inputs.parse_expiry(text, now=NOW)


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Result]:
    store = str(tmp_path / "ledger.sqlite")

    def invoke(app: typer.Typer, *args: str, stdin: str = "") -> Result:
        return CliRunner().invoke(app, [*args, "--store", store], input=stdin, catch_exceptions=False)

    return invoke


def test_a_key_is_shown_once_and_kept_as_a_hash(run: Callable[..., Result], tmp_path: Path) -> None:
    """Whoever reads the ledger cannot act as the client."""
    made = run(command.app, "new", "ci-bot", "--team", "search", "--models", "auto, coder", "--tag", "kind=agent", "--expires", "30d")
    text = made.stdout.splitlines()[0]
    parsed = keys.parse(text)
    assert parsed is not None
    listed = json.loads(run(command.app, "list", "--json").stdout)
    assert [(k["key_id"], k["name"], k["team"], k["models"], k["tags"], k["state"]) for k in listed] == [
        (parsed[0], "ci-bot", "search", ["auto", "coder"], {"kind": "agent"}, "active")
    ]
    for file in tmp_path.iterdir():
        assert parsed[1].encode() not in file.read_bytes()


def test_the_first_key_says_what_it_changes(run: Callable[..., Result]) -> None:
    """Only where nobody needed one: a configuration with keys has asked for them before."""
    assert "a router on it that let everybody in until now asks every request for a key." in run(command.app, "new", "x").stderr
    assert "let everybody in" not in run(command.app, "new", "y").stderr


def test_a_revoked_key_is_listed_as_revoked(run: Callable[..., Result]) -> None:
    """One can see that it was, and when."""
    key_id = keys.parse(run(command.app, "new", "x").stdout.splitlines()[0])[0]
    assert "revoked" in run(command.app, "revoke", key_id).stdout
    assert f"{key_id}  x     -     revoked" in run(command.app, "list").stdout
    with pytest.raises(ConfigError, match="no key 'nothere1'"):
        run(command.app, "revoke", "nothere1")


def test_a_rotated_key_keeps_its_id_and_shows_no_hash(run: Callable[..., Result]) -> None:
    """What counts by the id goes on; the secret before is good for the overlap, which has an end."""
    first = run(command.app, "new", "x").stdout.splitlines()[0]
    second = run(command.app, "rotate", first[6:14], "--overlap", "1h").stdout.splitlines()[0]
    assert (second[:15], second == first) == (first[:15], False)
    assert "hmac" not in run(command.app, "list", "--json").stdout
    for overlap in ("1000d", "soon"):
        assert run(command.app, "rotate", first[6:14], "--overlap", overlap).exit_code == 2


def test_revoke_takes_a_whole_key_and_never_shows_it(run: Callable[..., Result]) -> None:
    """Whoever has only the key pastes it, and terminals are recorded."""
    text = run(command.app, "new", "x").stdout.splitlines()[0]
    assert run(command.app, "revoke", text).stdout == f"Key {text[6:14]} (x) is revoked.\n"
    other = "sk-fg-nothere1-" + "s3cret" * 6
    for pasted in (other, "s3cret" * 6):
        with pytest.raises(ConfigError, match="There is no key") as caught:
            run(command.app, "revoke", pasted)
        assert "s3cret" not in str(caught.value)


def test_the_yaml_entry_holds_the_hash_that_the_hash_command_prints(run: Callable[..., Result]) -> None:
    """A key can live in the configuration instead of the ledger; the key itself is not in the entry."""
    made = run(command.app, "new", "ci: bot", "--yaml", "--team", "search", "--models", "auto", "--tag", "a=b", "--expires", "2099-01-01")
    text = next(line for line in made.stderr.splitlines() if line.startswith("sk-fg-"))
    entry = yaml.safe_load(made.stdout)["keys"]["ci: bot"]
    hashed = yaml.safe_load(run(command.app, "hash", stdin=text + "\n").stdout)
    assert text not in made.stdout
    assert {name: entry[name] for name in ("id", "secret_hash")} == hashed
    assert (entry["team"], entry["models"], entry["tags"], entry["expires"]) == ("search", ["auto"], {"a": "b"}, "2099-01-01T00:00:00Z")
    assert json.loads(run(command.app, "list", "--json").stdout) == []


@pytest.mark.parametrize("args", [("--tag", "kind"), ("--expires", "never")])
def test_options_that_cannot_be_read_are_usage_errors(run: Callable[..., Result], args: tuple[str, str]) -> None:
    """Exit code 2, and no key is made."""
    assert run(command.app, "new", "x", *args).exit_code == 2


def test_what_is_no_key_cannot_be_hashed(run: Callable[..., Result]) -> None:
    """A hash of a cut-off key would never match."""
    with pytest.raises(ConfigError, match="not a whole key"):
        run(command.app, "hash", stdin="sk-fg-cut\n")


def test_a_ledger_that_is_not_there_is_not_made_by_looking(run: Callable[..., Result], tmp_path: Path) -> None:
    """A typing error in the path must not be answered with an empty list."""
    with pytest.raises(ConfigError, match="no ledger at"):
        run(command.app, "list")
    with pytest.raises(ConfigError, match="no ledger at"):
        run(ledger_command.app, "verify")
    assert list(tmp_path.iterdir()) == []
