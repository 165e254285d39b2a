"""`faregate explain --record ID`: a request of the past, out of the ledger's log."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec
import typer

from router.adapters.choose import must_exist, open_ledger, store_of
from router.books.reading import TIMEOUT_SECONDS, each_record
from router.domain.records import SpendRecord
from router.replay.past import as_text, find_past
from router.snapshot import Snapshot

EXIT_UNKNOWN: Final = 1
BACK: Final = timedelta(days=400)


def explain_past(snapshot: Snapshot, record_id: str, store: str | None, *, as_json: bool) -> None:
    """Print why a request went where it went. `record_id`: of the request, or of one of its attempts. Exit 1 if the log has none.

    Raises:
        ConfigError: the ledger cannot be read.
    """
    found: list[SpendRecord] = []
    wanted = {record_id, record_id.rpartition(".")[0]}

    def take(record: SpendRecord) -> None:
        if record.request_id in wanted or record.attempt_id == record_id:
            found.append(record)

    ledger = open_ledger(must_exist(store or store_of(snapshot)), timeout_seconds=TIMEOUT_SECONDS)
    each_record(ledger, take, since_ms=int((datetime.now(UTC) - BACK).timestamp() * 1000))
    if not found:
        typer.echo(
            f"The log has no request {record_id!r}: it was refused before any call, is older than the log, or is another ledger's.",
            err=True,
        )
        raise typer.Exit(EXIT_UNKNOWN)
    told = find_past(snapshot, found)
    typer.echo(msgspec.json.format(msgspec.json.encode(told, enc_hook=dict), indent=2).decode() if as_json else as_text(told))
