"""What all calls of one request may come to together: how many, and for how much."""

from __future__ import annotations

from router.call import Call
from router.dispatch import Failure
from router.domain.estimate import worst_case_nusd
from router.domain.money import format_usd
from router.errors import MAX_COST_EXCEEDED, REQUEST_LIMIT, RouterError
from router.snapshot import Deployment

BEYOND = frozenset({"max_cost", "max_attempts"})
"""Causes of failures that stand for a call that was not made."""


def beyond(call: Call, deployment: Deployment) -> Failure | None:
    """Why a further call of a request may not be made; None: it may."""
    if call.guard_attempts is not None and call.attempts >= call.guard_attempts:
        message = f"Request {call.request_id} may make no more than {call.guard_attempts} calls to providers."
        return Failure(cause="max_attempts", error=RouterError(REQUEST_LIMIT, message, details={"guard": "max_attempts"}))
    most = None if call.restrict is None else call.restrict.max_cost_nusd
    if most is None:
        return None
    spent = call.charge_nusd + call.beside_nusd
    worst = worst_case_nusd(call.request, deployment, call.route.timeouts)
    if worst is not None and spent + worst <= most:
        return None
    message = (
        f"Request {call.request_id} may cost at most {format_usd(most)} USD; its calls so far take {format_usd(spent)} USD of that, "
        f"and the rest is too little for one more call, of {deployment.name}."
    )
    return Failure(cause="max_cost", error=RouterError(MAX_COST_EXCEEDED, message))
