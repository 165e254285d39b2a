"""Ranges of numbers as people write them: `<0.4`, `>= 4k`, `9..17`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final


class RangeError(ValueError):
    """A range that cannot be read, or that no number lies in."""


@dataclass(frozen=True, slots=True)
class Range:
    """All numbers between two ends."""

    low: float
    high: float
    low_included: bool = True
    high_included: bool = True

    def holds(self, number: float) -> bool:
        """Whether the number lies in it."""
        above = number > self.low or (self.low_included and number == self.low)
        return above and (number < self.high or (self.high_included and number == self.high))

    def within(self, wide: Range) -> bool:
        """Whether all its numbers lie in the other one, too."""
        low = self.low > wide.low or (self.low == wide.low and (wide.low_included or not self.low_included))
        return low and (self.high < wide.high or (self.high == wide.high and (wide.high_included or not self.high_included)))


ENDLESS: Final = float("inf")
_MOST_DIGITS: Final = 12
SURELY_PERCENT: Final = 10
"""From here on a number where a share is wanted, of which 1 is all, was meant as a percentage; 2 may be anything."""


def read_range(text: str, read: Callable[[str], float]) -> Range:
    """Read `<4000`, `<= 4000`, `>4000`, `>= 4000` or `1000..4000`, both ends included; `read` reads one of the numbers.

    Raises:
        RangeError: it is none of these, or empty.
    """
    plain = text.replace(" ", "").replace("_", "")
    low, dots, high = plain.partition("..")
    if dots:
        first, last = read(low), read(high)
        if first > last:
            raise RangeError(f"is empty: {first:g} is above {last:g}")
        return Range(first, last)
    for sign, made in _SIGNS:
        if plain.startswith(sign):
            return made(read(plain[len(sign) :]))
    raise RangeError("is no range")


_SIGNS: Final[tuple[tuple[str, Callable[[float], Range]], ...]] = (
    ("<=", lambda n: Range(-ENDLESS, n)),
    (">=", lambda n: Range(n, ENDLESS)),
    ("<", lambda n: Range(-ENDLESS, n, high_included=False)),
    (">", lambda n: Range(n, ENDLESS, low_included=False)),
)


def read_count(digits: str) -> float:
    """A whole number; `k` stands for thousands.

    Raises:
        RangeError: it is none.
    """
    unit = 1_000 if digits[-1:] in ("k", "K") else 1
    digits = digits if unit == 1 else digits[:-1]
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= _MOST_DIGITS):
        raise RangeError("is no whole number")
    return int(digits) * unit


def read_share(text: str) -> float:
    """A number such as `0.4`, or a percentage.

    Raises:
        RangeError: it is none.
    """
    percent = text.endswith("%")
    digits = text.removesuffix("%")
    whole, _, fraction = digits.partition(".")
    if not (digits.isascii() and (whole or "0").isdecimal() and (fraction or "0").isdecimal() and (whole or fraction)):
        raise RangeError("is no number")
    if len(digits) > _MOST_DIGITS:
        raise RangeError("is too long")
    return float(digits) / 100 if percent else float(digits)


def read_milliseconds(text: str) -> float:
    """A time such as `800ms` or `1.5s`; a bare number is one of milliseconds.

    Raises:
        RangeError: it is none.
    """
    if "%" in text:
        raise RangeError("is no time")
    if text.endswith("ms"):
        return read_share(text.removesuffix("ms"))
    return read_share(text.removesuffix("s")) * 1000 if text.endswith("s") else read_share(text)


def read_usd(text: str) -> float:
    """An amount in USD, with or without its sign.

    Raises:
        RangeError: it is none.
    """
    if text.endswith("%"):
        raise RangeError("is no amount")
    return read_share(text.removeprefix("$"))
