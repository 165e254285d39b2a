"""What the simulated provider billed: the truth that a router's books are compared with."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from router.domain.prices import Price


@dataclass(frozen=True, slots=True, kw_only=True)
class BilledCall:
    """One call that cost money."""

    id: str
    """The `id` of the answer."""
    model: str
    input_tokens: int
    """Cached ones included."""
    cached_tokens: int
    output_tokens: int
    nusd: int
    complete: bool
    """False: the client left, or the answer was cut, before its end."""


@dataclass(slots=True)
class ModelBill:
    """Sums of one model."""

    calls: int = 0
    incomplete_calls: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    nusd: int = 0


@dataclass(slots=True)
class Bill:
    """Everything billed since the start, per model, and the last 10,000 calls one by one."""

    models: dict[str, ModelBill] = field(default_factory=dict)
    calls: deque[BilledCall] = field(default_factory=lambda: deque(maxlen=10_000))

    @property
    def nusd(self) -> int:
        """The total, nano-USD."""
        return sum(bill.nusd for bill in self.models.values())

    @property
    def calls_total(self) -> int:
        """How many calls cost money."""
        return sum(bill.calls for bill in self.models.values())

    def add(self, call: BilledCall) -> None:
        """Put a call on the bill."""
        bill = self.models.setdefault(call.model, ModelBill())
        bill.calls += 1
        bill.incomplete_calls += not call.complete
        bill.input_tokens += call.input_tokens
        bill.cached_tokens += call.cached_tokens
        bill.output_tokens += call.output_tokens
        bill.nusd += call.nusd
        self.calls.append(call)


def bill_nusd(price: Price, *, input_tokens: int, cached_tokens: int, output_tokens: int) -> int:
    """The provider's own sum, nano-USD, rounded up once per call.

    Written apart from the router's pricing on purpose: two programs that agree prove more than one that
    agrees with itself.
    """
    rates = price.rates
    for tier in price.tiers:
        if input_tokens > tier.above_input_tokens:
            rates = tier.rates
    cached_rate = rates.input if rates.cache_read is None else rates.cache_read
    micro = (input_tokens - cached_tokens) * rates.input + cached_tokens * cached_rate + output_tokens * rates.output
    return -(-micro // 1_000_000) + price.per_request_nusd
