"""What is changed while the service runs: limits of budgets, freezes of who asks, drains of who answers, stops of canaries. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, Literal

import msgspec

from router.domain.budgets import NEVER_MS, Budget
from router.domain.money import MAX_NUSD, format_usd
from router.domain.shares import OwnShare

ControlKind = Literal["limit", "freeze", "drain", "stop"]
"""A `stop` is made by the service itself: an experiment turned out to be worse."""
FREEZABLE: Final = ("team", "key", "user", "model")
"""Dimensions that a freeze can name; `all` needs none."""
EVERYBODY: Final = "all"
DEFAULT_TEAM: Final = "default"
"""Team of a key without one, as budgets count it."""


class Control(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One change in force until it ends or is taken back."""

    kind: ControlKind
    target: str
    """Name of a budget; `team=search` or `all` of a freeze; provider or deployment of a drain; `route/rule/name` of a stop."""
    scope: str = ""
    """Of a limit: the instance of a split budget, as its bucket names it; empty: all. Of a stop: which version of the experiment."""
    add: int | None = None
    """Of a limit: so much more (below zero: less), in the budget's unit; None: `to` holds."""
    to: int | None = None
    """Of a limit: the new limit, in the budget's unit."""
    reason: str
    by: str
    """Who made it."""
    at_ms: int
    """When, Unix time of the store."""
    until_ms: int | None = None
    """When it ends; None: when it is taken back."""


class BaseLimit(msgspec.Struct, frozen=True, omit_defaults=True):
    """A limit as the configuration has it."""

    limit: int
    unit: str = "usd"
    each: tuple[str, ...] = ()
    """Dimensions that the budget is split by; empty: it is not."""
    shared: bool = False
    """It spans several ledgers: this one refuses by its share."""


