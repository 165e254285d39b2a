"""Files that a verb is told to write."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import typer

from router.errors import ConfigError


def write_file(path: Path, data: bytes) -> None:
    """Write a whole file.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        path.write_bytes(data)
    except OSError as error:
        raise _unwritable(path, error) from None


def require_writable(path: Path) -> None:
    """Find out whether lines can be added to a file, before there are any.

    Raises:
        ConfigError: they cannot.
    """
    try:
        path.open("ab").close()
    except OSError as error:
        raise _unwritable(path, error) from None


def write_scores(path: Path, scores: Mapping[str, Mapping[str, float]]) -> None:
    """Put scores into a configuration, and say of which names that has none: routes, for one.

    Raises:
        ConfigError: it cannot be changed.
    """
    from router.settings.catalogue import write_quality

    missing = write_quality(path, scores)
    written = len(scores) - len(missing)
    typer.echo(f"{path}: the quality of {written} model{'' if written == 1 else 's'} was written.", err=True)
    if missing:
        typer.echo(f"{path} has no model {', '.join(missing)}: not written.", err=True)


def _unwritable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(f"{path} cannot be written: {error.strerror or error}")
