"""What verbs that replay a log have in common: where it is, and from when."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from router.adapters.choose import must_exist, open_ledger, store_of
from router.books.reading import TIMEOUT_SECONDS, each_record, read_feedback
from router.domain.records import SpendRecord
from router.replay.requests import LOGS, Asked, read_requests, records_of_file
from router.snapshot import Snapshot
from router.spend import parse_moment

Replay = Annotated[
    str | None,
    typer.Option(
        "--replay", help="Log to replay: a file with a record a line, or the address of a ledger. Default: the configuration's own ledger."
    ),
]
Since = Annotated[str, typer.Option(help="From here on: 7d, 24h, 2026-11-01 or 2026-11-01T14:00.")]
Until = Annotated[str | None, typer.Option(help="Up to, not including: as --since. Default: now.")]


def read_log(snapshot: Snapshot, replay: str | None, since: str, until: str | None) -> list[Asked]:
    """The requests of a log, in the order in which they began.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        now = datetime.now(UTC)
        begin = int(parse_moment(since, now=now, zone=UTC).timestamp() * 1000)
        end = int(parse_moment(until, now=now, zone=UTC).timestamp() * 1000) if until else None
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if replay is not None and "://" not in replay and replay.endswith(LOGS):
        found = records_of_file(Path(replay))
        return read_requests(one for one in found if begin <= one.at_ms and (end is None or one.at_ms < end))
    records: list[SpendRecord] = []
    ledger = open_ledger(must_exist(replay or store_of(snapshot)), timeout_seconds=TIMEOUT_SECONDS)
    unreadable = each_record(ledger, records.append, since_ms=begin, until_ms=end)
    if unreadable:
        typer.echo(f"{unreadable} records could not be read and are left out.", err=True)
    requests = read_requests(records)
    given = read_feedback(open_ledger(replay or store_of(snapshot), timeout_seconds=TIMEOUT_SECONDS), since_ms=begin)
    for asked in requests:
        said = given.get((asked.request_id, asked.facts.key_id))
        asked.rating = None if said is None else said.rating
    return requests
