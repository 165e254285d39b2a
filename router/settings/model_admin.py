"""The fields of the admin API: where it listens, and who may use it."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from router.settings.references import Secret
from router.settings.types import Count, ReferencedSecret, Section, Text

_HASH: Final = re.compile(r"[0-9a-fA-F]{64}")

Role = Literal["viewer", "operator", "admin"]


class AdminListenSettings(Section):
    """Where the admin API listens. It is there only if `admins` names somebody."""

    host: Text = "127.0.0.1"
    """Address to listen on, with `port`."""
    port: Annotated[Count, Field(ge=0, le=65535)] | None = None
    """A port of its own; 0 takes any free one (one worker only). Default: below `/admin` on `server.port`."""


def _hash(secret: Secret) -> Secret:
    if not _HASH.fullmatch(secret.reveal()):
        raise ValueError("is not a SHA-256: 64 hexadecimal digits")
    return secret


def _as_secret(value: object) -> object:
    """A hash is no credential: it may stand in the file, but is not shown either."""
    if isinstance(value, str) and not hasattr(value, "reference"):
        return Secret(value, "***")
    return value


class AdminSettings(Section):
    """Somebody who may use the admin API."""

    secret: ReferencedSecret | None = None
    """What is sent as `Authorization: Bearer ...`, as `$NAME` or `file:/path`; never literally. At least 24 characters. Unit: none."""
    secret_hash: Annotated[ReferencedSecret, AfterValidator(_hash), BeforeValidator(_as_secret)] | None = None
    """Instead of `secret`: its SHA-256 in hexadecimal digits. Only of a random secret: a short one could be guessed from it."""
    role: Role
    """`viewer` reads; `operator` also changes limits, freezes, drains, and reloads; `admin` also makes and revokes keys."""

    @model_validator(mode="after")
    def _one_secret(self) -> AdminSettings:
        if (self.secret is None) == (self.secret_hash is None):
            raise ValueError("give either secret or secret_hash")
        return self
