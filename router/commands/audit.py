"""`faregate audit`: who changed what, when and why."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Annotated, Any

import msgspec
import typer

from router.adapters.choose import choose_store, must_exist, visiting
from router.commands.changes import AsJson, moment_text, print_rows
from router.commands.options import Books, Store
from router.domain.controls import AuditEntry
from router.settings.units import parse_duration


def command(
    since: Annotated[str, typer.Option(help="From when on: 7d, 12h, or a date such as 2026-11-01.")] = "7d",
    store: Store = None,
    config: Books = None,
    as_json: AsJson = False,
) -> None:
    """Show who changed what, when and why: limits, freezes, drains, keys, configurations. Nothing of it can be changed."""
    since_ms = round(_moment(since).timestamp() * 1000)
    entries = asyncio.run(_entries(must_exist(choose_store(store, config)), since_ms))
    if as_json:
        for at_ms, entry in entries:
            fields: dict[str, Any] = msgspec.to_builtins(entry)
            print(msgspec.json.encode({"at": moment_text(at_ms), "at_ms": at_ms} | fields).decode())
        return
    rows: list[tuple[str, ...]] = [("WHEN", "WHO", "VIA", "WHAT", "OF", "FROM", "TO", "UNTIL", "REASON")]
    rows += [_row(at_ms, entry) for at_ms, entry in entries]
    print_rows(rows)


def _moment(text: str) -> datetime:
    now = datetime.now().astimezone()
    try:
        return now - timedelta(seconds=parse_duration(text))
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no time: write 7d, 12h or 2026-11-01", param_hint="--since") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=now.tzinfo)


async def _entries(store: str, since_ms: int) -> list[tuple[int, AuditEntry]]:
    async with visiting(store) as ledger:
        found = ledger.control_store().history(since_ms=since_ms)
        return [(at_ms, msgspec.json.decode(entry, type=AuditEntry)) async for at_ms, entry in found]


def _row(at_ms: int, entry: AuditEntry) -> tuple[str, ...]:
    of = f"{entry.target} ({entry.scope})" if entry.scope else entry.target
    words = (entry.before or "-", entry.after or "-", moment_text(entry.until_ms), entry.reason or "-")
    return (moment_text(at_ms), entry.who, entry.via, entry.action, of, *words)
