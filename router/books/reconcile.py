"""A provider's account beside ours, by day and model: what is missing, what is too much, what differs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Literal

from router.books.provider_files import Told
from router.domain.records import SpendRecord
from router.domain.rerate import FREE_OUTCOMES
from router.prices import undated

Kind = Literal["missing", "extra", "difference"]
"""They have what we do not; we have what they do not; both have it, and the figures differ."""
Key = tuple[str, str]
"""Day and model; the model is empty if the provider does not split by it."""
MEASURES: Final = ("cost_nusd", "input_tokens", "output_tokens", "requests")


@dataclass(slots=True)
class Sums:
    """What one side says of one day and model. None: it says nothing of that."""

    cost_nusd: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    requests: int | None = None

    def add(self, told: Told) -> None:
        """Add what is told."""
        for name in MEASURES:
            value = getattr(told, name)
            if value is not None:
                setattr(self, name, (getattr(self, name) or 0) + value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One figure of one day and model on both sides."""

    day: str
    model: str
    measure: str
    theirs: int
    ours: int
    gap: Kind | None
    """None: within the tolerance."""


@dataclass(slots=True)
class Reconciliation:
    """Takes in our records of a provider, for the days that its account has."""

    provider: str
    theirs: dict[Key, Sums]
    by_model: bool
    ours: dict[Key, Sums] = field(default_factory=dict)
    days: frozenset[str] = frozenset()

    def add(self, record: SpendRecord) -> None:
        """Count one record."""
        day = datetime.fromtimestamp(record.at_ms / 1000, UTC).strftime("%Y-%m-%d")
        if record.provider != self.provider or day not in self.days:
            return
        called = record.outcome not in FREE_OUTCOMES and record.outcome != "corrected"
        told = Told(day, "", record.charge_nusd, record.input_tokens, record.output_tokens, int(called))
        model = undated(record.served_model or record.deployment.partition("/")[2]) if self.by_model else ""
        self.ours.setdefault((day, model), Sums()).add(told)

    def lines(self, *, tolerance: float, least: Mapping[str, int]) -> list[Line]:
        """All figures that the provider names, and those of ours that it does not have. A difference is within the tolerance
        if it is at most that share of the larger figure, or at most `least` (by measure; 0 if it has none).
        """
        measures = [name for name in MEASURES if any(getattr(sums, name) is not None for sums in self.theirs.values())]
        found = []
        for day, model in sorted(self.theirs.keys() | self.ours.keys()):
            theirs, ours = self.theirs.get((day, model)), self.ours.get((day, model))
            for measure in measures:
                their, our = _figure(theirs, measure), _figure(ours, measure)
                apart = abs(their - our)
                within = apart <= tolerance * max(abs(their), abs(our)) or apart <= least.get(measure, 0)
                kind: Kind = "missing" if ours is None else "extra" if theirs is None else "difference"
                found.append(Line(day=day, model=model, measure=measure, theirs=their, ours=our, gap=None if within else kind))
        return found


def _figure(sums: Sums | None, measure: str) -> int:
    return (getattr(sums, measure) if sums is not None else None) or 0


def reconciliation(provider: str, account: Iterable[Told]) -> Reconciliation:
    """With the provider's side filled in. Models count as one with their dated snapshots; if a line names no model, days are compared."""
    lines = list(account)
    by_model = all(line.model for line in lines)
    theirs: dict[Key, Sums] = {}
    for line in lines:
        theirs.setdefault((line.day, undated(line.model) if by_model else ""), Sums()).add(line)
    return Reconciliation(provider, theirs, by_model, days=frozenset(day for day, _ in theirs))
