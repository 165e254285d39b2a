"""Reads of the books: spend, records, calls under way, the audit log. The whole log is read by one request at a time."""

from __future__ import annotations

import asyncio
import csv
import io
import re
from collections import deque
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import msgspec
from fastapi import Query, Response
from fastapi.responses import StreamingResponse

from router.admin.office import Office
from router.admin.roles import VIEWER, Endpoint
from router.admin.shapes import Audit, AuditLine, Hold, Holds, Records, RequestRecords, Spend, SpendRow
from router.admin.views import moment
from router.admin.words import moment_or_none, since_ms, wrong
from router.books.columns import plain_row, plain_types
from router.books.tables import csv_text
from router.books.writers import csv_cell
from router.domain.controls import AuditEntry
from router.domain.money import format_usd
from router.domain.records import SpendRecord
from router.domain.store_address import read_store
from router.errors import INVALID_REQUEST, NOT_FOUND, LogReplaced, RouterError
from router.spend import Report, Sums, dimension, parse_dimensions, parse_filters

MOST_GROUPS: Final = 10_000
"""Rows of a report: each keeps the ids of its requests while it is made."""
MOST_SCANNED: Final = 20_000
"""Records that one request for a page looks at."""
MOST_SHOWN: Final = 1000
BREATH: Final = 100
"""After so many records others get a turn."""
CSV: Final = "text/csv; charset=utf-8"
_CURSOR: Final = re.compile(r"([0-9]{1,6})\.([0-9]{1,15})\.((?:[0-9]{1,18}(?:-[0-9]{1,18}|\.[0-9a-f]{8})?)?)")

Filters = Annotated[
    list[str] | None,
    Query(max_length=32, description="`team=search`, `key=ID`, `model=m`, `tag:project=x`, ...; of one name any, of several all."),
]
By = Annotated[str, Query(max_length=256, description="day, hour, week, month, team, key, model, ..., tag:NAME; joined by commas.")]
Since = Annotated[str, Query(max_length=40, description="From here on: `7d`, `24h`, `2026-11-01` or ISO 8601; UTC.")]
Until = Annotated[str | None, Query(max_length=40, description="Up to, not including. Default: now.")]
Limit = Annotated[int, Query(ge=1, le=MOST_SHOWN, description="Most entries to show.")]


def add(endpoint: Endpoint) -> None:
    """Add the endpoints."""
    _add_spend(endpoint)
    _add_records(endpoint)
    _add_request(endpoint)
    _add_holds(endpoint)
    _add_audit(endpoint)


def _filters(texts: list[str] | None) -> dict[str, frozenset[str]]:
    try:
        return parse_filters(texts or ())
    except ValueError as error:
        raise wrong("filter", error) from None


def _fits(record: SpendRecord, only: Mapping[str, frozenset[str]]) -> bool:
    return all(dimension(name)(record, UTC) in wanted for name, wanted in only.items())


async def _records(office: Office, since: int, until: int | None) -> AsyncIterator[tuple[SpendRecord | None, bytes]]:
    """Records and their bytes; None in place of one that cannot be read. Others get a turn now and then."""
    decoder = msgspec.json.Decoder(SpendRecord)
    async with office.reading:
        number = 0
        async for line in office.service.ledger.records(since_ms=since, until_ms=until):
            number += 1
            if number % BREATH == 0:
                await asyncio.sleep(0)
            try:
                record = decoder.decode(line)
            except msgspec.DecodeError:
                yield None, line
            else:
                yield record, line


# Spend


