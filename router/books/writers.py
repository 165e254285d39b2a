"""Files of an export: written beside their place, then put there whole."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

import msgspec

from router.books.columns import FOCUS, focus_row, plain_row, plain_types
from router.domain.records import SpendRecord
from router.errors import ConfigError

FORMULAS: Final = ("=", "+", "-", "@", "\t", "\r")
"""What a text begins with that a spreadsheet runs."""
NUMBER: Final = re.compile(r"-[0-9]+(?:\.[0-9]+)?")
Format = Literal["csv", "parquet", "focus", "jsonl"]


def replace_file(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` make the file under another name; then it is on disk, and only then at its place."""
    beside = path.with_name(f".{path.name}.part")
    write(beside)
    with beside.open("rb") as file:
        os.fsync(file.fileno())
    beside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_csv(path: Path, records: Sequence[SpendRecord]) -> None:
    """All fields, one record a line."""
    _csv(path, list(plain_types()), map(plain_row, records))


def write_focus(path: Path, records: Sequence[SpendRecord]) -> None:
    """FOCUS columns, one record a line."""
    _csv(path, list(FOCUS), map(focus_row, records))


def _csv(path: Path, names: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    def write(part: Path) -> None:
        with part.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(names)
            writer.writerows([csv_cell(row[name]) for name in names] for row in rows)

    replace_file(path, write)


def csv_cell(value: object) -> str:
    """A value as a cell of an export: whole, since programs read it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value)
    # Names come from clients. A spreadsheet runs a text that begins like a formula; a negative number is none.
    formula = isinstance(value, str) and text.startswith(FORMULAS) and not NUMBER.fullmatch(text)
    return f"'{text}" if formula else text


def write_parquet(path: Path, records: Sequence[SpendRecord]) -> None:
    """All fields with their types.

    Raises:
        ConfigError: pyarrow is not installed.
    """
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise ConfigError("Parquet needs pyarrow: pip install 'faregate[export]', or use --format csv.") from None
    kinds = {int: arrow.int64(), str: arrow.string(), bool: arrow.bool_()}
    schema = arrow.schema([(name, kinds[kind]) for name, kind in plain_types().items()])
    table = arrow.Table.from_pylist([plain_row(record) for record in records], schema=schema)
    replace_file(path, lambda part: parquet.write_table(table, part))


def write_jsonl(path: Path, records: Sequence[SpendRecord]) -> None:
    """Records as they are in the log, one a line: what `faregate plan --replay` reads."""
    lines = b"".join(msgspec.json.encode(record) + b"\n" for record in records)

    def write(part: Path) -> None:
        part.write_bytes(lines)

    replace_file(path, write)


WRITERS: Final[Mapping[str, tuple[str, Callable[[Path, Sequence[SpendRecord]], None]]]] = MappingProxyType(
    {"csv": ("csv", write_csv), "parquet": ("parquet", write_parquet), "focus": ("focus.csv", write_focus), "jsonl": ("jsonl", write_jsonl)}
)
"""By format: the end of file names, and what writes a file."""
