"""Says in the log when the budget store goes, that it is still away, and when it is back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog

log = structlog.get_logger("faregate.store")

REPEAT_SECONDS: Final = 60.0
"""How often an outage that lasts is mentioned again."""


class StoreWatch:
    """Whether the store answers, from what others tell. One line for each change, however many tell it."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` gives seconds from any origin and never goes back."""
        self._clock = clock
        self.meanwhile = "what a hard budget covers is refused until it is back"
        """What happens while it is away."""
        self._left_at: float | None = None
        self._said_at = 0.0

    @property
    def is_up(self) -> bool:
        """Whether it answered when it was last asked."""
        return self._left_at is None

    def away(self, reason: str) -> None:
        """It did not answer."""
        now = self._clock()
        if self._left_at is None:
            self._left_at = self._said_at = now
            log.warning(f"the budget store is away: {self.meanwhile}", reason=reason)
        elif now - self._said_at >= REPEAT_SECONDS:
            self._said_at = now
            log.warning("the budget store is still away", away_seconds=round(now - self._left_at), reason=reason)

    def back(self) -> None:
        """It answered."""
        if self._left_at is not None:
            log.warning(f"the budget store is back after {self._clock() - self._left_at:.0f} s")
            self._left_at = None
