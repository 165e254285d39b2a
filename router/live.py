"""Calls under way, and what is held for them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

from router.call import Attempt
from router.reservation import burnt_nusd


def new_ids(prefix: str) -> Callable[[], str]:
    """What gives each request of this process an id of its own."""
    counter = itertools.count(1)
    return lambda: f"{prefix}{next(counter):x}"


def hold_lines(live: Mapping[str, Attempt], *, worker: int, now: float) -> list[dict[str, Any]]:
    """What is held by this worker at this moment, the oldest first. `now`: monotonic seconds."""
    lines = [_line(attempt_id, attempt, worker, now) for attempt_id, attempt in live.items()]
    return sorted(lines, key=lambda line: -line["age_ms"])


def _line(attempt_id: str, attempt: Attempt, worker: int, now: float) -> dict[str, Any]:
    call = attempt.call
    return {
        "attempt_id": attempt_id,
        "request_id": call.request_id,
        "worker": worker,
        "age_ms": max(0, round((now - call.began) * 1000)),
        "state": attempt.state,
        "route": call.route.name,
        "model": attempt.deployment.model,
        "deployment": attempt.deployment.name,
        "team": call.principal.team,
        "key_id": call.principal.key_id,
        "user": call.user,
        "session": call.session,
        "stream": call.stream,
        "held_nusd": attempt.held.amount_nusd,
        "burnt_nusd": burnt_nusd(attempt),
    }
