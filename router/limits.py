"""Limits on speed on their way through the stages: refusals, and what is remembered of full ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import msgspec

from router.call import Call
from router.domain.budgets import Refusal
from router.domain.limits import is_providers, is_rate_limit, limit_kind, limit_word, rate_headers, rate_message
from router.errors import RATE_LIMIT_TOO_SMALL, RATE_LIMITED, RouterError
from router.metrics import Metrics
from router.outcome import budget_error


class RateLimits:
    """What is done where a rate limit has no room. One per configuration and process."""

    def __init__(self, metrics: Metrics, *, clock: Callable[[], float], clock_ms: Callable[[], int]) -> None:
        """`clock` gives monotonic seconds, `clock_ms` Unix milliseconds."""
        self._metrics = metrics
        self._clock = clock
        self._clock_ms = clock_ms
        self.full: dict[str, tuple[float, Refusal]] = {}
        """Until when a provider's limit has no room, by deployment. One entry per deployment at most."""

    def refusal_of(self, deployment: str) -> Refusal | None:
        """What the store would say, if a deployment's own limit is known to have no room: it need not be asked."""
        until, refusal = self.full.get(deployment, (0.0, None))
        if refusal is None:
            return None
        left = until - self._clock()
        if left <= 0:
            del self.full[deployment]
            return None
        return msgspec.structs.replace(refusal, retry_after_ms=math.ceil(left * 1000))

    def skip(self, deployment: str, refusal: Refusal) -> None:
        """Note that a deployment's own limit has no room, and until when."""
        bucket = refusal.bucket
        self._metrics.rate_limited(kind=limit_kind(bucket), limit=limit_word(bucket), action="next")
        self._metrics.rejected(deployment=deployment, reason="rate_limited")
        wait = refusal.retry_after_ms
        # A large request that finds no room for its tokens says nothing of a small one.
        if wait is not None and bucket.unit == "requests":
            self.full[deployment] = (self._clock() + wait / 1000, refusal)

    def passed_over(self, call: Call, deployment: str, refusal: Refusal) -> str:
        """Why the next candidate is tried, which may have room.

        Raises:
            RouterError: 429, if it cannot: the limit is the client's own.
        """
        if not is_rate_limit(refusal.bucket):
            return "fallback:budget"
        if not is_providers(refusal.bucket):
            raise self.refused(call, refusal)
        self.skip(deployment, refusal)
        return "fallback:rate_limited"

    def no_room(self, call: Call, refusals: Mapping[str, Refusal]) -> RouterError:
        """The answer if no candidate has room: by the limit that passes soonest, else by the budget that refused the cheapest.

        `refusals` are by deployment.
        """
        limited = [refusal for refusal in refusals.values() if is_rate_limit(refusal.bucket)]
        if limited:
            return self.refused(call, min(limited, key=lambda refusal: refusal.retry_after_ms or 0))
        cheapest = min(refusals, key=lambda name: (refusals[name].bucket.unit != "usd", refusals[name].needed_nusd))
        least = refusals[cheapest]
        self._metrics.refused(budget=least.bucket.budget, action="refuse")
        return budget_error(call, least, deployment=cheapest, among=len(refusals))

    def refused(self, call: Call, refusal: Refusal) -> RouterError:
        """The answer to a request that a limit has no room for."""
        bucket = refusal.bucket
        if is_providers(bucket):
            message = f"Every deployment of '{call.route.name}' is at its provider's rate limit. {rate_message(refusal)}"
        else:
            message = rate_message(refusal)
            call.rate_lines = rate_headers([(bucket, refusal.left_nusd)], self._clock_ms())
        self._metrics.rate_limited(kind=limit_kind(bucket), limit=limit_word(bucket), action="refuse")
        fits = refusal.needed_nusd <= refusal.limit_nusd
        wait = refusal.retry_after_ms
        return RouterError(
            RATE_LIMITED if fits else RATE_LIMIT_TOO_SMALL,
            f"{message} Request {call.request_id}.",
            retry_after_seconds=1.0 if wait is None else wait / 1000,
            details={
                "type": "tokens" if bucket.unit == "tokens" else "requests",
                "limit_name": bucket.budget,
                "scope": bucket.scope,
                "limit": refusal.limit_nusd,
                "used": refusal.spent_nusd + refusal.held_nusd,
                "needed": refusal.needed_nusd,
                "retry_after_ms": wait,
                "request_id": call.request_id,
            },
        )
