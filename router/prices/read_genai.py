"""Read genai-prices: prices with dates, tiers and times of day, and the names that providers accept for a model."""

from __future__ import annotations

import datetime as dt
from decimal import ROUND_CEILING, Decimal
from typing import Any, Final

import msgspec

from router.prices import PREFIXES
from router.prices.merge import Known, Model

KINDS: Final = {
    "anthropic": ("anthropic",),
    "aws": ("bedrock",),
    "azure": ("azure",),
    "cerebras": ("cerebras",),
    "cohere": ("cohere",),
    "deepseek": ("deepseek",),
    "fireworks": ("fireworks",),
    "google": ("gemini", "vertex_ai"),
    "groq": ("groq",),
    "mistral": ("mistral",),
    "moonshotai": ("moonshot",),
    "novita": ("novita",),
    "openai": ("openai",),
    "openrouter": ("openrouter",),
    "perplexity": ("perplexity",),
    "together": ("together",),
    "voyageai": ("voyage",),
    "x-ai": ("xai",),
}
"""Its provider ids and ours."""

CLASSES: Final = {
    "input_mtok": "i",
    "output_mtok": "o",
    "cache_read_mtok": "cr",
    "cache_write_mtok": "cw",
    "output_reasoning_mtok": "r",
    "input_audio_mtok": "ai",
    "output_audio_mtok": "ao",
}

_NUSD: Final = 10**9


def read_genai(date: dt.date) -> dict[str, Known]:
    """Its models by our provider names, as priced on a date. Needs the development dependency."""
    from genai_prices.data import providers

    known: dict[str, Known] = {}
    for provider in providers:
        for kind in KINDS.get(provider.id, ()):
            known[kind] = _read(kind, provider.models, date)
    return known


def _read(kind: str, infos: list[Any], date: dt.date) -> Known:
    known = Known(models={}, aliases={})
    for info in infos:
        if kind == "gemini" and "claude" in info.id:
            continue  # Sold on Vertex AI only.
        model = _with_others(info, date)
        if model is not None:
            known.models[info.id] = model
            for alias in _equals(info.match):
                known.aliases[alias.removeprefix(PREFIXES.get(kind, ""))] = info.id
    known.aliases = {alias: model for alias, model in known.aliases.items() if alias not in known.models}
    return known


def _with_others(info: Any, date: dt.date) -> Model | None:
    """The model as priced on a date, with its other prices."""
    model = _model(info, date)
    if model is None or not isinstance(info.prices, list):
        return model
    dates = {start for each in info.prices if (start := getattr(each.constraint, "start_date", None)) is not None}
    if not dates:
        return model
    others = {}
    for start in [*sorted(dates), min(dates) - dt.timedelta(days=1)]:
        other = _model(info, start)
        since = start.isoformat() if start in dates else ""
        if other is not None and since != model.date:
            others[since] = other
    return msgspec.structs.replace(model, others=others)


def _model(info: Any, date: dt.date) -> Model | None:
    """None if it is not priced by text tokens, or writes images or video, which would be charged as text."""
    hours = [info.get_prices(dt.datetime.combine(date, dt.time(hour), tzinfo=dt.UTC)) for hour in range(24)]
    # Where the hour matters the dear hours hold: the time of the call is not known when its hold is made.
    prices = max(hours, key=lambda price: (_base(price.input_mtok) or 0) + (_base(price.output_mtok) or 0))
    if prices.input_mtok is None or prices.output_image_mtok is not None or prices.output_video_mtok is not None:
        return None
    by_class = {name: getattr(prices, field) for field, name in CLASSES.items() if getattr(prices, field) is not None}
    base = {name: _nusd(_base(price)) for name, price in by_class.items()}
    starts = sorted({tier.start for price in by_class.values() for tier in getattr(price, "tiers", ())})
    fee = prices.requests_kcount
    return Model(
        base=base,
        tiers={start: {name: _nusd(_above(price, start)) for name, price in by_class.items()} for start in starts},
        per_request_nusd=_nusd(_base(fee) / 1000) if fee is not None else 0,
        date=_since(info, date),
        context=info.context_window,
    )


def _since(info: Any, date: dt.date) -> str:
    if not isinstance(info.prices, list):
        return ""
    starts = [getattr(conditional.constraint, "start_date", None) for conditional in info.prices]
    return max((start.isoformat() for start in starts if start is not None and start <= date), default="")


def _base(price: Any) -> Any:
    return getattr(price, "base", price)


def _above(price: Any, start: int) -> Decimal:
    """The rate of a class for inputs above a threshold: that of its highest tier up to there."""
    rate: Decimal = _base(price)
    for tier in getattr(price, "tiers", ()):
        if tier.start <= start:
            rate = tier.price
    return rate


def _nusd(usd: Decimal) -> int:
    return int((usd * _NUSD).to_integral_value(rounding=ROUND_CEILING))


def _equals(match: Any) -> list[str]:
    """Names that a rule accepts literally. Rules by prefix, suffix or part would be guesses."""
    if hasattr(match, "equals"):
        return [match.equals]
    return [name for clause in getattr(match, "or_", ()) for name in _equals(clause)]