class Pin(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A roll-back: this version of the configuration is served, whatever the file says."""

    version: str
    reason: str
    by: str
    """Who made it."""
    at_ms: int
    """When, Unix time of the store."""


class Known(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Names of a configuration that a freeze or drain can name."""

    team: tuple[str, ...] = ()
    key: tuple[str, ...] = ()
    """Ids and names."""
    model: tuple[str, ...] = ()
    """Routes, models and deployments, as clients may ask for them."""
    target: tuple[str, ...] = ()
    """Providers and deployments."""


class ControlState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All that is kept of controls in the store, replaced as a whole."""

    version: int = 0
    """Grows with every change; 0: nothing was ever kept."""
    config: str = ""
    """Version of the configuration that published `base`."""
    base: dict[str, BaseLimit] = {}
    """Limits of the configuration, by budget."""
    known: Known | None = None
    """Names of that configuration; None: it was published by a version that kept none."""
    controls: tuple[Control, ...] = ()
    """In the order in which they were made."""
    keys_epoch: int = 0
    """Grows whenever minted keys changed: what is remembered of them is then to be forgotten."""
    reload_epoch: int = 0
    """Grows whenever all are to read their configuration anew."""
    runs: dict[str, int] = {}
    """How often experiments were let begin anew, by their mark."""
    shares: dict[str, OwnShare] = {}
    """What this ledger has of budgets that span several, by budget."""
    pin: Pin | None = None
    """The configuration that was rolled back to; None: that of the file is served."""

    @property
    def ends_ms(self) -> int:
        """When the first control ends; `NEVER_MS` if none does."""
        return min((control.until_ms for control in self.controls if control.until_ms is not None), default=NEVER_MS)

    def of_kind(self, kind: ControlKind) -> list[Control]:
        """Those of one kind."""
        return [control for control in self.controls if control.kind == kind]


class Limit(msgspec.Struct, frozen=True):
    """What the store refuses by: a budget's limit, and other ones for some of its instances."""

    limit: int
    scoped: dict[str, int] = {}


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who changed what, and why. When: the store says so."""

    who: str
    """User of the operating system, name of an administrator, or the part of the program that did it."""
    via: str
    """`command`, `admin`, `config` (a configuration was loaded), `clock` (a time came) or `test` (an experiment turned out to be worse)."""
    action: str
    """`budget.raise`, `freeze`, `key.revoke`, ..."""
    target: str
    scope: str = ""
    before: str = ""
    after: str = ""
    reason: str = ""
    until_ms: int | None = None


def decode_state(stored: bytes) -> ControlState:
    """What `encode_state` made; an empty state of nothing."""
    return msgspec.json.decode(stored, type=ControlState) if stored else ControlState()


def encode_state(state: ControlState) -> bytes:
    """As it is stored."""
    return msgspec.json.encode(state)


def without_ended(controls: Iterable[Control], now_ms: int) -> tuple[Control, ...]:
    """The controls that are still in force."""
    return tuple(control for control in controls if control.until_ms is None or control.until_ms > now_ms)


def base_limits(budgets: Iterable[Budget]) -> dict[str, BaseLimit]:
    """What a configuration says of its budgets."""
    return {budget.name: BaseLimit(budget.limit_nusd, budget.unit, budget.dimensions, budget.shared) for budget in budgets}


def limit_in_force(state: ControlState, budget: str, scope: str = "") -> int:
    """The limit of a budget or of one of its instances: changes are applied in the order in which they were made.

    Of a budget that spans several ledgers: the share of this one.

    Raises:
        KeyError: there is no such budget.
    """
    if state.base[budget].shared:
        return state.shares[budget].limit if budget in state.shares else 0
    limit = state.base[budget].limit
    for control in state.controls:
        if control.kind == "limit" and control.target == budget and control.scope in ("", scope):
            limit = control.to if control.to is not None else limit + (control.add or 0)
            limit = max(0, min(limit, MAX_NUSD))
    return limit


def limits_in_force(state: ControlState) -> dict[str, Limit]:
    """All limits, by budget."""
    scopes: dict[str, set[str]] = {}
    for control in state.of_kind("limit"):
        if control.scope:
            scopes.setdefault(control.target, set()).add(control.scope)
    return {
        name: Limit(limit_in_force(state, name), {scope: limit_in_force(state, name, scope) for scope in sorted(scopes.get(name, ()))})
        for name in state.base
    }


def limit_known(limits: Mapping[str, Limit], budget: Budget, scope: str) -> int:
    """The limit of an instance of a budget among those in force; the configuration's if they do not name the budget."""
    known = limits.get(budget.name)
    return budget.limit_nusd if known is None else known.scoped.get(scope, known.limit)


class Freezes:
    """Who is refused, ready to be looked up."""

    def __init__(self, controls: Iterable[Control]) -> None:
        self._by_name: dict[str, Control] = {control.target: control for control in controls if control.kind == "freeze"}

    def __bool__(self) -> bool:
        """Whether anybody is."""
        return bool(self._by_name)

    def of(self, *, team: str, key_id: str, key_name: str, user: str, model: str) -> Control | None:
        """The freeze that a request falls under; None: it may go on."""
        found = self._by_name
        return (
            found.get(EVERYBODY)
            or found.get(f"team={team}")
            or found.get(f"key={key_id}")
            or found.get(f"key={key_name}")
            or found.get(f"user={user}")
            or found.get(f"model={model}")
        )


def closed_deployments(
    controls: Iterable[Control], deployments: Mapping[str, tuple[str, str]]
) -> dict[str, tuple[Literal["drained", "frozen"], str]]:
    """Deployments that take no new call: (why, the reason that was given), by name.

    `deployments`: (model, provider) by name. One of a frozen model is frozen, one that is named in a drain, or whose
    provider is, is drained.
    """
    given = list(controls)
    drains = {control.target: control.reason for control in given if control.kind == "drain"}
    freezes = {control.target: control.reason for control in given if control.kind == "freeze"}
    closed: dict[str, tuple[Literal["drained", "frozen"], str]] = {}
    for name, (model, provider) in deployments.items():
        reason = freezes.get(f"model={model}")
        if reason is not None:
            closed[name] = ("frozen", reason)
        elif (reason := drains.get(name, drains.get(provider))) is not None:
            closed[name] = ("drained", reason)
    return closed


def amount_text(amount: int, unit: str) -> str:
    """An amount with its unit, for people."""
    return f"{format_usd(amount)} USD" if unit == "usd" else f"{amount:,} {unit}"


def change_text(control: Control, unit: str) -> str:
    """What a control does to a limit: `+50.00 USD`, `set to 100 requests`."""
    if control.to is not None:
        return f"set to {amount_text(control.to, unit)}"
    by = control.add or 0
    return f"{'-' if by < 0 else '+'}{amount_text(abs(by), unit)}"
