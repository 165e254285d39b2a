"""What goes in and out of the admin API. Amounts are decimal texts in their unit, moments ISO 8601 in UTC."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from router.admin.mistakes import VERSION_PATTERN
from router.controls import MAX_REASON, MAX_TARGET

MAX_TAGS = 32


def _printable(text: str) -> str:
    if not text.isprintable() or not text.strip():
        raise ValueError("must be visible characters, and not nothing")
    return text.strip()


def _maybe_printable(text: str) -> str:
    return _printable(text) if text else text


Name = Annotated[str, Field(min_length=1, max_length=128), AfterValidator(_printable)]
Reason = Annotated[str, Field(min_length=1, max_length=MAX_REASON, description="Why; goes into the audit log."), AfterValidator(_printable)]
Why = Annotated[str, Field(max_length=MAX_REASON, description="Why; goes into the audit log."), AfterValidator(_maybe_printable)]
Until = Annotated[
    str | None,
    Field(
        max_length=40,
        description="When it ends: `30m`, `2h`, `3d`, `09:00` (the next one, UTC) or ISO 8601. Default: when it is taken back.",
    ),
]
Amount = Annotated[str, Field(max_length=40, description="`50usd` or `$50`; `100k` of a budget in requests or tokens.", examples=["50usd"])]


class Given(BaseModel):
    """What a request gives: an unknown field is an error."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Shown(BaseModel):
    """What an answer shows."""

    model_config = ConfigDict(extra="forbid")


class Problem(Shown):
    """Every error, in the shape of OpenAI's."""

    class Error(Shown):
        model_config = ConfigDict(extra="allow")
        message: str
        type: str
        param: str | None
        code: str

    error: Error


class Whoami(Shown):
    """The administrator who asks."""

    name: str
    role: Literal["viewer", "operator", "admin"]


# Budgets


class LimitGiven(Given):
    """A change of a limit."""

    amount: Amount
    reason: Reason
    scope: Annotated[str, Field(max_length=2 * MAX_TARGET)] = ""
    """Only this instance of a split budget: `team=search`. Default: all."""
    until: Until = None


class ResetGiven(Given):
    """Taking changes back."""

    reason: Reason
    scope: Annotated[str, Field(max_length=2 * MAX_TARGET)] = ""


class LimitChanged(Shown):
    """What a change did."""

    budget: str
    scope: str
    unit: str
    before: str
    after: str
    until: str | None


class LimitControl(Shown):
    """A change of a limit that is in force."""

    scope: str
    change: str
    limit: str
    by: str
    at: str
    until: str | None
    reason: str


class Bucket(Shown):
    """One instance of a budget in its current window."""

    scope: str
    window: str
    limit: str | None
    spent: str
    held: str
    debt: str
    left: str | None
    resets_at: str | None


class BudgetCard(Shown):
    """A budget, or a rate limit."""

    name: str
    kind: Literal["budget", "rate_limit"]
    unit: str
    """Of all amounts here: `usd`, `requests`, `tokens` or `concurrent`."""
    each: list[str]
    configured_limit: str
    limit: str
    changes: list[LimitControl]
    instances: list[Bucket]
    """Those with charges or holds; the fullest first."""
    instances_total: int


class Budgets(Shown):
    budgets: list[BudgetCard]


# Freezes and drains


class ControlGiven(Given):
    """Something to stop."""

    target: Annotated[str, Field(min_length=1, max_length=MAX_TARGET), AfterValidator(_printable)]
    reason: Reason
    until: Until = None


class ControlCard(Shown):
    """A freeze or drain that is in force."""

    target: str
    reason: str
    by: str
    at: str
    until: str | None


class ControlCards(Shown):
    data: list[ControlCard]


# Keys


class KeyGiven(Given):
    """A key to mint."""

    name: Name
    team: Annotated[str, Field(max_length=64)] = ""
    models: Annotated[list[Annotated[str, Field(max_length=128)]], Field(max_length=256)] = []
    """Routes and models that it may ask for; empty: all of its team."""
    tags: Annotated[dict[Name, Annotated[str, Field(max_length=256), AfterValidator(_maybe_printable)]], Field(max_length=MAX_TAGS)] = {}
    limits: Annotated[
        dict[Annotated[str, Field(max_length=MAX_TARGET)], Amount],
        Field(max_length=16, description="Its own limit in budgets and rate limits that are split by key: `{per-key: 5usd}`."),
    ] = {}
    expires: Annotated[str | None, Field(max_length=40, description="`12h`, `30d`, `8w`, `2027-01-31` or ISO 8601. Default: never.")] = None
    reason: Why = ""


