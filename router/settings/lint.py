"""What is allowed but probably a mistake: prices, budgets, rules, names and keys."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from router.adapters.upstream.presets import PRESETS
from router.domain.addresses import is_loopback
from router.domain.budgets import Budget
from router.domain.money import NUSD_PER_USD, format_amount, format_usd
from router.domain.prices import Price
from router.domain.pricing import worst_case
from router.settings.compile_experiments import guests_of
from router.settings.compile_models import LOCAL_SOURCE
from router.settings.findings import Finding, Path
from router.settings.lint_demands import choiceless, never_found, overshared, stranded, too_short, unhedged, without_target
from router.settings.lint_rules import rules
from router.settings.model import Settings
from router.snapshot import Deployment, Snapshot

LOWEST_USUAL_NUSD: Final = NUSD_PER_USD // 1000
"""A paid provider's tokens below 0.001 USD a million: probably written per token."""
HIGHEST_USUAL_NUSD: Final = 1000 * NUSD_PER_USD
"""Tokens above 1,000 USD a million: probably written per billion, or in another currency."""
WORST_CALL_INPUT_TOKENS: Final = 1000
"""Input of the call whose worst case a budget should be able to hold."""
_WINDOW_ORDER: Final = ("minute", "hour", "day", "week", "month", "lifetime")


def lint(settings: Settings, snapshot: Snapshot) -> list[Finding]:
    """All warnings, in the order of the file's sections."""
    return [
        *_server(settings, snapshot),
        *_prices(settings, snapshot),
        *rules(settings),
        *never_found(settings),
        *too_short(settings),
        *_unused(settings, snapshot),
        *_budgets(snapshot),
        *_keys(settings),
    ]


def notes(settings: Settings, snapshot: Snapshot) -> list[Finding]:
    """What was assumed and is worth knowing, without being doubtful."""
    local = [
        Finding(_place(settings, deployment), f"{deployment.name} runs on a machine of one's own and is counted as free")
        for deployment in snapshot.deployments.values()
        if deployment.price is not None and deployment.price.source == LOCAL_SOURCE
    ]
    return [
        *local,
        *stranded(settings, snapshot),
        *without_target(settings),
        *unhedged(settings, snapshot),
        *choiceless(settings, snapshot),
        *overshared(settings, snapshot),
    ]


def _place(settings: Settings, deployment: Deployment) -> Path:
    if deployment.model not in settings.models:
        return guests_of(settings)[deployment.model].path
    items = settings.models[deployment.model].at
    index = next(i for i, item in enumerate(items) if item.deployment == deployment.name)
    return ("models", deployment.model, "at", index)


def _server(settings: Settings, snapshot: Snapshot) -> Iterator[Finding]:
    given = settings.server
    if not is_loopback(given.host) and not snapshot.keys:
        if given.allow_anonymous:
            yield Finding(("server", "allow_anonymous"), f"anyone who reaches {given.host} can spend: there are no keys")
        else:
            yield Finding(
                ("server", "host"),
                f"{given.host} can be reached by others, and there are no keys: it will not be served; add keys, or set allow_anonymous",
            )
    if given.unpriced == "free":
        yield Finding(("server", "unpriced"), "calls of deployments without a price are not counted against any budget")


def _prices(settings: Settings, snapshot: Snapshot) -> Iterator[Finding]:
    for deployment in snapshot.deployments.values():
        path = _place(settings, deployment)
        if deployment.price is None:
            if settings.server.unpriced == "refuse":
                yield Finding(path, f"no price is known for {deployment.name}: it is never called; give it a price")
            continue
        if deployment.price.source == "config":
            item = settings.models[deployment.model].at[_index(path)]
            where = (*path, "price") if item.price is not None else ("models", deployment.model, "price")
            for message in doubts_of(deployment.price, paid=_is_paid(deployment)):
                yield Finding(where, message)


def _index(path: Path) -> int:
    last = path[-1]
    return last if isinstance(last, int) else 0


def _is_paid(deployment: Deployment) -> bool:
    preset = PRESETS.get(deployment.provider.kind)
    locality = deployment.traits.locality or (preset.locality if preset is not None else "cloud")
    return locality == "cloud"


