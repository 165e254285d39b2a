"""Slices: a stream holds its money piece by piece. Here is what is done about providers with which that cannot work."""

from __future__ import annotations

from typing import Final

import structlog

from router.call import Attempt
from router.domain.budgets import Reservation
from router.domain.counting import Metered
from router.domain.estimate import hides_output
from router.errors import StoreUnavailable
from router.fleet import Fleet
from router.metrics import Metrics
from router.outcome import budget_error
from router.ports import BudgetStore
from router.relay import extend_to

IGNORED_STREAM: Final = "provider_ignored_stream"
"""It answers a wish for a stream with one JSON body: all output is written before the first byte can be counted."""
HIDDEN_OUTPUT: Final = "hidden_output"
"""It bills output that its stream does not show."""
FAR: Final = 256
"""Output tokens above what a stream can hold before they count as hidden: some are always beside the text."""

log = structlog.get_logger("faregate.money")


class Slices:
    """Knows which deployments cannot be held slice by slice, and why."""

    def __init__(self, fleet: Fleet, store: BudgetStore, metrics: Metrics) -> None:
        self._known = fleet.unsliced
        self._store = store
        self._metrics = metrics

    def fail_for(self, deployment: str) -> bool:
        """Whether all that the cap allows must be held before a stream of this deployment begins."""
        return deployment in self._known

    async def hold_all(self, attempt: Attempt) -> Exception | None:
        """Hold all that the cap allows, because no stream came. What to raise if that cannot be: the answer is not paid for."""
        self.learn(attempt, IGNORED_STREAM)
        try:
            answer = await extend_to(self._store, attempt, attempt.estimate.output_tokens)
        except StoreUnavailable as exc:
            return exc
        if isinstance(answer, Reservation):
            return None
        self._metrics.refused(budget=answer.bucket.budget, action="cut")
        return budget_error(attempt.call, answer, deployment=attempt.deployment.name)

    def cause(self, attempt: Attempt, metered: Metered) -> str:
        """Why the charge is above its hold, if it is. A deployment that shows that slices cannot work is remembered."""
        # Of a whole JSON answer, only hidden reasoning says anything.
        found = self._shown_by(attempt, metered) if attempt.meter is not None or metered.usage.reasoning_tokens else ""
        if found:
            self.learn(attempt, found)
        if metered.over_cap:
            return "provider_exceeded_cap"
        if metered.over_bound:
            return "input_above_bound"
        return found or "provider_exceeded_bound"

    def learn(self, attempt: Attempt, cause: str) -> None:
        """From now on the deployment's streams hold all that their cap allows."""
        name = attempt.deployment.name
        if name not in self._known:
            self._known[name] = cause
            log.warning("streams of a deployment are held as a whole from now on", deployment=name, cause=cause)

    def _shown_by(self, attempt: Attempt, metered: Metered) -> str:
        """Why slices cannot work with the deployment, by this answer; empty if it does not say so, or that was known."""
        usage, meter = metered.usage, attempt.meter
        if meter is not None and meter.is_json:
            return IGNORED_STREAM
        if not usage.reasoning_tokens:
            if meter is None or usage.evidence != "exact" or usage.output_tokens <= FAR:
                return ""
            if usage.output_tokens <= meter.output_tokens_bound + FAR:
                return ""
        return "" if hides_output(attempt.call.request, attempt.deployment) else HIDDEN_OUTPUT
