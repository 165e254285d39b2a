"""Settlement: the hold becomes the charge, with one record in the books; exactly once, also when we are cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

import msgspec

from router.call import Attempt
from router.domain.budgets import Reservation
from router.domain.money import MAX_NUSD
from router.domain.pricing import charge, rates_for
from router.domain.records import SpendRecord
from router.domain.usage import Usage
from router.metrics import Metrics
from router.snapshot import Snapshot

_encode = msgspec.json.Encoder().encode


class SettleStore(Protocol):
    """A store that never loses a settlement: what it cannot deliver now it keeps and delivers later."""

    async def settle(self, held: Reservation, *, charge_nusd: int, record: bytes) -> None:
        """Settle now or, if the store is away, durably later."""
        ...

    async def void(self, held: Reservation) -> None:
        """Give the hold back now or later."""
        ...


async def finish(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run money-moving I/O to its end even if we are cancelled meanwhile; then re-raise.

    The common case costs no task. After a cancellation the work is started once more, to its end: every call of
    a ledger is idempotent.
    """
    try:
        await work()
        return
    except asyncio.CancelledError as exc:
        cancelled = exc
    task = asyncio.ensure_future(work())
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as exc:
            cancelled = exc
    task.result()
    raise cancelled


class Settlements:
    """Prices what an attempt used, books it and counts it."""

    def __init__(self, store: SettleStore, metrics: Metrics, *, clock: Callable[[], float], clock_ms: Callable[[], int]) -> None:
        """`clock` gives monotonic seconds, `clock_ms` Unix milliseconds."""
        self._store = store
        self._metrics = metrics
        self._clock = clock
        self._clock_ms = clock_ms

    async def void(self, attempt: Attempt) -> None:
        """The call provably never left: the hold is given back and nothing is booked."""
        if attempt.state != "held":
            return
        attempt.state = "closed"
        self._count(attempt, "voided", None, 0, None)
        await finish(lambda: self._store.void(attempt.held))

    def book(
        self, attempt: Attempt, *, usage: Usage | None, outcome: str, served_model: str = "", cause: str = "provider_exceeded_bound"
    ) -> None:
        """Fix the charge of an attempt. `commit` must follow, whatever happens; until then the hold stands.

        `usage` None: the provider refused it unbilled, the charge is zero. `cause` names why a charge is above
        its hold, if it is. A second call changes nothing.
        """
        if attempt.state != "held":
            return
        attempt.state = "booked"
        call, deployment = attempt.call, attempt.deployment
        duration_ms = int((self._clock() - attempt.began) * 1000)
        amount = 0
        if usage is not None and deployment.price is not None:
            amount = min(charge(deployment.price, usage, images=call.request.shape.images, duration_ms=duration_ms), MAX_NUSD)
        baseline = self._baseline(call.snapshot, usage, call.request.shape.images)
        record = self._record(attempt, usage, amount, baseline, outcome, served_model, duration_ms)
        if amount > attempt.held.amount_nusd:
            record.overrun_nusd = amount - attempt.held.amount_nusd
            record.overrun_cause = cause
            self._metrics.overran(cause=cause, nusd=record.overrun_nusd)
        call.charge_nusd += amount
        attempt.charge_nusd = amount
        attempt.record = _encode(record)
        self._count(attempt, outcome, usage, amount, baseline)

    async def commit(self, attempt: Attempt) -> None:
        """Bring a booked charge to the store."""

        async def deliver() -> None:
            await self._store.settle(attempt.held, charge_nusd=attempt.charge_nusd, record=attempt.record)
            attempt.state = "closed"

        if attempt.state == "booked":
            await finish(deliver)

    async def settle(
        self, attempt: Attempt, *, usage: Usage | None, outcome: str, served_model: str = "", cause: str = "provider_exceeded_bound"
    ) -> None:
        """`book` and `commit` in one."""
        self.book(attempt, usage=usage, outcome=outcome, served_model=served_model, cause=cause)
        await self.commit(attempt)

    def _baseline(self, snapshot: Snapshot, usage: Usage | None, images: int) -> int | None:
        name = snapshot.server.baseline
        price = snapshot.deployments[name].price if name is not None else None
        return None if price is None or usage is None else charge(price, usage, images=images)

    def _record(
        self, attempt: Attempt, usage: Usage | None, amount: int, baseline: int | None, outcome: str, served_model: str, duration_ms: int
    ) -> SpendRecord:
        call, deployment = attempt.call, attempt.deployment
        principal, price = call.principal, deployment.price
        record = SpendRecord(
            attempt_id=attempt.attempt_id,
            request_id=call.request_id,
            at_ms=self._clock_ms(),
            operation=call.operation,
            route=call.route.name,
            rule=call.branch.rule,
            reason=attempt.reason,
            model=deployment.model,
            deployment=deployment.name,
            provider=deployment.provider.name,
            served_model=served_model[:128],
            team=principal.team,
            key_id=principal.key_id,
            user=call.user,
            session=call.session,
            tags=dict(call.tags),
            outcome=outcome,
            http_status=attempt.status,
            attempt_number=attempt.number,
            stream=call.request.stream,
            hold_nusd=attempt.held.amount_nusd,
            charge_nusd=amount,
            baseline_nusd=baseline,
            first_byte_ms=None if attempt.first_byte_at is None else int((attempt.first_byte_at - attempt.began) * 1000),
            duration_ms=duration_ms,
            config_version=call.snapshot.version,
        )
        if usage is not None:
            record.input_tokens = usage.input_tokens
            record.cache_read_tokens = usage.cache_read_tokens
            record.cache_write_tokens = usage.cache_write_tokens
            record.audio_input_tokens = usage.audio_input_tokens
            record.output_tokens = usage.output_tokens
            record.reasoning_tokens = usage.reasoning_tokens
            record.audio_output_tokens = usage.audio_output_tokens
            record.evidence = usage.evidence
            record.doubt = usage.doubt or ""
            if price is not None:
                rates = rates_for(price, usage.input_tokens)
                record.price_source = price.source
                record.price_input = rates.input
                record.price_cache_read = rates.cache_read
                record.price_cache_write = rates.cache_write
                record.price_output = rates.output
                record.price_request = price.per_request_nusd
        return record

    def _count(self, attempt: Attempt, outcome: str, usage: Usage | None, amount: int, baseline: int | None) -> None:
        call, deployment = attempt.call, attempt.deployment
        now = self._clock()
        first = attempt.first_byte_at
        self._metrics.attempt_done(
            route=call.route.name,
            rule=call.branch.rule,
            model=deployment.model,
            deployment=deployment.name,
            provider=deployment.provider.name,
            team=call.principal.team,
            operation=call.operation,
            outcome=outcome,
            usage=usage,
            charge_nusd=amount,
            hold_nusd=attempt.held.amount_nusd,
            baseline_nusd=baseline,
            upstream_seconds=now - attempt.began,
            first_token_seconds=None if first is None else first - attempt.began,
        )
