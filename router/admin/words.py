"""Amounts and moments as the admin API reads and writes them."""

from __future__ import annotations

from datetime import UTC, datetime

from router.admin.views import moment
from router.domain.money import format_usd
from router.errors import INVALID_REQUEST, RouterError
from router.inputs import parse_until
from router.spend import parse_moment


def amount(value: int, unit: str) -> str:
    """An amount as a decimal text, in its unit."""
    return format_usd(value) if unit == "usd" else str(value)


def moment_or_none(at_ms: int | None) -> str | None:
    """A moment as text; what never comes is None."""
    return None if at_ms is None else moment(at_ms)


def until_ms(text: str | None) -> int | None:
    """When something ends; times of day are in UTC.

    Raises:
        RouterError: 400.
    """
    if text is None:
        return None
    try:
        return parse_until(text, now=datetime.now(UTC))
    except (ValueError, OverflowError) as error:
        raise wrong("until", error) from None


def since_ms(text: str, name: str = "since") -> int:
    """A moment to begin or end with: `7d`, `24h`, a date, or ISO 8601; in UTC unless it says otherwise.

    Raises:
        RouterError: 400.
    """
    try:
        return int(parse_moment(text, now=datetime.now(UTC), zone=UTC).timestamp() * 1000)
    except (ValueError, OverflowError) as error:
        raise wrong(name, error) from None


def wrong(param: str, error: Exception) -> RouterError:
    """The answer to a value that cannot be read."""
    return RouterError(INVALID_REQUEST, f"{param}: {error}", param=param)
