"""What happened, seen from outside: every answer, and what the ledger says it cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from router.demo.client import Reply
from router.demo.traffic import Ask
from router.domain.budgets import BucketState
from router.domain.records import SpendRecord
from router.ports import Books


@dataclass(slots=True, kw_only=True)
class Seen:
    """One request and its answer."""

    number: int
    act: str
    ask: Ask
    status: int = 0
    """HTTP status; 0: no answer came."""
    headers: Mapping[str, str] = field(default_factory=dict)
    error: Mapping[str, Any] | None = None
    seconds: float = 0.0
    charge_nusd: int | None = None
    """By the ledger, all attempts together; None until it is booked."""
    baseline_nusd: int | None = None
    """What the same usage would have cost on the frontier model."""

    @property
    def request_id(self) -> str:
        return self.headers.get("x-faregate-request-id", "")

    @property
    def model(self) -> str:
        """Which model answered; empty if none did."""
        return self.headers.get("x-faregate-model", "") if self.status == 200 else ""

    @property
    def why(self) -> str:
        """Rule and reason, or the code of the refusal."""
        if self.error is not None:
            return f"{self.error.get('code')}: {self.error.get('budget', '')}".removesuffix(": ")
        return f"{self.headers.get('x-faregate-rule', '')}/{self.headers.get('x-faregate-reason', '')}"

    @property
    def attempts(self) -> int:
        return int(self.headers.get("x-faregate-attempts", "0"))

    @property
    def overhead_ms(self) -> float | None:
        found = self.headers.get("x-faregate-overhead-ms")
        return None if found is None else float(found)

    def answered(self, reply: Reply, seconds: float) -> None:
        """Fill in what came back."""
        self.status, self.headers, self.error, self.seconds = reply.status, reply.headers, reply.error, seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Sums over records of the ledger."""

    calls: int
    charge_nusd: int
    baseline_nusd: int
    by_team: Mapping[str, int]
    """Nano-USD."""
    by_model: Mapping[str, int]
    """Nano-USD."""
    unsure: int
    """Records whose usage is not the provider's own count."""

    @property
    def avoided_nusd(self) -> int:
        return self.baseline_nusd - self.charge_nusd


class Watch:
    """Everything seen so far."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self.seen: list[Seen] = []
        self.records: list[SpendRecord] = []
        self.buckets: Sequence[BucketState] = ()

    def note(self, act: str, ask: Ask) -> Seen:
        """Begin to watch a request."""
        one = Seen(number=len(self.seen) + 1, act=act, ask=ask)
        self.seen.append(one)
        return one

    async def refresh(self) -> None:
        """Read the ledger again, and tell each request what it cost."""
        self.records = [msgspec.json.decode(raw, type=SpendRecord) async for raw in self._books.records()]
        self.buckets = await self._books.bucket_states()
        charges: Counter[str] = Counter()
        baselines: Counter[str] = Counter()
        for record in self.records:
            charges[record.request_id] += record.charge_nusd
            baselines[record.request_id] += record.baseline_nusd or 0
        for one in self.seen:
            if one.request_id in charges:
                one.charge_nusd, one.baseline_nusd = charges[one.request_id], baselines[one.request_id]

    def bucket(self, budget: str, scope: str = "") -> BucketState | None:
        """The state of one budget now; None if nothing was spent in it."""
        return next((state for state in self.buckets if state.budget == budget and state.scope == scope), None)

    def totals(self) -> Totals:
        """Sums over all records."""
        teams: Counter[str] = Counter()
        models: Counter[str] = Counter()
        for record in self.records:
            teams[record.team] += record.charge_nusd
            models[record.model] += record.charge_nusd
        charged = [record for record in self.records if record.charge_nusd]
        return Totals(
            calls=len(charged),
            charge_nusd=sum(teams.values()),
            baseline_nusd=sum(record.baseline_nusd or 0 for record in charged),
            by_team=teams,
            by_model=models,
            unsure=sum(record.evidence != "exact" for record in charged),
        )


def models_of(seen: Iterable[Seen]) -> Counter[str]:
    """How many requests each model answered."""
    return Counter(one.model for one in seen if one.model)


def count_refused(seen: Iterable[Seen], budget: str = "") -> int:
    """How many requests were refused for money, by the budget of that name if one is given."""
    return sum(one.status == 402 and budget in ("", (one.error or {}).get("budget")) for one in seen)
