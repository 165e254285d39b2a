"""Money: integers of nano-USD. 1 USD = 1,000,000,000 nano-USD."""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, Decimal
from typing import Final, NewType

NanoUsd = NewType("NanoUsd", int)

NUSD_PER_USD: Final = 1_000_000_000
MAX_NUSD: Final = 2**53 - 1
"""Largest amount a counter can hold exactly: Redis' Lua numbers are doubles. About 9,007,199 USD."""
_MOST_DIGITS: Final = 7
"""Of an amount in USD, before the point; `MAX_NUSD` has as many."""
WHOLE: Final = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,3}(?:_[0-9]{3})+|[0-9]+)"
NUMBER: Final = rf"(?:{WHOLE}(?:\.[0-9]{{1,9}})?|\.[0-9]{{1,9}})"
"""The one way to write an amount, as a regular expression: in files, in headers, to commands and to the admin API."""
GRAMMAR: Final = "digits 0-9, at most 9 decimals after a point, thousands apart by , or _ (1,250.50); no sign, exponent or space"
"""The same in words."""
_ONLY_NUMBER: Final = re.compile(NUMBER)
_MOST_SHOWN: Final = 40


def read_number(text: str) -> Decimal:
    """A number as people write amounts; see `GRAMMAR`.

    Raises:
        ValueError: it is written otherwise.
    """
    if not _ONLY_NUMBER.fullmatch(text) or len(text) > _MOST_SHOWN:
        raise ValueError(f"{text[:_MOST_SHOWN]!r} is not an amount: {GRAMMAR}")
    return Decimal(text.replace("_", "").replace(",", ""))


def read_usd(text: str) -> NanoUsd:
    """An amount in USD as people write it, in nano-USD.

    Raises:
        ValueError: it is written otherwise, or above `MAX_NUSD`.
    """
    return from_usd(read_number(text))


def from_usd(usd: Decimal | str | int) -> NanoUsd:
    """Convert USD to nano-USD, rounding up what is smaller than one nano-USD.

    Raises:
        ValueError: not a finite number, or its size is above `MAX_NUSD`.
    """
    value = Decimal(usd)
    if not value.is_finite():
        raise ValueError(f"{usd!r} is not an amount of money")
    # Before it is written out: 1e400000 would have 400,000 digits.
    if value.adjusted() > _MOST_DIGITS:
        raise ValueError("it is more USD than a counter can hold exactly (9,007,199 USD)")
    nusd = int((value * NUSD_PER_USD).to_integral_value(rounding=ROUND_CEILING))
    if abs(nusd) > MAX_NUSD:
        raise ValueError(f"{usd} USD is more than a counter can hold exactly (9,007,199 USD)")
    return NanoUsd(nusd)


def to_usd(nusd: int) -> Decimal:
    """Convert nano-USD to USD, exactly."""
    return Decimal(nusd) / NUSD_PER_USD


def format_usd(nusd: int) -> str:
    """Write an amount for people: at least two decimals, no trailing zeros after them, no exponent."""
    whole, fraction = divmod(abs(nusd), NUSD_PER_USD)
    decimals = f"{fraction:09d}".rstrip("0")
    return f"{'-' if nusd < 0 else ''}{whole}.{decimals:0<2}"


_WORDS: Final = {"usd": "USD", "tokens": "tokens", "requests": "requests", "concurrent": "calls under way"}


def format_amount(amount: int, unit: str) -> str:
    """Write an amount of a budget with its unit for people."""
    return f"{format_usd(amount) if unit == 'usd' else f'{amount:,}'} {_WORDS[unit]}"
