"""Amounts: USD as people and providers write them, nano-USD as they are counted."""

from __future__ import annotations

from decimal import Decimal

import pytest

from router.domain.money import MAX_NUSD, NUSD_PER_USD, from_usd, to_usd


@pytest.mark.parametrize("usd", ["NaN", "sNaN", "Infinity", "-Infinity", Decimal("inf")])
def test_what_is_not_finite_is_no_amount(usd: Decimal | str) -> None:
    """A price of NaN would compare with no budget, and an infinite one would use up all of them."""
    with pytest.raises(ValueError, match="is not an amount of money"):
        from_usd(usd)


@pytest.mark.parametrize("usd", ["1e400000", "-1e400000", 10**12, "1e7", to_usd(MAX_NUSD) + to_usd(1)])
def test_more_than_a_counter_can_hold_is_refused_before_it_is_written_out(usd: Decimal | str | int) -> None:
    """A few characters can stand for a number of 400,000 digits."""
    with pytest.raises(ValueError, match=r"more (?:USD )?than a counter can hold exactly") as raised:
        from_usd(usd)
    assert len(str(raised.value)) < 100


def test_what_is_smaller_than_a_nano_usd_is_rounded_up() -> None:
    """The most that is counted is exact; a price that is not zero is never counted as zero."""
    assert from_usd(to_usd(MAX_NUSD)) == MAX_NUSD
    assert (from_usd("1e-400000"), from_usd(0), from_usd(1)) == (1, 0, NUSD_PER_USD)
