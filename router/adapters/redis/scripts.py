"""The Lua scripts, as files beside this one, and how a call of them looks on the wire."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cache
from importlib import resources
from typing import Final


class Script:
    """A script and the identifier under which a server caches it."""

    __slots__ = ("name", "sha", "text")

    def __init__(self, name: str) -> None:
        self.name = name
        self.text: Final = resources.files("router.adapters.redis").joinpath("lua", f"{name}.lua").read_bytes()
        # Redis names cached scripts by their SHA-1; it guards nothing here.
        self.sha: Final = hashlib.sha1(self.text, usedforsecurity=False).hexdigest().encode()


@cache
def script(name: str) -> Script:
    """The script of that name, read once."""
    return Script(name)


def part(value: str | bytes | int) -> bytes:
    """One argument as RESP bulk string."""
    if isinstance(value, int):
        value = b"%d" % value
    elif isinstance(value, str):
        value = value.encode()
    return b"$%d\r\n%b\r\n" % (len(value), value)


def parts(values: Iterable[str | bytes | int]) -> bytes:
    """Several arguments as RESP bulk strings."""
    return b"".join(map(part, values))


def command(*values: str | bytes | int) -> bytes:
    """A whole command."""
    return b"*%d\r\n%b" % (len(values), parts(values))


class Call:
    """The unchanging parts of a script call: everything but the last key and the last arguments."""

    __slots__ = ("_body", "_count", "_evalsha", "_script")

    def __init__(self, script: Script, keys: Iterable[str], args: Iterable[str | bytes | int], *, more_args: int) -> None:
        """`keys` and `args` are what never changes; one key comes between them, `more_args` arguments at the end."""
        keys, args = list(keys), list(args)
        self._script = script
        self._count = 3 + len(keys) + 1 + len(args) + more_args
        self._body = part(len(keys) + 1) + parts(keys), parts(args)
        self._evalsha = b"*%d\r\n%b%b%b" % (self._count, part("EVALSHA"), part(script.sha), self._body[0])

    def encode(self, key: bytes, *args: bytes) -> bytes:
        """The call by SHA-1."""
        tail = b"".join([b"$%d\r\n%b\r\n" % (len(a), a) for a in args])
        return b"%b$%d\r\n%b\r\n%b%b" % (self._evalsha, len(key), key, self._body[1], tail)

    def encode_attempt(self, key: bytes, attempt: bytes, amount: bytes, flag: bytes, payload: bytes) -> bytes:
        """The same for the calls of the hot path, which have four arguments."""
        return b"%b$%d\r\n%b\r\n%b$%d\r\n%b\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (
            self._evalsha,
            len(key),
            key,
            self._body[1],
            len(attempt),
            attempt,
            len(amount),
            amount,
            len(flag),
            flag,
            len(payload),
            payload,
        )

    def with_text(self, encoded: bytes) -> bytes:
        """The same call carrying the script itself, for a server that has not cached it."""
        head = b"*%d\r\n%b%b%b" % (self._count, part("EVAL"), part(self._script.text), self._body[0])
        return head + encoded[len(self._evalsha) :]
