"""What a request may buy beside tokens: a service tier with rates of its own, and web searches."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from router.domain.prices import Price, Rates

PAID_EXTRAS: Final = frozenset({"service_tier", "web_search_options", "search_parameters", "enable_search"})
"""What providers bill on top of tokens, or at other rates: OpenAI's tiers and web search, xAI's live search, DashScope's
(read 2026-11)."""
BASE_TIERS: Final = frozenset({"", "auto", "default", "standard", "standard_only", "on_demand"})
"""Tiers that cost what the price says; `auto` is what the operator has set at the provider, whose answer says what it was."""
CHEAP_TIERS: Final = frozenset({"flex"})
"""Tiers that cost the price or less: a request for one is held, and charged if the answer does not name its tier, in full."""
SIZES: Final = ("low", "medium", "high")
"""OpenAI's `search_context_size`; the order of `Price.web_search_nusd`."""
LONG_CACHE: Final = "cache_1h"
"""Stands for a service tier where a request writes to a prompt cache that lives longer than the usual five minutes."""
LONG_CACHE_TIMES_INPUT: Final = 2
"""What such a write costs, by the rate of input: so Anthropic, at each model that has a rate for writes (by what several clients of its API
charge, read 2026-11). Answers on this wire do not tell the written tokens apart: all are charged so."""
USUAL_CACHE: Final = (None, "5m")
"""What `ttl` says of a cache that costs the usual rate."""
UNKNOWN: Final = "?"
"""A tier that is no text."""

_ANSWERED_TIER: Final = re.compile(rb'"service_tier"\s*:\s*"([a-z_]{1,32})"')


class Extras(msgspec.Struct, frozen=True, kw_only=True):
    """What one request asks for that is billed beside its tokens, or at other rates."""

    service_tier: str = ""
    """Empty if the tier costs what the price says, or less."""
    search: str = ""
    """Size of the context of the search: a member of `SIZES`, or `any` for the dearest; empty: none."""
    member: str
    """The first member that asks for it, for messages."""


def read_extras(members: Mapping[str, Any]) -> Extras | None:
    """What these members of a body ask for; None if that is within the price of the tokens."""
    tier, search, member = "", "", ""
    for name in sorted(PAID_EXTRAS & members.keys()):
        value = members[name]
        if value is None or value is False:
            continue
        if name == "service_tier":
            tier = value if isinstance(value, str) else UNKNOWN
            if tier in BASE_TIERS or tier in CHEAP_TIERS:
                tier = ""
                continue
        else:
            search = _size(value) if name == "web_search_options" else "any"
        member = member or name
    return Extras(service_tier=tier, search=search, member=member) if member else None


def hosted_tool(extras: Extras | None) -> Extras:
    """With a tool that the provider runs itself, and bills as often as the model likes: no price covers that."""
    search = "" if extras is None else extras.search
    return Extras(service_tier=UNKNOWN, search=search, member="tools")


def lives_long(cache_control: object) -> bool:
    """Whether a `cache_control` asks for more than the usual five minutes."""
    return isinstance(cache_control, dict) and cache_control.get("ttl") not in USUAL_CACHE


def long_cached(extras: Extras | None) -> Extras:
    """With writes to a cache that lives longer. Beside another tier their price is not known."""
    if extras is None:
        return Extras(service_tier=LONG_CACHE, member="cache_control")
    return (
        extras
        if extras.service_tier == LONG_CACHE
        else msgspec.structs.replace(extras, service_tier=UNKNOWN if extras.service_tier else LONG_CACHE)
    )


def price_at_tier(price: Price, tier: str) -> Price | None:
    """The price of a service tier; None if it is not known, or none is meant."""
    if tier != LONG_CACHE:
        return price.services.get(tier)
    tiers = tuple(msgspec.structs.replace(one, rates=_with_long_cache(one.rates)) for one in price.tiers)
    return msgspec.structs.replace(price, rates=_with_long_cache(price.rates), tiers=tiers)


def _with_long_cache(rates: Rates) -> Rates:
    # Who has no rate for writes has no such cache.
    if rates.cache_write is None:
        return rates
    return msgspec.structs.replace(rates, cache_write=max(rates.cache_write, LONG_CACHE_TIMES_INPUT * rates.input))


def _size(options: object) -> str:
    size = options.get("search_context_size", "medium") if isinstance(options, dict) else None
    return size if size in SIZES else "any"


def covers(price: Price | None, extras: Extras) -> bool:
    """Whether the price says what these extras cost."""
    if price is None:
        return False
    tier_known = not extras.service_tier or price_at_tier(price, extras.service_tier) is not None
    return price.free or (tier_known and (not extras.search or price.web_search_nusd is not None))


def search_fee(price: Price, size: str) -> int:
    """What a search costs at this price, nano-USD; 0 if there was none or its price is not known."""
    fees = price.web_search_nusd
    if not size or fees is None:
        return 0
    return fees[SIZES.index(size)] if size in SIZES else max(fees)


def dearest_prices(price: Price, extras: Extras) -> tuple[Price, ...]:
    """The prices of which any may be charged: that of the tier asked for, and the usual one, since a provider may serve it so."""
    asked = price_at_tier(price, extras.service_tier)
    return tuple(with_search(one, price, extras.search) for one in (price, asked) if one is not None)


def with_search(price: Price, base: Price, size: str) -> Price:
    """The price with the fee of a search in it; fees are those of the base."""
    fee = search_fee(base, size)
    return msgspec.structs.replace(price, per_request_nusd=base.per_request_nusd + fee) if fee else price


def answered_tier(answer: bytes) -> str:
    """The tier that an answer, or an event of a stream, says it was served at; empty if it is the usual one or not said.

    Quotes inside texts are escaped, so that what a model writes is never taken for it.
    """
    if b'"service_tier"' not in answer:
        return ""
    found = _ANSWERED_TIER.findall(answer)
    return found[-1].decode("ascii") if found else ""


class Billed(msgspec.Struct, frozen=True):
    """At what a call is charged that is not charged at the usual rates alone."""

    price: Price
    """With rates of the tier, and the fee of a search in `per_request_nusd`."""
    service_tier: str
    search: str
    search_nusd: int


def billed(price: Price, extras: Extras | None, answered: str) -> Billed | None:
    """At what to charge: the tier that the answer names, else the one asked for. None: at the usual price alone."""
    asked = extras.service_tier if extras is not None else ""
    # Answers name tiers, not caches.
    tier = asked if asked == LONG_CACHE and answered not in price.services else answered or asked
    search = extras.search if extras is not None else ""
    special = price_at_tier(price, tier)
    if special is None and not search:
        return None
    shown = tier if special is not None else ""
    return Billed(with_search(special or price, price, search), shown, search, search_fee(price, search))
