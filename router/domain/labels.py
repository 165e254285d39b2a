"""What a request says of itself in headers and body: tags, the most it may cost, its deadline."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import ROUND_FLOOR, Decimal
from typing import Final

from router.domain.money import GRAMMAR, MAX_NUSD, NUSD_PER_USD, read_usd
from router.errors import INVALID_REQUEST, RouterError

MAX_LABEL_LENGTH: Final = 256
MAX_TAGS: Final = 32
LONGEST_DEADLINE_MS: Final = 86_400_000
_MILLISECONDS: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")


def invalid(message: str, param: str | None = None) -> RouterError:
    """A 400 that names the field."""
    return RouterError(INVALID_REQUEST, message, param=param)


def check_tags(tags: Mapping[str, object], where: str) -> dict[str, str]:
    """Tags as they were sent. None is left out or cut: budgets and rules go by them.

    Raises:
        RouterError: 400; one is no text or too long, or there are too many. It names the field and the limit.
    """
    found: dict[str, str] = {}
    for name, value in tags.items():
        if not isinstance(value, str):
            raise invalid(f"'{where}': the value of '{name[:64]}' must be a text.", where)
        if len(name) > MAX_LABEL_LENGTH or len(value) > MAX_LABEL_LENGTH:
            raise invalid(f"'{where}': names and values must not be longer than {MAX_LABEL_LENGTH} characters; see '{name[:64]}'.", where)
        found[name] = value
    _check_number(found, where)
    return found


def joined_tags(earlier: Mapping[str, str], later: Mapping[str, str], where: str) -> Mapping[str, str]:
    """All of them; of two of one name the later. Raises a 400 if they are too many together."""
    if not earlier:
        return later
    joined = {**earlier, **later}
    _check_number(joined, where)
    return joined


def read_pairs(text: str, where: str) -> dict[str, str]:
    """`a=1,b=2` as tags.

    Raises:
        RouterError: 400; a part is no pair, a name comes twice, or as for `check_tags`.
    """
    found: dict[str, str] = {}
    for item in text.split(","):
        if not item.strip():
            continue
        name, sign, value = (part.strip() for part in item.partition("="))
        if not sign or not name:
            raise invalid(f"'{where}' must be name=value,name=value; '{item.strip()[:64]}' is not such a pair.", where)
        if found.setdefault(name, value) != value:
            raise invalid(f"'{where}' gives '{name[:64]}' twice.", where)
    return check_tags(found, where)


def _check_number(tags: Mapping[str, str], where: str) -> None:
    if len(tags) > MAX_TAGS:
        raise invalid(f"'{where}': a request may have at most {MAX_TAGS} tags, in headers and body together, not {len(tags)}.", where)


def read_max_cost(amount: str | float, where: str) -> int:
    """A limit in USD as nano-USD. Raises a 400 that names the field.

    A text is read by the grammar of all amounts. A number of JSON, which may be a sum of fractions, is rounded down.
    """
    try:
        return read_usd(amount) if isinstance(amount, str) else _of_number(amount)
    except ValueError:
        raise invalid(f"'{where}' must be an amount in USD from 0 to 9,007,199, for example 0.05: {GRAMMAR}.", where) from None


def _of_number(amount: float) -> int:
    # Before it is multiplied: no number of JSON is infinite, but it may be as good as that.
    if not 0 <= amount <= MAX_NUSD / NUSD_PER_USD or str(amount).startswith("-"):
        raise ValueError(amount)
    nusd = int((Decimal(repr(amount)) * NUSD_PER_USD).to_integral_value(rounding=ROUND_FLOOR))
    if amount and not nusd:
        raise ValueError(amount)
    return nusd


def read_deadline(told: str | float, where: str) -> float:
    """Milliseconds for the whole answer. Raises a 400 that names the field."""
    value = told if not isinstance(told, str) else float(told) if _MILLISECONDS.fullmatch(told) else 0.0
    if not 1.0 <= value <= LONGEST_DEADLINE_MS:
        raise invalid(
            f"'{where}' must be a number of milliseconds from 1 to {LONGEST_DEADLINE_MS:,} without an exponent, for example 2500.", where
        )
    return value
