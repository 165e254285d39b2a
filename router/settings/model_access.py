"""The fields of teams and keys."""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from router.domain.keys import ID_LENGTH, PREFIX
from router.settings.model_budgets import OwnBudget
from router.settings.model_limits import GuardFields, OwnLimits
from router.settings.references import Secret
from router.settings.types import Instant, Name, ReferencedSecret, Text, Words


class TeamSettings(OwnLimits, GuardFields):
    """A group of keys."""

    org: Text | None = None
    """Organisation that it belongs to: what budgets can be split by, above teams."""
    models: Words | None = None
    """Routes and models that its keys may ask for. Default: all."""
    budget: OwnBudget | None = None
    """Limit for all of the team together: `$200/month`, or an object. Default: none of its own."""
    tags: dict[str, Text] = Field(default_factory=dict)
    """Given to every request of the team."""


_KEY_ID: Final = re.compile(f"[0-9A-Za-z]{{{ID_LENGTH}}}")
_HASH: Final = re.compile(r"[0-9a-fA-F]{64}")


def is_minted_id(text: str) -> bool:
    """Whether a text could be the id of a key that `faregate keys new` made."""
    return _KEY_ID.fullmatch(text) is not None


def _hash(secret: Secret) -> Secret:
    if not _HASH.fullmatch(secret.reveal()):
        raise ValueError("is not a hash: 64 hexadecimal digits, as `faregate keys hash` prints it")
    return secret


def _as_secret(value: object) -> object:
    """A hash is no credential: it may stand in the file, but is not shown either."""
    if isinstance(value, str) and not hasattr(value, "reference"):
        return Secret(value, "***")
    return value


class KeySettings(OwnLimits, GuardFields):
    """A virtual key: who acts, and what it may ask for."""

    team: Text | None = None
    """Team that it belongs to."""
    secret: ReferencedSecret | None = None
    """The key that clients send, as `$NAME` or `file:/path`; never literally. Unit: none."""
    secret_hash: Annotated[ReferencedSecret, AfterValidator(_hash), BeforeValidator(_as_secret)] | None = None
    """Instead of `secret`: its hash, as `faregate keys hash` prints it. It fits only the ledger that it was made with."""
    id: Name | None = None
    """What budgets, records and commands call it; with `secret_hash`, if it is given, the public id inside the key (`sk-fg-<id>-...`).
    Default: the name of this entry."""
    expires: Instant | None = None
    """From when it is no longer accepted: a date (0:00 UTC) or a date with time. Default: never."""
    models: Words | None = None
    """Routes and models that it may ask for, within those of its team. Default: all."""
    tags: dict[str, Text] = Field(default_factory=dict)
    """Given to every request of the key."""
    budget: OwnBudget | None = None
    """Limit of this key: `$20/day`, or an object. Default: none of its own."""

    @model_validator(mode="after")
    def _one_secret(self) -> KeySettings:
        if (self.secret is None) == (self.secret_hash is None):
            raise ValueError("give either secret or secret_hash")
        if self.secret_hash is not None and self.id is not None and not is_minted_id(self.id):
            raise ValueError(f"id with secret_hash is the {ID_LENGTH} characters after {PREFIX} in the key; or leave it out")
        return self
