"""Prices with dates: a call costs what is in force when it begins."""

from __future__ import annotations

import pytest

from router import prices
from router.domain.prices import price_at
from router.errors import ConfigError
from router.prices import lookup
from router.settings.effective import effective_yaml
from router.settings.load import Loaded, load_text, price_book
from tests.pipeline_fakes import World, ask, json_answer

CONFIG = """
version: 1
server: {{log_requests: false, unpriced: {unpriced}}}
providers:
  one: {{kind: openai, base_url: "http://127.0.0.1:1/v1", api_key: k}}
models:
  m: {{at: [one/m], {price}}}
routes:
  auto: {{use: [m]}}
budgets:
  everyone: {{limit: $10}}
"""
DATED = """price: {input: 10, output: 10, changes: [
    {from: 2020-01-01, input: 20, output: 20, priority: 2}, {from: 2999-06-01T12:00:00+09:00, input: 1, output: 1}]}"""
FUTURE_MS = 32_485_201_200_000
"""2999-06-01T03:00 UTC."""


def load(price: str = DATED, unpriced: str = "refuse") -> Loaded:
    return load_text(CONFIG.format(price=price, unpriced=unpriced), source="test.yaml", environ={}, price_book=price_book())


def test_the_price_of_today_is_in_force() -> None:
    """The one that has begun last; the record can name its date."""
    deployment = load().snapshot.deployments["one/m"]
    assert [price.since_ms for price in deployment.prices] == [0, 1_577_836_800_000, FUTURE_MS]
    assert deployment.price is deployment.prices[1]
    assert (deployment.price.date, deployment.price.services["priority"].rates.input) == ("2020-01-01", 40 * 10**9)
    assert price_at(deployment.prices, 0) is deployment.prices[0]


async def test_a_call_is_charged_at_the_price_it_began_with() -> None:
    """While it runs the price changes; the next call costs the new one, and both records say so."""
    snapshot = load().snapshot
    deployment = snapshot.deployments["one/m"]
    world = World(snapshot, json_answer(), json_answer())
    hold = world.pipeline.reservations.hold

    def changes_meanwhile(attempt: object) -> object:
        # As the hold is made.
        held = hold(attempt)  # type: ignore[arg-type]
        assert deployment.reprice(FUTURE_MS)
        world.pipeline.prices_changed()
        return held

    # One call only.
    world.pipeline.reservations.hold = changes_meanwhile  # type: ignore[assignment, method-assign]
    await world.ask(ask())
    # Put back.
    world.pipeline.reservations.hold = hold  # type: ignore[method-assign]
    await world.ask(ask())
    first, second = world.ledger.records
    tokens = first.input_tokens + first.output_tokens
    assert (first.charge_nusd, first.price_input, first.price_date) == (tokens * 20_000, 20 * 10**9, "2020-01-01")
    assert (second.charge_nusd, second.price_input, second.price_date) == (tokens * 1_000, 10**9, "2999-06-01")
    assert not deployment.reprice(FUTURE_MS), "it is in force already"


def test_time_alone_makes_no_other_configuration() -> None:
    """Replicas that were started before and after a change serve the same one."""
    now = load().snapshot.version
    text = DATED.replace("2020-01-01", "2998-01-01")
    assert load(text).snapshot.version != now
    assert load().snapshot.version == now


def test_what_is_effective_can_be_loaded_again() -> None:
    """Dates and all."""
    loaded = load()
    again = load_text(effective_yaml(loaded.settings, loaded.snapshot), source="again.yaml", environ={"K": "k"}, price_book=price_book())
    assert again.snapshot.deployments["one/m"].prices == loaded.snapshot.deployments["one/m"].prices


@pytest.mark.parametrize(
    "changes", ["{from: 2027-01-01, input: 1, output: 1}, {from: 2026-01-01, input: 1, output: 1}", "{input: 1, output: 1}", "{from: soon}"]
)
def test_changes_are_whole_and_in_order(changes: str) -> None:
    """A mistake would be noticed on the day of the change only."""
    with pytest.raises(ConfigError, match=r"after the one before|from|is not a date"):
        load(f"price: {{input: 1, output: 1, changes: [{changes}]}}")


@pytest.mark.parametrize(
    ("rule", "source", "free"), [("free", "unpriced", True), ("assume, assumed_price: {input: 3, output: 4}", "assumed", False)]
)
async def test_a_deployment_without_a_price_is_counted_as_told(rule: str, source: str, free: bool) -> None:
    """At the price that is assumed, or at nothing; refused otherwise."""
    snapshot = load("size: small", rule).snapshot
    world = World(snapshot, json_answer())
    await world.ask(ask())
    (record,) = world.ledger.records
    assert record.price_source == source
    assert record.charge_nusd == (0 if free else record.input_tokens * 3_000 + record.output_tokens * 4_000)
    assert load("size: small").snapshot.deployments["one/m"].price is None


def test_the_book_knows_prices_that_were_and_will_be() -> None:
    """From the dates of its main source: in order, each with its date, the one of today among them."""
    dated = [entry for provider in prices.providers() for entry in prices.entries(provider) if entry.prices]
    assert len(dated) > 50
    for entry in dated:
        begins = [price.since_ms for price in entry.prices]
        assert begins == sorted(set(begins)), entry.model
        assert entry.price in entry.prices, entry.model
    argon = lookup("gemini", "gemini-4-argon")
    assert argon is not None
    assert argon.prices[-1].date == "2026-12-01"
    assert argon.prices[-1].rates != argon.price.rates


def test_a_change_of_the_book_takes_its_tiers_of_service_along() -> None:
    """A priority rate that stayed behind would be cheaper than the usual one."""
    for provider in prices.providers():
        for entry in prices.entries(provider):
            for price in entry.prices:
                if "priority" in price.services:
                    assert price.services["priority"].rates.input >= price.rates.input, entry.model
