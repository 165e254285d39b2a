"""What a call costs: before it (worst and likely case) and after it. Integers only, rounded up once."""

from __future__ import annotations

from math import ceil
from typing import Final, NamedTuple

from router.domain.money import NanoUsd
from router.domain.prices import Price, Rates
from router.domain.usage import Usage

_PER_MILLION: Final = 1_000_000
_MS_PER_HOUR: Final = 3_600_000


def charge(price: Price, usage: Usage, *, images: int = 0, duration_ms: int = 0) -> NanoUsd:
    """What this usage costs, nano-USD.

    The inclusive counts are split into classes that do not overlap: a part with a rate of its own moves
    from its whole's rate to its own. Parts that together exceed their whole are cut in the order cache
    write, audio, cache read (the dear ones stay). The tier is picked by all input tokens.

    `images` are input images (used only if the price has a fee per image); `duration_ms` is how long the
    call occupied a machine that is priced by the hour.
    """
    rates = price.rates if not price.tiers else _rates_at(price, usage.input_tokens)
    total = usage.input_tokens * rates.input + usage.output_tokens * rates.output
    if usage.cache_read_tokens or usage.cache_write_tokens or usage.audio_input_tokens:
        total += _input_parts(rates, usage)
    if usage.reasoning_tokens or usage.audio_output_tokens:
        total += _output_parts(rates, usage)
    if images or price.per_hour_nusd is not None:
        return _sum(price, total, images=images, duration_ms=duration_ms)
    return NanoUsd(price.per_request_nusd - (-total // _PER_MILLION))


def worst_case(
    price: Price, *, input_tokens: int, output_tokens: int, audio_input_tokens: int = 0, images: int = 0, seconds: float = 0
) -> NanoUsd:
    """The most that a call within these bounds can cost, nano-USD.

    Every input token at the dearest input class (cache write included), every output token at the dearest
    output class, in the dearest tier that the input can reach. `audio_input_tokens` is the part of
    `input_tokens` that can be audio; `output_tokens` is the sum over all choices; `seconds` bounds the time
    on a machine that is priced by the hour. Never below `charge` of a usage within the bounds.
    """
    total = _worst_tokens(price.rates, input_tokens, output_tokens, audio_input_tokens)
    for tier in price.tiers:
        if tier.above_input_tokens >= input_tokens:
            break
        total = max(total, _worst_tokens(tier.rates, input_tokens, output_tokens, audio_input_tokens))
    return _sum(price, total, images=images, duration_ms=ceil(seconds * 1000) if seconds else 0)


def expected(price: Price, *, input_tokens: int, output_tokens: int, cache_read_tokens: int = 0, seconds: float = 0) -> NanoUsd:
    """The likely cost of a call with these likely counts, nano-USD: a score to compare by, never a hold."""
    rates = price.rates if not price.tiers else _rates_at(price, input_tokens)
    total = input_tokens * rates.input + output_tokens * rates.output
    if cache_read_tokens and rates.cache_read is not None:
        total += min(cache_read_tokens, input_tokens) * (rates.cache_read - rates.input)
    return _sum(price, total, images=0, duration_ms=ceil(seconds * 1000) if seconds else 0)


def dearest_output(rates: Rates) -> int:
    """The highest rate an output token can be charged at, nano-USD per million tokens."""
    dearest = rates.output
    if rates.reasoning is not None and rates.reasoning > dearest:
        dearest = rates.reasoning
    if rates.audio_output is not None and rates.audio_output > dearest:
        dearest = rates.audio_output
    return dearest


def dearest_input(rates: Rates) -> int:
    """The highest rate an input token that is not audio can be charged at, nano-USD per million tokens."""
    dearest = rates.input
    if rates.cache_write is not None and rates.cache_write > dearest:
        dearest = rates.cache_write
    if rates.cache_read is not None and rates.cache_read > dearest:
        dearest = rates.cache_read
    return dearest


class Tariff(NamedTuple):
    """A price without tiers or time, as plain numbers: nano-USD per million tokens, and per request."""

    input: int
    output: int
    dearest_input: int
    dearest_output: int
    fixed: int


def tariff_of(price: Price) -> Tariff | None:
    """The price as plain numbers. None if it is not that simple."""
    if price.tiers or price.per_hour_nusd:
        return None
    rates = price.rates
    return Tariff(rates.input, rates.output, dearest_input(rates), dearest_output(rates), price.per_request_nusd)


def rates_for(price: Price, input_tokens: int) -> Rates:
    """The rates that hold for a request with this many input tokens: those of the highest tier it is above."""
    return _rates_at(price, input_tokens) if price.tiers else price.rates


def _rates_at(price: Price, input_tokens: int) -> Rates:
    rates = price.rates
    for tier in price.tiers:
        if input_tokens <= tier.above_input_tokens:
            break
        rates = tier.rates
    return rates


def _input_parts(rates: Rates, usage: Usage) -> int:
    """What the parts of the input cost more (or less) than the input rate, nano-USD per million."""
    left = usage.input_tokens
    extra = 0
    if usage.cache_write_tokens:
        part = min(usage.cache_write_tokens, left)
        left -= part
        if rates.cache_write is not None:
            extra = part * (rates.cache_write - rates.input)
    if usage.audio_input_tokens:
        part = min(usage.audio_input_tokens, left)
        left -= part
        if rates.audio_input is not None:
            extra += part * (rates.audio_input - rates.input)
    if rates.cache_read is not None:
        extra += min(usage.cache_read_tokens, left) * (rates.cache_read - rates.input)
    return extra


def _output_parts(rates: Rates, usage: Usage) -> int:
    """What the parts of the output cost more (or less) than the output rate, nano-USD per million."""
    audio = min(usage.audio_output_tokens, usage.output_tokens)
    reasoning = min(usage.reasoning_tokens, usage.output_tokens - audio)
    extra = 0
    if rates.audio_output is not None:
        extra += audio * (rates.audio_output - rates.output)
    if rates.reasoning is not None:
        extra += reasoning * (rates.reasoning - rates.output)
    return extra


def _worst_tokens(rates: Rates, input_tokens: int, output_tokens: int, audio_input_tokens: int) -> int:
    dearest = dearest_input(rates)
    total = input_tokens * dearest + output_tokens * dearest_output(rates)
    if audio_input_tokens and rates.audio_input is not None and rates.audio_input > dearest:
        total += min(audio_input_tokens, input_tokens) * (rates.audio_input - dearest)
    return total


def _sum(price: Price, total: int, *, images: int, duration_ms: int) -> NanoUsd:
    """Add the fixed parts to a sum of nano-USD per million, and round up once."""
    fixed = price.per_request_nusd
    if images and price.per_image_nusd is not None:
        fixed += images * price.per_image_nusd
    if duration_ms and price.per_hour_nusd is not None:
        share = _MS_PER_HOUR * price.concurrency
        return NanoUsd(fixed - (-(total * share + duration_ms * price.per_hour_nusd * _PER_MILLION) // (_PER_MILLION * share)))
    return NanoUsd(fixed - (-total // _PER_MILLION))
