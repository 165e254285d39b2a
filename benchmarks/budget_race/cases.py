"""The cases: what is sent, what the provider does, what breaks meanwhile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the table."""

    name: str
    title: str
    kind: str = "ok"
    """How the provider answers, see `provider.py`."""
    tokens: int = 100
    """Of output per choice. A call asks for 100 at most; more is a provider that does not keep to it."""
    wait_ms: int = 50
    calls: int = 100
    at_once: int = 50
    stream: float = 0.0
    """Share of the calls that stream."""
    n: int = 1
    budget_usd: float = 0.0205
    """No multiple of the price: 20 calls of 1.02 mUSD, and a rest."""
    seconds: float = 0.0
    """Positive: calls are made for so long, whatever their number."""
    fault: str = ""
    fault_at: float = 0.0
    replicas: int = 1
    minute: bool = False
    """The budget is one per minute, and the calls are made across its end."""


CASES: Final = (
    Case("edge", "50 at once at the edge"),
    Case("tight", "a budget of half a call", budget_usd=0.0005, calls=20),
    Case("streams", "the same, streams", stream=1.0),
    Case("missing", "usage missing", kind="missing", stream=0.5),
    Case("zero", "usage of zero", kind="zero", stream=0.5),
    Case("negative", "usage negative", kind="negative", stream=0.5),
    Case("tenfold", "ten times the cap", tokens=1000, stream=0.5),
    Case("reset", "connection reset in mid-answer", kind="reset", stream=0.5),
    Case("error", "500, or an error event in mid-stream", kind="error", stream=0.5),
    Case("truncated", "body cut off", kind="truncated", stream=0.5),
    Case("n8", "n = 8", n=8, budget_usd=0.0405),
    Case("replicas", "two replicas", stream=0.5, replicas=2),
    # These two are still at their edge for some seconds after the fault: only so does the overspend say something.
    Case(
        "kill",
        "kill -9 at 12 s, and a restart",
        stream=0.5,
        seconds=28,
        at_once=10,
        wait_ms=400,
        budget_usd=0.3505,
        fault="kill",
        fault_at=12,
    ),
    Case(
        "stopped", "the store away for 10 s", stream=0.5, seconds=20, at_once=10, wait_ms=400, budget_usd=0.1005, fault="stop", fault_at=2
    ),
    Case("emptied", "the store emptied", stream=0.5, seconds=8, at_once=10, wait_ms=400, budget_usd=0.0505, fault="empty", fault_at=3),
    Case(
        "clock",
        "the clock goes 3 h forward, then back to 2 h before",
        stream=0.5,
        seconds=16,
        at_once=10,
        wait_ms=1000,
        budget_usd=0.1005,
        fault="clock",
        fault_at=2,
    ),
    Case("rollover", "the end of the window with open streams", stream=1.0, seconds=12, at_once=10, wait_ms=5000, minute=True),
)
