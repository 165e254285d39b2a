"""Units as people write them."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from policies.registry import KINDS
from router.domain.money import GRAMMAR
from router.settings.types import format_duration, format_money, format_size
from router.settings.units import MoneyPer, parse_count, parse_duration, parse_money_per, parse_share, parse_size, parse_usd
from tests.settings_help import BASE, wrong


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (parse_usd, "$2.10", 2_100_000_000),
        (parse_usd, "$ 1,000", 1_000_000_000_000),
        (parse_usd, "$.5", 500_000_000),
        (parse_usd, "$0.000000001", 1),
        (parse_money_per, "$50/month", MoneyPer(50_000_000_000, "month")),
        (parse_money_per, "$0.50/d", MoneyPer(500_000_000, "day")),
        (parse_money_per, "$10", MoneyPer(10_000_000_000, None)),
        (parse_duration, "8s", 8.0),
        (parse_duration, "1m30s", 90.0),
        (parse_duration, "500ms", 0.5),
        (parse_duration, "1.5h", 5400.0),
        (parse_duration, "1d 2h", 93_600.0),
        (parse_size, "20MB", 20_000_000),
        (parse_size, "20MiB", 20_971_520),
        (parse_size, "1.5 kb", 1500),
        (parse_size, "7B", 7),
        (parse_count, 4096, 4096),
        (parse_count, "400k", 400_000),
        (parse_count, "1.5M", 1_500_000),
        (parse_count, "1_000", 1000),
        (parse_share, "5%", 0.05),
        (parse_share, 3, 3.0),
        (parse_share, 0.25, 0.25),
    ],
)
def test_values_are_read_exactly(parse: Callable[[object], object], text: object, value: object) -> None:
    """Nothing is rounded."""
    assert parse(text) == value


@pytest.mark.parametrize(
    ("parse", "value", "message"),
    [
        (parse_usd, 5, "5 has no unit; write $5"),
        (parse_usd, True, "true is not an amount of money; write $2.10: " + GRAMMAR),
        (parse_usd, None, "nothing is not an amount of money; write $2.10: " + GRAMMAR),
        (parse_usd, "$-5", '"$-5" is not an amount of money; write $2.10: ' + GRAMMAR),
        (parse_usd, "$" + "1" * 40, f'"${"1" * 40}" is not an amount of money; write $2.10: ' + GRAMMAR),
        (parse_usd, "5 EUR", '"5 EUR" is not an amount of money; write $2.10: ' + GRAMMAR),
        (parse_duration, "", '"" is not a duration; write 8s, 500ms or 1m30s'),
        (parse_duration, "-5s", '"-5s" is not a duration; write 8s, 500ms or 1m30s'),
        (parse_duration, [], "a list is not a duration; write 8s, 500ms or 1m30s"),
        (parse_size, {}, "a mapping is not a size; write 20MB or 20MiB"),
        (parse_count, -1, "-1 is not a count; write 4096, 400k or 1.5M"),
        (parse_count, "1.5", '"1.5" is not a count; write 4096, 400k or 1.5M'),
        (parse_count, 1.5, "1.5 is not a count; write 4096, 400k or 1.5M"),
        (parse_share, "a%", '"a%" is not a number or a share; write 3, 0.25 or 25%'),
        (parse_share, float("nan"), "nan is not a number or a share; write 3, 0.25 or 25%"),
    ],
)
def test_what_cannot_be_read_says_what_is_expected(parse: Callable[[object], object], value: object, message: str) -> None:
    """A bare number has no meaning: 20 what?"""
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        parse(value)


@pytest.mark.parametrize("bad", [float("inf"), float("nan"), -1.0, 1e30])
def test_a_rate_that_is_no_number_is_refused(bad: float) -> None:
    """Infinity would make every call unaffordable, and NaN compares with nothing."""
    with pytest.raises(ValueError, match=r"not an amount of money|more than a counter"):
        parse_usd(bad, bare=True)


def test_a_rate_may_be_a_plain_number() -> None:
    """Prices are USD per million tokens; the unit is in the field."""
    assert parse_usd(1.25, bare=True) == parse_usd("1.25", bare=True) == parse_usd("$1.25", bare=True) == 1_250_000_000


@pytest.mark.parametrize("seconds", [0.0, 0.001, 0.25, 1.0, 8.0, 90.0, 120.0, 3600.0, 86400.0, 1.5])
def test_durations_written_are_read_back(seconds: float) -> None:
    """What `check --effective` prints must load."""
    assert parse_duration(format_duration(seconds)) == seconds


@pytest.mark.parametrize("size", [0, 1, 1000, 1024, 20 * 1024 * 1024, 20_000_000, 2**30, 1_000_001])
def test_sizes_written_are_read_back(size: int) -> None:
    """As above."""
    assert parse_size(format_size(size)) == size


@pytest.mark.parametrize("nusd", [0, 1, 2_100_000_000, 10**15])
def test_money_written_is_read_back(nusd: int) -> None:
    """As above."""
    assert parse_usd(format_money(nusd)) == nusd


@pytest.mark.parametrize(
    ("written", "milliseconds"), [("800", 800.0), ("800ms", 800.0), ("0.8s", 800.0), ("1.5 s", 1500.0), ("1m", 60_000.0)]
)
def test_a_time_in_milliseconds_takes_a_unit(written: str, milliseconds: float) -> None:
    """Every other duration has one; a bare number is what the name of the field says."""
    by = {"kind": "latency", "target_ms": float(written) if written.isdigit() else written}
    assert KINDS["latency"].options(**by).model_dump()["target_ms"] == milliseconds


def test_what_is_no_time_in_milliseconds_is_refused() -> None:
    """With what to write instead."""
    route = "routes: {r: {use: big, by: {kind: latency, target_ms: 8x}}}\n"
    assert wrong(BASE + route) == ['7:55: routes.r.by.target_ms: "8x" is not a duration; write 800ms, 30s, 5m, 2h or 7d']
