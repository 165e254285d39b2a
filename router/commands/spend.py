"""`faregate spend`: what was spent, by any dimension of the records; `faregate spend export`: the records for other programs."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, tzinfo
from typing import TYPE_CHECKING, Annotated, Final
from zoneinfo import ZoneInfo

import msgspec
import typer

from router.adapters.choose import choose_store, must_exist, open_ledger
from router.books.reading import TIMEOUT_SECONDS, each_record
from router.books.tables import csv_text, row_of
from router.commands.options import Books, Store
from router.commands.spend_export import command as export
from router.commands.spend_sink import command as sink
from router.domain.money import format_usd
from router.spend import DIMENSIONS, Report, Sums, parse_dimensions, parse_filters, parse_moment, printable

if TYPE_CHECKING:
    from rich.table import Table

_COLUMNS: Final = ("requests", "calls", "tokens in", "cached", "tokens out", "cost USD", "avoided USD (estimate)", "estimated")
_Only = list[str] | None


app = typer.Typer(add_completion=False, invoke_without_command=True)


@app.callback()
def command(
    context: typer.Context,
    by: Annotated[str, typer.Option(help=f"Split by one or more of {', '.join(DIMENSIONS)}, tag:NAME, joined by commas.")] = "day,team",
    since: Annotated[str, typer.Option(help="From here on: 7d, 24h, 2026-11-01 or 2026-11-01T14:00.")] = "30d",
    until: Annotated[str | None, typer.Option(help="Up to, not including: as --since. Default: now.")] = None,
    timezone: Annotated[str, typer.Option(help="IANA time zone of days and dates.")] = "UTC",
    team: Annotated[_Only, typer.Option(help="Only this team; may be given again for more.")] = None,
    org: Annotated[_Only, typer.Option(help="Only this organisation; may be given again for more.")] = None,
    key: Annotated[_Only, typer.Option(help="Only this key, by its id; may be given again for more.")] = None,
    user: Annotated[_Only, typer.Option(help="Only this user; may be given again for more.")] = None,
    session: Annotated[_Only, typer.Option(help="Only this session; may be given again for more.")] = None,
    route: Annotated[_Only, typer.Option(help="Only this route; may be given again for more.")] = None,
    rule: Annotated[_Only, typer.Option(help="Only this rule; may be given again for more.")] = None,
    model: Annotated[_Only, typer.Option(help="Only this model; may be given again for more.")] = None,
    deployment: Annotated[_Only, typer.Option(help="Only this deployment; may be given again for more.")] = None,
    provider: Annotated[_Only, typer.Option(help="Only this provider; may be given again for more.")] = None,
    outcome: Annotated[_Only, typer.Option(help="Only this outcome; may be given again for more.")] = None,
    tag: Annotated[_Only, typer.Option(help="Only calls with this tag: NAME=VALUE; may be given again for more.")] = None,
    store: Store = None,
    config: Books = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; money in nano-USD and in USD.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print comma-separated values.")] = False,
) -> None:
    """Show what was spent. The sum of all rows is what the ledger's counters say, to the nano-dollar."""
    if context.invoked_subcommand is not None:
        return
    named = {"team": team, "org": org, "key": key, "user": user, "session": session, "route": route, "rule": rule}
    named |= {"model": model, "deployment": deployment, "provider": provider, "outcome": outcome}
    filters = [f"{name}={value}" for name, values in named.items() for value in values or ()] + [f"tag:{pair}" for pair in tag or ()]
    try:
        zone = _zone(timezone)
        now = datetime.now(UTC)
        begin = parse_moment(since, now=now, zone=zone)
        end = parse_moment(until, now=now, zone=zone) if until else None
        report = Report(by=parse_dimensions(by), zone=zone, only=parse_filters(filters))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if as_json and as_csv:
        raise typer.BadParameter("choose one of --json and --csv")
    ledger = open_ledger(must_exist(choose_store(store, config)), timeout_seconds=TIMEOUT_SECONDS)
    report.unreadable = each_record(ledger, report.add, since_ms=_ms(begin), until_ms=None if end is None else _ms(end))
    if report.unreadable:
        typer.echo(f"{report.unreadable} records could not be read and are not in the sums.", err=True)
    if as_json:
        sys.stdout.write(json_text(report, since=begin, until=end))
    elif as_csv:
        sys.stdout.write(csv_text(report))
    else:
        _print_table(report, begin, end)


def _zone(name: str) -> tzinfo:
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, KeyError):
        raise ValueError(f"there is no time zone {name!r}") from None


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def json_text(report: Report, *, since: datetime, until: datetime | None) -> str:
    """The report as one JSON object."""
    rows = [dict(zip(report.by, group, strict=True)) | row_of(sums) for group, sums in report.sorted_rows()]
    whole = {
        "since": since.isoformat(),
        "until": None if until is None else until.isoformat(),
        "by": report.by,
        "rows": rows,
        "total": row_of(report.total),
    }
    return msgspec.json.format(msgspec.json.encode(whole), indent=2).decode() + "\n"


def _figures(sums: Sums) -> tuple[str, ...]:
    share = sums.estimated_share
    return (
        f"{len(sums.requests):,}",
        f"{sums.calls:,}",
        f"{sums.input_tokens:,}",
        f"{sums.cached_tokens:,}",
        f"{sums.output_tokens:,}",
        format_usd(sums.charge_nusd),
        "-" if sums.avoided_nusd is None else format_usd(sums.avoided_nusd),
        "-" if share is None else f"{share:.1%}",
    )


def build_table(report: Report, title: str) -> Table:
    """The report for people, with a row of totals."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left", show_footer=True, box=box.SIMPLE)
    for number, name in enumerate(report.by):
        table.add_column(name, footer="total" if number == 0 else "", overflow="fold")
    for name, figure in zip(_COLUMNS, _figures(report.total), strict=True):
        table.add_column(name, footer=figure, justify="right", no_wrap=True)
    for group, sums in report.sorted_rows():
        table.add_row(*[Text(printable(value) or "-") for value in group], *_figures(sums))
    return table


def _print_table(report: Report, begin: datetime, end: datetime | None) -> None:
    from rich.console import Console

    span = f"{begin:%Y-%m-%d %H:%M} to {'now' if end is None else format(end, '%Y-%m-%d %H:%M')}"
    table = build_table(report, f"Spent, {span}")
    console = Console()
    # A figure that is cut to fit a narrow terminal is wrong; a line that wraps is only ugly.
    needed = console.measure(table, options=console.options.update(width=1000)).maximum
    Console(width=max(needed, console.width), soft_wrap=True).print(table)
    if not report.rows:
        console.print("No records in this time.")


app.command("export")(export)
app.command("sink")(sink)
