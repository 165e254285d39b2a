"""Export of the log, a run at a time: each record once, in files by day, whole or not there at all.

A run writes its files under names that say where in the log it began, then moves the cursor. A run that was killed between
the two writes the same names again, with what was in them and perhaps more: a file is replaced, a record is never there twice.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from router.alerts.ports import Logbook
from router.books.columns import day_of
from router.books.reading import LEASE_SECONDS
from router.books.writers import WRITERS, Format, replace_file
from router.domain.records import SpendRecord
from router.errors import ConfigError, LogReplaced, StoreUnavailable
from router.ports import Ledger

CURSOR_FILE: Final = "cursor.json"
MOST_AT_ONCE: Final = 50_000
"""Records in memory at a time; a long log is exported in so many steps, each with a cursor of its own."""


class Cursor(msgspec.Struct, kw_only=True):
    """How far an export has come. The file beside the exported ones."""

    format: str
    store: str
    """Hash of the address, so that two ledgers are not mixed in one folder."""
    position: str = ""
    runs: int = 0
    """Steps that wrote something; the number is in the names of their files."""
    records: int = 0
    unreadable: int = 0


class Exported(msgspec.Struct, kw_only=True):
    """What one call did."""

    records: int = 0
    unreadable: int = 0
    files: list[str] = []


def read_cursor(folder: Path, form: Format, store: str) -> Cursor:
    """The cursor of a folder, or a new one.

    Raises:
        ConfigError: it is another format's or another ledger's, or cannot be read.
    """
    path = folder / CURSOR_FILE
    fresh = Cursor(format=form, store=hashlib.sha256(store.rpartition("@")[2].encode()).hexdigest()[:16])
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Cursor)
    except FileNotFoundError:
        return fresh
    except (OSError, msgspec.MsgspecError) as error:
        raise ConfigError(f"The cursor {path} cannot be read: {error}. Without it, it is not known what was exported.") from None
    if (found.format, found.store) != (fresh.format, fresh.store):
        raise ConfigError(f"{folder} holds an export in format {found.format} or of another ledger: use another folder.")
    return found


def export(ledger: Ledger, store: str, folder: Path, form: Format, *, name: str = "export", since_ms: int = 0) -> Exported:
    """Write what is new in the log since the last call for this folder. `since_ms` counts for the first call.

    When the files are there, `name` is told to the ledger, which may keep its log until then.

    `ledger` is the one at `store`, not open yet.

    Raises:
        ConfigError: the store, the folder or the cursor cannot be used, or a library is missing.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return asyncio.run(_export(ledger, store, folder, form, name, since_ms))
    except LogReplaced as error:
        raise ConfigError(f"{folder} cannot be continued: {error}. Export into another folder; `entry_id` tells what is in both.") from None
    except StoreUnavailable as error:
        raise ConfigError(f"The ledger cannot be read: {error}") from None
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written: {error}") from None


async def _export(ledger: Ledger, store: str, folder: Path, form: Format, name: str, since_ms: int) -> Exported:
    cursor = read_cursor(folder, form, store)
    done = Exported()
    async for records, unreadable, position in steps(ledger, cursor.position, since_ms, name=name):
        done.files += _write(folder, form, cursor.runs + 1, records)
        done.records += len(records)
        done.unreadable += unreadable
        cursor.position = position
        cursor.runs += 1
        cursor.records += len(records)
        cursor.unreadable += unreadable
        text = msgspec.json.format(msgspec.json.encode(cursor), indent=2)
        replace_file(folder / CURSOR_FILE, partial(_put, text))
    return done


def _put(text: bytes, path: Path) -> None:
    path.write_bytes(text)


def _write(folder: Path, form: Format, run: int, records: Sequence[SpendRecord]) -> list[str]:
    """One file for each day that has records. What a killed run left under the same number is replaced, or removed."""
    ending, write = WRITERS[form]
    days: dict[str, list[SpendRecord]] = defaultdict(list)
    for record in records:
        days[day_of(record)].append(record)
    names = {day: f"{day}.{run:06d}.{ending}" for day in sorted(days)}
    for stale in folder.glob(f"*.{run:06d}.{ending}"):
        if stale.name not in names.values():
            stale.unlink()
    for day, name in names.items():
        write(folder / name, days[day])
    return list(names.values())


async def _beginning_of_another(log: Logbook, position: str) -> str:
    """The position, or the beginning if the log is another one by now."""
    try:
        await log.page(position, since_ms=0)
    except LogReplaced:
        return ""
    return position


async def steps(
    ledger: Ledger, position: str, since_ms: int, *, name: str, again: bool = False
) -> AsyncIterator[tuple[list[SpendRecord], int, str]]:
    """(records, how many could not be read, the place in the log after them), as often as there are more.

    `again`: a log that is another one than that of `position` is read from its beginning, in place of an error.

    Whoever asks for the next ones has kept those before: the ledger is told that `name` has read so far.
    """
    decoder = msgspec.json.Decoder(SpendRecord)
    await ledger.open(replica_id=f"export-{secrets.token_hex(6)}", lease_seconds=LEASE_SECONDS)
    try:
        log, more = ledger.alert_store(), True
        if again:
            position = await _beginning_of_another(log, position)
        while more:
            records: list[SpendRecord] = []
            unreadable = 0
            while len(records) + unreadable < MOST_AT_ONCE:
                moved, lines = await log.page(position, since_ms=since_ms)
                more = moved != position or bool(lines)
                position = moved
                if not more:
                    break
                for line in lines:
                    try:
                        records.append(decoder.decode(line))
                    except msgspec.DecodeError:
                        unreadable += 1
            if records or unreadable:
                yield records, unreadable, position
        if position:
            await ledger.readers().note(name, position)
        await ledger.release()
    finally:
        await ledger.close()
