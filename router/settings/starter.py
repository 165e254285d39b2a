"""The file that `faregate init` writes: what discovery found, as commented YAML."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from router.settings.discover import Discovery

_HEAD = """\
# yaml-language-server: $schema=./router.schema.json
# Check it:  faregate check {path}
# Serve it:  faregate serve --config {path}
version: 1
"""
_SERVER = ("port: 4000", "store: $REDIS_URL                # without it, budgets are kept in an SQLite file")
_TAIL = """\

# teams:
#   search: {models: [auto], budget: $20/month}

# keys:                              # as soon as there is a key, every request needs one
#   ci-bot: {team: search, secret: $CI_BOT_KEY}
"""


def starter(found: Discovery, path: str) -> str:
    """The text of a first configuration."""
    return _HEAD.replace("{path}", path) + "\n".join(_body(found)) + "\n" + _TAIL


def _body(found: Discovery) -> Iterator[str]:
    data = found.data
    yield ""
    for line in found.found:
        yield f"# Found: {line}"
    if found.source == "simulated":
        yield "# No provider's key is in the environment, and no local server answers: these models are simulated, and so is their money."
        yield "# Put your own in place of `sim`: `openai: {}` takes its key from OPENAI_API_KEY, `ollama: {}` needs none."
    yield from _server(data.get("server", {}))
    yield ""
    yield "providers:                           # keys stay in the environment"
    for name, given in data["providers"].items():
        yield f"  {name}: {_flow(given)}"
    yield ""
    yield "models:                              # the names clients may ask for, and where each is served"
    for name, given in data["models"].items():
        yield f"  {_scalar(name)}: {_flow(given)}"
    yield ""
    yield "routes:"
    for name, given in data["routes"].items():
        yield f"  {name}: {_flow(given)}          # the cheapest that can serve the request, then the next"
    yield ""
    yield "budgets:"
    for name, given in data["budgets"].items():
        yield f"  {name}: {given}                # a hard stop, before money is spent"


def _server(given: dict[str, Any]) -> Iterator[str]:
    yield "server:" if given else "# server:"
    for name, value in given.items():
        yield f"  {name}: {_flow(value)}"
    for line in _SERVER:
        yield f"  # {line}" if given else f"#   {line}"


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_scalar(key)}: {_flow(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_flow(each) for each in value) + "]"
    return _scalar(value)


def _scalar(value: Any) -> str:
    """A plain scalar where YAML reads it back the same, else quoted."""
    text = str(value)
    plain = text.replace("/", "").replace("-", "").replace(".", "").replace("_", "").replace("$", "")
    return text if plain.isalnum() and plain.isascii() and not plain.isdigit() and text[0] not in "-." else json.dumps(text)
