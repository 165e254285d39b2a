"""What the attempts of a span would have cost at other prices, attempt by attempt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, tzinfo

from router.domain.prices import Price
from router.domain.records import SpendRecord
from router.domain.rerate import REASON, charge_at
from router.spend import dimension

PriceOf = Callable[[SpendRecord], Price | None]
"""The price to use for a record; None: none is known, its charge stays."""


@dataclass(slots=True)
class Bill:
    """One attempt: what it was charged in all, and the record that says what it used."""

    charged_nusd: int = 0
    used: SpendRecord | None = None
    first: SpendRecord | None = None

    def add(self, record: SpendRecord) -> None:
        """Take in one line of the log: the settlement, or a sweep, its correction, or an earlier re-rating."""
        self.charged_nusd += record.charge_nusd
        self.first = self.first or record
        if record.reason != REASON and record.outcome != "swept":
            self.used = record

    @property
    def is_whole(self) -> bool:
        """Whether all that was charged is known: what corrects a charge from before the span does not say how much that was."""
        return self.used is not None and self.first is not None and self.first.outcome != "corrected"


@dataclass(slots=True)
class Compared:
    """One row: what a group was charged, and what it comes to."""

    calls: int = 0
    charged_nusd: int = 0
    rerated_nusd: int = 0
    kept: int = 0
    """Calls without a price, or whose use is not known (swept and never corrected, or charged before the span): their charge stays."""


@dataclass(slots=True)
class Change:
    """An attempt that comes to another sum."""

    record: SpendRecord
    by_nusd: int
    price: Price


@dataclass(slots=True)
class Rerating:
    """Collects records from the beginning of a span on, then compares the calls that were first charged in it.

    Corrections count whenever they were booked: what was corrected after the span is not corrected again.
    """

    price_of: PriceOf
    until_ms: int | None = None
    """End of the span, not included; None: it has none."""
    by: tuple[str, ...] = ("deployment",)
    zone: tzinfo = UTC
    bills: dict[str, Bill] = field(default_factory=dict)
    rows: dict[tuple[str, ...], Compared] = field(default_factory=dict)
    total: Compared = field(default_factory=Compared)
    changes: list[Change] = field(default_factory=list)

    def add(self, record: SpendRecord) -> None:
        """Take in one record."""
        if self.until_ms is not None and record.at_ms >= self.until_ms and record.attempt_id not in self.bills:
            return
        self.bills.setdefault(record.attempt_id, Bill()).add(record)

    def compare(self) -> None:
        """Charge every attempt anew. Call it once, after the last record."""
        for bill in self.bills.values():
            record = bill.used or bill.first
            if record is not None:
                self._compare(record, bill)

    def _compare(self, record: SpendRecord, bill: Bill) -> None:
        price = self.price_of(record)
        cost = None if price is None or not bill.is_whole else _cost(record, price)
        group = tuple([dimension(name)(record, self.zone) for name in self.by])
        for row in (self.rows.setdefault(group, Compared()), self.total):
            row.calls += 1
            row.charged_nusd += bill.charged_nusd
            row.rerated_nusd += bill.charged_nusd if cost is None else cost
            row.kept += cost is None
        if cost is not None and price is not None and cost != bill.charged_nusd:
            self.changes.append(Change(record, cost - bill.charged_nusd, price))

    def sorted_rows(self) -> list[tuple[tuple[str, ...], Compared]]:
        """The largest difference first."""
        return sorted(self.rows.items(), key=lambda item: (-abs(item[1].rerated_nusd - item[1].charged_nusd), item[0]))


def _cost(record: SpendRecord, price: Price) -> int | None:
    if record.outcome == "corrected" and not (record.input_tokens or record.output_tokens):
        # A swept call that turned out never to have left.
        return 0
    return charge_at(record, price)
