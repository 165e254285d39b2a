"""What a request could cost on a deployment: the worst case that is held, and what is likely."""

from __future__ import annotations

import msgspec

from router.domain.extras import billed, dearest_prices
from router.domain.learning import Habits, Lengths, Share
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
    input_tokens: int | None = None
    """Input tokens that the hold covers; None: as many as there can be."""
    slice_tokens: int = 0
    """Output tokens that a stream holds at a time."""
    own_cap: int = 0
    """The cap that is forwarded, if it was learned from the lengths of answers; else 0."""
    share: Share | None = None
    """What this input will add to."""
    lengths: Lengths | None = None
    """What the length of the answer will add to."""
    written: Share | None = None
    """What a stream will add to."""
    written_rate: float = 1.0
    """Tokens of a stream for each that could be in what has come."""


def estimate(
    request: ParsedRequest,
    deployment: Deployment,
    server: ServerSettings,
    timeouts: Timeouts | None = None,
    habits: Habits | None = None,
    *,
    whole: bool = False,
) -> Estimate:
    """What to forward as a cap and to hold.

    `timeouts`: how long the call may take; None: as long as the deployment's own limit says. `habits`: what is known
    of such requests; None: only what is certain. `whole`: a stream holds all at once too.
    """
    if habits is not None:
        return _learned_estimate(request, deployment, server, timeouts, habits, whole)
    cap, total = _output_of(request, deployment)
    held = total
    if request.stream and total > server.slice_tokens and not whole and not hides_output(request, deployment):
        held = server.slice_tokens
    hold = 0 if deployment.price is None else worst_of(request, deployment, held, timeouts)
    return Estimate(cap, total, hold, held, None, server.slice_tokens)


def _output_of(request: ParsedRequest, deployment: Deployment) -> tuple[int | None, int]:
    """The cap that is forwarded, and what it allows over all choices, hidden reasoning counted in."""
    if request.operation == "embeddings":
        return request.output_cap, 0
    cap, own = request.output_cap, deployment.default_max_output_tokens
    # Some servers take a cap of 0 for none at all: then their own is what may come.
    total = (cap or own) * request.choices
    return own if cap is None else cap, total * 2 if deployment.may_reason_beyond_cap else total


def _learned_estimate(
    request: ParsedRequest, deployment: Deployment, server: ServerSettings, timeouts: Timeouts | None, habits: Habits, whole: bool
) -> Estimate:
    """An estimate by what was learned. A cap that was learned is forwarded, so that the hold is a bound all the same."""
    cap, total = _output_of(request, deployment)
    held = total
    share = habits.share(request)
    # A client that says how long the answer may be, as most do, leaves nothing to be learned of it.
    lengths = habits.lengths(request) if request.output_cap is None else None
    bound = None if share is None or habits.strict else share.tokens(request.shape.tokens_bound)
    own_cap, size = 0, server.slice_tokens
    written, rate = None, 1.0
    if lengths is not None and lengths.cap is not None and cap is not None and server.learn_lengths:
        if request.stream:
            size = min(size, lengths.first_slice)
        elif lengths.cap < cap:
            held = total = total * lengths.cap // cap
            cap = own_cap = lengths.cap
    if request.stream:
        written = habits.written()
        rate = 1.0 if habits.strict else written.rate
        if total > size and not whole and not hides_output(request, deployment):
            held = size
    hold = 0 if deployment.price is None else worst_of(request, deployment, held, timeouts, bound)
    return Estimate(cap, total, hold, held, bound, size, own_cap, share, lengths, written, rate)


def clamped(
    request: ParsedRequest, deployment: Deployment, made: Estimate, *, room_nusd: int, least: int, timeouts: Timeouts | None = None
) -> Estimate | None:
    """The same request with the largest smaller cap whose worst case fits into the room; None if that is below `least` tokens."""
    if deployment.price is None or made.output_cap is None or made.output_cap <= least:
        return None
    smallest = -(-made.output_tokens * least // made.output_cap)
    fitting = fitting_output(request, deployment, made, room_nusd, at_least=smallest, timeouts=timeouts)
    return None if fitting is None else capped(request, deployment, made, made.output_cap * fitting // made.output_tokens, timeouts)


def capped(request: ParsedRequest, deployment: Deployment, made: Estimate, cap: int, timeouts: Timeouts | None = None) -> Estimate:
    """The same request with a smaller cap, all of which is held, also for a stream. There must be a cap and a price."""
    total = made.output_tokens * cap // (made.output_cap or cap)
    hold = worst_of(request, deployment, total, timeouts, made.input_tokens)
    return Estimate(cap, total, hold, total, made.input_tokens, made.slice_tokens, 0, made.share, None, made.written, made.written_rate)


def fitting_output(
    request: ParsedRequest,
    deployment: Deployment,
    made: Estimate,
    room_nusd: int,
    *,
    at_least: int,
    timeouts: Timeouts | None = None,
) -> int | None:
    """The most output tokens, of those that the cap allows, whose worst case fits into an amount; None if these few do not.

    Found by halving: what a request can cost grows with its output, whatever its price is made of.
    """
    low, high = at_least, made.output_tokens
    if low > high or worst_of(request, deployment, low, timeouts, made.input_tokens) > room_nusd:
        return None
    while low < high:
        middle = (low + high + 1) // 2
        if worst_of(request, deployment, middle, timeouts, made.input_tokens) <= room_nusd:
            low = middle
        else:
            high = middle - 1
    return low


def output_bound(request: ParsedRequest, deployment: Deployment) -> int:
    """Output tokens that can come at most: choices and hidden reasoning counted in."""
    return _output_of(request, deployment)[1]


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


def worst_of(
    request: ParsedRequest, deployment: Deployment, output_tokens: int, timeouts: Timeouts | None = None, input_tokens: int | None = None
) -> int:
    """The most that this request can cost with so much output, nano-USD. The deployment must have a price.

    `input_tokens`: so many at most; None: as many as there can be.
    """
    shape, tariff, context = request.shape, deployment.tariff, deployment.traits.context_tokens
    # No provider reads more than fits into the model's context.
    bound = shape.tokens_bound if input_tokens is None else input_tokens
    if context is not None and 0 < context < bound:
        bound = context
    if tariff is None or not (request.common or _is_text(request)):
        most = _worst_by_price(request, deployment, bound, output_tokens, timeouts)
    else:
        most = tariff.fixed - (-(bound * tariff.dearest_input + output_tokens * tariff.dearest_output) // 1_000_000)
    return most if most < MAX_NUSD else MAX_NUSD


def _is_text(request: ParsedRequest) -> bool:
    return not request.shape.images and not request.shape.audio_tokens_bound and request.extras is None


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
