"""Figures of one deployment: its latest latencies, and how many of its latest calls failed."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

FAILURE_WINDOW_SECONDS: Final = 30.0
FAILURE_WINDOW_CALLS: Final = 10
"""With at least so many calls in the window, more than half of them failed start a cooldown."""
STALE_SECONDS: Final = 300.0
"""Latencies older than this are forgotten, so that a deployment that was slow once is tried again."""
RING_SIZE: Final = 64
"""Latencies kept per deployment."""
_SLOTS: Final = 6


class Latencies:
    """The last `RING_SIZE` values and a quantile of them."""

    __slots__ = ("_ring", "at", "borrowed", "value")

    def __init__(self) -> None:
        self._ring: deque[float] = deque(maxlen=RING_SIZE)
        self.value: float | None = None
        self.at = 0.0
        self.borrowed = False
        """Whether other processes saw them, all of them."""

    @property
    def values(self) -> Sequence[float]:
        """What is kept, the oldest first."""
        return self._ring

    def borrow(self, values: Sequence[float], at: float, quantile: float) -> None:
        """Go by what others saw until then; own values come beside it."""
        self._ring.clear()
        self.at = 0.0
        self.add(values, at, quantile)
        self.borrowed = True

    def add(self, values: Sequence[float], now: float, quantile: float) -> None:
        ring = self._ring
        self.borrowed = False
        if now - self.at > STALE_SECONDS:
            ring.clear()
        self.at = now
        ring.extend(values)
        ordered = sorted(ring)
        self.value = ordered[min(int(quantile * len(ordered)), len(ordered) - 1)]

    def quantile(self, share: float, least: int) -> float | None:
        """Another quantile of what is kept; None if that is fewer than `least`."""
        ordered = sorted(self._ring)
        return None if len(ordered) < least else ordered[min(int(share * len(ordered)), len(ordered) - 1)]


class Outcomes:
    """Calls and failures of the last `FAILURE_WINDOW_SECONDS`, to a sixth of it."""

    __slots__ = ("_calls", "_failures", "_slot")

    def __init__(self) -> None:
        self._calls = [0] * _SLOTS
        self._failures = [0] * _SLOTS
        self._slot = 0

    def add(self, now: float, *, calls: int, failures: int = 0) -> None:
        slot = int(now * (_SLOTS / FAILURE_WINDOW_SECONDS))
        if slot != self._slot:
            for stale in range(max(self._slot + 1, slot - _SLOTS + 1), slot + 1):
                self._calls[stale % _SLOTS] = self._failures[stale % _SLOTS] = 0
            self._slot = slot
        self._calls[slot % _SLOTS] += calls
        self._failures[slot % _SLOTS] += failures

    def sums(self, now: float) -> tuple[int, int]:
        """Calls, and failures of them."""
        self.add(now, calls=0)
        return sum(self._calls), sum(self._failures)

    def mostly_failed(self) -> bool:
        calls = sum(self._calls)
        return calls >= FAILURE_WINDOW_CALLS and 2 * sum(self._failures) > calls
