"""What a call costs, to the nano-USD."""

from __future__ import annotations

import pytest

from router.domain.prices import Price, Rates, Tier
from router.domain.pricing import (
    charge,
    dearest_input,
    dearest_output,
    expected,
    rates_for,
    worst_case,
)
from router.domain.usage import Usage

USD = 10**9
FULL = Rates(
    input=2 * USD,
    output=10 * USD,
    cache_read=USD // 5,
    cache_write=5 * USD // 2,
    reasoning=12 * USD,
    audio_input=40 * USD,
    audio_output=80 * USD,
)
PLAIN = Price(rates=Rates(input=2 * USD, output=10 * USD), source="test")
CLASSES = Price(rates=FULL, source="test")
TIERED = Price(
    rates=Rates(input=USD, output=5 * USD),
    tiers=(
        Tier(above_input_tokens=1000, rates=Rates(input=2 * USD, output=7 * USD)),
        Tier(above_input_tokens=5000, rates=Rates(input=4 * USD, output=9 * USD)),
    ),
    source="test",
)
MACHINE = Price(rates=Rates(input=0, output=0), per_hour_nusd=36 * USD // 10, concurrency=4, source="test")


def usage(input_tokens: int, output_tokens: int, **parts: int) -> Usage:
    return Usage(input_tokens=input_tokens, output_tokens=output_tokens, evidence="exact", **parts)


def test_plain_tokens_cost_their_rate() -> None:
    """One million in and out: the two list prices."""
    assert charge(PLAIN, usage(1_000_000, 1_000_000)) == 12 * USD


def test_a_charge_rounds_up_once() -> None:
    """Three tokens at a third of a nano-USD are one nano-USD, not three."""
    price = Price(rates=Rates(input=333_333, output=333_333), source="test")
    assert charge(price, usage(2, 1)) == 1


@pytest.mark.parametrize(
    ("parts", "million_nusd"),
    [
        ({"cache_read_tokens": 400}, 600 * 2 * USD + 400 * USD // 5 + 100 * 10 * USD),
        ({"cache_write_tokens": 400}, 600 * 2 * USD + 400 * 5 * USD // 2 + 100 * 10 * USD),
        ({"audio_input_tokens": 400}, 600 * 2 * USD + 400 * 40 * USD + 100 * 10 * USD),
        ({"reasoning_tokens": 40}, 1000 * 2 * USD + 40 * 12 * USD + 60 * 10 * USD),
        ({"audio_output_tokens": 40}, 1000 * 2 * USD + 40 * 80 * USD + 60 * 10 * USD),
        (
            {
                "cache_read_tokens": 100,
                "cache_write_tokens": 200,
                "audio_input_tokens": 300,
                "reasoning_tokens": 30,
                "audio_output_tokens": 20,
            },
            400 * 2 * USD + 100 * USD // 5 + 200 * 5 * USD // 2 + 300 * 40 * USD + 30 * 12 * USD + 20 * 80 * USD + 50 * 10 * USD,
        ),
    ],
)
def test_a_part_with_a_rate_of_its_own_is_not_charged_twice(parts: dict[str, int], million_nusd: int) -> None:
    """Inclusive counts are split into disjoint classes: the double count of cached tokens is the oldest bug of the trade."""
    assert charge(CLASSES, usage(1000, 100, **parts)) == million_nusd // 1_000_000


def test_a_part_without_a_rate_costs_what_its_whole_costs() -> None:
    """A price that names no cache or audio class says nothing about a discount."""
    parts = {"cache_read_tokens": 10, "cache_write_tokens": 10, "audio_input_tokens": 10, "reasoning_tokens": 10, "audio_output_tokens": 10}
    assert charge(PLAIN, usage(1000, 100, **parts)) == charge(PLAIN, usage(1000, 100))


def test_parts_that_exceed_their_whole_are_cut() -> None:
    """A usage that claims more cached than input tokens cannot make the charge negative."""
    assert charge(CLASSES, usage(1000, 0, cache_read_tokens=5000)) == 1000 * (USD // 5) // 1_000_000
    everything = {"cache_read_tokens": 1000, "cache_write_tokens": 1000, "audio_input_tokens": 1000}
    assert charge(CLASSES, usage(1000, 0, **everything)) == 1000 * (5 * USD // 2) // 1_000_000


@pytest.mark.parametrize(("tokens", "rate"), [(1000, USD), (1001, 2 * USD), (5000, 2 * USD), (5001, 4 * USD)])
def test_a_tier_holds_for_the_whole_request_once_its_input_is_above_the_threshold(tokens: int, rate: int) -> None:
    """Providers price long contexts as a cliff, and `above` excludes the threshold itself."""
    assert rates_for(TIERED, tokens).input == rate
    assert charge(TIERED, usage(tokens, 0)) == tokens * rate // 1_000_000


def test_rates_without_tiers_hold_for_every_length() -> None:
    """The common case."""
    assert rates_for(PLAIN, 10**9) is PLAIN.rates


def test_fees_per_request_and_image_are_added() -> None:
    """Some providers charge for the call, some for each picture."""
    price = Price(rates=Rates(input=USD, output=USD), per_request_nusd=5_000, per_image_nusd=70, source="test")
    assert charge(price, usage(0, 0), images=3) == 5_210
    assert worst_case(price, input_tokens=0, output_tokens=0, images=3) == 5_210
    assert charge(PLAIN, usage(0, 0), images=3) == 0


def test_a_machine_costs_its_share_of_the_hour() -> None:
    """3.60 USD an hour over four calls at a time: 0.25 milli-USD a second each, rounded up."""
    assert charge(MACHINE, usage(10, 10), duration_ms=1000) == 250_000
    assert charge(MACHINE, usage(10, 10), duration_ms=0) == 0
    assert worst_case(MACHINE, input_tokens=10, output_tokens=10, seconds=0.0001) == 250
    assert expected(MACHINE, input_tokens=10, output_tokens=10, seconds=2) == 500_000


def test_the_worst_case_takes_the_dearest_class() -> None:
    """A hold must cover a request whose every token is written to the cache and whose every answer token is speech."""
    assert dearest_input(FULL) == 5 * USD // 2
    assert dearest_output(FULL) == 80 * USD
    assert worst_case(CLASSES, input_tokens=1000, output_tokens=10) == (1000 * 5 * USD // 2 + 10 * 80 * USD) // 1_000_000
    with_audio = worst_case(CLASSES, input_tokens=1000, output_tokens=10, audio_input_tokens=100)
    assert with_audio == (900 * 5 * USD // 2 + 100 * 40 * USD + 10 * 80 * USD) // 1_000_000


def test_a_cached_read_dearer_than_input_is_seen() -> None:
    """No provider does it today; a configuration can."""
    assert dearest_input(Rates(input=1, output=1, cache_read=3)) == 3
    assert dearest_output(Rates(input=1, output=1, reasoning=3)) == 3


def test_the_worst_case_looks_into_every_tier_that_can_be_reached() -> None:
    """An input of 5,000 tokens cannot be above 5,000."""
    assert worst_case(TIERED, input_tokens=1000, output_tokens=100) == (1000 * USD + 100 * 5 * USD) // 1_000_000
    assert worst_case(TIERED, input_tokens=5000, output_tokens=100) == (5000 * 2 * USD + 100 * 7 * USD) // 1_000_000
    assert worst_case(TIERED, input_tokens=5001, output_tokens=100) == (5001 * 4 * USD + 100 * 9 * USD) // 1_000_000


def test_the_worst_case_stays_above_a_tier_that_is_cheaper() -> None:
    """Should a price fall with length, the short request must still be covered."""
    falling = Price(
        rates=Rates(input=4 * USD, output=USD), tiers=(Tier(above_input_tokens=10, rates=Rates(input=USD, output=USD)),), source="test"
    )
    assert worst_case(falling, input_tokens=1000, output_tokens=0) == 1000 * 4 * USD // 1_000_000


def test_expected_cost_knows_cached_tokens() -> None:
    """Losing a warm cache has a price; that is how routing sees it."""
    assert expected(CLASSES, input_tokens=1000, output_tokens=100, cache_read_tokens=400) == charge(
        CLASSES, usage(1000, 100, cache_read_tokens=400)
    )
    assert expected(TIERED, input_tokens=1001, output_tokens=1) == charge(TIERED, usage(1001, 1))
    assert expected(CLASSES, input_tokens=10, output_tokens=0, cache_read_tokens=400) == 10 * (USD // 5) // 1_000_000
