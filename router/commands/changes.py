"""What the verbs that change a running service share: who asks, until when, on which store."""

from __future__ import annotations

import asyncio
import os
import pwd
import socket
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated, TypeVar

import typer

from router.adapters.choose import choose_store, must_exist, visiting
from router.controls import ControlError, Desk
from router.inputs import parse_until

T = TypeVar("T")

Reason = Annotated[str, typer.Option(help="Why; goes into the audit log and into what clients are told.", show_default=False)]
NO_REASON = "no reason was given"
"""In a hurry the reason can wait: what is stopped cannot."""
Why = Annotated[str, typer.Option(help="Why; goes into the audit log.")]
Until = Annotated[
    str | None,
    typer.Option(help="When it ends: 09:00 (the next one here), 30m, 2h, 3d, 2026-12-01T09:00+09:00. Default: when it is taken back."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def until_ms(text: str | None) -> int | None:
    """The same for an option. A mistake is one of usage."""
    if text is None:
        return None
    try:
        return parse_until(text, now=datetime.now().astimezone())
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--until") from None


def operator() -> str:
    """Who runs the command: user of the operating system, at this machine."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = f"uid {os.getuid()}"
    return f"{name}@{socket.gethostname()}"


def change(store: str | None, config: str | None, work: Callable[[Desk], Awaitable[T]]) -> T:
    """Do something at the desk of a store. A change that cannot be made is a mistake of usage."""

    async def do() -> T:
        async with visiting(must_exist(choose_store(store, config))) as ledger:
            return await work(Desk(ledger.control_store(), who=operator(), via="command", keys=ledger))

    try:
        return asyncio.run(do())
    except ControlError as error:
        raise typer.BadParameter(str(error)) from None


def moment_text(at_ms: int | None) -> str:
    """A moment as people read it: here, with the offset from UTC; what never comes is `-`."""
    if at_ms is None:
        return "-"
    return datetime.fromtimestamp(at_ms / 1000, UTC).astimezone().isoformat(timespec="seconds")


def ending(at_ms: int | None) -> str:
    """`until ...`, or nothing."""
    return "" if at_ms is None else f" until {moment_text(at_ms)}"


def warn_unknown(known: bool) -> None:
    """Say that nothing tells whether a stop names anybody."""
    if not known:
        typer.echo("Nobody of that name is known here: no configuration was served from this store yet.", err=True)


def print_rows(rows: list[tuple[str, ...]]) -> None:
    """A table."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