def _add_spend(endpoint: Endpoint) -> None:
    office = endpoint.office

    async def report(by: str, since: int, until: int | None, filters: list[str] | None) -> Report:
        try:
            made = Report(by=parse_dimensions(by), zone=UTC, only=_filters(filters))
        except ValueError as error:
            raise wrong("by", error) from None
        async for record, _ in _records(office, since, until):
            if record is None:
                made.unreadable += 1
                continue
            made.add(record)
            if len(made.rows) > MOST_GROUPS:
                raise RouterError(INVALID_REQUEST, f"There are more than {MOST_GROUPS:,} rows: split by less, or filter.", param="by")
        return made

    @endpoint.get("/spend", VIEWER)
    async def spend(by: By = "day,team", since: Since = "30d", until: Until = None, filter: Filters = None) -> Spend:
        """What was spent, exact to the nano-dollar: the sum of all rows is what the ledger's counters say."""
        begin, end = since_ms(since), None if until is None else since_ms(until, "until")
        made = await report(by, begin, end, filter)
        return Spend(
            since=moment(begin),
            until=moment_or_none(end),
            by=list(made.by),
            rows=[_row(dict(zip(made.by, group, strict=True)), sums) for group, sums in made.sorted_rows()],
            total=_row({}, made.total),
            unreadable=made.unreadable,
        )

    @endpoint.get("/spend.csv", VIEWER, response_class=Response, responses={200: {"content": {"text/csv": {}}}})
    async def spend_csv(by: By = "day,team", since: Since = "30d", until: Until = None, filter: Filters = None) -> Response:
        """The same as comma-separated values."""
        made = await report(by, since_ms(since), None if until is None else since_ms(until, "until"), filter)
        return Response(csv_text(made), media_type=CSV)


def _row(group: dict[str, str], sums: Sums) -> SpendRow:
    return SpendRow(
        group=group,
        requests=len(sums.requests),
        calls=sums.calls,
        input_tokens=sums.input_tokens,
        cached_tokens=sums.cached_tokens,
        output_tokens=sums.output_tokens,
        cost_usd=format_usd(sums.charge_nusd),
        avoided_estimate_usd=None if sums.avoided_nusd is None else format_usd(sums.avoided_nusd),
        estimated_usd=format_usd(sums.estimated_nusd),
    )


# Records


def _add_records(endpoint: Endpoint) -> None:
    office = endpoint.office

    @endpoint.get("/records", VIEWER)
    async def records(
        since: Since = "24h",
        until: Until = None,
        filter: Filters = None,
        limit: Limit = 100,
        cursor: Annotated[str, Query(max_length=80, description="`next` of the answer before.")] = "",
    ) -> Records:
        """Spend records in the order they were written, a page at a time. A page may be short, or empty, and still have a next one."""
        end = None if until is None else since_ms(until, "until")
        place = _read_cursor(cursor, office.service.store) if cursor else (0, since_ms(since), "")
        try:
            shown, following = await _page(office, place, end, _filters(filter), limit)
        except LogReplaced as error:
            raise wrong("cursor", ValueError(f"{error}; begin without one")) from None
        return Records(data=shown, next=following)

    @endpoint.get("/records.csv", VIEWER, response_class=StreamingResponse, responses={200: {"content": {"text/csv": {}}}})
    async def records_csv(since: Since = "24h", until: Until = None, filter: Filters = None) -> StreamingResponse:
        """All records of a span as comma-separated values, streamed."""
        begin, end, only = since_ms(since), None if until is None else since_ms(until, "until"), _filters(filter)
        return StreamingResponse(_csv(office, begin, end, only), media_type=CSV)


async def _csv(office: Office, since: int, until: int | None, only: Mapping[str, frozenset[str]]) -> AsyncIterator[bytes]:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(plain_types())
    written = 0
    async for record, _ in _records(office, since, until):
        if record is not None and _fits(record, only):
            writer.writerow([csv_cell(value) for value in plain_row(record).values()])
            written += 1
            if written % BREATH == 0:
                yield out.getvalue().encode()
                out.seek(0)
                out.truncate()
    yield out.getvalue().encode()


Place = tuple[int, int, str]
"""Records of the page to pass over, the moment to begin at if there is no cursor, cursor of the log before the page."""


def _read_cursor(text: str, store: str) -> Place:
    found = _CURSOR.fullmatch(text)
    # Redis numbers the lines of a log otherwise than SQLite.
    if not found or (found[3] and ("-" in found[3]) != (read_store(store) is None)):
        raise wrong("cursor", ValueError("is none that an answer gave"))
    return int(found[1]), int(found[2]), found[3]


