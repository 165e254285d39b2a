"""`faregate init`: a configuration to start from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer


def command(
    directory: Annotated[str, typer.Option("--dir", help="Folder to write into; made if it does not exist.")] = "config",
) -> None:
    """Write a commented configuration from what is found in the environment and on loopback. Never overwrites a file."""
    from router.settings.discover import discover_now
    from router.settings.schema import schema_text
    from router.settings.starter import starter

    target = Path(directory) / "router.yaml"
    schema = Path(directory) / "router.schema.json"
    found = discover_now(os.environ)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _write(target, starter(found, str(target)))
    except FileExistsError:
        if target.parent.exists() and not target.parent.is_dir():
            typer.echo(f"{target.parent} is a file, not a folder. Choose another with --dir.", err=True)
            raise typer.Exit(1) from None
        typer.echo(f"{target} exists and was left as it is. Choose another folder with --dir.", err=True)
        raise typer.Exit(1) from None
    except OSError as exc:
        typer.echo(f"{target} cannot be written: {exc.strerror or exc}", err=True)
        raise typer.Exit(1) from None
    if not schema.exists():
        _write(schema, schema_text())
    # All that it says is for a person: a program reads the files.
    for line in found.found or ("nothing: the file serves simulated models, paid with simulated money",):
        typer.echo(f"found: {line}", err=True)
    typer.echo(f"Wrote {target}. Next: faregate check {target}; faregate serve --config {target}", err=True)


def _write(path: Path, text: str) -> None:
    with path.open("x", encoding="utf-8") as file:
        file.write(text)
