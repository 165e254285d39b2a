"""What to serve without a configuration: providers whose keys are in the environment, and local servers on loopback.

With nothing found, four simulated models, so that the first request is answered in any case.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path as FilePath
from typing import Any, Final
from urllib.parse import urlsplit

from router.adapters.upstream.presets import PRESETS
from router.settings.model import Settings
from router.snapshot import Snapshot

PROBE_SECONDS: Final = 0.3
MAX_LOCAL_MODELS: Final = 8
MAX_ANSWER_BYTES: Final = 1_000_000
FOUND_BUDGET: Final = "$10/day"
SIMULATED_BUDGET: Final = "$1/day"
ROUTE: Final = "auto"

SUGGESTED: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    "openai": (("gpt-5.4-mini", "small"), ("gpt-5.6", "large")),
    "anthropic": (("claude-haiku-5-5", "small"), ("claude-opus-5", "large")),
    "gemini": (("gemini-3.5-flash-lite", "small"), ("gemini-3.8-flash", "medium")),
    "mistral": (("mistral-small-latest", "small"), ("mistral-large-latest", "large")),
    "deepseek": (("deepseek-v4-flash", "medium"), ("deepseek-v4-pro", "large")),
    "xai": (("grok-4.7", "large"),),
    "groq": (("openai/gpt-oss-20b", "small"), ("openai/gpt-oss-120b", "medium")),
}
"""Models to begin with, by provider: (id, size). All are in the price book. Read in the providers' price lists, 2026-11-22."""

SIMULATED: Final = {"frontier": "frontier-closed", "mid": "mid-closed", "large-open": "large-open-local", "small-edge": "small-edge"}
"""Name -> profile of the simulator."""

Probe = Callable[[str], Awaitable[Sequence[str]]]
"""From the base URL of a local server to the ids of its models; empty if nothing answers."""


@dataclass(frozen=True, slots=True)
class Discovery:
    """What was found, as configuration and in words."""

    data: dict[str, Any]
    """The configuration, as it would stand in a file."""
    found: tuple[str, ...]
    """Providers that were found, one line each."""
    made: tuple[str, ...]
    """What is served of it, one line each."""
    source: str
    """`discovered` or `simulated`."""

    @property
    def lines(self) -> tuple[str, ...]:
        """All that there is to tell to whoever serves without a file."""
        return self.found + self.made


def discover_snapshot(*, environ: Mapping[str, str] = os.environ) -> Snapshot:
    """The snapshot of what is found; what that is stands in its notes.

    Raises:
        ConfigError: a variable that was found cannot be used.
    """
    return discover_settings(environ=environ)[1]


def discover_settings(*, environ: Mapping[str, str] = os.environ) -> tuple[Settings, Snapshot]:
    """What is found, as settings and compiled.

    Raises:
        ConfigError: a variable that was found cannot be used.
    """
    from router.errors import ConfigError
    from router.settings.compile import compile_settings
    from router.settings.findings import InvalidSettings
    from router.settings.load import price_book
    from router.settings.references import resolve

    found = discover_now(environ)
    data = resolve(found.data, environ, folder=FilePath(), findings=[])
    settings = Settings.model_validate(data)
    try:
        snapshot = compile_settings(settings, price_book=price_book(), source=found.source, environ=environ)
    except InvalidSettings as exc:
        raise ConfigError(str(exc)) from None
    return settings, replace(snapshot, notes=found.lines)


