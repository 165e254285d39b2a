"""What an alert says: one event, the same for every receiver."""

from __future__ import annotations

from typing import Final, Literal, get_args

import msgspec

Kind = Literal[
    "budget_threshold",
    "budget_forecast",
    "budget_refusing",
    "spend_anomaly",
    "unpriced_model",
    "ledger_drift",
    "provider_refusing",
    "store_away",
    "store_back",
    "config_rejected",
    "test",
]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
Severity = Literal["info", "warning", "critical"]

FieldValue = str | int | float | None


class Event(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """One thing that people should know. No prompt, no answer, no secret."""

    kind: Kind
    severity: Severity = "warning"
    subject: str
    """One line: the thing, the limit and the unit."""
    text: str = ""
    """What it means and what to do."""
    about: str = ""
    """What must be told once: two events of a kind about the same are one, over all replicas, until `keep_ms` are over."""
    fields: dict[str, FieldValue] = {}
    """The same for machines; money in nano-USD, times in Unix milliseconds."""
    keep_ms: int = 0
    """How long it is remembered that this was told. 0: as `alerts.repeat` says."""
    at_ms: int = 0
    """When it was noticed, Unix milliseconds."""
    id: str = ""
    """Unique; the same whenever this event is sent again."""

    @property
    def marker(self) -> str:
        """Under which name the store remembers it."""
        return f"{self.kind}|{self.about}"


def encode(event: Event) -> bytes:
    """As it is kept in the store."""
    return msgspec.json.encode(event)


def decode(text: bytes) -> Event | None:
    """What `encode` wrote; None if another release wrote it in another form."""
    try:
        return msgspec.json.decode(text, type=Event)
    except msgspec.MsgspecError:
        return None
