"""A record holds every input of its charge: priced again with the same prices, it costs the same to the nano-dollar."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from router.domain.extras import Extras
from router.domain.prices import Price, Rates, Tier
from router.domain.records import SpendRecord
from router.domain.rerate import charge_at, price_of
from router.domain.usage import Usage
from router.lines import Ways
from tests.pipeline_fakes import World, json_answer, snapshot
from tests.unit.test_settlement import held

CONFIG = snapshot()
RATE = st.integers(0, 10**12)
MAYBE = st.none() | RATE
RATES = st.builds(
    Rates, input=RATE, output=RATE, cache_read=MAYBE, cache_write=MAYBE, reasoning=MAYBE, audio_input=MAYBE, audio_output=MAYBE
)
TIERS = st.lists(st.integers(1, 5000), max_size=3, unique=True).flatmap(
    lambda starts: st.tuples(*[st.builds(Tier, above_input_tokens=st.just(start), rates=RATES) for start in sorted(starts)])
)
FEE = st.integers(0, 10**9)


@st.composite
def prices(draw: st.DrawFn) -> Price:
    """With anything that a price may have."""
    usual = Price(
        rates=draw(RATES),
        tiers=draw(TIERS),
        per_request_nusd=draw(FEE),
        per_image_nusd=draw(st.none() | FEE),
        per_hour_nusd=draw(st.none() | FEE),
        concurrency=draw(st.integers(1, 9)),
        web_search_nusd=draw(st.none() | st.tuples(FEE, FEE, FEE)),
        source="config",
        date="2026-11-22",
    )
    if draw(st.booleans()):
        dear = msgspec.structs.replace(usual, rates=draw(RATES), tiers=draw(TIERS), web_search_nusd=None)
        return msgspec.structs.replace(usual, services={"priority": dear})
    return usual


COUNT = st.integers(0, 10_000)
USAGES = st.builds(
    Usage,
    input_tokens=COUNT,
    cache_read_tokens=COUNT,
    cache_write_tokens=COUNT,
    audio_input_tokens=COUNT,
    output_tokens=COUNT,
    reasoning_tokens=COUNT,
    audio_output_tokens=COUNT,
    evidence=st.sampled_from(["exact", "estimated", "partial"]),
)
EXTRAS = st.none() | st.builds(
    Extras,
    service_tier=st.sampled_from(["", "priority"]),
    search=st.sampled_from(["", "low", "medium", "high", "any"]),
    member=st.just("x"),
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    price=prices(),
    usage=USAGES,
    extras=EXTRAS,
    answered=st.sampled_from(["", "default", "priority"]),
    images=st.integers(0, 3),
    seconds=st.integers(0, 10**4),
    hold_counts=st.booleans(),
)
def test_a_record_priced_again_costs_the_same(
    price: Price, usage: Usage, extras: Extras | None, answered: str, images: int, seconds: int, hold_counts: bool
) -> None:
    """By the rates that it names, and by the whole price that was in force."""
    world = World(replace(CONFIG, server=replace(CONFIG.server, on_missing_usage="hold" if hold_counts else "estimate")), json_answer())
    attempt = asyncio.run(held(world))
    call = attempt.call
    call.request.extras = extras
    call.request.shape = msgspec.structs.replace(call.request.shape, images=images)
    attempt.deployment = replace(attempt.deployment, price=price)
    attempt.price = price
    attempt.way = Ways().of(call, attempt.deployment, "fixed")
    attempt.billed, attempt.answered_tier = None, answered
    world.pipeline._settlements.book(attempt, usage=usage, outcome="ok", ended=attempt.began + seconds / 7)
    record = msgspec.json.decode(attempt.record, type=SpendRecord)
    named = price_of(record)
    assert named is not None
    assert charge_at(record, named) == charge_at(record, price) == record.charge_nusd == attempt.charge_nusd
