"""Personal data in a text, by patterns whose check digits are verified. Says which classes are there, never the data."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Generator, Iterable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Final, TypeVar

Finds = Callable[[str, int], bool]
T = TypeVar("T")

MAX_CHARACTERS: Final = 262_144
"""Of a text; a longer one is not read through, and `unknown` is among its classes."""

STEP: Final = 2_048
"""Characters that one pattern looks through at a time: a search cannot be interrupted, and others wait meanwhile."""
PIECE: Final = 8_192
"""Characters that are made plain at a time."""
LONGEST: Final = 320
"""Characters of the longest match."""

# Linear in the text: every repetition is bounded and possessive, or what follows it cannot be part of it.
_EMAIL_NAME: Final = re.compile(r"[^\s@<>()\[\]\",;:\\]")
_EMAIL_HOST: Final = re.compile(r"@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}")
_CARD: Final = re.compile(
    r"(?<!\d)(?<!\d[.-])(?:\d{4}(?:[ ._-]{1,2}\d{4}){3}(?!\d)|3[47]\d\d[ ._-]\d{6}[ ._-]\d{5}(?!\d)|\d{13,19}(?!\d)(?!-\d{3}))", re.A
)
# Others may begin inside of what looks like one.
_IBAN: Final = re.compile(r"(?<![A-Za-z0-9])(?=([A-Za-z]{2}\d{2}(?:[ -]?[A-Za-z0-9]){11,34}+))[A-Za-z]{2}\d{2}", re.A)
_RESIDENT: Final = re.compile(r"(?<![\d-])\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])[- ]?\d{7}(?![\d-])", re.A)
_BUSINESS: Final = re.compile(r"(?<![\d-])\d{3}-\d{2}-\d{5}(?![\d-])", re.A)
_BUSINESS_NAMED: Final = re.compile(r"사업자\s{0,2}(?:등록)?\s{0,2}번호\D{0,8}\d{10}(?!\d)", re.A)
# Letters of other scripts may stand right beside a number, as particles do in Korean.
_PHONE: Final = re.compile(
    r"(?<![\w.+-])(?:(?:\+|00)[1-9](?:[ .()-]{0,2}\d){7,14}+|0\d{1,3}[ .-]\d{3,4}[ .-]\d{4}|01[016789]\d{7,8}|0\d(?:[ .-]\d\d){4}"
    r"|0\d{1,4}[ /-]\d{5,8}|(?:1[ .-])?(?:\([2-9]\d{2}\) ?|[2-9]\d{2}[ .-])[2-9]\d{2}[ .-]\d{4})(?![\w-])",
    re.A,
)
_PASSPORT: Final = re.compile(
    r"(?:passport|여권|パスポート|护照|reisepass)[^0-9\n]{0,24}?(?<![A-Z0-9])(?:[A-Z]{0,2}\d{7,9}|[A-Z]\d{3}[A-Z]\d{4})(?![A-Z0-9])"
    r"|(?<![A-Z0-9])[MSRGD]\d{3}[A-Z]\d{4}(?![A-Z0-9])",
    re.I | re.A,
)
_TWO_DIGITS: Final = re.compile(r"\d\d", re.A)

_RESIDENT_WEIGHTS: Final = (2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5)
_BUSINESS_WEIGHTS: Final = (1, 3, 7, 1, 3, 7, 1, 3, 5)
_IBAN_LENGTHS: Final[Mapping[str, int]] = MappingProxyType(
    {
        **{"AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BR": 29, "BY": 28, "CH": 21},
        **{"CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DK": 18, "DO": 28, "EE": 20, "EG": 29, "ES": 24, "FI": 18, "FO": 18, "FR": 27},
        **{"GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28, "HR": 21, "HU": 28, "IE": 22, "IL": 23, "IS": 26, "IT": 27},
        **{"JO": 30, "KW": 30, "KZ": 20, "LB": 28, "LI": 21, "LT": 20, "LU": 20, "LV": 21, "MC": 27, "MD": 24, "ME": 22, "MK": 19},
        **{"MR": 27, "MT": 31, "MU": 30, "NL": 18, "NO": 15, "PK": 24, "PL": 28, "PS": 29, "PT": 25, "QA": 29, "RO": 24, "RS": 22},
        **{"SA": 24, "SE": 24, "SI": 19, "SK": 24, "SM": 27, "TN": 24, "TR": 26, "UA": 29, "VG": 24, "XK": 20},
    }
)
"""Characters of an account number, by country (SWIFT's IBAN registry, from memory 2026-11)."""


def pii_of(text: str) -> frozenset[str]:
    """The classes of personal data in a text, of `PII_CLASSES`; empty: none was found."""
    return _last(pii_steps(text))


def pii_steps(text: str) -> Generator[None, None, frozenset[str]]:
    """The same, piece by piece: others may have their turn after each."""
    read = yield from _plain_steps(text[:MAX_CHARACTERS])
    found = {"unknown"} if max(len(text), len(read)) > MAX_CHARACTERS else set()
    for start in range(0, len(read), STEP):
        if "email" not in found and _has_email(read, start):
            found.add("email")
        yield
        # All others have digits side by side.
        if _TWO_DIGITS.search(read, start, start + STEP + 1):
            for name, finds in _BY_DIGITS:
                if name not in found and finds(read, start):
                    found.add(name)
                yield
    return frozenset(found)


def _plain_steps(text: str) -> Generator[None, None, str]:
    """The text with the usual digits, hyphens and spaces for those of other forms and scripts, and without what is not seen."""
    if text.isascii():
        return text
    pieces = []
    for start in range(0, len(text), PIECE):
        piece = unicodedata.normalize("NFKC", text[start : start + PIECE])
        pieces.append(piece.translate({ord(character): _usual(character) for character in set(piece) if character > "\x7f"}))
        yield
    return "".join(pieces)


def _last(steps: Generator[None, None, T]) -> T:
    """What all steps come to."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: T = end.value
            return found


@lru_cache(maxsize=4096)
def _usual(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Nd":
        return str(unicodedata.decimal(character))
    return {"Cf": "", "Pd": "-", "Zs": " "}.get(category, character)


def _has_email(text: str, start: int) -> bool:
    """Whether there is an address whose @ is in the piece that begins there."""
    at = text.find("@", start, start + STEP)
    while at >= 0:
        if at and _EMAIL_NAME.match(text, at - 1) and _EMAIL_HOST.match(text, at, at + LONGEST):
            return True
        at = text.find("@", at + 1, start + STEP)
    return False


def _any(pattern: re.Pattern[str], holds: Callable[[str], bool]) -> Finds:
    """Whether the pattern is found in a piece of the text, beginning at `start`, and what it found passes the check."""

    def finds(text: str, start: int) -> bool:
        found = pattern.finditer(text, start, start + STEP + LONGEST)
        return any(match.start() < start + STEP and holds(match[match.lastindex or 0]) for match in found)

    return finds


def digits(text: str) -> list[int]:
    """The ASCII digits of a text, as numbers."""
    return [ord(character) - 48 for character in text if "0" <= character <= "9"]


def luhn(text: str) -> bool:
    """Whether a card number's check digit is right (ISO/IEC 7812-1), and its first digits are those of a card."""
    numbers = digits(text)
    if numbers[0] not in (2, 3, 4, 5, 6) or len(set(numbers)) < 2:
        return False
    doubled = (number * 2 - 9 if number > 4 else number * 2 for number in numbers[-2::-2])
    return (sum(numbers[-1::-2]) + sum(doubled)) % 10 == 0


def iban(text: str) -> bool:
    """Whether an account number has the length of its country and right check digits (ISO 13616, mod 97)."""
    compact = text.replace(" ", "").replace("-", "").upper()
    length = _IBAN_LENGTHS.get(compact[:2])
    if length is None or len(compact) < length:
        return False
    # A word in capitals may follow it.
    moved = compact[4:length] + compact[:4]
    return int("".join(str(int(character, 36)) for character in moved)) % 97 == 1


def _weighted(numbers: Iterable[int], weights: Iterable[int]) -> int:
    return sum(number * weight for number, weight in zip(numbers, weights, strict=False))


def resident(text: str) -> bool:
    """Whether it can be the registration number of a Korean resident.

    Numbers given since October 2020 have no check digit: for those the date, the digit for sex and century, and a hyphen must do.
    """
    numbers = digits(text)
    rest = _weighted(numbers, _RESIDENT_WEIGHTS) % 11
    return numbers[6] in (0, 1, 2, 3, 4, 9) and ("-" in text or (11 - rest) % 10 == numbers[12])


def foreigner(text: str) -> bool:
    """The same for the registration number of a foreigner in Korea."""
    numbers = digits(text)
    rest = _weighted(numbers, _RESIDENT_WEIGHTS) % 11
    return numbers[6] in (5, 6, 7, 8) and ("-" in text or (13 - rest) % 10 == numbers[12])


def business_number(text: str) -> bool:
    """Whether the check digit of a Korean business number is right."""
    numbers = digits(text)
    total = _weighted(numbers, _BUSINESS_WEIGHTS) + numbers[8] * 5 // 10
    return (10 - total % 10) % 10 == numbers[9] and any(numbers)


_finds_business: Final = _any(_BUSINESS, business_number)
_finds_named_business: Final = _any(_BUSINESS_NAMED, business_number)
_BY_DIGITS: Final[tuple[tuple[str, Finds], ...]] = (
    ("card", _any(_CARD, luhn)),
    ("iban", _any(_IBAN, iban)),
    ("kr_resident", _any(_RESIDENT, resident)),
    ("kr_foreigner", _any(_RESIDENT, foreigner)),
    ("kr_business", lambda text, start: _finds_business(text, start) or _finds_named_business(text, start)),
    ("phone", _any(_PHONE, bool)),
    ("passport", _any(_PASSPORT, bool)),
)
