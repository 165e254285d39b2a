"""Models to deployments: classes, limits and prices."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Final

import msgspec

from policies.types import Traits
from router.adapters.upstream.presets import PRESETS
from router.domain.prices import Price, Rates, price_at
from router.settings.compile_context import BookEntry, Context
from router.settings.compile_providers import LITELLM_PREFIX, SIM, timeouts_of
from router.settings.findings import Path, did_you_mean, one_of
from router.settings.model_routing import (
    DeploymentSettings,
    FlatPriceSettings,
    ModelSettings,
    PriceChangeSettings,
    PriceSettings,
    ServiceRateSettings,
)
from router.settings.model_select import USUAL
from router.snapshot import Deployment, Provider

DEFAULT_MAX_OUTPUT: Final = 4096
ASSUMED: Final = "assumed"
"""Source of the price of a deployment that has none of its own, with `server.unpriced: assume`."""
LOCAL_SOURCE: Final = "local"
"""Source of the price of a local server for which none is given: free."""
_ZERO: Final = Rates(input=0, output=0)


@dataclass(slots=True)
class Known:
    """What is known of a model from elsewhere than the file."""

    prices: tuple[Price, ...] = ()
    """In the order of time; empty: unknown."""
    context_tokens: int | None = None
    max_output_tokens: int | None = None
    capabilities: frozenset[str] | None = None
    size: str | None = None
    weights: str | None = None
    locality: str | None = None
    domain: frozenset[str] = field(default_factory=frozenset)


def compile_models(context: Context, providers: dict[str, Provider]) -> dict[str, Deployment]:
    """All deployments that have no error, in the order of the file."""
    made: dict[str, Deployment] = {}
    known = {**context.settings.models, **{name: guest.settings for name, guest in context.guests.items()}}
    for model, given in known.items():
        for index, item in enumerate(given.at):
            path: Path = context.guests[model].path if model in context.guests else ("models", model, "at", index)
            first = made.get(item.deployment)
            if first is not None:
                context.wrong(
                    path,
                    f'{item.deployment} already belongs to model "{first.model}"; routes can share it under that name',
                )
                continue
            deployment = _deployment(context, path, model, given, item, providers)
            if deployment is not None:
                made[item.deployment] = deployment
    return made


def prices_of(given: PriceSettings) -> tuple[Price, ...]:
    """The prices that the file gives, in the order of time."""
    return (price_of(given), *map(_changed, given.changes))


def _changed(given: PriceChangeSettings) -> Price:
    since_ms, date = round(given.begins.timestamp() * 1000), given.begins.date().isoformat()
    price = msgspec.structs.replace(price_of(given), since_ms=since_ms, date=date)
    services = {name: msgspec.structs.replace(one, since_ms=since_ms, date=date) for name, one in price.services.items()}
    return msgspec.structs.replace(price, services=services)


def price_of(given: FlatPriceSettings) -> Price:
    """One price of the file."""
    rates = Rates(
        input=given.input or 0,
        output=given.output or 0,
        cache_read=given.cached_input,
        cache_write=given.cache_write,
        reasoning=given.reasoning,
        audio_input=given.audio_input,
        audio_output=given.audio_output,
    )
    search = given.web_search
    services = {name: tier for name, tier in (("priority", given.priority), ("flex", given.flex)) if tier is not None}
    price = Price(
        rates=rates,
        per_request_nusd=given.per_request,
        per_image_nusd=given.per_image,
        per_hour_nusd=given.per_hour,
        concurrency=given.concurrency,
        free=given.free,
        web_search_nusd=None if search is None else (search.low, search.medium, search.high),
        source="config",
    )
    if not services:
        return price
    return msgspec.structs.replace(price, services={name: _service_price(price, tier) for name, tier in services.items()})


def _service_price(price: Price, tier: ServiceRateSettings) -> Price:
    """The price of a service tier: what is not said of it costs as many times the usual rate as its input does."""
    own = {"input": tier.input, "output": tier.output, "cache_read": tier.cached_input, "cache_write": tier.cache_write}
    usual = price.rates
    by = Fraction(tier.input or 0, usual.input or 1) if tier.times is None else Fraction(str(tier.times))
    rates = {name: -(-rate * by.numerator // by.denominator) for name, rate in msgspec.structs.asdict(usual).items() if rate is not None}
    rates |= {name: rate for name, rate in own.items() if rate is not None}
    return msgspec.structs.replace(price, rates=Rates(**rates), web_search_nusd=None)


def _deployment(
    context: Context, path: Path, model: str, given: ModelSettings, item: DeploymentSettings, providers: dict[str, Provider]
) -> Deployment | None:
    provider_name, _, upstream_id = item.deployment.partition("/")
    provider = providers.get(provider_name)
    if provider is None:
        _unknown_provider(context, path, provider_name)
        return None
    known = _known(context, path, provider, upstream_id)
    price = item.price or given.price
    prices = prices_of(price) if price is not None else known.prices or _prices_of_the_unknown(context)
    max_output = item.max_output or given.max_output or known.max_output_tokens
    default_output = item.default_max_output or given.default_max_output or min(DEFAULT_MAX_OUTPUT, max_output or DEFAULT_MAX_OUTPUT)
    if max_output is not None and default_output > max_output:
        context.wrong(path, f"default_max_output {default_output:,} is more than max_output {max_output:,}")
    return Deployment(
        name=item.deployment,
        model=model,
        upstream_id=upstream_id,
        provider=provider,
        traits=_traits(model, given, item, provider, known),
        price=price_at(prices, time.time_ns() // 1_000_000) if prices else None,
        prices=prices if len(prices) > 1 else (),
        default_max_output_tokens=default_output,
        max_output_tokens=max_output,
        timeouts=timeouts_of(context.settings.providers[provider_name]),
        max_in_flight=item.max_in_flight or given.max_in_flight,
    )


def _prices_of_the_unknown(context: Context) -> tuple[Price, ...]:
    """What a deployment is counted at whose price nobody knows, as `server.unpriced` says; empty: it is not called."""
    server = context.settings.server
    if server.unpriced == "free":
        return (Price(rates=_ZERO, free=True, source="unpriced"),)
    if server.unpriced == "assume" and server.assumed_price is not None:
        return tuple(msgspec.structs.replace(price, source=ASSUMED) for price in prices_of(server.assumed_price))
    return ()


def _unknown_provider(context: Context, path: Path, name: str) -> None:
    declared = context.settings.providers
    if name in declared or context.is_broken("providers", name):
        return
    hint = did_you_mean(name, context.names("providers", declared))
    if not hint and name in PRESETS:
        hint = "; add it to providers"
    context.wrong(path, f'there is no provider "{name}"{hint or one_of(name, declared)}')


def _traits(model: str, given: ModelSettings, item: DeploymentSettings, provider: Provider, known: Known) -> Traits:
    optional: dict[str, Any] = {}
    capabilities = item.capabilities or given.capabilities or known.capabilities
    if capabilities is not None:
        optional["capabilities"] = frozenset(capabilities)
    weight = item.weight if item.weight is not None else given.weight
    if weight is not None:
        optional["weight"] = weight
    quality = given.quality or {}
    return Traits(
        deployment=item.deployment,
        model=model,
        provider=provider.name,
        size=given.size or known.size,
        weights=given.weights or known.weights,
        locality=item.locality or given.locality or known.locality,
        region=item.region or given.region,
        domain=frozenset(given.domain) or known.domain,
        languages=frozenset(given.languages),
        quality=quality.get(USUAL),
        task_quality={task: score for task, score in quality.items() if task != USUAL},
        context_tokens=item.context or given.context or known.context_tokens,
        **optional,
    )


def _known(context: Context, path: Path, provider: Provider, upstream_id: str) -> Known:
    if provider.kind == SIM:
        return _simulated(context, path, upstream_id)
    known = Known()
    preset = PRESETS.get(provider.kind)
    if preset is not None:
        known.weights, known.locality = preset.weights, preset.locality
    entry: BookEntry | None = context.price_book(provider.kind.removeprefix(LITELLM_PREFIX), upstream_id)
    if entry is not None:
        known.prices = getattr(entry, "prices", ()) or (entry.price,)
        known.context_tokens, known.max_output_tokens = entry.context_tokens, entry.max_output_tokens
        known.capabilities = entry.capabilities
    elif preset is not None and preset.locality == "local":
        known.prices = (Price(rates=_ZERO, free=True, source=LOCAL_SOURCE),)
    return known


def _simulated(context: Context, path: Path, upstream_id: str) -> Known:
    from router.sim.profiles import PROFILES

    profile = PROFILES.get(upstream_id)
    if profile is None:
        context.wrong(path, f'there is no simulated model "{upstream_id}"{one_of(upstream_id, PROFILES)}')
        return Known()
    return Known(
        prices=(profile.price,),
        context_tokens=profile.context_tokens,
        max_output_tokens=profile.max_output_tokens,
        capabilities=profile.capabilities,
        size=profile.size,
        weights=profile.weights,
        locality=profile.locality,
        domain=profile.domain,
    )