async def _page(
    office: Office, place: Place, until: int | None, only: Mapping[str, frozenset[str]], limit: int
) -> tuple[list[dict[str, Any]], str | None]:
    log, decoder = office.service.ledger.alert_store(), msgspec.json.Decoder(SpendRecord)
    skip, since, cursor = place
    shown: list[dict[str, Any]] = []
    scanned = 0
    while scanned < MOST_SCANNED:
        following, lines = await log.page(cursor, since_ms=since)
        if not lines and following == cursor:
            return shown, None
        for number, line in enumerate(lines[skip:], skip):
            try:
                record = decoder.decode(line)
            except msgspec.DecodeError:
                # Of a form that this release does not know: whether it is meant cannot be told.
                continue
            if (until is None or record.at_ms < until) and _fits(record, only):
                if len(shown) == limit:
                    return shown, f"{number}.{since}.{cursor}"
                shown.append(_fields(line))
        scanned += len(lines)
        skip, cursor = 0, following
    return shown, f"0.{since}.{cursor}"


def _fields(line: bytes) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.json.decode(line)
    return fields


def _add_request(endpoint: Endpoint) -> None:
    office = endpoint.office

    @endpoint.get("/requests/{request_id}", VIEWER)
    async def request_records(request_id: str, since: Since = "7d") -> RequestRecords:
        """Everything that the log has of one request, by its `x-faregate-request-id`: each attempt, its price, and the decision."""
        found = [
            line async for record, line in _records(office, since_ms(since), None) if record is not None and record.request_id == request_id
        ]
        if not found:
            shown = request_id if len(request_id) <= 64 and request_id.isprintable() else "of this id"
            raise RouterError(NOT_FOUND, f"The log has no record of request '{shown}' since {since}: give `since` to look further back.")
        attempts = [_fields(line) for line in found]
        return RequestRecords(
            request_id=request_id,
            cost_usd=format_usd(sum(attempt.get("charge_nusd", 0) for attempt in attempts)),
            decision=next((trace for attempt in attempts if (trace := attempt.pop("trace", None))), None),
            attempts=attempts,
        )


# Calls under way, and who changed what


def _add_holds(endpoint: Endpoint) -> None:
    office = endpoint.office

    @endpoint.get("/holds", VIEWER)
    async def holds() -> Holds:
        """Calls under way at all workers of this machine, the oldest first, with what is held for each."""
        answers = await office.peers.ask_all("holds")
        lines = sorted((line for answer in answers for line in answer), key=lambda line: -line["age_ms"])
        return Holds(
            data=[_hold(dict(line)) for line in lines],
            held_usd=format_usd(sum(line["held_nusd"] for line in lines)),
            workers=len(answers),
        )


def _hold(line: dict[str, Any]) -> Hold:
    held, burnt = format_usd(line.pop("held_nusd")), format_usd(line.pop("burnt_nusd"))
    return Hold(**line, held_usd=held, burnt_usd=burnt)


def _add_audit(endpoint: Endpoint) -> None:
    office = endpoint.office

    @endpoint.get("/audit", VIEWER)
    async def audit(
        since: Since = "7d",
        until: Until = None,
        who: Annotated[str | None, Query(max_length=128)] = None,
        action: Annotated[str | None, Query(max_length=64, description="`budget.raise`, `key.revoke`, ...")] = None,
        limit: Limit = 100,
    ) -> Audit:
        """Who changed what, when and why, the newest first. Nothing of it can be changed."""
        end = None if until is None else since_ms(until, "until")
        newest: deque[AuditLine] = deque(maxlen=limit)
        async for at_ms, stored in office.service.ledger.control_store().history(since_ms=since_ms(since)):
            entry = msgspec.json.decode(stored, type=AuditEntry)
            if (end is None or at_ms < end) and who in (None, entry.who) and action in (None, entry.action):
                newest.append(_audit_line(at_ms, entry))
        return Audit(data=list(reversed(newest)))


def _audit_line(at_ms: int, entry: AuditEntry) -> AuditLine:
    fields = msgspec.structs.asdict(entry)
    until = moment_or_none(fields.pop("until_ms"))
    at = datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return AuditLine(at=at, until=until, **fields)
