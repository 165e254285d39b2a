"""The privacy report: where private requests went, each line tied to all before it.

A report is JSON Lines. The first line says of which time it is and which report it continues; one line follows for each attempt.
Every line carries the SHA-256 of the line before it followed by its own text, so that nothing can be changed, left out or put in
unseen by whoever knows the last one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

from router.domain.records import SpendRecord

FORM: Final = "faregate-privacy-1"
HASH_DIGITS: Final = 64


class Broken(ValueError):
    """A report was changed. The message says where."""


class Reached(msgspec.Struct, frozen=True, order=True):
    """What is counted together."""

    private: str
    """The class."""
    host: str
    locality: str
    deployment: str


class Entry(msgspec.Struct, kw_only=True):
    """One attempt of a private request."""

    at_ms: int
    request_id: str
    attempt_id: str
    private: list[str]
    host: str
    locality: str
    model: str
    deployment: str
    outcome: str

    def reached(self) -> list[Reached]:
        """What it is counted under: once for each class."""
        return [Reached(name, self.host, self.locality, self.deployment) for name in self.private]


def entry_of(record: SpendRecord) -> Entry | None:
    """The entry of a record; None if its request was not private."""
    if not record.private:
        return None
    return Entry(**{field.name: getattr(record, field.name) for field in msgspec.structs.fields(Entry)})


def chained(entries: Iterable[Entry], *, since_ms: int, until_ms: int, after: str) -> Iterator[str]:
    """The lines of a report. `after`: the last hash of the report that it continues; empty if it is the first."""
    tie = ""
    for body in _bodies(entries, since_ms=since_ms, until_ms=until_ms, after=after):
        tie = _tie(tie, body)
        yield _encode(body | {"hash": tie})


def read_report(lines: Iterable[str]) -> tuple[list[Entry], str]:
    """Check a report. Returns its entries and its last hash.

    Raises:
        Broken: it is none, or a line was changed, left out or put in.
    """
    tie, entries = "", []
    for number, line in enumerate(lines, 1):
        body = _decode(line, number)
        if number == 1 and body.get("form") != FORM:
            raise Broken(f"line 1: not a report of the form {FORM}")
        told = body.pop("hash", "")
        tie = _tie(tie, body)
        if told != tie:
            raise Broken(f"line {number} or one before it was changed, left out or put in")
        if number > 1:
            entries.append(msgspec.convert(body, Entry))
    if not tie:
        raise Broken("it is empty")
    return entries, tie


def _bodies(entries: Iterable[Entry], *, since_ms: int, until_ms: int, after: str) -> Iterator[dict[str, Any]]:
    yield {"form": FORM, "since_ms": since_ms, "until_ms": until_ms, "after": after}
    for entry in entries:
        yield msgspec.structs.asdict(entry)


def _decode(line: str, number: int) -> dict[str, Any]:
    try:
        return msgspec.json.decode(line, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise Broken(f"line {number}: {error}") from None


def _tie(before: str, body: dict[str, Any]) -> str:
    return hashlib.sha256(f"{before}\n{_encode(body)}".encode()).hexdigest()


def _encode(body: dict[str, Any]) -> str:
    return msgspec.json.encode(body, order="sorted").decode()
