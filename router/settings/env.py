"""Every environment variable that the program reads by a fixed name. Keys of providers are in the presets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """A variable, what it means and what holds without it."""

    name: str
    meaning: str
    default: str


CONFIG: Final = "FAREGATE_CONFIG"
STORE: Final = "FAREGATE_STORE"
REDIS_URL: Final = "REDIS_URL"
STATE_HOME: Final = "XDG_STATE_HOME"
REGION: Final = "AWS_REGION"
KEY: Final = "FAREGATE_KEY"

VARIABLES: Final = (
    Variable(
        name=CONFIG,
        meaning="Configuration file, if the command line names none.",
        default="none: what is found in the environment and on loopback is served",
    ),
    Variable(
        name=REDIS_URL,
        meaning="Redis or Valkey that keeps the budgets, if `server.store` names no store.",
        default="none: an SQLite file",
    ),
    Variable(
        name=STORE,
        meaning="Path of the SQLite file that keeps the budgets, if neither `server.store` nor `REDIS_URL` names a store.",
        default="`faregate/ledger.sqlite` in the user's state folder",
    ),
    Variable(
        name=KEY,
        meaning="Key of a client with which `faregate evaluate` calls the router.",
        default="none: right where no key is needed",
    ),
    Variable(
        name=STATE_HOME,
        meaning="The user's state folder, by the XDG base directory specification.",
        default="`~/.local/state`",
    ),
    Variable(
        name=REGION,
        meaning="Region that is filled into the address of provider `bedrock`, if it has no `base_url`.",
        default="none: such a provider needs a `base_url`",
    ),
)
