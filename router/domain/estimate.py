"""What a request could cost on a deployment: the worst case that is held, and what is likely."""

from __future__ import annotations

from typing import Final

import msgspec

from router.domain.pricing import expected, worst_case
from router.domain.request import ParsedRequest
from router.snapshot import Deployment, ServerSettings

LIKELY_OUTPUT_TOKENS: Final = 300
"""Length of an answer as long as nothing was learned. Median of chat answers in the field, 2026-11."""


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
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


def estimate(request: ParsedRequest, deployment: Deployment, server: ServerSettings, likely_output: float | None) -> Estimate:
    """Price the request on the deployment. `likely_output`: learned length of an answer in tokens, if any."""
    shape = request.shape
    price = deployment.price
    if request.operation == "embeddings":
        cap, total = None, 0
    else:
        cap = request.output_cap or deployment.default_max_output_tokens
        total = cap * request.choices
        if not deployment.provider.quirks.cap_includes_reasoning and "reasoning" in deployment.traits.capabilities:
            total *= 2
    if price is None:
        return Estimate(output_cap=cap, output_tokens=total, worst_nusd=None, expected_nusd=None, hold_nusd=0, held_output_tokens=total)
    seconds = deployment.timeouts.total_seconds if price.per_hour_nusd else 0.0
    bound = shape.tokens_bound
    worst = worst_case(
        price,
        input_tokens=bound,
        output_tokens=total,
        audio_input_tokens=shape.audio_tokens_bound,
        images=shape.images,
        seconds=seconds,
    )
    likely = min(int(likely_output or LIKELY_OUTPUT_TOKENS) * request.choices, total)
    hold, held = worst, total
    if request.stream and total > server.slice_tokens and not _hides_output(request, deployment):
        held = server.slice_tokens
        hold = worst_case(
            price,
            input_tokens=bound,
            output_tokens=held,
            audio_input_tokens=shape.audio_tokens_bound,
            images=shape.images,
            seconds=seconds,
        )
    return Estimate(
        output_cap=cap,
        output_tokens=total,
        worst_nusd=worst,
        expected_nusd=expected(price, input_tokens=shape.tokens_likely, output_tokens=likely),
        hold_nusd=hold,
        held_output_tokens=held,
    )


def _hides_output(request: ParsedRequest, deployment: Deployment) -> bool:
    """Whether output may be billed that the stream does not show, so that slices cannot be counted."""
    return request.reasoning or "reasoning" in deployment.traits.capabilities or "audio" in request.modalities
