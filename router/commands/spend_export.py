"""`faregate spend export`: the records of the ledger for other programs, incrementally."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from router.adapters.choose import choose_store, must_exist, open_ledger
from router.books.reading import TIMEOUT_SECONDS
from router.books.writers import Format
from router.commands.options import Books, Store, word
from router.spend import parse_moment


def command(
    out: Annotated[Path, typer.Option(help="Folder for the files and the cursor; one for each format and ledger.")],
    form: Annotated[
        Format,
        word(
            "--format",
            Format,
            "csv, parquet (needs the extra `export`), focus: FOCUS 1.0 as CSV, or jsonl: records as `faregate plan` replays them.",
        ),
    ] = "csv",
    since: Annotated[str, typer.Option(help="Where the first run begins: 7d, 2026-11-01. Later ones go on.")] = "400d",
    name: Annotated[str, typer.Option(help="For `server.keep_log_for`, which lets the ledger keep what this was not told yet.")] = "export",
    store: Store = None,
    config: Books = None,
) -> None:
    """Write what is new in the log since the last run: each record once, a file for each day."""
    from router.books.export import export

    try:
        begin = parse_moment(since, now=datetime.now(UTC), zone=UTC)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    address = must_exist(choose_store(store, config))
    since_ms = max(0, int(begin.timestamp() * 1000))
    done = export(open_ledger(address, timeout_seconds=TIMEOUT_SECONDS), address, out, form, name=name, since_ms=since_ms)
    for name in done.files:
        typer.echo(out / name)
    typer.echo(f"{done.records} records in {len(done.files)} files.", err=True)
    if done.unreadable:
        typer.echo(f"{done.unreadable} records could not be read and are left out.", err=True)
