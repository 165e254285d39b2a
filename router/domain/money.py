"""Money: integers of nano-USD. 1 USD = 1,000,000,000 nano-USD."""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal
from typing import Final, NewType

NanoUsd = NewType("NanoUsd", int)

NUSD_PER_USD: Final = 1_000_000_000
MAX_NUSD: Final = 2**53 - 1
_MOST_DIGITS: Final = 7
"""Of an amount in USD, before the point; `MAX_NUSD` has as many."""
"""Largest amount a counter can hold exactly: Redis' Lua numbers are doubles. About 9,007,199 USD."""


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
