"""What a request could cost on a deployment: the worst case that is held, and what is likely."""

from __future__ import annotations

from typing import Final

import msgspec

from router.domain.money import MAX_NUSD
from router.domain.pricing import expected, worst_case
from router.domain.request import ParsedRequest
from router.snapshot import Deployment, ServerSettings

LIKELY_OUTPUT_TOKENS: Final = 300
"""Length of an answer as long as nothing was learned. Median of chat answers in the field, 2026-11."""


class Estimate(msgspec.Struct, frozen=True, gc=False):
    """The price of one request on one deployment, before it is sent. Amounts are nano-USD."""

    output_cap: int | None
    """Cap per choice that is forwarded; None where there is no output (embeddings)."""
    output_tokens: int
    """All output that the cap allows: choices and hidden reasoning counted in."""
    worst_nusd: int | None
    """None: no price is known and none may be assumed."""
    expected_nusd: int | None
    hold_nusd: int
    """What is reserved first: the worst case, or for a stream that of its first slice."""
    held_output_tokens: int
    """Output tokens that the first hold covers."""


def estimate(
    request: ParsedRequest,
    deployment: Deployment,
    server: ServerSettings,
    likely_output: float | None,
    *,
    total_seconds: float | None = None,
) -> Estimate:
    """Price the request on the deployment.

    `likely_output`: learned length of an answer in tokens, if any. `total_seconds`: how long the call may take; None: as
    long as the deployment's own limit says.
    """
    shape = request.shape
    price = deployment.price
    cap: int | None = None
    total = 0
    if request.operation != "embeddings":
        default = deployment.default_max_output_tokens
        cap = default if request.output_cap is None else request.output_cap
        # Some servers take a cap of 0 for none at all: then their own is what may come.
        total = (cap or default) * request.choices
        if deployment.may_reason_beyond_cap:
            total *= 2
    if price is None:
        return Estimate(cap, total, None, None, 0, total)
    likely = int(likely_output or LIKELY_OUTPUT_TOKENS) * request.choices
    if likely > total:
        likely = total
    worst = worst_of(request, deployment, total, total_seconds=total_seconds)
    tariff = deployment.tariff
    if tariff is None:
        likely_nusd = int(expected(price, input_tokens=shape.tokens_likely, output_tokens=likely))
    else:
        likely_nusd = tariff.fixed - (-(shape.tokens_likely * tariff.input + likely * tariff.output) // 1_000_000)
    if request.stream and total > server.slice_tokens and not _hides_output(request, deployment):
        first = worst_of(request, deployment, server.slice_tokens, total_seconds=total_seconds)
        return Estimate(cap, total, worst, likely_nusd, first, server.slice_tokens)
    return Estimate(cap, total, worst, likely_nusd, worst, total)


def worst_of(request: ParsedRequest, deployment: Deployment, output_tokens: int, *, total_seconds: float | None = None) -> int:
    """The most that this request can cost with so much output, nano-USD. The deployment must have a price."""
    shape, tariff = request.shape, deployment.tariff
    # No provider reads more than fits into the model's context.
    bound = min(shape.tokens_bound, deployment.traits.context_tokens or shape.tokens_bound)
    if tariff is not None and not shape.images and not shape.audio_tokens_bound:
        return min(tariff.fixed - (-(bound * tariff.dearest_input + output_tokens * tariff.dearest_output) // 1_000_000), MAX_NUSD)
    price = deployment.price
    if price is None:
        raise ValueError(f"{deployment.name} has no price")
    most = worst_case(
        price,
        input_tokens=bound,
        output_tokens=output_tokens,
        audio_input_tokens=shape.audio_tokens_bound,
        images=shape.images,
        seconds=(total_seconds or deployment.timeouts.total_seconds) if price.per_hour_nusd else 0.0,
    )
    return min(most, MAX_NUSD)


def _hides_output(request: ParsedRequest, deployment: Deployment) -> bool:
    """Whether output may be billed that the stream does not show, so that slices cannot be counted."""
    return request.reasoning or "reasoning" in deployment.traits.capabilities or "audio" in request.modalities
