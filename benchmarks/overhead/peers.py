"""Other proxies, described in peers/peers.toml, as targets."""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.overhead.programs import HERE, Program, Target, free_port

FOLDER: Final = HERE / "peers"


def peers(installed: Path, folder: Path, *, provider: int, service: Program, service_port: int, cpus: Sequence[int]) -> list[Target]:
    """Those whose programs are there."""
    found = []
    for spec in tomllib.loads((FOLDER / "peers.toml").read_text())["peer"]:
        if not (installed / spec["needs"]).exists():
            continue
        here = folder / spec["name"]
        port = free_port()
        words = {"DIR": installed, "PROVIDER": provider, "PORT": port, "REDIS": service_port, "HERE": here}
        _copy(here, words)
        found.append(_target(_filled(spec, words), port, folder, service, cpus))
    return found


def _target(spec: Mapping[str, Any], port: int, folder: Path, service: Program, cpus: Sequence[int]) -> Target:
    name: str = spec["name"]
    command = [shutil.which(spec["command"][0]) or spec["command"][0], *spec["command"][1:]]
    return Target(
        name,
        port,
        Program(command, folder, name, cpus, {"PYTHONDONTWRITEBYTECODE": "", **spec.get("environment", {})}),
        service=service,
        model=spec.get("model", "auto"),
        path=spec.get("path", "/v1/chat/completions"),
        headers=spec.get("headers", {}),
        note=spec["note"],
        phases=frozenset(spec["phases"]) if "phases" in spec else None,
        patience=spec.get("patience", 1),
        port_file=Path(spec["port_file"]) if "port_file" in spec else None,
    )


def _copy(here: Path, words: Mapping[str, object]) -> None:
    here.mkdir()
    for path in FOLDER.iterdir():
        if path.is_file():
            (here / path.name).write_text(_filled(path.read_text(), words))


def _filled(value: Any, words: Mapping[str, object]) -> Any:
    if isinstance(value, str):
        for name, word in words.items():
            value = value.replace(f"@{name}@", str(word))
        return value
    if isinstance(value, list):
        return [_filled(item, words) for item in value]
    if isinstance(value, dict):
        return {name: _filled(item, words) for name, item in value.items()}
    return value
