"""What the stages hand to each other: one client request, and its attempts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from policies.engine import Branch
from policies.types import NOTHING, Decision, RequestFacts
from router.domain.budgets import BucketSet, Reservation
from router.domain.estimate import Estimate
from router.domain.request import ParsedRequest
from router.domain.stream_metering import StreamMeter
from router.domain.usage import Usage
from router.edge.headers import Headers
from router.snapshot import Deployment, Route, Snapshot


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """Who is acting."""

    key_id: str = ""
    """Public id of the key; empty where no key is needed."""
    name: str = "anonymous"
    team: str = ""
    models: frozenset[str] | None = None
    """Routes and models that may be asked for; None: all."""
    tags: Mapping[str, str] = NOTHING
    expires_ms: int | None = None


class Call:
    """One request of a client, from its first byte to its last settlement."""

    __slots__ = (
        "attempts",
        "began",
        "branch",
        "budget_left_nusd",
        "charge_nusd",
        "decision",
        "decision_seconds",
        "error_code",
        "estimates",
        "facts",
        "first_byte_at",
        "headers",
        "operation",
        "outcome",
        "principal",
        "request",
        "request_id",
        "route",
        "session",
        "snapshot",
        "status",
        "tags",
        "upstream_seconds",
        "usage",
        "user",
        "winner",
    )

    def __init__(self, *, request_id: str, operation: str, headers: Headers, snapshot: Snapshot, began: float) -> None:
        self.request_id = request_id
        self.operation = operation
        self.headers = headers
        self.snapshot = snapshot
        """The configuration that was in force when the request came; it holds to its end."""
        self.began = began
        """Monotonic seconds."""
        self.principal: Principal = Principal()
        self.request: ParsedRequest = None  # type: ignore[assignment]  # set by the pipeline before routing
        self.route: Route = None  # type: ignore[assignment]  # set by routing
        self.branch: Branch = None  # type: ignore[assignment]  # set by routing
        self.facts: RequestFacts = None  # type: ignore[assignment]  # set by routing
        self.decision: Decision | None = None
        self.decision_seconds: float | None = None
        self.estimates: dict[str, Estimate] = {}
        self.user = ""
        self.session = ""
        self.tags: Mapping[str, str] = NOTHING
        self.attempts = 0
        """Calls made to providers."""
        self.winner: Attempt | None = None
        """The attempt whose answer the client gets."""
        self.upstream_seconds = 0.0
        """Time spent waiting for providers before the first byte to the client."""
        self.first_byte_at: float | None = None
        self.status = 0
        self.outcome = ""
        self.error_code = ""
        self.charge_nusd = 0
        self.usage: Usage | None = None
        self.budget_left_nusd: int | None = None


AttemptState = Literal["held", "booked", "closed"]
"""Money is held; the charge is fixed but not yet in the store; settled or voided."""


class Attempt:
    """One call of one deployment, with the money held for it."""

    __slots__ = (
        "attempt_id",
        "began",
        "call",
        "charge_nusd",
        "deployment",
        "estimate",
        "first_byte_at",
        "held",
        "meter",
        "number",
        "reason",
        "record",
        "state",
        "status",
    )

    def __init__(
        self, *, call: Call, attempt_id: str, number: int, deployment: Deployment, estimate: Estimate, held: Reservation, reason: str
    ) -> None:
        self.call = call
        self.attempt_id = attempt_id
        self.number = number
        self.deployment = deployment
        self.estimate = estimate
        self.held = held
        self.reason = reason
        """Why this deployment: the policy kind, or `fallback:` and the cause."""
        self.state: AttemptState = "held"
        self.began = 0.0
        self.first_byte_at: float | None = None
        self.status = 0
        """HTTP status of the provider; 0 if it gave none."""
        self.meter: StreamMeter | None = None
        """Counts a stream while it runs."""
        self.charge_nusd = 0
        self.record = b""
        """The spend record, once the charge is booked."""


__all__ = ["Attempt", "BucketSet", "Call", "Principal"]
