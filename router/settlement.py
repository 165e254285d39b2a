"""Settlement: the hold becomes the charge, with one record in the books; exactly once, also when we are cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final, Protocol

from router.call import Attempt
from router.domain.budgets import Reservation
from router.domain.extras import billed
from router.domain.money import MAX_NUSD
from router.domain.prices import Price
from router.domain.pricing import charge
from router.domain.usage import Usage
from router.lines import MAX_SERVED_MODEL, served_as, spend_record
from router.metrics import Metrics
from router.metrics_series import AttemptSeries
from router.snapshot import Snapshot

ABOVE_BOUND: Final = "provider_exceeded_bound"
"""Why a charge is above its hold, where nothing better is known."""


class SettleStore(Protocol):
    """A store that never loses a settlement: what it cannot deliver now it keeps and delivers later."""

    async def settle(self, held: Reservation, *, charge_nusd: int, record: bytes, tokens: int | None = None) -> None:
        """Settle now or, if the store is away, durably later."""
        ...

    async def void(self, held: Reservation) -> None:
        """Give the hold back now or later."""
        ...


async def finish(work: Callable[[], Coroutine[Any, Any, None]], *, cancelled: bool = False) -> None:
    """Run money-moving I/O to its end even if we are cancelled meanwhile; then re-raise.

    The common case costs no task. After a cancellation the work is started once more, to its end: every call of
    a ledger is idempotent. `cancelled`: it was cancelled already, and only the second try is left.
    """
    if not cancelled:
        try:
            await work()
            return
        except asyncio.CancelledError:
            pass
    task = asyncio.ensure_future(work())
    while not task.done():
        with suppress(asyncio.CancelledError):
            await asyncio.shield(task)
    task.result()
    raise asyncio.CancelledError


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
        self._count(attempt, "voided", None, None, self._clock() - attempt.began)
        await finish(lambda: self._store.void(attempt.held))

    async def give_back(self, held: Reservation) -> None:
        """Undo a hold for which nothing was sent or booked."""
        await finish(lambda: self._store.void(held))

    def book(
        self,
        attempt: Attempt,
        *,
        usage: Usage | None,
        outcome: str,
        served_model: str = "",
        cause: str = ABOVE_BOUND,
        ended: float | None = None,
    ) -> None:
        """Fix the charge of an attempt. `commit` must follow, whatever happens; until then the hold stands.

        `usage` None: the provider refused it unbilled, the charge is zero. `cause` names why a charge is above
        its hold, if it is. `ended`: monotonic seconds of the provider's last byte; None: now. A second call changes
        nothing.
        """
        if attempt.state != "held":
            return
        attempt.state = "booked"
        seconds = (self._clock() if ended is None else ended) - attempt.began
        call, held, plain, first = attempt.call, attempt.held, attempt.way.plain, attempt.first_byte_at
        if (
            # The short way is for a whole answer that cost its tokens, as `charge` looks at them, and nothing else ...
            plain is None
            or outcome != "ok"
            or usage is None
            or usage.evidence != "exact"
            or usage.cache_read_tokens
            or usage.cache_write_tokens
            or usage.audio_input_tokens
            or usage.reasoning_tokens
            or usage.audio_output_tokens
            or usage.doubt
            or call.request.extras is not None
            # ... and of which the record has nothing more to say.
            or first is None
            or held.tokens
            or attempt.clamped_to
            or attempt.sends > 1
            or call.plan is not None
            or call.trace
        ):
            self._book_closely(attempt, usage=usage, outcome=outcome, served_model=served_model, cause=cause, seconds=seconds)
            return
        amount = plain.fixed - (-(usage.input_tokens * plain.input_rate + usage.output_tokens * plain.output_rate) // 1_000_000)
        if amount > held.amount_nusd:
            self._book_closely(attempt, usage=usage, outcome=outcome, served_model=served_model, cause=cause, seconds=seconds)
            return
        call.charge_nusd += amount
        attempt.charge_nusd = amount
        first_seconds = first - attempt.began
        attempt.record = plain.record % (
            attempt.attempt_id.encode(),
            call.id_bytes,
            self._clock_ms(),
            attempt.status,
            attempt.number,
            held.amount_nusd,
            amount,
            int(seconds * 1000),
            usage.input_tokens,
            usage.output_tokens,
            int(first_seconds * 1000),
            b"" if not served_model or served_model == attempt.deployment.upstream_id else served_as(served_model[:MAX_SERVED_MODEL]),
        )
        series = attempt.way.answered or self._series(attempt, "ok")
        # Only a stream has a first token that comes before the others.
        series.observe((usage, amount, held.amount_nusd, None, seconds, None if attempt.meter is None else first_seconds))

    def _book_closely(self, attempt: Attempt, *, usage: Usage | None, outcome: str, served_model: str, cause: str, seconds: float) -> None:
        """The same whatever the call cost and however it went."""
        call, deployment = attempt.call, attempt.deployment
        duration_ms = int(seconds * 1000)
        amount, price, charged_hold = 0, attempt.price, False
        if price is not None and (deployment.has_services or call.request.extras is not None):
            price = _special_price(attempt, price)
        if usage is not None and price is not None:
            amount = min(charge(price, usage, images=call.request.shape.images, duration_ms=duration_ms), MAX_NUSD)
            if usage.evidence == "estimated" and call.snapshot.server.on_missing_usage == "hold":
                charged_hold = amount < attempt.held.amount_nusd
                amount = max(amount, attempt.held.amount_nusd)
        baseline = None if call.snapshot.server.baseline is None else self._baseline(call.snapshot, usage, call.request.shape.images)
        if amount > attempt.held.amount_nusd:
            if usage is not None and attempt.estimate.input_tokens is not None and usage.input_tokens > attempt.estimate.input_tokens:
                cause = "input_above_bound"
            self._metrics.overran(cause=cause, nusd=amount - attempt.held.amount_nusd)
        call.charge_nusd += amount
        attempt.charge_nusd = amount
        if attempt.held.tokens:
            attempt.tokens = 0 if usage is None else usage.input_tokens + usage.output_tokens
        attempt.record = spend_record(
            attempt,
            usage=usage,
            outcome=outcome,
            served_model=served_model,
            at_ms=self._clock_ms(),
            duration_ms=duration_ms,
            baseline_nusd=baseline,
            overrun_cause=cause,
            charged_hold=charged_hold,
        )
        self._count(attempt, outcome, usage, baseline, seconds)

    async def commit(self, attempt: Attempt) -> None:
        """Bring a booked charge to the store."""
        if attempt.state != "booked":
            return
        try:
            await self._store.settle(attempt.held, charge_nusd=attempt.charge_nusd, record=attempt.record, tokens=attempt.tokens)
        except asyncio.CancelledError:
            await finish(lambda: self._settle(attempt), cancelled=True)
        attempt.state = "closed"

    def _settle(self, attempt: Attempt) -> Coroutine[Any, Any, None]:
        return self._store.settle(attempt.held, charge_nusd=attempt.charge_nusd, record=attempt.record, tokens=attempt.tokens)

    async def settle(
        self, attempt: Attempt, *, usage: Usage | None, outcome: str, served_model: str = "", cause: str = ABOVE_BOUND
    ) -> None:
        """`book` and `commit` in one."""
        self.book(attempt, usage=usage, outcome=outcome, served_model=served_model, cause=cause)
        await self.commit(attempt)

    def _baseline(self, snapshot: Snapshot, usage: Usage | None, images: int) -> int | None:
        name = snapshot.server.baseline
        price = snapshot.deployments[name].price if name is not None else None
        return None if price is None or usage is None else charge(price, usage, images=images)

    def _count(self, attempt: Attempt, outcome: str, usage: Usage | None, baseline: int | None, seconds: float) -> None:
        series = attempt.way.answered if outcome == "ok" else None
        if series is None:
            series = self._series(attempt, outcome)
        # Only a stream has a first token that comes before the others.
        first_seconds = attempt.first_byte_at - attempt.began if attempt.meter is not None and attempt.first_byte_at is not None else None
        series.observe((usage, attempt.charge_nusd, attempt.held.amount_nusd, baseline, seconds, first_seconds))

    def _series(self, attempt: Attempt, outcome: str) -> AttemptSeries:
        call, deployment = attempt.call, attempt.deployment
        series = self._metrics.attempt_series(
            route=call.route.name,
            rule=call.branch.rule,
            model=deployment.model,
            deployment=deployment.name,
            provider=deployment.provider.name,
            team=call.principal.team,
            operation=call.operation,
            outcome=outcome,
        )
        if outcome == "ok":
            attempt.way.answered = series
        return series


def _special_price(attempt: Attempt, price: Price) -> Price:
    """The price with what was bought beside tokens, and of the service tier that the answer names."""
    meter = attempt.meter
    answered = attempt.answered_tier if meter is None else meter.service_tier
    attempt.billed = special = billed(price, attempt.call.request.extras, answered)
    return price if special is None else special.price
