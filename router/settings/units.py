"""Money, durations, sizes, counts and shares as people write them: `$50/month`, `1m30s`, `20MB`, `400k`, `5%`.

Every parser raises `ValueError` with a message that says what is expected.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, Literal

from router.domain.money import GRAMMAR, MAX_NUSD, NUMBER, from_usd, read_number
from router.settings.findings import one_of, shown

_MONEY: Final = re.compile(rf"\$ *({NUMBER})")
_BARE: Final = re.compile(NUMBER)
_WINDOWS: Final = {
    "minute": "minute", "min": "minute",
    "hour": "hour", "h": "hour",
    "day": "day", "d": "day",
    "week": "week", "w": "week",
    "month": "month", "mo": "month",
    "lifetime": "lifetime", "total": "lifetime",
    "session": "session",
}  # fmt: skip
_SECONDS: Final = {"ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600), "d": Decimal(86400)}
_DURATION: Final = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?(?:ms|s|m|h|d))+")
_DURATION_PART: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")
_BYTES: Final = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_COUNTS: Final = {"": 1, "k": 10**3, "m": 10**6}
_SIZE: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]+)")
_COUNT: Final = re.compile(rf"({NUMBER}) *([kKmM]?)")
_MAX_DIGITS: Final = 30
_HUGE: Final = 10**20
ROLLING: Final = "rolling "
"""Begins a window that rolls; its length in seconds follows."""


_AMOUNT: Final = re.compile(r"(.*?)\s*\b(tokens?|requests?|calls?|concurrent)")
_UNITS: Final[Mapping[str, Literal["requests", "tokens"]]] = {"token": "tokens", "request": "requests", "call": "requests"}
_LENGTH: Final = re.compile(r"(?:rolling\s*)?([0-9]+)\s*(m|min|h|d|w)|rolling\s+(minute|hour|day|week|month)")
_LENGTH_SECONDS: Final = {
    "m": 60, "min": 60, "minute": 60, "h": 3600, "hour": 3600, "d": 86400, "day": 86400, "w": 7 * 86400, "week": 7 * 86400,
    "month": 30 * 86400,
}  # fmt: skip
MAX_ROLLING_SECONDS: Final = 400 * 86400


@dataclass(frozen=True, slots=True)
class MoneyPer:
    """An amount and the window it is for."""

    nusd: int
    """In the unit."""
    window: str | None
    """As `parse_window` gives it; None: not said."""
    unit: Literal["usd", "requests", "tokens", "concurrent"] = "usd"


def _plain(number: float) -> str:
    """A number of YAML without an exponent."""
    return f"{Decimal(repr(number)):f}".removesuffix(".0")


def _number(text: str, expected: str) -> Decimal:
    if len(text) > _MAX_DIGITS:
        raise ValueError(expected)
    try:
        return read_number(text)
    except ValueError:
        raise ValueError(expected) from None


def parse_usd(value: object, *, bare: bool = False) -> int:
    """An amount in nano-USD from `$2.10`; with `bare`, from a plain number too. Never negative."""
    expected = f"{shown(value)} is not an amount of money; write $2.10: {GRAMMAR}"
    if isinstance(value, int | float) and not isinstance(value, bool):
        if not bare:
            raise ValueError(f"{shown(value)} has no unit; write ${value}")
        # What is not finite is no amount; what is huge is told so below.
        amount = Decimal(_HUGE) if _HUGE <= value < math.inf else _number(_plain(value), expected)
    elif isinstance(value, str):
        amount = _number(_money_digits(value, expected, bare=bare), expected)
    else:
        raise ValueError(expected)
    if amount * 10**9 > MAX_NUSD:
        raise ValueError(f"{shown(value)} is more than a counter can hold exactly ($9,007,199)")
    return from_usd(amount)


def _money_digits(text: str, expected: str, *, bare: bool) -> str:
    match = _MONEY.fullmatch(text)
    if match:
        return match[1]
    if bare and _BARE.fullmatch(text):
        return text
    raise ValueError(expected)


def parse_money_per(value: object) -> MoneyPer:
    """An amount with an optional window: `$50/month`, `$10`, `2M tokens/day`, `600 requests/minute`, `20 concurrent`."""
    if not isinstance(value, str):
        if isinstance(value, int | float) and not isinstance(value, bool):
            raise ValueError(f"{shown(value)} has no unit; write ${value} or ${value}/month")
        raise ValueError(f"{shown(value)} is not a limit; write $50/month")
    amount, slash, window = value.partition("/")
    counted = _AMOUNT.fullmatch(amount.strip().lower())
    if counted:
        return _count_per(value, counted, parse_window(window) if slash else None)
    if not _MONEY.fullmatch(amount.strip()):
        raise ValueError(f"{shown(value)} is not a limit; write $50/month")
    return MoneyPer(parse_usd(amount.strip()), parse_window(window) if slash else None)


def _count_per(value: str, found: re.Match[str], window: str | None) -> MoneyPer:
    try:
        count = parse_count(found[1])
    except ValueError:
        raise ValueError(f"{shown(value)} is not a limit; write 2M tokens/day, 600 requests/minute or 20 concurrent") from None
    if count > MAX_NUSD:
        raise ValueError(f"{shown(value)} is more than a counter can hold exactly ({MAX_NUSD:,})")
    if found[2] == "concurrent":
        if window is not None:
            raise ValueError(f"{shown(value)}: calls under way have no window; write {found[1]} concurrent")
        return MoneyPer(count, None, "concurrent")
    return MoneyPer(count, window, _UNITS[found[2].removesuffix("s")])


def parse_window(value: object) -> str:
    """`minute`, `hour`, `day`, `week`, `month`, `lifetime` or `session`; `rolling` and seconds for `24h`, `7d`, `rolling hour`."""
    word = str(value).strip().lower() if isinstance(value, str) else ""
    length = _LENGTH.fullmatch(word)
    if length:
        seconds = _LENGTH_SECONDS[length[3]] if length[3] else int(length[1][:9]) * _LENGTH_SECONDS[length[2]]
        if not 60 <= seconds <= MAX_ROLLING_SECONDS:
            raise ValueError(f"{shown(value)}: a rolling window lasts between a minute and 400 days")
        return f"{ROLLING}{seconds}"
    if word not in _WINDOWS:
        known = ("minute", "hour", "day", "week", "month", "lifetime", "session", "24h", "rolling hour")
        raise ValueError(f"{shown(value)} is not a window{one_of(word, known)}")
    return _WINDOWS[word]


def write_window(window: str) -> str:
    """A window as it is written in YAML."""
    if not window.startswith(ROLLING):
        return window
    seconds = int(window.removeprefix(ROLLING))
    for size, unit in ((86400, "d"), (3600, "h")):
        if seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds // 60}m"


def parse_duration(value: object) -> float:
    """Seconds from `500ms`, `8s`, `1m30s`, `2h`, `1d`. A bare number has no unit and is refused."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise ValueError(f"{shown(value)} has no unit; write {value}s or {value}ms")
    text = value.strip().replace(" ", "") if isinstance(value, str) else ""
    if not _DURATION.fullmatch(text) or len(text) > _MAX_DIGITS:
        raise ValueError(f"{shown(value)} is not a duration; write 8s, 500ms or 1m30s")
    return float(sum((Decimal(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(text)), Decimal(0)))


def parse_size(value: object) -> int:
    """Bytes from `20MB` (10^6), `20MiB` (2^20), `512KiB`. A bare number has no unit and is refused."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise ValueError(f"{shown(value)} has no unit; write 20MB or 20MiB")
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    expected = f"{shown(value)} is not a size; write 20MB or 20MiB"
    if match is None or match[2].lower() not in _BYTES:
        raise ValueError(expected)
    return int(_number(match[1], expected) * _BYTES[match[2].lower()])


def parse_count(value: object) -> int:
    """A whole number from `4096`, `400k`, `1.5M`."""
    expected = f"{shown(value)} is not a count; write 4096, 400k or 1.5M"
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 0:
            raise ValueError(expected)
        return value
    match = _COUNT.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(expected)
    number = _number(match[1], expected) * _COUNTS[match[2].lower()]
    if number != number.to_integral_value():
        raise ValueError(expected)
    return int(number)


def parse_share(value: object) -> float:
    """A number that is not negative, from `3`, `0.25` or `25%` (0.25)."""
    expected = f"{shown(value)} is not a number or a share; write 3, 0.25 or 25%"
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 10**12:
        return float(value)
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*%", value.strip()) if isinstance(value, str) else None
    if match is None or len(match[1]) > _MAX_DIGITS:
        raise ValueError(expected)
    return float(_number(match[1], expected) / 100)
