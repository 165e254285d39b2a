"""The fields of budgets."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema, model_validator

from router.domain.advances import WhenDown
from router.domain.budgets import TOLD_AT
from router.settings.findings import one_of, shown
from router.settings.model_alerts import Thresholds
from router.settings.types import Count, Flag, OnShortWays, Section, Text, Timezone, Words, all_defaults, as_mapping, format_money
from router.settings.units import ROLLING, MoneyPer, parse_money_per, parse_share, parse_window, write_window

DIMENSIONS: Final = ("key", "team", "org", "user", "session", "route", "model", "provider")
_TAG: Final = re.compile(r"tag:[^\s|=&]{1,64}")
_MEMBER: Final = "metadata."
_SESSION_MEMBER: Final = "metadata.session_id"
_TAGS_MEMBER: Final = "metadata.tags."


def _dimension(value: object) -> str:
    if isinstance(value, str) and value.startswith(_MEMBER):
        value = _of_member(value)
    if isinstance(value, str) and (value in DIMENSIONS or _TAG.fullmatch(value)):
        return value
    raise ValueError(f"{shown(value)} is not known here{one_of(str(value), (*DIMENSIONS, 'tag:<name>'))}")


def _of_member(value: str) -> str:
    """What a member of a request's `metadata` is read as."""
    if value == _SESSION_MEMBER:
        return "session"
    if value.startswith(_TAGS_MEMBER):
        return f"tag:{value.removeprefix(_TAGS_MEMBER)}"
    name = value.removeprefix(_MEMBER)
    raise ValueError(f"{shown(value)} is not read; requests name a session in {_SESSION_MEMBER}, and tags in {_TAGS_MEMBER}{name}")


def _each(value: object) -> tuple[str, ...]:
    given = value if isinstance(value, list | tuple) else [value]
    names = tuple(_dimension(name) for name in given)
    if not names or len(set(names)) < len(names):
        raise ValueError("write a name, or several different ones")
    return names


Each = Annotated[
    tuple[str, ...],
    BeforeValidator(_each),
    PlainSerializer(lambda names: names[0] if len(names) == 1 else list(names), when_used="json"),
    WithJsonSchema(
        {
            "anyOf": [
                {"enum": [*DIMENSIONS, _SESSION_MEMBER]},
                {"type": "string", "pattern": r"^(tag:|metadata\.tags\.)"},
                {"type": "array", "items": {"type": "string"}},
            ],
            "examples": ["user", "tag:project", _SESSION_MEMBER, ["team", "model"]],
        }
    ),
]


def _carry_over(value: object) -> float:
    share = float(value) if isinstance(value, bool) else parse_share(value)
    if not 0 <= share <= 1:
        raise ValueError(f"{shown(value)} is not a share of the limit; write true or 20%")
    return share


CarryOver = Annotated[
    float,
    BeforeValidator(_carry_over),
    PlainSerializer(lambda share: share == 1 or (f"{share * 100:g}%" if share else False), when_used="json"),
    WithJsonSchema({"anyOf": [{"type": "boolean"}, {"type": "string"}, {"type": "number"}], "examples": [True, "20%"]}),
]


def _limit(value: object) -> MoneyPer:
    return value if isinstance(value, MoneyPer) else parse_money_per(value)


def _write_limit(limit: MoneyPer) -> str:
    amount = format_money(limit.nusd) if limit.unit == "usd" else f"{limit.nusd} {limit.unit}"
    return amount + (f"/{write_window(limit.window)}" if limit.window else "")


Limit = Annotated[
    Any,
    BeforeValidator(_limit),
    PlainSerializer(_write_limit, when_used="json"),
    WithJsonSchema(
        {"type": "string", "x-unit": "USD per window", "examples": ["$50/month", "2M tokens/day", "600 requests/minute", "20 concurrent"]}
    ),
]
Window = Annotated[
    str,
    BeforeValidator(parse_window),
    PlainSerializer(write_window, when_used="json"),
    WithJsonSchema(
        {
            "anyOf": [
                {"enum": ["minute", "hour", "day", "week", "month", "lifetime", "session"]},
                {"type": "string", "pattern": "^(rolling )?[0-9]+ ?(m|min|h|d|w)$|^rolling (minute|hour|day|week|month)$"},
            ],
            "examples": ["month", "24h"],
        }
    ),
]


class BudgetScope(Section):
    """To which requests a budget applies. All must hold; of several values for a field, any."""

    org: Words = ()
    """Organisations that teams belong to."""
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
    cel: Text | None = None
    """An expression in CEL over the same names, such as `tag("kind") == "agent" && model != "pocket"`. A text in place of the whole is
    short for it. What is read in the prompt is not known to budgets."""


ScopeEntry = Annotated[BudgetScope, as_mapping("cel", str | BudgetScope)]


