"""What a request may buy beside tokens: a service tier with rates of its own, and web searches."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from router.domain.prices import Price

PAID_EXTRAS: Final = frozenset({"service_tier", "web_search_options", "search_parameters", "enable_search"})
"""What providers bill on top of tokens, or at other rates: OpenAI's tiers and web search, xAI's live search, DashScope's
(read 2026-11)."""
BASE_TIERS: Final = frozenset({"", "auto", "default", "standard", "standard_only", "on_demand"})
"""Tiers that cost what the price says; `auto` is what the operator has set at the provider, whose answer says what it was."""
CHEAP_TIERS: Final = frozenset({"flex"})
"""Tiers that cost the price or less: a request for one is held, and charged if the answer does not name its tier, in full."""
SIZES: Final = ("low", "medium", "high")
"""OpenAI's `search_context_size`; the order of `Price.web_search_nusd`."""
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


def _size(options: object) -> str:
    size = options.get("search_context_size", "medium") if isinstance(options, dict) else None
    return size if size in SIZES else "any"


def covers(price: Price | None, extras: Extras) -> bool:
    """Whether the price says what these extras cost."""
    if price is None:
        return False
    tier_known = not extras.service_tier or extras.service_tier in price.services
    return price.free or (tier_known and (not extras.search or price.web_search_nusd is not None))


def search_fee(price: Price, size: str) -> int:
    """What a search costs at this price, nano-USD; 0 if there was none or its price is not known."""
    fees = price.web_search_nusd
    if not size or fees is None:
        return 0
    return fees[SIZES.index(size)] if size in SIZES else max(fees)


def dearest_prices(price: Price, extras: Extras) -> tuple[Price, ...]:
    """The prices of which any may be charged: that of the tier asked for, and the usual one, since a provider may serve it so."""
    asked = price.services.get(extras.service_tier)
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
    tier = answered or (extras.service_tier if extras is not None else "")
    search = extras.search if extras is not None else ""
    special = price.services.get(tier)
    if special is None and not search:
        return None
    shown = tier if special is not None else ""
    return Billed(with_search(special or price, price, search), shown, search, search_fee(price, search))