def discover_now(environ: Mapping[str, str]) -> Discovery:
    """`discover` for callers that may or may not run in an event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(discover(environ))
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(discover(environ))).result()


async def discover(environ: Mapping[str, str], *, probe: Probe | None = None) -> Discovery:
    """Look for keys in the environment and ask the usual ports of local servers, all at the same time."""
    ask = probe or list_models
    local = {name: preset.base_url for name, preset in PRESETS.items() if preset.locality == "local" and preset.base_url}
    answers = await asyncio.gather(*(ask(url) for url in local.values()))
    data: dict[str, Any] = {"version": 1, "providers": {}, "models": {}}
    lines: list[str] = []
    for name, preset in PRESETS.items():
        if preset.key_env is not None and environ.get(preset.key_env):
            _add_cloud(data, lines, name, preset.key_env)
    for (name, url), models in zip(local.items(), answers, strict=True):
        if models:
            _add_local(data, lines, name, url, models)
    if not data["models"]:
        return _simulated(lines)
    data["routes"] = {ROUTE: list(data["models"])}
    data["budgets"] = {"everyone": FOUND_BUDGET}
    made = [f"route {ROUTE}: the cheapest of {len(data['models'])} models that can serve the request, then the next"]
    made.append(f"budget everyone: {FOUND_BUDGET}, refused before money is spent; `faregate init` writes a file to change it")
    return Discovery(data, tuple(lines), tuple(made), "discovered")


def _add_cloud(data: dict[str, Any], lines: list[str], name: str, variable: str) -> None:
    models = SUGGESTED.get(name, ())
    if not models:
        lines.append(f"provider {name}: key in {variable}; name its models in a configuration file to use it")
        return
    data["providers"][name] = {"api_key": f"${variable}"}
    for model, size in models:
        data["models"].setdefault(model, {"at": f"{name}/{model}", "size": size})
    lines.append(f"provider {name}: key in {variable}; models {', '.join(model for model, _ in models)}")


def _add_local(data: dict[str, Any], lines: list[str], name: str, url: str, models: Sequence[str]) -> None:
    data["providers"][name] = {}
    for model in models[:MAX_LOCAL_MODELS]:
        data["models"].setdefault(model, {"at": f"{name}/{model}"})
    more = f" and {len(models) - MAX_LOCAL_MODELS} more" if len(models) > MAX_LOCAL_MODELS else ""
    lines.append(f"provider {name}: answers at {url}; models {', '.join(models[:MAX_LOCAL_MODELS])}{more}")


def _simulated(lines: list[str]) -> Discovery:
    data = {
        "version": 1,
        "server": {"baseline": "frontier"},
        "providers": {"sim": {}},
        "models": {name: f"sim/{profile}" for name, profile in SIMULATED.items()},
        "routes": {ROUTE: list(SIMULATED)},
        "budgets": {"everyone": SIMULATED_BUDGET},
    }
    made = (
        "no key of a provider in the environment and no local server: serving simulated models, paid with simulated money",
        f"models {', '.join(SIMULATED)}; route {ROUTE}; budget everyone: {SIMULATED_BUDGET} of simulated money",
    )
    return Discovery(data, tuple(lines), made, "simulated")


async def list_models(base_url: str) -> Sequence[str]:
    """Ask a local server for its models. Whatever does not answer like one within the time has none."""
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            return await _ask(base_url)
    except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError):
        return ()


async def _ask(base_url: str) -> Sequence[str]:
    parts = urlsplit(base_url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        # HTTP/1.0: the answer ends with the connection and is not chunked.
        writer.write(f"GET {parts.path}/models HTTP/1.0\r\nhost: {parts.netloc}\r\naccept: application/json\r\n\r\n".encode())
        answer = await reader.read(MAX_ANSWER_BYTES)
        while chunk := await reader.read(MAX_ANSWER_BYTES - len(answer)):
            answer += chunk
    finally:
        writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    status = head.split(b"\r\n", 1)[0].split()
    if len(status) < 2 or status[1] != b"200":
        return ()
    return _ids(json.loads(body))


def _ids(answer: Any) -> Sequence[str]:
    """The ids of a model list that can be names here."""
    from router.settings.types import is_model_name

    entries = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(entries, list):
        return ()
    ids = (entry.get("id") for entry in entries if isinstance(entry, dict))
    return [each for each in ids if isinstance(each, str) and is_model_name(each)]
