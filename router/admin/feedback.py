"""`POST /v1/feedback`: who made a request may say what its answer was worth."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import msgspec

from router.adapters.entries import machine_clock_ms
from router.admin.views import View
from router.domain.feedback import FeedbackError, parse_feedback
from router.edge.headers import Headers
from router.edge.replies import JSON, Reply, error_reply
from router.errors import BODY_TOO_LARGE, INVALID_REQUEST, NOT_FOUND, RATE_LIMITED, STORE_UNAVAILABLE, RouterError, StoreUnavailable
from router.metrics import Metrics
from router.ratings import Ratings

MAX_BYTES: Final = 4096
PER_SECOND: Final = 20.0
"""Ratings that a key may send, over time ..."""
BURST: Final = 200.0
"""... and at once."""
MOST_KEYS: Final = 10_000
NOTE: Final = "Kept. It counts if the log has a request of this id that was made with this key."


class FeedbackDesk:
    """Takes feedback in: authenticated, bounded, and as often as it is sent counted once."""

    def __init__(
        self,
        view: View,
        ratings: Ratings,
        metrics: Metrics,
        *,
        clock: Callable[[], float] = time.monotonic,
        clock_ms: Callable[[], int] = machine_clock_ms,
    ) -> None:
        """`clock` gives monotonic seconds, `clock_ms` Unix milliseconds."""
        self._view = view
        self._ratings = ratings
        self._metrics = metrics
        self._clock = clock
        self._clock_ms = clock_ms
        self._room: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """(Ratings that are left, when that was worked out) by key."""

    async def take(self, headers: Headers, body: bytes | None) -> Reply:
        """The answer. `body` None: it was larger than `MAX_BYTES`."""
        try:
            reply = await self._take(headers, body)
        except FeedbackError as error:
            self._metrics.feedback(outcome="refused")
            return error_reply(RouterError(NOT_FOUND if error.unknown else INVALID_REQUEST, str(error), param=error.param or None))
        except RouterError as error:
            self._metrics.feedback(outcome="refused")
            return error_reply(error)
        except StoreUnavailable as error:
            self._metrics.feedback(outcome="failed")
            return error_reply(RouterError(STORE_UNAVAILABLE, f"The store does not answer ({error}).", retry_after_seconds=1.0))
        self._metrics.feedback(outcome="stored")
        return reply

    async def _take(self, headers: Headers, body: bytes | None) -> Reply:
        principal = await self._view.admit(headers)
        if body is None:
            raise RouterError(BODY_TOO_LARGE, f"Feedback has at most {MAX_BYTES:,} bytes.")
        given = parse_feedback(body, key_id=principal.key_id, at_ms=self._clock_ms())
        if not self._has_room(principal.key_id):
            raise RouterError(RATE_LIMITED, f"This key sends more than {PER_SECOND:.0f} ratings a second.", retry_after_seconds=1.0)
        await self._ratings.put(given)
        told = {"object": "faregate.feedback", "request_id": given.request_id, "rating": given.rating, "label": given.label, "note": NOTE}
        # Whether there was such a request is known to the log only, which is read when ratings are.
        return Reply(202, [JSON], msgspec.json.encode(told))

    def _has_room(self, key_id: str) -> bool:
        now = self._clock()
        left, since = self._room.pop(key_id, (BURST, now))
        left = min(BURST, left + (now - since) * PER_SECOND)
        self._room[key_id] = (left - 1 if left >= 1 else left, now)
        if len(self._room) > MOST_KEYS:
            self._room.popitem(last=False)
        return left >= 1
