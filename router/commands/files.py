"""Files that a verb is told to write."""

from __future__ import annotations

from pathlib import Path

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


def _unwritable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(f"{path} cannot be written: {error.strerror or error}")
