"""Who may use the admin API."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final

from router.settings.compile_context import Context
from router.settings.findings import Path
from router.settings.model_admin import AdminSettings
from router.snapshot import Administrator, KeyEntry

MIN_ADMIN_CHARACTERS: Final = 24
"""Whoever guesses it can mint keys: shorter ones are refused."""


def compile_admins(context: Context, keys: Iterable[KeyEntry]) -> dict[str, Administrator]:
    """All administrators by name."""
    taken = {entry.secret_digest: f'key "{entry.name}"' for entry in keys if entry.secret_digest is not None}
    admins: dict[str, Administrator] = {}
    for name, given in context.settings.admins.items():
        path: Path = ("admins", name)
        digest = _digest(context, path, given)
        if digest is None:
            continue
        if digest in taken:
            context.wrong((*path, "secret"), f"is the same secret as that of {taken[digest]}")
        taken[digest] = f'administrator "{name}"'
        admins[name] = Administrator(name=name, role=given.role, secret_digest=digest)
    return admins


def _digest(context: Context, path: Path, given: AdminSettings) -> bytes | None:
    if given.secret_hash is not None:
        return bytes.fromhex(given.secret_hash.reveal())
    # One of the two is given.
    assert given.secret is not None  # noqa: S101
    secret = given.secret.reveal()
    if not secret.isascii() or not secret.isprintable() or " " in secret:
        context.wrong((*path, "secret"), "holds characters that a header cannot carry (the value is not shown)")
        return None
    if len(secret) < MIN_ADMIN_CHARACTERS:
        context.wrong((*path, "secret"), f"is shorter than {MIN_ADMIN_CHARACTERS} characters and can be guessed")
        return None
    return hashlib.sha256(secret.encode()).digest()
