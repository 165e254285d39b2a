"""Addresses of the ledger: a Redis by its URL, or a file. A mistyped one must not become a file: its budgets would be others."""

from __future__ import annotations

import re
from typing import Final

SERVERS: Final = ("redis", "rediss", "redis+sentinel", "rediss+sentinel", "unix")
FILES: Final = ("sqlite", "file")
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(.*)", re.DOTALL)
_HOST_AND_PORT: Final = re.compile(r"[^/\s]*:\d{1,5}(/\d*)?")
_WANTED: Final = "write redis://host:6379/0, rediss://..., unix:///path, or the path of an SQLite file"


def read_store(address: str) -> str | None:
    """The path of the file that an address means; None: it is a server's.

    Raises:
        ValueError: it is neither. The message holds no credential.
    """
    if _HOST_AND_PORT.fullmatch(address):
        raise ValueError(_refused(address, f"redis://{address}"))
    if address.startswith("//"):
        raise ValueError(_refused(address, f"redis:{address}"))
    match = _SCHEME.fullmatch(address)
    if match is None:
        return address
    scheme, rest = match[1], match[2]
    if scheme in SERVERS and rest.startswith("//"):
        return None
    if scheme in FILES:
        path = rest.removeprefix("//")
        if not path:
            raise ValueError(_refused(address, f"{scheme}:///path/of/the/ledger.sqlite"))
        # Others write an absolute path with a fourth slash.
        return re.sub("^//+", "/", path)
    guess = scheme.lower() if scheme.lower() in SERVERS else "redis"
    raise ValueError(_refused(address, f"{guess}:{'//' if guess != 'unix' else '///'}{rest.lstrip('/')}"))


def redis_problem(address: str) -> str:
    """What is wrong with the value of `REDIS_URL`: a path would be taken for a file. Empty: nothing."""
    try:
        path = read_store(address)
    except ValueError as exc:
        return str(exc)
    return "" if path is None else _refused(address, f"redis://{address.lstrip('/')}")


def _refused(address: str, guess: str) -> str:
    return f'"{without_password(address)}" is no store: {_WANTED}; did you mean "{without_password(guess)}"?'


def without_password(address: str) -> str:
    """The address without what stands before its `@`, unless it is a file's."""
    start, sign, host = address.rpartition("@")
    if not sign:
        return address
    scheme, slashes, _ = start.partition("://")
    return f"{scheme}://***@{host}" if slashes else f"***@{host}"
