"""Read litellm's file of model prices as data: limits, capabilities, audio, and models that the main source lacks."""

from __future__ import annotations

import re
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path
from typing import Any, Final

import msgspec

from router.prices import PREFIXES
from router.prices.merge import EMBEDDINGS, Known, Model

KINDS: Final = {
    "anthropic": "anthropic",
    "azure": "azure",
    "bedrock": "bedrock",
    "bedrock_converse": "bedrock",
    "cerebras": "cerebras",
    "cohere": "cohere",
    "cohere_chat": "cohere",
    "dashscope": "dashscope",
    "deepinfra": "deepinfra",
    "deepseek": "deepseek",
    "fireworks_ai": "fireworks",
    "friendliai": "friendli",
    "gemini": "gemini",
    "groq": "groq",
    "mistral": "mistral",
    "moonshot": "moonshot",
    "nebius": "nebius",
    "novita": "novita",
    "nvidia_nim": "nvidia",
    "openai": "openai",
    "openrouter": "openrouter",
    "perplexity": "perplexity",
    "sambanova": "sambanova",
    "text-completion-openai": "openai",
    "together_ai": "together",
    "upstage": "upstage",
    "voyage": "voyage",
    "watsonx": "watsonx",
    "xai": "xai",
    "zai": "zai",
}
"""Its provider names and ours. Names that begin with `vertex_ai` are `vertex_ai`."""

CLASSES: Final = {
    "input_cost_per_token": "i",
    "output_cost_per_token": "o",
    "cache_read_input_token_cost": "cr",
    "cache_creation_input_token_cost": "cw",
    "output_cost_per_reasoning_token": "r",
    "input_cost_per_audio_token": "ai",
    "output_cost_per_audio_token": "ao",
}

OPERATIONS: Final = {
    "chat": frozenset({"chat", "stream"}),
    "completion": frozenset({"completions", "stream"}),
    "embedding": EMBEDDINGS,
    # Served on an endpoint that this proxy does not have: such a model must not be picked for a chat.
    "responses": frozenset({"responses"}),
}

SERVICES: Final = ("priority", "flex")
"""Service tiers that a request can ask for."""

FEATURES: Final = {
    "supports_function_calling": "tools",
    "supports_response_schema": "json_schema",
    "supports_vision": "image",
    "supports_audio_input": "audio",
    "supports_pdf_input": "file",
    "supports_reasoning": "reasoning",
}

_TIER: Final = re.compile(r"(?P<field>.+)_above_(?P<thousands>\d+)k_tokens$")
_NUSD_PER_MTOK: Final = 10**15


def read_litellm(path: Path) -> dict[str, Known]:
    """Its models by our provider names."""
    rows: dict[str, dict[str, Any]] = msgspec.json.decode(path.read_bytes())
    known: dict[str, Known] = {}
    for key, row in rows.items():
        provider = str(row.get("litellm_provider", ""))
        kind = "vertex_ai" if provider.startswith("vertex_ai") else KINDS.get(provider)
        if kind is None:
            continue
        model = _model(row)
        name = key.removeprefix(f"{provider}/").removeprefix(f"{kind}/").removeprefix(PREFIXES.get(kind, ""))
        if model is not None and not _regional(kind, name):
            known.setdefault(kind, Known(models={})).models[name] = model
    return known


def _regional(kind: str, name: str) -> bool:
    """A row for one region of a cloud, which is not how a model is asked for."""
    return kind in ("azure", "bedrock") and "/" in name


def _model(row: dict[str, Any]) -> Model | None:
    operations = OPERATIONS.get(row.get("mode", ""))
    base = {name: _nusd(row[field]) for field, name in CLASSES.items() if isinstance(row.get(field), (int, float))}
    if operations is None or "i" not in base or row.get("output_cost_per_image_token") or row.get("output_cost_per_image"):
        return None
    if operations == EMBEDDINGS:
        base["o"] = 0
    return Model(
        base=base,
        tiers=_tiers(row, base),
        services={name: rates for name in SERVICES if (rates := _service_rates(row, name))},
        service_tiers={name: _service_tiers(row, name) for name in SERVICES},
        web_search=_search(row),
        context=_count(row.get("max_input_tokens")),
        max_output=_count(row.get("max_output_tokens")),
        capabilities=operations | {name for field, name in FEATURES.items() if row.get(field) is True and operations != EMBEDDINGS},
    )


def _tiers(row: dict[str, Any], base: dict[str, int]) -> dict[int, dict[str, int]]:
    tiers: dict[int, dict[str, int]] = {}
    for field, price in row.items():
        tier = _TIER.match(field)
        name = CLASSES.get(tier["field"]) if tier is not None else None
        if tier is not None and name is not None and isinstance(price, (int, float)):
            tiers.setdefault(int(tier["thousands"]) * 1000, {})[name] = _nusd(price)
    for step in row.get("tiered_pricing") or ():
        above = step.get("range", [0])[0]
        if above:
            tiers[int(above)] = {name: _nusd(step[field]) for field, name in CLASSES.items() if field in step}
    return {above: {**base, **rates} for above, rates in sorted(tiers.items())}


def _service_rates(row: dict[str, Any], service: str) -> dict[str, int]:
    fields = {name: row.get(f"{field}_{service}") for field, name in CLASSES.items()}
    return {name: _nusd(price) for name, price in fields.items() if isinstance(price, int | float) and price > 0}


def _service_tiers(row: dict[str, Any], service: str) -> dict[int, dict[str, int]]:
    plain = {field.removesuffix(f"_{service}"): price for field, price in row.items() if field.endswith(f"_{service}")}
    return _tiers(plain, {})


def _search(row: dict[str, Any]) -> tuple[int, int, int] | None:
    fees = row.get("search_context_cost_per_query")
    if not isinstance(fees, dict):
        return None
    low, medium, high = (_nusd(fees.get(f"search_context_size_{size}", 0)) // 10**6 for size in ("low", "medium", "high"))
    return (low, medium, high) if min(low, medium, high) > 0 else None


def _nusd(usd_per_token: float) -> int:
    """Nano-USD per million tokens. The file has floats: `repr` gives back the decimal that was written."""
    return int((Decimal(repr(usd_per_token)) * _NUSD_PER_MTOK).to_integral_value(rounding=ROUND_HALF_EVEN))


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
