"""`faregate privacy`: where private requests went."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from router.adapters.choose import choose_store, must_exist, open_ledger
from router.books.privacy import Broken, Entry, chained, entry_of, read_report
from router.books.reading import TIMEOUT_SECONDS, each_record
from router.commands.options import Books, Store
from router.domain.records import SpendRecord
from router.replay.report import Table, as_text
from router.spend import parse_moment

app = typer.Typer(no_args_is_help=True)


@app.command()
def report(
    out: Annotated[Path, typer.Option(help="File to write, JSON Lines; it must not exist yet.")],
    since: Annotated[str, typer.Option(help="From here on: 30d, 24h, 2026-11-01 or 2026-11-01T14:00 (UTC).")] = "30d",
    until: Annotated[str, typer.Option(help="Up to here, not included. Default: now.")] = "0h",
    after: Annotated[Path | None, typer.Option(help="The report that this one continues: its last line is named in the first.")] = None,
    store: Store = None,
    config: Books = None,
) -> None:
    """Write a report of every attempt of a private request: its classes, and the host that it reached.

    Each line is tied to all before it by a hash. Keep the last hash elsewhere: with it, `verify` proves that nothing was changed,
    left out or put in.
    """
    begin_ms, end_ms = _moment(since), _moment(until)
    if end_ms <= begin_ms:
        raise typer.BadParameter(f"--until {until} is not after --since {since}")
    before = "" if after is None else _read(after)[1]
    entries: list[Entry] = []

    def take(record: SpendRecord) -> None:
        entry = entry_of(record)
        if entry is not None:
            entries.append(entry)

    address = must_exist(choose_store(store, config))
    unreadable = each_record(open_ledger(address, timeout_seconds=TIMEOUT_SECONDS), take, since_ms=begin_ms, until_ms=end_ms)
    try:
        with out.open("x", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in chained(entries, since_ms=begin_ms, until_ms=end_ms, after=before))
    except OSError as error:
        raise typer.BadParameter(f"--out {out}: {error.strerror}") from None
    if unreadable:
        typer.echo(f"{unreadable:,} records of the ledger could not be read and are not in it.", err=True)
    _show(*_read(out))


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(help="A report.")],
    expect: Annotated[str, typer.Option(help="The last hash, as it was noted elsewhere.")] = "",
) -> None:
    """Check that a report is as it was written; exit 1 if it is not."""
    entries, last = _read(file)
    if expect and expect != last:
        typer.echo(f"{file}: its last hash is {last}, not {expect}: lines at its end were left out or put in, or it is another report")
        raise typer.Exit(1)
    _show(entries, last)


def _moment(text: str) -> int:
    try:
        return int(parse_moment(text, now=datetime.now(UTC), zone=UTC).timestamp() * 1000)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _read(file: Path) -> tuple[list[Entry], str]:
    try:
        return read_report(file.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{file}: {getattr(error, 'strerror', None) or error}") from None
    except Broken as error:
        typer.echo(f"{file}: {error}")
        raise typer.Exit(1) from None


def _show(entries: list[Entry], last: str) -> None:
    attempts = Counter(reached for entry in entries for reached in entry.reached())
    requests: dict[object, set[str]] = {}
    for entry in entries:
        for reached in entry.reached():
            requests.setdefault(reached, set()).add(entry.request_id)
    rows = [
        [each.private, each.host, each.locality or "unknown", each.deployment, f"{len(requests[each]):,}", f"{count:,}"]
        for each, count in sorted(attempts.items())
    ]
    notes = [f"{len({entry.request_id for entry in entries}):,} private requests were sent, in {len(entries):,} attempts."]
    columns = ("class", "host", "locality", "deployment", "requests", "attempts")
    typer.echo(as_text(notes, [Table(title="Hosts that they reached", columns=columns, rows=rows)]))
    typer.echo(f"\nLast hash: {last}")
