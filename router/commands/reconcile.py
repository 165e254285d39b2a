"""`faregate reconcile`: the provider's own account beside the ledger."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
import typer

from router.adapters.choose import choose_store, must_exist, open_ledger
from router.commands.options import Books, Store
from router.domain.money import format_usd
from router.errors import ConfigError
from router.settings.env import CONFIG
from router.settings.findings import one_of
from router.spend import printable

if TYPE_CHECKING:
    from router.books.reconcile import Line
    from router.domain.records import SpendRecord

_MEASURES: Final = {"cost_nusd": "cost USD", "input_tokens": "tokens in", "output_tokens": "tokens out", "requests": "requests"}
_LATE: Final = timedelta(days=1)
_HEAD: Final = ("DAY", "MODEL", "WHAT", "PROVIDER", "LEDGER", "DIFFERENCE", "GAP")


def command(
    provider: Annotated[str, typer.Option(help="Name of the provider in the configuration: whose calls are compared.")],
    file: Annotated[Path, typer.Option(help="Its account: OpenAI's costs or usage, Anthropic's cost or usage report as JSON; or CSV.")],
    columns: Annotated[
        str, typer.Option(help="Columns of a CSV file: day=Date,model=Model,cost=Amount,input=In,output=Out,requests=N.")
    ] = "",
    tolerance: Annotated[float, typer.Option(help="Differences up to this share of the larger figure are none, in percent.", min=0)] = 1.0,
    least: Annotated[float, typer.Option(help="Differences of cost up to this are none, in USD.", min=0)] = 0.01,
    everything: Annotated[bool, typer.Option("--all", help="Show also what agrees.")] = False,
    store: Store = None,
    config: Books = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; money in nano-USD.")] = False,
) -> None:
    """Compare sums by day (UTC) and model with the provider's own account; exit 1 if there is a gap."""
    from router.books.provider_files import read_account
    from router.books.reading import TIMEOUT_SECONDS, each_record
    from router.books.reconcile import reconciliation

    account = read_account(file, _columns(columns))
    if not account:
        raise ConfigError(f"{file}: has no lines")
    made = reconciliation(provider, account)
    begin = datetime.fromisoformat(min(made.days)).replace(tzinfo=UTC)
    address = must_exist(choose_store(store, config))
    # Records are found by when the store wrote them, by its own clock: any time after the call, if the store was away.
    clocks_differ = timedelta(days=1)
    seen = set[str]()

    def add(record: SpendRecord) -> None:
        seen.add(record.provider)
        made.add(record)

    unreadable = each_record(
        open_ledger(address, timeout_seconds=TIMEOUT_SECONDS),
        add,
        since_ms=int((begin - clocks_differ).timestamp() * 1000),
    )
    if provider not in seen:
        _must_be_known(provider, address, config)
    lines = made.lines(tolerance=tolerance / 100, least={"cost_nusd": round(least * 10**9)})
    gaps = [line for line in lines if line.gap is not None]
    if unreadable:
        typer.echo(f"{unreadable} records could not be read and are not in the sums.", err=True)
    if as_json:
        whole = {"provider": provider, "by_model": made.by_model, "gaps": len(gaps), "lines": lines if everything else gaps}
        print(msgspec.json.format(msgspec.json.encode(whole), indent=2).decode())
    else:
        _print(lines if everything else gaps, compared=len(lines), gaps=len(gaps))
    if gaps:
        raise typer.Exit(1)


def _must_be_known(provider: str, address: str, config: str | None) -> None:
    """A provider that was not called in these days may be misspelt: then all of its account would seem to have passed us by.

    Raises:
        ConfigError: neither the log nor the configuration has it.
    """
    from router.books.reading import TIMEOUT_SECONDS, each_record

    known = set[str]()
    each_record(open_ledger(address, timeout_seconds=TIMEOUT_SECONDS), lambda record: known.add(record.provider), since_ms=0)
    if config or os.environ.get(CONFIG):
        from router.settings.offline import load_offline

        known |= {each.provider.name for each in load_offline(config).deployments.values()}
    if provider not in known:
        raise ConfigError(
            f"--provider: neither the log nor a configuration has a provider '{provider}'{one_of(provider, sorted(known - {''}))}"
        )


def _columns(text: str) -> dict[str, str]:
    from router.books.provider_files import COLUMNS

    pairs = [part.partition("=") for part in text.split(",") if part]
    wrong = [name for name, _, column in pairs if name not in COLUMNS or not column]
    if wrong:
        raise typer.BadParameter(f"{', '.join(wrong)}: write NAME=COLUMN with names of {', '.join(COLUMNS)}")
    return {name: column for name, _, column in pairs}


def _print(lines: list[Line], *, compared: int, gaps: int) -> None:
    rows = [_HEAD, *map(_row, lines)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEAD))]
    if lines:
        for row in rows:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print(f"{compared} figures compared, {gaps} gaps.")


def _row(line: Line) -> tuple[str, ...]:
    show = format_usd if line.measure == "cost_nusd" else "{:,}".format
    figures = (show(line.theirs), show(line.ours), show(line.ours - line.theirs))
    return (line.day, printable(line.model) or "-", _MEASURES[line.measure], *figures, line.gap or "-")
