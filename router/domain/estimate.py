"""What a request could cost on a deployment: the worst case that is held, and what is likely."""

from __future__ import annotations

import msgspec

from router.domain.extras import billed, dearest_prices
from router.domain.money import MAX_NUSD
from router.domain.prices import Price
from router.domain.pricing import expected, worst_case
from router.domain.request import ParsedRequest
from router.ports import Timeouts
from router.snapshot import Deployment, ServerSettings


class Estimate(msgspec.Struct, frozen=True, gc=False):
    """What one request may use of one deployment, before it is sent."""

    output_cap: int | None
    """Cap per choice that is forwarded; None where there is no output (embeddings)."""
    output_tokens: int
    """All output that the cap allows: choices and hidden reasoning counted in."""
    hold_nusd: int
    """What is reserved first: the worst case, or for a stream that of its first slice; 0 if no price is known."""
    held_output_tokens: int
    """Output tokens that the first hold covers."""


def estimate(
    request: ParsedRequest, deployment: Deployment, server: ServerSettings, timeouts: Timeouts | None = None, *, whole: bool = False
) -> Estimate:
    """What to forward as a cap and to hold.

    `timeouts`: how long the call may take; None: as long as the deployment's own limit says. `whole`: a stream holds all at once too.
    """
    held = total = output_bound(request, deployment)
    cap = request.output_cap
    if cap is None and request.operation != "embeddings":
        cap = deployment.default_max_output_tokens
    if request.stream and total > server.slice_tokens and not whole and not hides_output(request, deployment):
        held = server.slice_tokens
    hold = 0 if deployment.price is None else worst_of(request, deployment, held, timeouts)
    return Estimate(cap, total, hold, held)


def output_bound(request: ParsedRequest, deployment: Deployment) -> int:
    """Output tokens that can come at most: choices and hidden reasoning counted in."""
    if request.operation == "embeddings":
        return 0
    # Some servers take a cap of 0 for none at all: then their own is what may come.
    total = (request.output_cap or deployment.default_max_output_tokens) * request.choices
    return total * 2 if deployment.may_reason_beyond_cap else total


def worst_case_nusd(request: ParsedRequest, deployment: Deployment, timeouts: Timeouts | None = None) -> int | None:
    """The most that the request can cost on the deployment; None if no price is known."""
    return None if deployment.price is None else worst_of(request, deployment, output_bound(request, deployment), timeouts)


def expected_nusd(request: ParsedRequest, deployment: Deployment, likely_output: int) -> int | None:
    """What the request will likely cost on the deployment; None if no price is known.

    `likely_output`: length of a likely answer in tokens, per choice.
    """
    output = likely_output * request.choices
    if likely_output > (request.output_cap or deployment.default_max_output_tokens) or request.operation == "embeddings":
        output = min(output, output_bound(request, deployment))
    tariff = deployment.tariff
    if tariff is not None and request.extras is None:
        return tariff.fixed - (-(request.shape.tokens_likely * tariff.input + output * tariff.output) // 1_000_000)
    price = likely_price(request, deployment)
    return None if price is None else int(expected(price, input_tokens=request.shape.tokens_likely, output_tokens=output))


def likely_price(request: ParsedRequest, deployment: Deployment) -> Price | None:
    """The price at which the request will be charged if it is served as it asks; None if no price is known."""
    price = deployment.price
    if price is None or request.extras is None:
        return price
    special = billed(price, request.extras, "")
    return price if special is None else special.price


def worst_of(request: ParsedRequest, deployment: Deployment, output_tokens: int, timeouts: Timeouts | None = None) -> int:
    """The most that this request can cost with so much output, nano-USD. The deployment must have a price."""
    shape, tariff = request.shape, deployment.tariff
    # No provider reads more than fits into the model's context.
    bound, context = shape.tokens_bound, deployment.traits.context_tokens
    if context is not None and 0 < context < bound:
        bound = context
    if tariff is None or shape.images or shape.audio_tokens_bound or request.extras is not None:
        most = _worst_by_price(request, deployment, bound, output_tokens, timeouts)
    else:
        most = tariff.fixed - (-(bound * tariff.dearest_input + output_tokens * tariff.dearest_output) // 1_000_000)
    return most if most < MAX_NUSD else MAX_NUSD


def _worst_by_price(request: ParsedRequest, deployment: Deployment, bound: int, output_tokens: int, timeouts: Timeouts | None) -> int:
    shape, price = request.shape, deployment.price
    if price is None:
        raise ValueError(f"{deployment.name} has no price")
    return max(
        worst_case(
            one,
            input_tokens=bound,
            output_tokens=output_tokens,
            audio_input_tokens=shape.audio_tokens_bound,
            images=shape.images,
            seconds=(timeouts or deployment.timeouts).total_seconds if one.per_hour_nusd else 0.0,
        )
        for one in ((price,) if request.extras is None else dearest_prices(price, request.extras))
    )


def hides_output(request: ParsedRequest, deployment: Deployment) -> bool:
    """Whether output may be billed that the stream does not show, so that slices cannot be counted."""
    return request.reasoning or "reasoning" in deployment.traits.capabilities or "audio" in request.modalities
