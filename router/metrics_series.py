"""What one kind of request, and one kind of attempt, counts in: looked up once, then updated in one go."""

from __future__ import annotations

from router.metrics_store import Cell, Histogram, Labels


class RequestSeries:
    """Everything that one kind of request counts in."""

    __slots__ = ("attempts", "count", "decision", "overhead", "total")

    def __init__(self, count: Cell, overhead: Histogram, total: Histogram, attempts: Histogram, decision: Histogram) -> None:
        self.count = count
        self.overhead = overhead
        self.total = total
        self.attempts = attempts
        self.decision = decision


class AttemptSeries:
    """Everything that one kind of attempt counts in. Its own sums are moved to the metrics' cells by `fold`."""

    __slots__ = (
        "avoided_nusd",
        "charge_nusd",
        "count",
        "duration",
        "extra_nusd",
        "first_token",
        "input_tokens",
        "input_usage",
        "output_tokens",
        "output_usage",
        "per_token",
        "ratio",
        "targets",
        "where",
    )

    duration: Histogram
    first_token: Histogram
    per_token: Histogram
    ratio: Histogram
    input_usage: Histogram
    output_usage: Histogram
    where: Labels
    """Model, deployment, provider, team."""
    targets: tuple[tuple[str, tuple[Cell, ...]], ...]
    """(attribute, cells to which it is added)."""

    def __init__(self) -> None:
        self.count = 0
        self.charge_nusd = 0
        self.avoided_nusd = 0
        self.extra_nusd = 0
        self.input_tokens = 0
        self.output_tokens = 0

    def fold(self) -> None:
        """Move what was counted since the last call to the cells."""
        for attribute, cells in self.targets:
            amount = getattr(self, attribute)
            if amount:
                for cell in cells:
                    cell.value += amount
                setattr(self, attribute, 0)
