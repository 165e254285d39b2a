"""`faregate feedback`: how clients rated the answers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from router.adapters.choose import choose_store, must_exist, open_ledger
from router.books.reading import TIMEOUT_SECONDS, each_record, read_feedback
from router.commands.files import write_scores
from router.commands.options import Books, Store
from router.domain.feedback import Feedback
from router.domain.money import format_usd
from router.domain.records import SpendRecord
from router.domain.rerate import REASON
from router.replay.report import Table, as_text
from router.settings.catalogue import DEFAULT
from router.spend import dimension, parse_dimensions, parse_moment

SHOWN_LABELS = 4


@dataclass(slots=True)
class Rated:
    """One row."""

    requests: int = 0
    rated: int = 0
    total: float = 0.0
    charge_nusd: int = 0
    labels: Counter[str] = field(default_factory=Counter)

    @property
    def mean(self) -> float | None:
        """Of the ratings, from 0 to 1."""
        return self.total / self.rated if self.rated else None


def command(
    by: Annotated[str, typer.Option(help="Split by one or more dimensions of `faregate spend`, joined by commas.")] = "model",
    since: Annotated[str, typer.Option(help="From here on: 7d, 24h, 2026-11-01 or 2026-11-01T14:00.")] = "30d",
    store: Store = None,
    config: Books = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; money in nano-USD.")] = False,
    write: Annotated[
        Path | None, typer.Option(help="Configuration file in whose catalogue the mean ratings are written as quality; with --by model.")
    ] = None,
    least: Annotated[int, typer.Option(min=1, help="With --write: ratings that a model must have.")] = 50,
) -> None:
    """Join what clients said (`POST /v1/feedback`) with the records of their requests. Only the key that made a request can rate it."""
    try:
        begin = int(parse_moment(since, now=datetime.now(UTC), zone=UTC).timestamp() * 1000)
        names = parse_dimensions(by)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if write is not None and names != ("model",):
        raise typer.BadParameter("the catalogue has qualities of models: --by model", param_hint="--write")
    address = must_exist(choose_store(store, config))
    given = read_feedback(open_ledger(address, timeout_seconds=TIMEOUT_SECONDS), since_ms=begin)
    answers: dict[str, SpendRecord] = {}
    corrected: Counter[str] = Counter()

    def take(record: SpendRecord) -> None:
        # The last attempt that was charged is the answer that the client has.
        if record.deployment and record.outcome in ("ok", "cut", "client_left"):
            answers[record.request_id] = record
        elif record.reason == REASON:
            corrected[record.attempt_id] += record.charge_nusd

    each_record(open_ledger(address, timeout_seconds=TIMEOUT_SECONDS), take, since_ms=begin)
    for record in answers.values():
        record.charge_nusd += corrected[record.attempt_id]
    rows, lost = join(answers, given, names)
    if write is not None:
        write_scores(write, {group[0]: {DEFAULT: row.total / row.rated} for group, row in rows if row.rated >= least})
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(_data(names, rows, lost)), indent=2).decode())
        return
    columns = (*names, "requests", "rated", "mean", "cost USD", "labels")
    table = Table(title="", columns=columns, rows=[_cells(group, row) for group, row in rows])
    typer.echo(as_text([f"{_ratings(sum(row.rated for _, row in rows))}."], [table]))
    if lost:
        typer.echo(f"Not counted: {_ratings(lost)} of requests that the log does not have, or that another key made.", err=True)


def _ratings(count: int) -> str:
    return f"{count:,} rating{'' if count == 1 else 's'}"


def join(
    answers: dict[str, SpendRecord], given: dict[tuple[str, str], Feedback], names: tuple[str, ...]
) -> tuple[list[tuple[tuple[str, ...], Rated]], int]:
    """(Rows by group, the most often rated first; how many ratings belong to no request)."""
    rows: dict[tuple[str, ...], Rated] = {}
    left = len(given)
    for request_id, record in answers.items():
        row = rows.setdefault(tuple([dimension(name)(record, UTC) for name in names]), Rated())
        row.requests += 1
        row.charge_nusd += record.charge_nusd
        said = given.get((request_id, record.key_id))
        if said is None:
            continue
        left -= 1
        if said.rating is not None:
            row.rated += 1
            row.total += said.rating
        if said.label:
            row.labels[said.label] += 1
    return sorted(rows.items(), key=lambda item: (-item[1].rated, item[0])), left


def _cells(group: tuple[str, ...], row: Rated) -> list[str]:
    labels = ", ".join(f"{label} {count}" for label, count in row.labels.most_common(SHOWN_LABELS))
    mean = "-" if row.mean is None else f"{row.mean:.3f}"
    return [*(value or "-" for value in group), f"{row.requests:,}", f"{row.rated:,}", mean, format_usd(row.charge_nusd), labels or "-"]


def _data(names: tuple[str, ...], rows: list[tuple[tuple[str, ...], Rated]], lost: int) -> dict[str, object]:
    shown = [
        dict(zip(names, group, strict=True))
        | {"requests": row.requests, "rated": row.rated, "mean": row.mean, "cost_nusd": row.charge_nusd, "labels": dict(row.labels)}
        for group, row in rows
    ]
    return {"by": names, "rows": shown, "unmatched": lost}
