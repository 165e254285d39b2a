"""`faregate ledger rerate`: what the calls of a span would have cost at other prices."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import msgspec
import typer

from router.adapters.choose import choose_store, must_exist, open_ledger, visiting
from router.books.reading import TIMEOUT_SECONDS, each_record
from router.books.rerate import Compared, PriceOf, Rerating
from router.commands.changes import operator
from router.commands.options import Store
from router.domain.money import format_usd
from router.domain.prices import Price, price_at
from router.domain.records import SpendRecord
from router.errors import ConfigError
from router.settings.env import CONFIG
from router.settings.findings import one_of
from router.spend import parse_dimensions, parse_moment

Named = Mapping[str, tuple[Price, ...]]
"""Prices by the names of models and deployments."""

_COLUMNS: Final = ("calls", "charged USD", "at the prices USD", "difference USD", "kept calls")


def command(
    prices: Annotated[str | None, typer.Option(help="YAML file with `deployment or model: price`, written as in a configuration.")] = None,
    config: Annotated[
        str | None, typer.Option("--config", "-c", help="Configuration file: of the ledger, and of the prices unless there are --prices.")
    ] = None,
    since: Annotated[str, typer.Option(help="From here on: 7d, 24h, 2026-11-01 or 2026-11-01T14:00.")] = "30d",
    until: Annotated[str | None, typer.Option(help="Up to, not including: as --since. Default: now.")] = None,
    by: Annotated[str, typer.Option(help="Split by one or more dimensions of `faregate spend`, joined by commas.")] = "deployment",
    apply: Annotated[bool, typer.Option("--apply", help="Book the differences.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show them; the default.")] = False,
    reason: Annotated[str, typer.Option(help="With --apply: why; goes into the audit log.")] = "",
    store: Store = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; money in nano-USD.")] = False,
) -> None:
    """Charge every call of a span anew, from its record, at other prices. Changes nothing without --apply."""
    if prices is None and config is None:
        raise typer.BadParameter("at which prices? --prices FILE has some for names, --config FILE those of a configuration")
    if apply and dry_run:
        raise typer.BadParameter("--apply and --dry-run are two things; name one")
    if apply and not reason.strip():
        raise typer.BadParameter("--apply changes what was charged: say why, with --reason")
    try:
        now = datetime.now(UTC)
        begin = parse_moment(since, now=now, zone=UTC)
        end = parse_moment(until, now=now, zone=UTC) if until else None
        until_ms = None if end is None else int(end.timestamp() * 1000)
        named = None if prices is None else _read(prices)
        rerating = Rerating(price_of=_at_config(config) if named is None else _at(named), until_ms=until_ms, by=parse_dimensions(by))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    address = must_exist(choose_store(store, config))
    since_ms = max(0, int(begin.timestamp() * 1000))
    if named is not None:
        _refuse_unknown(named, str(prices), address, since_ms, config)
    if apply:
        booked = asyncio.run(_apply(address, rerating, since_ms, reason.strip()))
        _report(rerating, as_json=as_json, booked=booked)
        return
    unreadable = each_record(open_ledger(address, timeout_seconds=TIMEOUT_SECONDS), rerating.add, since_ms=since_ms)
    rerating.compare()
    if unreadable:
        typer.echo(f"{unreadable} records could not be read and are not in the sums.", err=True)
    _report(rerating, as_json=as_json, booked=None)


async def _apply(store: str, rerating: Rerating, since_ms: int, reason: str) -> int:
    from router.books.correcting import apply

    async with visiting(store) as ledger:
        return await apply(ledger, rerating, since_ms=since_ms, who=operator(), reason=reason)


def _report(rerating: Rerating, *, as_json: bool, booked: int | None) -> None:
    if as_json:
        rows = [dict(zip(rerating.by, group, strict=True)) | _fields(row) for group, row in rerating.sorted_rows()]
        print(msgspec.json.format(msgspec.json.encode({"rows": rows, "total": _fields(rerating.total)} | _said(booked)), indent=2).decode())
        return
    _print(rerating)
    if booked is not None:
        typer.echo(f"{booked:,} corrections were booked.")
    elif rerating.changes:
        typer.echo(f"Nothing was changed. --apply books {len(rerating.changes):,} corrections.")


def _said(booked: int | None) -> dict[str, int]:
    return {} if booked is None else {"booked": booked}


def _read(prices: str) -> Named:
    from router.settings.price_file import read_prices

    return read_prices(prices)


def _refuse_unknown(named: Named, prices: str, store: str, since_ms: int, config: str | None) -> None:
    """A name that is misspelt would leave its calls at their charge, and say nothing.

    Raises:
        ConfigError: a name is neither in the log nor in the configuration, which is that of the environment if none is named.
    """
    missing, seen = set(named), set[str]()

    def take(record: SpendRecord) -> None:
        seen.update((record.deployment, record.model))

    # What was not called in the span may have been called before.
    for begin in (since_ms, 0):
        if missing:
            each_record(open_ledger(store, timeout_seconds=TIMEOUT_SECONDS), take, since_ms=begin)
            missing -= seen
    if missing and (config or os.environ.get(CONFIG)):
        seen |= _configured(config)
        missing -= seen
    if missing:
        known = sorted(seen - {""})
        wrong = [f'{prices}: no model or deployment "{name}"{one_of(name, known)}' for name in named if name in missing]
        raise ConfigError("\n".join(wrong))


def _configured(config: str | None) -> set[str]:
    from router.settings.offline import load_offline

    deployments = load_offline(config).deployments
    return {*deployments, *(each.model for each in deployments.values())}


def _at(named: Named) -> PriceOf:
    def in_force(record: SpendRecord) -> Price | None:
        dated = named.get(record.deployment) or named.get(record.model)
        return price_at(dated, record.at_ms) if dated else None

    return in_force


def _at_config(config: str | None) -> PriceOf:
    from router.settings import load_snapshot

    deployments = load_snapshot(config).deployments

    def price_of(record: SpendRecord) -> Price | None:
        """The price that was in force when the call was booked."""
        deployment = deployments.get(record.deployment)
        if deployment is None:
            return None
        return price_at(deployment.prices, record.at_ms) if deployment.prices else deployment.price

    return price_of


def _fields(row: Compared) -> dict[str, Any]:
    return {
        "calls": row.calls,
        "charged_nusd": row.charged_nusd,
        "rerated_nusd": row.rerated_nusd,
        "difference_nusd": row.rerated_nusd - row.charged_nusd,
        "kept_calls": row.kept,
    }


def _print(rerating: Rerating) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title="Charged, and at the prices named", title_justify="left", show_footer=True, box=box.SIMPLE)
    for number, name in enumerate(rerating.by):
        table.add_column(name, footer="total" if number == 0 else "", overflow="fold")
    for name, figure in zip(
        ("calls", "charged USD", "at the prices USD", "difference USD", "kept calls"), _figures(rerating.total), strict=True
    ):
        table.add_column(name, footer=figure, justify="right", no_wrap=True)
    for group, row in rerating.sorted_rows():
        table.add_row(
            *[Text("".join(char if char.isprintable() else "?" for char in value)[:128] or "-") for value in group], *_figures(row)
        )
    console = Console()
    needed = console.measure(table, options=console.options.update(width=1000)).maximum
    Console(width=max(needed, console.width), soft_wrap=True).print(table)


def _figures(row: Compared) -> tuple[str, ...]:
    difference = row.rerated_nusd - row.charged_nusd
    return (f"{row.calls:,}", format_usd(row.charged_nusd), format_usd(row.rerated_nusd), format_usd(difference), f"{row.kept:,}")
