"""What the verbs that change a running service share: who asks, until when, on which store."""

from __future__ import annotations

import asyncio
import os
import pwd
import re
import socket
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final, TypeVar

import typer

from router.adapters.choose import choose_store, must_exist, visiting
from router.controls import ControlError, Desk
from router.domain.money import MAX_NUSD, from_usd

T = TypeVar("T")

Reason = Annotated[str, typer.Option(help="Why; goes into the audit log and into what clients are told.", show_default=False)]
Why = Annotated[str, typer.Option(help="Why; goes into the audit log.")]
Until = Annotated[
    str | None,
    typer.Option(help="When it ends: 09:00 (the next one here), 30m, 2h, 3d, 2026-12-01T09:00+09:00. Default: when it is taken back."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

_CLOCK: Final = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)")
_LENGTH: Final = re.compile(r"(\d{1,6})([mhdw])")
_UNITS: Final = {"m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_USD: Final = re.compile(r"[+-]?(?:\$\s*(\d[\d_,]*(?:\.\d+)?)|(\d[\d_,]*(?:\.\d+)?)\s*usd)", re.IGNORECASE)
_COUNT: Final = re.compile(r"[+-]?(\d[\d_,]*(?:\.\d+)?)([kKmM]?)")
_COUNTS: Final = {"": 1, "k": 10**3, "m": 10**6}


def parse_until(text: str, *, now: datetime) -> int:
    """When something ends, Unix ms; a time of day, or a moment without a time zone, is in that of `now`.

    Raises:
        ValueError: not a time, or it has passed already.
    """
    clock, length = _CLOCK.fullmatch(text), _LENGTH.fullmatch(text)
    if clock:
        moment = now.replace(hour=int(clock[1]), minute=int(clock[2]), second=0, microsecond=0)
        moment += timedelta(days=int(moment <= now))
    elif length:
        moment = now + timedelta(seconds=int(length[1]) * _UNITS[length[2]])
    else:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise ValueError(f"{text!r} is no time: write 09:00, 30m, 2h, 3d or 2026-12-01T09:00+09:00") from None
        moment = moment if moment.tzinfo else moment.replace(tzinfo=now.tzinfo)
    if moment <= now:
        raise ValueError(f"{text} has passed already")
    return round(moment.timestamp() * 1000)


def parse_amount(text: str, unit: str) -> int:
    """An amount in a budget's unit: `$50` or `50usd` in USD (nano-USD), `100k` in others. A sign before it says nothing.

    A bare number is not taken for USD: of an unquoted `+$50` the shell leaves `+0`, of `+$125` it leaves `+25`.

    Raises:
        ValueError: not an amount in this unit.
    """
    stripped = text.strip()
    if unit == "usd":
        money = _USD.fullmatch(stripped)
        if not money:
            raise ValueError(f"{text!r} is not an amount in USD; write 50usd, or '+$50' in single quotes, for the shell eats $5")
        return from_usd((money[1] or money[2]).replace("_", "").replace(",", ""))
    count = _COUNT.fullmatch(stripped)
    amount = float(count[1].replace("_", "").replace(",", "")) * _COUNTS[count[2].lower()] if count else 0.5
    if amount != int(amount) or amount > MAX_NUSD:
        raise ValueError(f"{text!r} is not an amount of {unit}; write 100 or 100k")
    return int(amount)


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
            return await work(Desk(ledger.control_store(), who=operator(), via="command"))

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


def print_rows(rows: list[tuple[str, ...]]) -> None:
    """A table."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
