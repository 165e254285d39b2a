"""What one request may ask for: checked as soon as its route is known."""

from __future__ import annotations

from router.call import Call
from router.domain.limits import breach, clamped_cap
from router.errors import REQUEST_LIMIT, RouterError


def guard(call: Call) -> None:
    """Check a request against what its route, its team and its key let one request ask for. A cap may be clamped.

    Raises:
        RouterError: 400, if it asks for more.
    """
    asked = call.request.output_cap
    for guards in (*call.route.guards, *call.principal.guards):
        found = breach(call.request, guards)
        if found is not None:
            call.guarded = (found.guard, "refuse")
            raise RouterError(
                REQUEST_LIMIT, f"{found.message} Request {call.request_id}.", param=found.param, details={"guard": found.guard}
            )
        if guards.max_tokens is not None:
            _clamp(call, guards.max_tokens, asked)
        if guards.max_attempts is not None and (call.max_attempts is None or guards.max_attempts < call.max_attempts):
            call.max_attempts = call.guard_attempts = guards.max_attempts


def _clamp(call: Call, most: int, asked: int | None) -> None:
    """Lower the cap to `most`; `asked` is the client's own, if it set one."""
    request = call.request
    cap = clamped_cap(request, most, (call.snapshot.deployments[name] for name in call.route.deployments))
    if cap is None:
        return
    if asked is not None:
        call.guarded = ("max_tokens", "clamp")
    request.output_cap = cap
    # However the client wrote it, it has to be written anew.
    request.cap_field = ""
