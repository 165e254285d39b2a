"""The configuration as it is understood: shorthand written out, defaults filled in, secrets as references."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from policies.registry import KINDS
from router.domain.money import format_usd
from router.domain.prices import Price
from router.settings.model import Settings
from router.settings.model_routing import DEFAULT_KIND
from router.snapshot import Deployment, Snapshot


def effective_data(settings: Settings) -> dict[str, Any]:
    """All fields that say something, as plain data."""
    data = settings.model_dump(mode="json", exclude_none=True)
    for name, route in data["routes"].items():
        if "use" in route and "by" not in route:
            data["routes"][name] = {
                "use": route.pop("use"),
                "by": KINDS[DEFAULT_KIND].options().model_dump(mode="json", exclude_none=True),
                **route,
            }
    return {key: _spoken(value) for key, value in data.items() if value != {}}


def _spoken(value: Any) -> Any:
    """Without fields that are empty lists or mappings."""
    if isinstance(value, dict):
        spoken = {key: _spoken(each) for key, each in value.items()}
        return {key: each for key, each in spoken.items() if each not in ({}, [])}
    return [_spoken(each) for each in value] if isinstance(value, list) else value


def effective_yaml(settings: Settings, snapshot: Snapshot) -> str:
    """As YAML that can be loaded again, with the deployments and their prices as comments."""
    text = yaml.safe_dump(effective_data(settings), sort_keys=False, allow_unicode=True, width=120)
    return text + "".join(f"# {line}\n" for line in (*deployment_lines(snapshot), *selection_lines(snapshot)))


def deployment_lines(snapshot: Snapshot) -> Iterator[str]:
    """One line for each deployment: its classes, its limits and its price."""
    for deployment in snapshot.deployments.values():
        traits = deployment.traits
        named = (traits.size, traits.weights, traits.locality, traits.region, *sorted(traits.domain), *sorted(traits.languages))
        quality = None if traits.quality is None else f"quality {traits.quality:g}"
        by_task = (f"quality {score:g} at {task}" for task, score in traits.task_quality.items())
        classes = ", ".join(filter(None, (*named, quality, *by_task)))
        yield f"{deployment.name} ({deployment.model}): {classes or 'no classes'}; {describe(deployment.price)}"


def selection_lines(snapshot: Snapshot) -> Iterator[str]:
    """One line for each rule: the deployments that it leads to."""
    for route in snapshot.routes.values():
        if route.aliases_model:
            continue
        for branch in (*(rule.branch for rule in route.policy.rules), route.policy.default):
            yield f"{route.name}, {branch.rule}: {', '.join(branch.deployments) or 'nothing'}"


def deployment_data(deployment: Deployment) -> dict[str, Any]:
    """A deployment for machines; USD as text, exact."""
    price, traits = deployment.price, deployment.traits
    return {
        "name": deployment.name,
        "model": deployment.model,
        "provider": deployment.provider.name,
        "size": traits.size,
        "weights": traits.weights,
        "locality": traits.locality,
        "region": traits.region,
        "domain": sorted(traits.domain),
        "languages": sorted(traits.languages),
        "quality": traits.quality,
        "task_quality": dict(traits.task_quality),
        "context_tokens": traits.context_tokens,
        "max_output_tokens": deployment.max_output_tokens,
        "price": None
        if price is None
        else {
            "input_usd_per_mtok": format_usd(price.rates.input),
            "output_usd_per_mtok": format_usd(price.rates.output),
            "free": price.free,
            "source": price.source,
            "date": price.date,
        },
    }


def describe(price: Price | None) -> str:
    """A price in words."""
    if price is None:
        return "no price known"
    origin = " ".join(filter(None, (price.source, price.date)))
    if price.free:
        return f"free ({origin})"
    parts = [f"input ${format_usd(price.rates.input)}, output ${format_usd(price.rates.output)} per million tokens"]
    if price.per_hour_nusd is not None:
        parts = [f"${format_usd(price.per_hour_nusd)} an hour, {price.concurrency} calls at a time"]
    if price.per_request_nusd:
        parts.append(f"${format_usd(price.per_request_nusd)} per request")
    return f"{', '.join(parts)} ({origin})"
