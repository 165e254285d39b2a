"""Ranges and the numbers in them, as conditions write them."""

from __future__ import annotations

import pytest

from policies.ranges import RangeError, read_count, read_range, read_share, read_usd


@pytest.mark.parametrize(
    ("text", "said"),
    [("5..4", "is empty: 5 is above 4"), ("5", "is no range"), ("<x", "is no number"), (">1.2.3", "is no number"), ("<", "is no number")],
)
def test_what_is_no_range_says_why(text: str, said: str) -> None:
    """Both ends are included, so that the same number twice is one."""
    with pytest.raises(RangeError, match=f"^{said}$"):
        read_range(text, read_share)
    assert read_range("4..4", read_share).low == 4


def test_numbers_are_read_by_their_unit() -> None:
    """Thousands of tokens, shares, amounts."""
    assert [read_count("8k"), read_share("40%"), read_share(".5"), read_usd("$2.5")] == [8000, 0.4, 0.5, 2.5]
    for read, text, said in (
        (read_usd, "5%", "is no amount"),
        (read_count, "4.5", "is no whole number"),
        (read_share, "1" * 40, "is too long"),
    ):
        with pytest.raises(RangeError, match=said):
            read(text)
