"""`faregate version`: what to name in a bug report."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from router import __version__

SHOWN = ("uvicorn", "uvloop", "httptools", "msgspec", "pydantic", "hiredis", "litellm")
"""Distributions whose version decides how the program behaves."""


def command() -> None:
    """Print the versions of the program and of what it runs on."""
    print(f"faregate {__version__}")
    print(f"python {platform.python_version()} on {platform.system()} {platform.machine()}")
    for name in SHOWN:
        print(f"{name} {_installed(name)}")


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
