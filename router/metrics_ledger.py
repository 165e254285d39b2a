"""A budget store whose calls are counted and timed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from router.domain.budgets import BucketSet, Refusal, Reservation, WindowMoved
from router.errors import StoreUnavailable
from router.metrics import Metrics
from router.ports import BudgetStore

T = TypeVar("T")


class MeteredStore:
    """Passes every call to a store and counts it. What is not a `BudgetStore` method is the store's own attribute.

    A call through here costs a coroutine. Whoever calls with every request, and has a coroutine of his own, awaits
    `plain` instead and says how long that took: `reserved`, `settled`, and `failed` after `StoreUnavailable`.
    """

    def __init__(self, store: BudgetStore, metrics: Metrics, *, clock: Callable[[], float]) -> None:
        """`clock` gives monotonic seconds."""
        self.plain: Final = store
        self.clock: Final = clock
        self.reserved: Final = metrics.store_times("reserve").observe
        """Count a call of `plain.reserve` that was answered, in seconds."""
        self.settled: Final = metrics.store_times("settle").observe
        """Count a call of `plain.settle` that was answered, in seconds."""
        self._metrics = metrics

    def __getattr__(self, name: str) -> Any:
        return getattr(self.plain, name)

    async def reserve(
        self, *, attempt_id: str, amount_nusd: int, buckets: BucketSet, note: bytes = b"", tokens: int = 0
    ) -> Reservation | Refusal | WindowMoved:
        """See `BudgetStore.reserve`."""
        work = self.plain.reserve(attempt_id=attempt_id, amount_nusd=amount_nusd, buckets=buckets, note=note, tokens=tokens)
        return await self._timed("reserve", work)

    async def extend(self, held: Reservation, *, by_nusd: int) -> Reservation | Refusal:
        """See `BudgetStore.extend`."""
        return await self._timed("extend", self.plain.extend(held, by_nusd=by_nusd))

    async def settle(self, held: Reservation, *, charge_nusd: int, record: bytes, tokens: int | None = None) -> bool:
        """See `BudgetStore.settle`."""
        return await self._timed("settle", self.plain.settle(held, charge_nusd=charge_nusd, record=record, tokens=tokens))

    async def void(self, held: Reservation) -> bool:
        """See `BudgetStore.void`."""
        return await self._timed("void", self.plain.void(held))

    def failed(self, call: str, began: float) -> None:
        """Count a call of `plain` that was begun then and ended with `StoreUnavailable`."""
        self._metrics.store_call(call=call, seconds=self.clock() - began, ok=False)

    async def _timed(self, call: str, work: Awaitable[T]) -> T:
        began = self.clock()
        try:
            answer = await work
        except StoreUnavailable:
            self.failed(call, began)
            raise
        self._metrics.store_call(call=call, seconds=self.clock() - began, ok=True)
        return answer
