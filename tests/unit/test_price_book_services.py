"""Service tiers, fees and dates in the price book: from two sources into one row."""

from __future__ import annotations

import json
from pathlib import Path

from router.prices.merge import Model, merge
from router.prices.read_litellm import read_litellm
from tests.unit.test_price_book import USD, known, model


def test_service_tiers_and_search_fees_are_read(tmp_path: Path) -> None:
    """Per token as the others; a fee of zero is a fee that nobody knows."""
    row = {
        "litellm_provider": "openai", "mode": "chat", "input_cost_per_token": 1e-06, "output_cost_per_token": 4e-06,
        "input_cost_per_token_priority": 2e-06, "output_cost_per_token_priority": 8e-06,
        "input_cost_per_token_above_272k_tokens_priority": 3e-06,
        "search_context_cost_per_query": {
            "search_context_size_low": 0.01, "search_context_size_medium": 0.02, "search_context_size_high": 0.025,
        },
    }  # fmt: skip
    free = {**row, "search_context_cost_per_query": {"search_context_size_low": 0.0}}
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"m": row, "free": free}), encoding="utf-8")
    models = read_litellm(path)["openai"].models
    assert models["m"].services == {"priority": {"i": 2 * USD, "o": 8 * USD}}
    assert models["m"].service_tiers["priority"] == {272_000: {"i": 3 * USD}}
    assert (models["m"].web_search, models["free"].web_search) == ((10_000_000, 20_000_000, 25_000_000), None)


def priority(**more: object) -> Model:
    """The second source's model, with priority at twice the rates."""
    tiers = {"priority": {100: {"i": 7 * USD}, 5: {"i": 1}}}
    # Fields of a model.
    return model(services={"priority": {"i": 4 * USD, "o": 20 * USD}, "flex": {"i": USD}}, service_tiers=tiers, **more)  # type: ignore[arg-type]


def test_what_a_service_tier_leaves_out_is_scaled_as_its_input_is() -> None:
    """A class without a rate of its own would be charged as another one: cached tokens as new ones. Half a tier is none."""
    usual = model(cr=1, tiers={99: {"i": 3 * USD, "o": 11 * USD}})
    section, _ = merge("x", known(m=usual), known(m=priority(web_search=(1, 2, 3), tiers={100: {"i": 3 * USD, "o": 11 * USD}})))
    row = section.models["m"]
    assert (row.c, row.ws, list(row.sv)) == ("agree", (1, 2, 3), ["priority"])
    service = row.sv["priority"]
    assert (service.p.i, service.p.o, service.p.cr) == (4 * USD, 20 * USD, 2 * USD)
    ((above, longer),) = service.t
    assert (above, longer.i, longer.o) == (99, 7 * USD, 22 * USD)


def test_prices_at_other_dates_come_with_their_service_tiers() -> None:
    """As many times the usual rates as today; the other source's rates of today do not fill an old price."""
    now = model(i=2, o=10, date="2026-01-01", others={"": model(i=6, o=30), "2027-01-01": model(i=1, o=5)})
    section, _ = merge("x", known(m=now), known(m=priority(r=3)))
    before, after = section.models["m"].h
    assert (before.d, before.p.i, before.sv["priority"].p.i) == ("", 6 * USD, 12 * USD)
    assert (after.d, after.p.o, after.p.r, after.sv["priority"].p.o) == ("2027-01-01", 5 * USD, None, 10 * USD)


def test_where_the_dearer_rates_hold_there_is_no_history() -> None:
    """One source's announcement does not settle what the two disagree on."""
    now = model(i=2, o=10, others={"2027-01-01": model(i=1, o=5)})
    section, _ = merge("x", known(m=now), known(m=model(i=3, o=10)))
    assert (section.models["m"].c, section.models["m"].h) == ("dearer", ())
