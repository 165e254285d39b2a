"""How far ahead of its pace a budget may be near the end of its window, because a quiet end could not spend it. Pure."""

from __future__ import annotations

from array import array
from typing import Final

PARTS: Final = 256
"""Parts of a window, what is spent in each of which is looked at."""
LEAST_PARTS: Final = 16
"""So many are known before they say anything."""
LAST_SHARE: Final = 0.1
"""The share of a window at whose beginning the lead is largest; it grows over as much before, and is gone at the end."""
CAUTION: Final = 0.4
"""Of what would be left over if no part that is still to come were busier than the usual one. Found by months of bursts
(`benchmarks.policy_quality.pacing`): with more, months end above their budgets as often as below."""


class Parts:
    """What one instance of a budget spent in the parts of its window so far."""

    __slots__ = ("_at", "_shortfall", "_spent", "_steps", "window")

    def __init__(self, window: str, spent: float, passed: float) -> None:
        """Begins where it is met: `spent` and `passed` are shares of the budget and of the window."""
        self.window = window
        self._at = int(passed * PARTS)
        self._spent = spent
        self._steps = array("f")
        """What was spent in each, in parts of what the pace spends there."""
        self._shortfall = 0.0

    def lead(self, spent: float, passed: float) -> float:
        """How far ahead of the pace to aim now, as a share of the budget: nothing, where every usual part spends what the pace does."""
        part = int(passed * PARTS)
        if part > self._at:
            self._steps.extend([(spent - self._spent) * PARTS / (part - self._at)] * (part - self._at))
            self._at, self._spent = part, spent
            if len(self._steps) >= LEAST_PARTS:
                usual = sorted(self._steps)[len(self._steps) // 2]
                self._shortfall = min(1.0, max(0.0, 1.0 - usual))
        left = 1.0 - passed
        counted = left if left <= LAST_SHARE else max(0.0, 2 * LAST_SHARE - left)
        return CAUTION * self._shortfall * counted
