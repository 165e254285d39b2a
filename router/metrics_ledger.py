"""A budget store whose calls are counted and timed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from router.domain.budgets import BucketSet, Refusal, Reservation, WindowMoved
from router.errors import StoreUnavailable
from router.metrics import Metrics
from router.ports import BudgetStore

T = TypeVar("T")


class MeteredStore:
    """Passes every call to a store and counts it. What is not a `BudgetStore` method is the store's own attribute."""

    def __init__(self, store: BudgetStore, metrics: Metrics, *, clock: Callable[[], float]) -> None:
        """`clock` gives monotonic seconds."""
        self._store = store
        self._metrics = metrics
        self._clock = clock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def reserve(
        self, *, attempt_id: str, amount_nusd: int, buckets: BucketSet, note: bytes = b""
    ) -> Reservation | Refusal | WindowMoved:
        """See `BudgetStore.reserve`."""
        began = self._clock()
        try:
            answer = await self._store.reserve(attempt_id=attempt_id, amount_nusd=amount_nusd, buckets=buckets, note=note)
        except StoreUnavailable:
            self._metrics.store_call(call="reserve", seconds=self._clock() - began, ok=False)
            raise
        self._metrics.store_call(call="reserve", seconds=self._clock() - began, ok=True)
        return answer

    async def extend(self, held: Reservation, *, by_nusd: int) -> Reservation | Refusal:
        """See `BudgetStore.extend`."""
        return await self._timed("extend", self._store.extend(held, by_nusd=by_nusd))

    async def settle(self, held: Reservation, *, charge_nusd: int, record: bytes) -> bool:
        """See `BudgetStore.settle`."""
        began = self._clock()
        try:
            booked = await self._store.settle(held, charge_nusd=charge_nusd, record=record)
        except StoreUnavailable:
            self._metrics.store_call(call="settle", seconds=self._clock() - began, ok=False)
            raise
        self._metrics.store_call(call="settle", seconds=self._clock() - began, ok=True)
        return booked

    async def void(self, held: Reservation) -> bool:
        """See `BudgetStore.void`."""
        return await self._timed("void", self._store.void(held))

    async def _timed(self, call: str, work: Awaitable[T]) -> T:
        began = self._clock()
        try:
            answer = await work
        except StoreUnavailable:
            self._metrics.store_call(call=call, seconds=self._clock() - began, ok=False)
            raise
        self._metrics.store_call(call=call, seconds=self._clock() - began, ok=True)
        return answer
