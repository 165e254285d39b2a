"""Moments and amounts as people write them, to commands and to the admin API."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final

from router.domain.money import GRAMMAR, MAX_NUSD, NUMBER, read_number, read_usd

_CLOCK: Final = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])")
_LENGTH: Final = re.compile(r"([0-9]{1,6})([mhdw])")
_UNITS: Final = {"m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_USD: Final = re.compile(rf"\+?(?:\$ *({NUMBER})|({NUMBER}) *usd)", re.IGNORECASE)
_COUNT: Final = re.compile(rf"\+?({NUMBER})([kKmM]?)")
_COUNTS: Final = {"": 1, "k": 10**3, "m": 10**6}
_EXPIRY: Final = re.compile(r"([0-9]{1,6})([hdw])")
LATEST_MS: Final = 253_402_300_799_000
"""9999-12-31T23:59:59Z, Unix ms: what lies beyond cannot be shown as a date."""


def parse_until(text: str, *, now: datetime) -> int:
    """When something ends, Unix ms; a time of day, or a moment without a time zone, is in that of `now`.

    Raises:
        ValueError: not a time, it has passed already, or it is beyond the year 9999.
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
    return _in_calendar(round(moment.timestamp() * 1000), text)


def _in_calendar(moment_ms: int, text: str) -> int:
    if moment_ms > LATEST_MS:
        raise ValueError(f"{text} is beyond the year 9999")
    return moment_ms


def parse_amount(text: str, unit: str) -> int:
    """An amount in a budget's unit: `$50` or `50usd` in USD (nano-USD), `100k` in others. A plus before it says nothing.

    A bare number is not taken for USD: of an unquoted `+$50` the shell leaves `+0`, of `+$125` it leaves `+25`.

    Raises:
        ValueError: not an amount in this unit, or below zero.
    """
    if text.lstrip().startswith("-"):
        raise ValueError(f"{text!r} is below zero; write an amount without a sign, and lower a limit to take from it")
    if unit == "usd":
        money = _USD.fullmatch(text)
        if not money:
            raise ValueError(f"{text!r} is not an amount in USD; write 50usd, or '+$50' in single quotes, for the shell eats $5: {GRAMMAR}")
        return read_usd(money[1] or money[2])
    count = _COUNT.fullmatch(text)
    amount = read_number(count[1]) * _COUNTS[count[2].lower()] if count else Decimal("0.5")
    if amount != int(amount) or amount > MAX_NUSD:
        raise ValueError(f"{text!r} is not an amount of {unit}; write 100 or 100k: {GRAMMAR}")
    return int(amount)


def parse_expiry(text: str, *, now: datetime) -> int:
    """When a key ends, Unix ms: a date (its first moment, UTC), a date with time, or a time from now such as `30d`.

    Raises:
        ValueError: neither, it has passed already, or it is beyond the year 9999.
    """
    length = _EXPIRY.fullmatch(text)
    if length:
        moment_ms = int((now.timestamp() + int(length[1]) * _UNITS[length[2]]) * 1000)
    else:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise ValueError(f"{text!r} is no time: write 2027-01-01, 2027-01-01T12:00+09:00, 12h, 30d or 8w") from None
        moment_ms = int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
    if moment_ms <= now.timestamp() * 1000:
        raise ValueError(f"{text} has passed already")
    return _in_calendar(moment_ms, text)
