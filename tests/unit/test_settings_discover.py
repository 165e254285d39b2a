"""Without a configuration: keys in the environment, local servers, else simulated models."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from router.adapters.upstream.presets import PRESETS
from router.prices import lookup
from router.settings import discover as module
from router.settings import load_snapshot
from router.settings.discover import SUGGESTED, discover, discover_settings, list_models
from router.settings.load import load_text
from router.settings.schema import schema_text
from router.settings.starter import starter

KEYS = {"OPENAI_API_KEY": "sk-proj-0123456789", "ANTHROPIC_API_KEY": "a-0123456789"}


async def nothing(base_url: str) -> Sequence[str]:
    return ()


async def ollama_only(base_url: str) -> Sequence[str]:
    return ["qwen3:8b", "hf.co/org/model:Q4"] if ":11434" in base_url else []


@pytest.fixture
def no_local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "list_models", nothing)


async def test_keys_in_the_environment_become_providers_by_reference() -> None:
    """The key itself must not stand in what `init` writes."""
    found = await discover(KEYS, probe=nothing)
    assert found.data["providers"] == {"openai": {"api_key": "$OPENAI_API_KEY"}, "anthropic": {"api_key": "$ANTHROPIC_API_KEY"}}
    assert found.data["models"]["gpt-5.6"] == {"at": "openai/gpt-5.6", "size": "large"}
    assert found.data["routes"]["auto"] == list(found.data["models"])
    assert found.data["budgets"] == {"everyone": "$10/day"}
    assert found.lines[0] == "provider openai: key in OPENAI_API_KEY; models gpt-5.4-mini, gpt-5.6"


async def test_local_servers_are_asked_for_their_models() -> None:
    """Whoever has one running wants to use it."""
    found = await discover({}, probe=ollama_only)
    assert found.data["providers"] == {"ollama": {}}
    assert found.data["models"] == {"qwen3:8b": {"at": "ollama/qwen3:8b"}, "hf.co/org/model:Q4": {"at": "ollama/hf.co/org/model:Q4"}}
    assert found.lines[0] == "provider ollama: answers at http://127.0.0.1:11434/v1; models qwen3:8b, hf.co/org/model:Q4"


async def test_a_key_of_a_provider_without_suggested_models_is_named() -> None:
    """It must not look as if the key had not been seen."""
    found = await discover({"OPENROUTER_API_KEY": "x"}, probe=nothing)
    assert found.source == "simulated"
    assert found.lines[0] == "provider openrouter: key in OPENROUTER_API_KEY; name its models in a configuration file to use it"


async def test_a_server_with_very_many_models_is_not_all_taken() -> None:
    """A list of hundreds helps nobody."""

    async def many(base_url: str) -> Sequence[str]:
        return [f"m{n}" for n in range(30)] if ":11434" in base_url else []

    found = await discover({}, probe=many)
    assert len(found.data["models"]) == 8
    assert found.lines[0].endswith("m7 and 22 more")


@pytest.mark.usefixtures("no_local")
def test_with_nothing_found_simulated_models_are_served() -> None:
    """The first request must be answered on any machine."""
    snapshot = load_snapshot(None, environ={})
    assert snapshot.source == "simulated"
    assert {"auto", "frontier", "mid", "large-open", "small-edge"} <= set(snapshot.routes)
    assert snapshot.providers["sim"].endpoint.port == 0
    assert snapshot.server.baseline == "sim/frontier-closed"
    assert [budget.name for budget in snapshot.budgets] == ["everyone"]
    assert snapshot.notes[0].startswith("no key of a provider in the environment")
    assert snapshot.warnings == ()


@pytest.mark.usefixtures("no_local")
async def test_discovery_works_inside_an_event_loop_too() -> None:
    """The server may be started from one."""
    settings, snapshot = discover_settings(environ=KEYS)
    assert snapshot.source == "discovered"
    assert snapshot.warnings == ()
    assert dict(snapshot.providers["openai"].endpoint.headers) == {"authorization": f"Bearer {KEYS['OPENAI_API_KEY']}"}
    assert KEYS["OPENAI_API_KEY"] not in repr(settings)


def test_a_file_in_the_environment_is_taken_before_discovery(tmp_path: Path) -> None:
    """One variable is how containers are configured."""
    file = tmp_path / "r.yaml"
    file.write_text("version: 1\nproviders: [sim]\nmodels: {m: sim/small-edge}\n")
    assert load_snapshot(None, environ={"FAREGATE_CONFIG": str(file)}).source == str(file)


def test_every_suggested_model_has_a_price() -> None:
    """An unpriced model would be refused at the first request."""
    unpriced = [f"{kind}/{model}" for kind, models in SUGGESTED.items() for model, _ in models if lookup(kind, model) is None]
    assert unpriced == []
    assert set(SUGGESTED) <= set(PRESETS)


@asynccontextmanager
async def server(answer: bytes) -> AsyncIterator[str]:
    """A server on a free port of loopback that gives one answer to everything."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        listening.close()
        await listening.wait_closed()


def http(body: object, status: str = "200 OK") -> bytes:
    return f"HTTP/1.0 {status}\r\ncontent-type: application/json\r\n\r\n".encode() + json.dumps(body).encode()


@pytest.mark.parametrize(
    ("answer", "models"),
    [
        (http({"data": [{"id": "a"}, {"id": "b"}, {"id": 5}, {"id": "bad name"}, "x"]}), ["a", "b"]),
        (http({"data": [{"id": "a"}]}, "404 Not Found"), []),
        (http({"data": "a"}), []),
        (http([]), []),
        (b"HTTP/1.0 200 OK\r\n\r\nnot json", []),
        (b"SSH-2.0-OpenSSH\r\n", []),
        (b"", []),
    ],
)
async def test_only_what_answers_like_a_model_server_has_models(answer: bytes, models: list[str]) -> None:
    """Other programs use these ports too."""
    async with server(answer) as url:
        assert list(await list_models(url)) == models


async def test_a_port_where_nobody_listens_has_no_models() -> None:
    """The usual case; it must be quick and silent."""
    async with server(b"") as url:
        closed = url
    assert list(await list_models(closed)) == []


async def test_a_server_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The start must not wait for it."""
    monkeypatch.setattr(module, "PROBE_SECONDS", 0.02)
    released = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await released.wait()
        writer.close()

    listening = await asyncio.start_server(silent, "127.0.0.1", 0)
    assert list(await list_models(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1")) == []
    released.set()
    listening.close()
    await listening.wait_closed()


@pytest.mark.parametrize("probe", [nothing, ollama_only])
@pytest.mark.parametrize("environ", [{}, KEYS])
async def test_what_init_writes_loads_and_means_what_was_found(probe: module.Probe, environ: dict[str, str]) -> None:
    """Its first use is `faregate serve`."""
    found = await discover(environ, probe=probe)
    text = starter(found, "config/router.yaml")
    loaded = load_text(text, source="router.yaml", environ=environ, price_book=lookup)
    assert set(loaded.settings.models) == set(found.data["models"])
    assert set(loaded.settings.providers) == set(found.data["providers"])
    assert not any(value in text for value in environ.values())


def test_the_schema_is_text_that_can_be_written() -> None:
    """`init` puts it beside the file it writes."""
    assert json.loads(schema_text())["title"] == "Faregate configuration"
