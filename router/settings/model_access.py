"""The fields of budgets, teams and keys."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, WithJsonSchema, model_validator

from router.domain.keys import ID_LENGTH, PREFIX
from router.settings.findings import shown
from router.settings.model_alerts import Thresholds
from router.settings.references import Secret
from router.settings.types import Instant, Name, ReferencedSecret, Section, Text, Words, all_defaults, as_mapping, format_money
from router.settings.units import MoneyPer, parse_money_per, parse_window

Dimension = Literal["key", "team", "user", "session", "route", "model", "provider"]


def _timezone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (OSError, ValueError, KeyError):
        raise ValueError(f"{shown(value)} is not an IANA time zone; write Asia/Seoul") from None
    return value


def _limit(value: object) -> MoneyPer:
    return value if isinstance(value, MoneyPer) else parse_money_per(value)


def _write_limit(limit: MoneyPer) -> str:
    return format_money(limit.nusd) + (f"/{limit.window}" if limit.window else "")


Limit = Annotated[
    Any,
    BeforeValidator(_limit),
    PlainSerializer(_write_limit, when_used="json"),
    WithJsonSchema({"type": "string", "x-unit": "USD per window", "examples": ["$50/month"]}),
]
Window = Annotated[
    Literal["hour", "day", "week", "month", "lifetime", "session"],
    BeforeValidator(parse_window),
]


class BudgetScope(Section):
    """To which requests a budget applies. All must hold; of several values for a field, any."""

    key: Words = ()
    """Ids of keys."""
    team: Words = ()
    """Teams."""
    user: Words = ()
    """Users that requests name."""
    session: Words = ()
    """Sessions that requests name."""
    route: Words = ()
    """Names that clients ask for."""
    model: Words = ()
    """Models that requests are sent to."""
    provider: Words = ()
    """Providers that requests are sent to."""
    tags: dict[str, Words] = Field(default_factory=dict)
    """Tags of the key or the request: `{kind: agent}`."""


class SpendLimit(Section):
    """A limit on what may be spent in a window."""

    limit: Limit
    """Amount, and the window if it is not given by itself: `$50/month`, `$0.50/day`, `$10` (for ever). Unit: USD."""
    window: Window | None = None
    """`hour`, `day`, `week`, `month` (of the calendar), `lifetime`, or `session` (for ever, each by itself).
    Default: `lifetime`."""
    each: Dimension | None = None
    """Split: every key, team, user, ... has the whole limit for itself. Default: one limit for all together."""
    timezone: Annotated[Text, AfterValidator(_timezone)] = "UTC"
    """IANA time zone in which windows begin."""
    mode: Literal["hard", "soft"] = "hard"
    """`hard` refuses what could exceed the limit, before money is spent; `soft` only counts and alerts."""
    at: Thresholds = (0.5, 0.8, 0.95, 1.0)
    """Shares of the limit at which `notify` tells people, once per window: `[50%, 80%]` or `{80%: notify}`; `[]` for none.
    Default: 50, 80, 95 and 100 %."""

    @model_validator(mode="after")
    def _consistent(self) -> SpendLimit:
        window = self.limit.window
        if window is not None and self.window is not None and window != self.window:
            raise ValueError(f"limit says {window}, window says {self.window}; give one")
        if self.resolved_window == "session" and self.each not in (None, "session"):
            raise ValueError(f"a limit per session cannot be split by {self.each}")
        if self.limit.nusd == 0 and self.mode == "soft":
            raise ValueError("a soft budget of $0 would alert always")
        return self

    @property
    def resolved_window(self) -> str:
        """The window from `window` or `limit`."""
        return self.window or self.limit.window or "lifetime"


class BudgetSettings(SpendLimit):
    """A limit on what may be spent: whose, how much, in which window."""

    when: BudgetScope = all_defaults()
    """To which requests it applies. Default: all."""


BudgetEntry = Annotated[BudgetSettings, as_mapping("limit", str | BudgetSettings)]
OwnBudget = Annotated[SpendLimit, as_mapping("limit", str | SpendLimit)]


class TeamSettings(Section):
    """A group of keys."""

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


class KeySettings(Section):
    """A virtual key: who acts, and what it may ask for."""

    team: Text | None = None
    """Team that it belongs to."""
    secret: ReferencedSecret | None = None
    """The key that clients send, as `$NAME` or `file:/path`; never literally. Unit: none."""
    secret_hash: Annotated[ReferencedSecret, AfterValidator(_hash), BeforeValidator(_as_secret)] | None = None
    """Instead of `secret`: its hash, as `faregate keys hash` prints it. Needs `id`."""
    id: Name | None = None
    """Public id inside the key (`sk-fg-<id>-...`). Needed with `secret_hash`. Default: the name of this entry."""
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
        if self.secret_hash is not None and (self.id is None or not is_minted_id(self.id)):
            raise ValueError(f"secret_hash needs id: the {ID_LENGTH} characters after {PREFIX} in the key")
        return self
