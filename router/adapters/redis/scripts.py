"""The Lua scripts, as files beside this one, and how a call of them looks on the wire."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from importlib import resources
from typing import Final

from router.domain.budgets import Bucket
from router.domain.windows import bucket_id

NAMES: Final = ("reserve", "settle", "sweep", "heartbeat", "limits", "trim", "audit", "lend")


_INCLUDE: Final = re.compile(rb"^ *-- @include (\w+)$", re.MULTILINE)


def _text(name: str) -> bytes:
    """A script with what it includes."""
    text = resources.files("router.adapters.redis").joinpath("lua", f"{name}.lua").read_bytes()
    return _INCLUDE.sub(lambda found: _text(found[1].decode()), text)


class Script:
    """A script and the identifier under which a server caches it."""

    __slots__ = ("name", "sha", "text")

    def __init__(self, name: str) -> None:
        self.name = name
        self.text: Final = _text(name)
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


def script_call(name: str, keys: Iterable[str], args: Iterable[str | bytes | int] = ()) -> bytes:
    """A whole call of a script by its SHA-1."""
    keys = list(keys)
    return command("EVALSHA", script(name).sha, len(keys), *keys, *args)


def attempt_call(name: str, keys: Iterable[str], attempts: str, args: Iterable[str | bytes | int]) -> bytes:
    """A template for the calls of a script about one attempt: everything but what changes from attempt to attempt.

    The last key begins with `attempts`; amount and payload come before `args`. To be filled in one step, as bytes are
    formatted: `template % (len(attempts) + len(attempt), attempt, len(amount), amount, len(payload), payload)`.
    """
    keys, args = list(keys), list(args)
    prefix = attempts.encode()
    head = parts(["EVALSHA", script(name).sha, len(keys) + 1, *keys])
    hole = b"$%%d\r\n%b%%b\r\n$%%d\r\n%%b\r\n$%%d\r\n%%b\r\n" % _escaped(prefix)
    return b"*%d\r\n%b%b%b" % (3 + len(keys) + 1 + 2 + len(args), _escaped(head), hole, _escaped(parts(args)))


def _escaped(text: bytes) -> bytes:
    return text.replace(b"%", b"%%")


def bucket_line(bucket: Bucket) -> str:
    """The line of a bucket, see `reserve.lua`."""
    line = f"{bucket.limit_nusd} {bucket.ends_ms} {bucket.max_scopes}"
    return f"{line} {bucket.carry_ppm} {bucket_id(replace(bucket, window=bucket.before))}" if bucket.carry_ppm else line


def bucket_letters(bucket: Bucket) -> str:
    """What `reserve.lua` must know of a bucket that is not a plain one."""
    return bucket.unit[0] + ("o" if not bucket.hard else "s" if bucket.shadow else "h") + ("c" if bucket.carry_ppm else "-")
