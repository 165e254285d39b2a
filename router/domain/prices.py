"""Prices: nano-USD per million units, with tiers, source and date. Unknown is None, never zero."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """Rates per class of tokens, nano-USD per million tokens. None: the class has no rate of its own."""

    input: int
    output: int
    cache_read: int | None = None
    """None: charged as `input`."""
    cache_write: int | None = None
    """None: charged as `input`."""
    reasoning: int | None = None
    """None: charged as `output`."""
    audio_input: int | None = None
    """None: charged as `input`."""
    audio_output: int | None = None
    """None: charged as `output`."""


class Tier(msgspec.Struct, frozen=True, kw_only=True):
    """Rates that hold for the whole request once its input is longer than a threshold."""

    above_input_tokens: int
    rates: Rates


class Price(msgspec.Struct, frozen=True, kw_only=True):
    """What a deployment costs."""

    rates: Rates
    tiers: tuple[Tier, ...] = ()
    """In rising order of `above_input_tokens`."""
    per_request_nusd: int = 0
    per_image_nusd: int | None = None
    """A flat fee per input image; None: images are counted in tokens."""
    per_hour_nusd: int | None = None
    """For a machine of one's own: cost of an hour, shared by `concurrency` calls at a time."""
    concurrency: int = 1
    free: bool = False
    """Declared free by the operator. All rates are zero."""
    services: dict[str, Price] = {}
    """Prices of other service tiers, by the name that requests and answers use: `priority`, `flex`."""
    web_search_nusd: tuple[int, int, int] | None = None
    """Fee of a request that may search the web, by the size of the search's context: low, medium, high. None: not known."""
    source: str
    """Where the price comes from: `config`, `genai-prices 0.2.3`, `assumed`."""
    date: str = ""
    """ISO date from which it holds, or at which it was read."""
    since_ms: int = 0
    """Moment from which it holds, where a price has changed or will, Unix milliseconds."""


def price_at(prices: Sequence[Price], at_ms: int) -> Price:
    """The price that is in force at a moment: the last one that has begun, or the first if none has. In rising order of `since_ms`."""
    found = prices[0]
    for price in prices:
        if price.since_ms > at_ms:
            break
        found = price
    return found
