"""Four models that exist only on this machine: list prices, limits, speed and faults of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from policies.types import Locality, Size, Weights
from router.domain.money import from_usd
from router.domain.prices import Price, Rates, Tier

_SOURCE: Final = "genai-prices 0.2.3"
_READ: Final = "2026-11-22"


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """How one simulated model behaves and what it costs."""

    id: str
    copies: str
    """The real model, `provider/id`, whose list price and limits it copies."""
    price: Price
    context_tokens: int
    """Input plus output."""
    max_output_tokens: int
    size: Size
    weights: Weights
    locality: Locality
    domain: frozenset[str] = frozenset()
    capabilities: frozenset[str]
    """Operations, features and input modalities, in the words of `policies.types.Traits`."""
    first_token_ms: float
    """Median of a log-normal: time to the first token."""
    first_token_sigma: float = 0.35
    """Standard deviation of its logarithm."""
    tokens_per_second: float
    """Median of a log-normal: speed after the first token."""
    tokens_sigma: float = 0.2
    error_rate: float = 0.0
    """Share of calls answered 500, from 0 to 1."""
    rate_limit_rate: float = 0.0
    """Share of calls answered 429, from 0 to 1."""
    answer_tokens: float = 110.0
    """Median of a log-normal: length of an answer that nothing cuts short."""


def _rates(*, input_usd: str, output_usd: str, cached_usd: str) -> Rates:
    """Rates from USD per million tokens."""
    return Rates(input=from_usd(input_usd), output=from_usd(output_usd), cache_read=from_usd(cached_usd))


_TEXT: Final = frozenset({"chat", "completions", "embeddings", "stream", "json_schema"})

_ALL: Final = (
    Profile(
        id="frontier-closed",
        copies="openai/gpt-5.5",
        price=Price(
            rates=_rates(input_usd="5", output_usd="30", cached_usd="0.5"),
            tiers=(Tier(above_input_tokens=272_000, rates=_rates(input_usd="10", output_usd="45", cached_usd="1")),),
            source=_SOURCE,
            date=_READ,
        ),
        context_tokens=1_000_000,
        max_output_tokens=128_000,
        size="large",
        weights="closed",
        locality="cloud",
        capabilities=_TEXT | {"tools", "image"},
        first_token_ms=620.0,
        tokens_per_second=75.0,
        error_rate=0.004,
        rate_limit_rate=0.006,
        answer_tokens=160.0,
    ),
    Profile(
        id="mid-closed",
        copies="openai/gpt-5.4-mini",
        price=Price(rates=_rates(input_usd="0.75", output_usd="4.5", cached_usd="0.075"), source=_SOURCE, date=_READ),
        context_tokens=400_000,
        max_output_tokens=128_000,
        size="medium",
        weights="closed",
        locality="cloud",
        capabilities=_TEXT | {"tools", "image"},
        first_token_ms=380.0,
        tokens_per_second=130.0,
        error_rate=0.004,
        rate_limit_rate=0.004,
        answer_tokens=130.0,
    ),
    # A machine of one's own has no list price; what others charge to host the same weights stands for its cost.
    Profile(
        id="large-open-local",
        copies="groq/openai/gpt-oss-120b",
        price=Price(rates=_rates(input_usd="0.15", output_usd="0.6", cached_usd="0.075"), source=_SOURCE, date=_READ),
        context_tokens=131_072,
        max_output_tokens=65_536,
        size="large",
        weights="open",
        locality="local",
        domain=frozenset({"code"}),
        capabilities=_TEXT | {"tools"},
        first_token_ms=240.0,
        tokens_per_second=90.0,
        error_rate=0.002,
        answer_tokens=140.0,
    ),
    Profile(
        id="small-edge",
        copies="mistral/ministral-3b-2512",
        price=Price(rates=_rates(input_usd="0.1", output_usd="0.1", cached_usd="0.01"), source=_SOURCE, date=_READ),
        context_tokens=131_072,
        max_output_tokens=8_192,
        size="small",
        weights="open",
        locality="edge",
        capabilities=_TEXT,
        first_token_ms=90.0,
        tokens_per_second=55.0,
        answer_tokens=80.0,
    ),
)

PROFILES: Final[Mapping[str, Profile]] = MappingProxyType({profile.id: profile for profile in _ALL})
"""By model id. Prices and context limits: genai-prices 0.2.3, read 2026-11-22; output limits, speeds and fault rates are invented."""


def without_faults(profiles: Iterable[Profile]) -> dict[str, Profile]:
    """The same models, never failing by themselves."""
    return {profile.id: replace(profile, error_rate=0.0, rate_limit_rate=0.0) for profile in profiles}