class RotateGiven(Given):
    """A new secret for a key."""

    overlap: Annotated[str, Field(max_length=20, description="How long the secret before is good, too: `0s`, `15m`, `24h`.")] = "24h"
    reason: Why = ""


class ReasonGiven(Given):
    reason: Why = ""


class KeyCard(Shown):
    """A key. Its secret is not there."""

    id: str
    name: str
    team: str
    models: list[str] | None
    """None: all."""
    tags: dict[str, str]
    state: Literal["active", "expired", "revoked"]
    source: Literal["minted", "configuration"]
    created_at: str | None
    expires_at: str | None
    revoked_at: str | None
    limits: dict[str, str]
    """Its own, by the budget or rate limit, in that one's unit."""
    previous_secret_until: str | None
    """Until then the secret before the last rotation is accepted, too."""


class Keys(Shown):
    data: list[KeyCard]
    next: str | None = None


class MintedKey(Shown):
    """A key and its secret, which is shown this once."""

    key: str
    """What a client sends. It is not kept: only its hash is."""
    card: KeyCard


# Reports


class SpendRow(Shown):
    group: dict[str, str]
    requests: int
    calls: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    cost_usd: str
    avoided_estimate_usd: str | None
    """Less spent than the baseline would have cost; an estimate. None: no baseline."""
    estimated_usd: str
    """The part of the cost that is not from the provider's own count."""


class Spend(Shown):
    since: str
    until: str | None
    by: list[str]
    rows: list[SpendRow]
    total: SpendRow
    unreadable: int
    """Records of a form that this release does not know; not in the sums."""


class Hold(Shown):
    """A call under way, and what is held for it."""

    attempt_id: str
    request_id: str
    worker: int
    age_ms: int
    state: str
    route: str
    model: str
    deployment: str
    team: str
    key_id: str
    user: str
    session: str
    stream: bool
    held_usd: str
    burnt_usd: str
    """What has certainly been used so far, at likely counts."""


class Holds(Shown):
    data: list[Hold]
    held_usd: str
    workers: int
    """That answered. Other machines have holds of their own: ask there."""


class Records(Shown):
    data: list[dict[str, Any]]
    """Spend records, oldest first, as they are in the ledger's log."""
    next: str | None
    """Give it as `cursor` to read on; None: the end was reached."""


class RequestRecords(Shown):
    """Everything that the log has of a request."""

    request_id: str
    attempts: list[dict[str, Any]]
    cost_usd: str
    decision: dict[str, Any] | None
    """What was decided and of what, if that was kept for this request (`server.record_decisions`)."""


class AuditLine(Shown):
    at: str
    who: str
    via: str
    action: str
    target: str
    scope: str
    before: str
    after: str
    reason: str
    until: str | None


class Audit(Shown):
    data: list[AuditLine]
    """The newest first."""


# Configuration


class WorkerConfig(Shown):
    worker: int
    version: str
    loaded_at: str
    findings: list[str]
    """Errors that the last try to load the file came upon; empty: none."""
    refused_at: str | None
    needs_restart: list[str]
    """Fields of the file that hold only from the next start on."""


class PinCard(Shown):
    version: str
    by: str
    at: str
    reason: str


class ConfigStatus(Shown):
    version: str
    source: str
    loaded_at: str
    warnings: list[str]
    pin: PinCard | None
    """What was rolled back to; None: the file is served."""
    can_reload: bool
    workers: list[WorkerConfig]


class VersionCard(Shown):
    version: str
    source: str
    at: str
    serving: bool


class VersionList(Shown):
    data: list[VersionCard]


class VersionText(Shown):
    version: str
    configuration: dict[str, Any]
    """As it is understood: shorthand written out, secrets as references."""


class RollbackGiven(Given):
    version: Annotated[str, Field(pattern=VERSION_PATTERN)]
    reason: Reason


class ApprovalGiven(Given):
    token: Annotated[str, Field(min_length=1, max_length=128), AfterValidator(_printable)]


class Approved(Shown):
    session: str
    key_id: str
