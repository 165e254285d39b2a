"""`faregate spend sink`: the records of the ledger in PostgreSQL, incrementally."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from router.adapters.choose import choose_store, must_exist, open_ledger
from router.books.reading import TIMEOUT_SECONDS
from router.commands.options import Books, Store
from router.spend import parse_moment


def command(
    address: Annotated[str, typer.Argument(help="postgresql://user@host/database; a password is best left to PGPASSWORD or ~/.pgpass.")],
    schema: Annotated[str, typer.Option(help="Where the tables `spend` and `sink` are, and are made if they are not.")] = "faregate",
    name: Annotated[str, typer.Option(help="For `server.keep_log_for`, which lets the ledger keep what this has not read yet.")] = "sink",
    since: Annotated[str, typer.Option(help="Where the first run begins: 7d, 2026-11-01. Later ones go on.")] = "3660d",
    store: Store = None,
    config: Books = None,
) -> None:
    """Take what is new in the log since the last run into PostgreSQL: each record once."""
    from router.books.sink import sink

    try:
        begin = parse_moment(since, now=datetime.now(UTC), zone=UTC)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    where = must_exist(choose_store(store, config))
    ledger = open_ledger(where, timeout_seconds=TIMEOUT_SECONDS)
    done = sink(ledger, where, address, schema=schema, name=name, since_ms=max(0, int(begin.timestamp() * 1000)))
    typer.echo(f"{done.records:,} records read, {done.new:,} of them new.")
    if done.unreadable:
        typer.echo(f"{done.unreadable} records could not be read and are left out.", err=True)
