"""No credential is ever shown: not in errors, not in what is effective, not in a repr."""

from __future__ import annotations

import json

import pytest

from router.settings.effective import effective_data, effective_yaml
from router.settings.findings import looks_like_secret, shown
from router.settings.references import Secret
from tests.settings_help import BASE, load, wrong

SECRET = "sk-live-9f8e7d6c5b4a39281706"
ENVIRON = {"OPENAI_API_KEY": SECRET, "BOT_KEY": SECRET + "-bot", "STORE": f"redis://me:{SECRET}@h:6379/0"}

FULL = """\
version: 1
server: {store: $STORE}
providers:
  openai: {headers: {x-extra: $OPENAI_API_KEY}, proxy: "http://u:${OPENAI_API_KEY}@p:3128"}
  aws: {kind: litellm/bedrock, options: {aws_secret_access_key: $OPENAI_API_KEY}}
  room: {kind: vllm, base_url: http://room/v1, api_key: "${ROOM_KEY:-sk-live-9f8e7d6c5b4a39281706}"}
models: {big: openai/large, m: aws/nova, q: room/qwen}
keys: {bot: {secret: $BOT_KEY}, app: {id: Ab3dE6gH, secret_hash: $HASH}}
"""
HASH = "9f8e7d6c5b4a3928" * 4


def test_what_is_effective_shows_references_only() -> None:
    """People paste it into tickets."""
    loaded = load(FULL, {**ENVIRON, "HASH": HASH})
    for text in (effective_yaml(loaded.settings, loaded.snapshot), json.dumps(effective_data(loaded.settings))):
        assert SECRET not in text
        assert HASH not in text
        assert "$BOT_KEY" in text
        assert "redis://***@h:6379/0" in text


def test_no_repr_shows_a_secret() -> None:
    """A traceback or a debug log must not."""
    loaded = load(FULL, {**ENVIRON, "HASH": HASH})
    for text in (repr(loaded.settings), repr(loaded.snapshot), str(loaded.settings.keys)):
        assert SECRET not in text
        assert HASH not in text


@pytest.mark.parametrize(
    "extra",
    [
        f"server: {{prot: {SECRET}}}",
        f"server: {{port: {SECRET}}}",
        "server: {port: $OPENAI_API_KEY}",
        "server: {lease: $OPENAI_API_KEY}",
        "server: {unpriced: $OPENAI_API_KEY}",
        "server: {log_requests: $OPENAI_API_KEY}",
        f"server: {{{SECRET}: 1}}",
        f"keys: {{k: {{secret: {SECRET}}}}}",
        "keys: {k: {secret_hash: $OPENAI_API_KEY, id: x}}",
        f"keys: {{k: {{secret: $BOT_KEY, expires: {SECRET}}}}}",
        f"budgets: {{b: {SECRET}}}",
        "budgets: {b: $OPENAI_API_KEY}",
        "budgets: {b: {limit: $5, timezone: $OPENAI_API_KEY}}",
        f"routes: {{r: {SECRET}}}",
        "routes: {r: $OPENAI_API_KEY}",
        "routes: {r: {use: big, by: $OPENAI_API_KEY}}",
        "routes: {r: {use: big, fallback: {on: [$OPENAI_API_KEY]}}}",
        "routes: {r: {use: big, rules: [{use: big, when: {input_tokens: $OPENAI_API_KEY}}]}}",
        f"teams: {{t: {{models: [{SECRET}]}}}}",
        "teams: {t: {models: $OPENAI_API_KEY}}",
        "keys: {k: {secret: $BOT_KEY, team: $OPENAI_API_KEY}}",
    ],
)
def test_no_error_shows_a_secret(extra: str) -> None:
    """The usual way to leak a key is to put it into the wrong field."""
    text = "\n".join(wrong(BASE + extra + "\n", ENVIRON))
    assert SECRET not in text
    assert SECRET[8:] not in text