def doubts_of(price: Price, *, paid: bool) -> Iterator[str]:
    """What is odd about a price; `paid`: it is that of a provider that charges for tokens."""
    rates = price.rates
    fees = price.per_request_nusd or price.per_image_nusd or price.per_hour_nusd
    if not paid:
        return
    if rates.input == 0 and rates.output == 0 and not fees:
        yield "is zero, at a provider that charges for tokens"
        return
    for name, rate in (("input", rates.input), ("output", rates.output)):
        if 0 < rate < LOWEST_USUAL_NUSD:
            yield f"{name} is {format_usd(rate)} USD per million tokens; was it written per token?"
        elif rate > HIGHEST_USUAL_NUSD:
            yield f"{name} is {format_usd(rate)} USD per million tokens; was it meant per token, or in another currency?"
    if 0 < rates.output < rates.input:
        yield "output is cheaper than input; were they swapped?"
    if rates.cache_read is not None and rates.cache_read > rates.input:
        yield "cached_input is dearer than input"


def _unused(settings: Settings, snapshot: Snapshot) -> Iterator[Finding]:
    used_providers = {deployment.provider.name for deployment in snapshot.deployments.values()}
    for name in settings.providers:
        if name not in used_providers:
            yield Finding(("providers", name), "no model uses this provider", at_key=True)
    reached = {d for route in snapshot.routes.values() if not route.aliases_model for d in route.deployments}
    if not settings.routes:
        return
    for model in settings.models:
        own = {d.name for d in snapshot.deployments.values() if d.model == model}
        if own and own.isdisjoint(reached):
            yield Finding(("models", model), "no route leads to this model; clients reach it by its own name only", at_key=True)


def _budgets(snapshot: Snapshot) -> Iterator[Finding]:
    worst = min((_worst_call(d) for d in snapshot.deployments.values() if d.price is not None), default=None)
    for budget in snapshot.budgets:
        path = _budget_path(budget.name)
        if worst is not None and budget.hard and budget.unit == "usd" and budget.limit_nusd < worst:
            yield Finding(
                path,
                f"{format_usd(budget.limit_nusd)} USD is less than one call of the cheapest model can cost ({format_usd(worst)} USD):"
                " nothing can be served without a lower max_tokens",
            )
        wider = next((other for other in snapshot.budgets if _makes_useless(other, budget)), None)
        if wider is not None:
            yield Finding(
                path,
                f'never bites: "{wider.name}" allows {format_amount(wider.limit_nusd, wider.unit)} in a {wider.window},'
                " and has the same scope",
            )


def _makes_useless(other: Budget, budget: Budget) -> bool:
    """Whether a longer window of the same scope has no larger limit, so that it is always reached first."""
    if other is budget or _whose(other) != _whose(budget) or not other.hard or other.shadow:
        return False
    if other.rolling_ms or budget.rolling_ms or other.carry_ppm:
        return False
    longer = _WINDOW_ORDER.index(other.window) > _WINDOW_ORDER.index(budget.window)
    return longer and other.limit_nusd <= budget.limit_nusd


def _whose(budget: Budget) -> tuple[object, ...]:
    """What it counts, and of which calls."""
    return budget.unit, budget.each, budget.when, budget.condition


def _worst_call(deployment: Deployment) -> int:
    price = deployment.price
    if price is None:
        return 0
    return worst_case(price, input_tokens=WORST_CALL_INPUT_TOKENS, output_tokens=deployment.default_max_output_tokens)


def _budget_path(name: str) -> Path:
    section, slash, owner = name.partition("/")
    return (f"{section}s", owner, "budget") if slash else ("budgets", name)


def _keys(settings: Settings) -> Iterator[Finding]:
    # The day on which the file is read; a key that has run out is refused by the clock in any case.
    now = datetime.now(UTC)
    for name, key in settings.keys.items():
        if key.expires is not None and key.expires <= now:
            yield Finding(("keys", name, "expires"), f"this key has expired on {key.expires:%Y-%m-%d}")