class SpendLimit(Section):
    """A limit on what may be used in a window."""

    limit: Limit
    """Amount, and the window if it is not given by itself: `$50/month`, `$0.50/day`, `$10` (for ever); also
    `2M tokens/day` (in and out), `600 requests/minute` (calls to providers), `20 concurrent` (calls under way). Unit: USD."""
    window: Window | None = None
    """`minute`, `hour`, `day`, `week`, `month` (of the calendar); `24h`, `7d`, `rolling hour` (the last so long, up to 400 days);
    `lifetime`, or `session` (for ever, each by itself). Default: `lifetime`."""
    each: Each | None = None
    """Split: every `org`, `team`, `key`, `user`, `session`, `route`, `model`, `provider` or `tag:<name>` has the whole limit for
    itself; of several (`[team, model]`), every combination. `metadata.session_id` is the session, `metadata.tags.<name>` a tag.
    Default: one limit for all together."""
    timezone: Timezone = "UTC"
    """IANA time zone in which windows begin."""
    mode: Literal["hard", "soft", "shadow"] = "hard"
    """`hard` refuses what could exceed the limit, before money is spent; `soft` only counts and alerts; `shadow` tries a hard
    limit out: what it would refuse is counted (`faregate_budget_refusals_total`, action `shadow`), not refused."""
    carry_over: CarryOver = 0.0
    """What was left of the window directly before is added to this one, up to this share of the limit: `true` (all of it), `20%`.
    Only for windows of the calendar. Default: nothing."""
    max_scopes: Annotated[Count, Field(ge=1)] = 100_000
    """Most users, sessions or values of a tag that are counted at once, where `each` names something that clients make up."""
    over_max_scopes: Literal["refuse", "other"] = "refuse"
    """A new one beyond that is refused, or counted with all `other` ones together, under the same limit."""
    on_short: OnShortWays | None = None
    """What is done, in this order, if it has too little room for a call: `cheaper`, `wait`, `clamp`, `refuse`.
    Default: `server.on_short`."""
    when_store_is_down: WhenDown | None = None
    """What happens to requests that it covers while the store does not answer: `closed`, `lease`, `open`; if budgets differ, the
    strictest decides. Default: `server.when_store_is_down`."""
    owner: Annotated[Text, Field(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")] = ""
    """Who can raise it, as people write it: a name, a mail address, a channel. Refusals say so. Default: nobody is named."""
    strict: Flag = False
    """Hold inputs at their certain bound, as `server.strict` does for all budgets."""
    at: Thresholds = TOLD_AT
    """Shares of the limit at which `notify` tells people, once per window: `[50%, 80%]`; `[]` for none. `{80%: downgrade}` lets only
    models with `size: small` through from there on, `{95%: refuse}` (or `block`) none; `notify` only tells.
    Default: 50, 80, 95 and 100 %."""

    @model_validator(mode="after")
    def _consistent(self) -> SpendLimit:
        window = self.limit.window
        if window is not None and self.window is not None and window != self.window:
            raise ValueError(f"limit says {window}, window says {self.window}; give one")
        if self.resolved_window == "session" and self.each not in (None, ("session",)):
            raise ValueError(f"a limit per session cannot be split by {', '.join(self.each or ())}")
        if self.limit.unit == "concurrent" and self.window is not None:
            raise ValueError("calls under way have no window")
        if self.carry_over and (self.resolved_window in ("lifetime", "session") or self.resolved_window.startswith(ROLLING)):
            raise ValueError("only a window of the calendar can carry something over to the next")
        if self.limit.nusd == 0 and self.mode == "soft":
            raise ValueError("a soft budget of $0 would alert always")
        return self

    @property
    def resolved_window(self) -> str:
        """The window from `window` or `limit`."""
        return self.window or self.limit.window or "lifetime"


class BudgetSettings(SpendLimit):
    """A limit on what may be spent: whose, how much, in which window."""

    when: ScopeEntry = all_defaults()
    """To which requests it applies: conditions, or an expression in CEL. Default: all."""
    shared: Flag = False
    """One limit for all ledgers that name the same `server.shared_store`: each refuses by its share, the shares follow what is
    used where, and their sum is never above the limit. Not with `each`, `carry_over`, `soft`, or steps in `at`."""

    @model_validator(mode="after")
    def _can_be_shared(self) -> BudgetSettings:
        if not self.shared:
            return self
        unfit = {
            "each": self.each is not None or self.resolved_window == "session",
            "carry_over": bool(self.carry_over),
            "mode: soft": self.mode == "soft",
            "steps in at": bool(getattr(self.at, "steps", ())),
            "concurrent calls": self.limit.unit == "concurrent",
        }
        wrong = [what for what, is_so in unfit.items() if is_so]
        if wrong:
            raise ValueError(f"a limit that is shared by several ledgers cannot have {' or '.join(wrong)}")
        return self


BudgetEntry = Annotated[BudgetSettings, as_mapping("limit", str | BudgetSettings)]
OwnBudget = Annotated[SpendLimit, as_mapping("limit", str | SpendLimit)]
