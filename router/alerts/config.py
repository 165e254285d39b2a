"""Who is told and what is looked for, compiled from the configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from router.ports import Endpoint

ReceiverKind = Literal["webhook", "slack", "smtp"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MailServer:
    """Where mail goes in, from whom and to whom."""

    host: str
    port: int
    tls: Literal["starttls", "implicit", "none"]
    username: str | None
    sender: str
    to: tuple[str, ...]
    ca_file: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Receiver:
    """Somebody who is told."""

    name: str
    kind: ReceiverKind
    endpoint: Endpoint | None
    """Of webhook and slack."""
    path: str = field(repr=False)
    """With the query. Often a secret: not in the repr."""
    mail: MailServer | None
    secret: str | None = field(repr=False)
    """Signs webhooks, or is the password of mail."""
    events: frozenset[str] = frozenset()
    """Kinds it is told of; empty: all."""
    timeout_seconds: float = 5.0
    tries: int = 6

    def wants(self, kind: str) -> bool:
        """Whether it is told of events of a kind; of a test always."""
        return not self.events or kind in self.events or kind == "test"

    @property
    def address(self) -> str:
        """Where it is, without what may be a secret."""
        if self.mail is not None:
            return f"{self.mail.host}:{self.mail.port} ({', '.join(self.mail.to)})"
        return "" if self.endpoint is None else f"{self.endpoint.scheme}://{self.endpoint.host}:{self.endpoint.port}/..."


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertRules:
    """What is looked for, and how often."""

    every_seconds: float = 5.0
    repeat_seconds: float = 86400.0
    forecast: bool = True
    anomaly: bool = True
    anomaly_weeks: int = 4
    anomaly_factor: float = 6.0
    anomaly_least_nusd: int = 1_000_000_000
    provider_seconds: float = 300.0
    store_seconds: float = 10.0