@pytest.mark.parametrize(
    "providers",
    [
        f"{{openai: {{api_key: {SECRET}}}}}",
        f"{{openai: {{api_kye: {SECRET}}}}}",
        "{x: {kind: $OPENAI_API_KEY}}",
        "{openai: {base_url: $OPENAI_API_KEY}}",
        "{openai: {base_url: 'http://u:$OPENAI_API_KEY@h'}}",
        f"{{openai: {{base_url: 'http://u:{SECRET}@h'}}}}",
        f"{{openai: {{proxy: 'ftp://u:{SECRET}@h'}}}}",
        f"{{openai: {{headers: {{x: {SECRET}}}}}}}",
        "{openai: {ca_file: $OPENAI_API_KEY}}",
        f"[{SECRET}]",
        f"{{{SECRET}: {{}}}}",
    ],
)
def test_no_error_of_a_provider_shows_a_secret(providers: str) -> None:
    """Here is where the keys are."""
    text = "\n".join(wrong(f"version: 1\nproviders: {providers}\n", ENVIRON))
    assert SECRET not in text
    assert SECRET[8:] not in text


@pytest.mark.parametrize("at", ["w@h:99999", "w@h:x", "w@h:0", "/w@h:1", "@w@h:port", "w@h h:1"])
def test_a_proxy_that_cannot_be_dialled_is_refused_without_its_password(at: str) -> None:
    """It would fail each call, and not before; an @ or a slash that was not encoded does not show the rest."""
    shown_as = f"http://***@{at.rpartition('@')[2]}"
    text = "\n".join(wrong(f"version: 1\nproviders: {{ollama: {{proxy: 'http://me:p{at}'}}}}\n", ENVIRON))
    assert f'providers.ollama.proxy: "{shown_as}" is not the URL of a proxy' in text


@pytest.mark.parametrize(
    "text", ["sk-proj-abcdefgh1234", "AKIAIOSFODNN7EXAMPLE", "gsk_abcdefghijkl", "9f8e7d6c5b4a39281706", "Bearer sk-abcdefgh12"]
)
def test_keys_are_recognised(text: str) -> None:
    """Known prefixes, and long runs of letters and digits."""
    assert looks_like_secret(text)
    assert text not in shown(text)


@pytest.mark.parametrize(
    "text",
    ["openai", "meta-llama/Llama-4-Maverick-17B-128E-Instruct", "eu-central-1", "private-stays-home", "none", "claude-opus-5", "$50/month"],
)
def test_names_are_not_taken_for_keys(text: str) -> None:
    """Messages must be able to name models and rules."""
    assert not looks_like_secret(text)
    assert shown(text) == f'"{text}"'


def test_a_secret_compares_by_value_and_shows_its_reference() -> None:
    """It is a value like others, but silent."""
    one = Secret("a", "$A")
    assert (one == Secret("a", "$B"), one == Secret("b", "$A"), one == "a") == (True, False, False)
    assert (repr(one), str(one), f"{one}", one.reveal()) == ("Secret($A)", "Secret($A)", "Secret($A)", "a")
    assert len({one, Secret("a", "$A")}) == 1


def test_a_key_that_no_header_can_carry_is_refused_without_showing_it() -> None:
    """No client could ever send it."""
    text = BASE + "keys: {bot: {secret: $BOT_KEY}}\n"
    assert wrong(text, {**ENVIRON, "BOT_KEY": "two words 0123456789"}) == [
        "7:22: keys.bot.secret: holds characters that a header cannot carry (the value is not shown)"
    ]


def test_prices_are_described_with_their_source() -> None:
    """In what is effective, the numbers that bills are made of can be checked by eye."""
    extra = "  a: openai/new\n  b: {at: openai/fee, price: {input: 1, output: 2, per_request: $0.01}}\n"
    extra += "  c: {at: ollama/gpu, price: {per_hour: $2}}\n"
    loaded = load(BASE + extra, ENVIRON)
    lines = effective_yaml(loaded.settings, loaded.snapshot).splitlines()
    assert [line for line in lines if line.startswith("#")] == [
        "# openai/large (big): closed, cloud; input $5.00, output $30.00 per million tokens (book 2026-11-01)",
        "# openai/small (tiny): closed, cloud; input $0.10, output $0.40 per million tokens (book)",
        "# ollama/qwen3 (home): small, open, local; free (local)",
        "# openai/new (a): closed, cloud; no price known",
        "# openai/fee (b): closed, cloud; input $1.00, output $2.00 per million tokens, $0.01 per request (config)",
        "# ollama/gpu (c): open, local; $2.00 an hour, 1 calls at a time (config)",
    ]
