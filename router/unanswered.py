"""What a call is charged for that has no answer, and what its client is told if providers are at their limits."""

from __future__ import annotations

from collections.abc import Mapping

from router.call import Attempt, Call
from router.dispatch import Failure
from router.domain.usage import Usage
from router.fleet import USUAL_LENGTH, Fleet
from router.relay import meter_body


def unanswered(attempt: Attempt, doubt: str, fleet: Fleet) -> Usage:
    """What a call without an answer is charged for: the prompt, and what may have been written.

    A stream stops where it is left: what came of it counts. A JSON answer is written to its end by many providers,
    whether the client waits or not: all that the cap allows counts if the client left, or hanging up would be a
    way to spend unseen; the likely length of an answer counts if the provider was too slow.
    """
    meter = attempt.meter
    if meter is not None:
        return meter.finish(complete=False).usage
    request, priced = attempt.call.request, attempt.estimate
    output = 0
    if doubt == "client_left" and not request.stream:
        output = priced.output_tokens
    elif not request.stream:
        view = fleet.view(attempt.deployment.name, input_tokens=request.shape.tokens_likely)
        output = min(int(view.expected_output_tokens or USUAL_LENGTH) * request.choices, priced.output_tokens)
    return Usage(input_tokens=request.shape.tokens_likely, output_tokens=output, evidence="partial", doubt="truncated")


def of_no_answer(attempt: Attempt, failure: Failure, fleet: Fleet) -> Usage:
    """What a success without an answer is charged for: what it says itself, or what may have been written."""
    if failure.body:
        told = meter_body(attempt, failure.body).usage
        if told.evidence == "exact" or b"data:" in failure.body:
            return told
    return unanswered(attempt, "invalid", fleet)


def limited_answer(call: Call, limited: Mapping[str, Failure]) -> Failure | None:
    """The rate limit that a provider last answered, if every candidate is waiting for its own to end."""
    decision = call.decision
    if decision is None or any(rejection.reason != "cooldown" for rejection in decision.rejected):
        return None
    known = [limited.get(name) for name in call.branch.deployments]
    return known[0] if known and all(known) else None
