"""`faregate prices`: what a model costs by the price book, who says so, and since when."""

from __future__ import annotations

import difflib
import json
from typing import Annotated, Any, Final

import typer

from router import prices
from router.domain.money import format_usd
from router.domain.prices import Rates
from router.prices import BookEntry
from router.settings.findings import one_of

CHECKED: Final = {
    "agree": "both sources agree",
    "single": "one source has it",
    "dearer": "the sources differ, the dearer rates hold",
    "reviewed": "the sources differ, decided",
}

_SUGGESTIONS: Final = 5


def command(
    model: Annotated[str | None, typer.Argument(help="Model id, or `provider/id`, or `provider/` for all of its models.")] = None,
    config: Annotated[
        str | None,
        typer.Option("--config", "-c", help="Configuration file: show what its deployments are counted at."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print for machines; amounts in nano-USD per million tokens.")] = False,
) -> None:
    """Show list prices: rates, source and date. Without a model: what the book holds. Exit 1 if it does not have the model."""
    if config is not None:
        _print_configured(config, model, as_json=as_json)
        return
    if model is None:
        _print_overview(as_json=as_json)
        return
    found = _find(model)
    if not found:
        typer.echo(f"{model} is not in the price book{_suggest(model)}. Give it a `price` in the configuration.", err=True)
        raise typer.Exit(1)
    if as_json:
        print(json.dumps([_as_data(entry) for entry in found], indent=2))
    elif model.endswith("/"):
        for entry in found:
            rates = entry.price.rates
            print(f"{entry.provider}/{entry.model}  input {format_usd(rates.input)}  output {format_usd(rates.output)}")
    else:
        print("\n\n".join(_as_text(entry) for entry in found))


def _print_configured(config: str, model: str | None, *, as_json: bool) -> None:
    from router.settings import load_snapshot
    from router.settings.effective import deployment_data, describe

    snapshot = load_snapshot(config)
    found = [each for each in snapshot.deployments.values() if model in (None, each.model, each.name)]
    if not found:
        known = {name for each in snapshot.deployments.values() for name in (each.model, each.name)}
        typer.echo(f'{config} has no model or deployment "{model}"{one_of(model, known)}', err=True)
        raise typer.Exit(1)
    if as_json:
        print(json.dumps([deployment_data(each) for each in found], indent=2))
        return
    for each in found:
        print(f"{each.name} ({each.model}): {describe(each.price)}")


def _find(model: str) -> list[BookEntry]:
    provider, slash, rest = model.partition("/")
    if slash and not rest:
        return list(prices.entries(provider))
    # Some ids have a slash of their own: `openai/gpt-oss-120b` at Groq.
    asked = [(provider, rest)] if slash else []
    asked += [(name, model) for name in prices.providers()]
    return [entry for name, model_id in asked if (entry := prices.lookup(name, model_id)) is not None]


def _suggest(model: str) -> str:
    known = [f"{provider}/{entry.model}" for provider in prices.providers() for entry in prices.entries(provider)]
    wanted = model if "/" in model else f"openai/{model}"
    close = difflib.get_close_matches(wanted, known, n=_SUGGESTIONS, cutoff=0.7)
    return f"; close to it: {', '.join(close)}" if close else ""


def _print_overview(*, as_json: bool) -> None:
    book = prices.book()
    counts = {provider: sum(1 for _ in prices.entries(provider)) for provider in prices.providers()}
    if as_json:
        print(json.dumps({"date": book.date, "sources": book.sources, "models": counts}, indent=2))
        return
    print(f"prices of {book.date} from {book.sources['b']}")
    for provider, count in counts.items():
        print(f"{provider:12} {count:4} models")


def _as_data(entry: BookEntry) -> dict[str, Any]:
    return {
        "provider": entry.provider,
        "model": entry.model,
        "rates": _rates(entry.price.rates),
        "tiers": [{"above_input_tokens": tier.above_input_tokens, "rates": _rates(tier.rates)} for tier in entry.price.tiers],
        "per_request": entry.price.per_request_nusd,
        "context_tokens": entry.context_tokens,
        "max_output_tokens": entry.max_output_tokens,
        "capabilities": None if entry.capabilities is None else sorted(entry.capabilities),
        "source": entry.price.source,
        "date": entry.price.date,
        "checked": entry.checked,
        "note": entry.note,
    }


def _rates(rates: Rates) -> dict[str, int]:
    named = {name: getattr(rates, name) for name in rates.__struct_fields__}
    return {name: rate for name, rate in named.items() if rate is not None}


def _as_text(entry: BookEntry) -> str:
    lines = [f"{entry.provider}/{entry.model}  (USD per million tokens)"]
    tiers = [("", entry.price.rates), *((f" above {tier.above_input_tokens:,} input tokens", tier.rates) for tier in entry.price.tiers)]
    for suffix, rates in tiers:
        lines += [f"  {name.replace('_', ' ') + suffix:44} {format_usd(rate):>10}" for name, rate in _rates(rates).items()]
    if entry.price.per_request_nusd:
        lines.append(f"  {'per request':44} {format_usd(entry.price.per_request_nusd):>10}")
    for name, limit in (("context", entry.context_tokens), ("most output", entry.max_output_tokens)):
        lines.append(f"  {name:44} {'unknown' if limit is None else f'{limit:,} tokens':>10}")
    lines.append(f"  source: {entry.price.source}, {entry.price.date}; {CHECKED[entry.checked]}{f': {entry.note}' if entry.note else ''}")
    return "\n".join(lines)
