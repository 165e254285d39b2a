"""Trouble on demand: outages, injected errors, slowness and cut streams, per model."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import msgspec

from router.sim.requests import SimError


@dataclass(slots=True)
class Trouble:
    """What is wrong with one model now."""

    down: bool = False
    slow: float = 1.0
    """Factor on all latencies."""
    cut_after: int | None = None
    """Streams break off after so many tokens; None: they end well."""
    errors: deque[tuple[int, float | None]] = field(default_factory=deque)
    """(status, Retry-After seconds) of the next calls."""

    def next_error(self, model: str) -> SimError | None:
        """The error that the next call gets, if any."""
        if self.down:
            return SimError(503, "server_error", "outage", f"{model} is down")
        if not self.errors:
            return None
        status, retry_after = self.errors.popleft()
        kind = "rate_limit_error" if status == 429 else "server_error" if status >= 500 else "invalid_request_error"
        seconds = None if retry_after is None else max(1, round(retry_after))
        return SimError(status, kind, "injected", f"injected {status}", retry_after_seconds=seconds)


class Order(msgspec.Struct, forbid_unknown_fields=True):
    """Body of `POST /sim/control`; a field that is left out changes nothing."""

    model: str
    down: bool | None = None
    slow: float | None = None
    cut_after: int | None = None
    """0 ends the cutting."""
    errors: int = 0
    """How many of the next calls fail."""
    status: int = 500
    """With which status they fail."""
    retry_after_seconds: float | None = None


def apply(order: Order, trouble: Trouble) -> None:
    """Change what is wrong with a model."""
    if order.down is not None:
        trouble.down = order.down
    if order.slow is not None:
        trouble.slow = max(0.0, order.slow)
    if order.cut_after is not None:
        trouble.cut_after = order.cut_after or None
    trouble.errors.extend([(order.status, order.retry_after_seconds)] * min(order.errors, 10_000))
