"""What a request may buy beside tokens is held, charged and named; only what has no price is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from router.domain.estimate import estimate, worst_case_nusd
from router.domain.extras import LONG_CACHE, Billed, Extras, answered_tier, billed, covers, read_extras
from router.domain.prices import Price, Rates
from router.domain.request import ParsedRequest, parse_request, upstream_body
from router.domain.rerate import charge_at, price_of
from router.errors import ConfigError
from router.prices import lookup
from router.settings.load import load_text, price_book
from router.snapshot import Snapshot
from tests.pipeline_fakes import World, ask, json_answer, piece, stream_answer

CONFIG = """
version: 1
server: {log_requests: false}
providers:
  one: {kind: openai, base_url: "http://127.0.0.1:1/v1", api_key: k}
  two: {kind: openai, base_url: "http://127.0.0.1:2/v1", api_key: k}
  resold: {kind: openrouter, api_key: k}
models:
  m:
    at: [one/m]
    price: {input: 10, output: 10, priority: 2, flex: {input: 5, output: 5}, web_search: {low: 0.01, medium: 0.02, high: 0.03}}
  plain: {at: [two/plain], price: {input: 10, output: 10}}
  or: {at: [resold/x/y], price: {input: 1, output: 2}}
routes:
  auto: {use: [m], by: fixed, fallback: {tries: 1, retries: 0}}
  both: {use: [plain, m], by: fixed, fallback: {tries: 1, retries: 0}}
  bare: {use: [plain]}
budgets:
  everyone: {limit: $10}
"""
TOKEN = 10_000
"""Nano-USD per token, input or output."""


def config() -> Snapshot:
    return load_text(CONFIG, source="test.yaml", environ={}, price_book=price_book()).snapshot


def request(**more: Any) -> ParsedRequest:
    return parse_request(json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}], **more}).encode(), "chat")


def test_a_priority_request_holds_what_priority_costs() -> None:
    """The provider may serve it at the usual tier; the hold covers the dear one."""
    deployment, server = config().deployments["one/m"], config().server
    usual = estimate(request(max_tokens=50), deployment, server).hold_nusd
    # The name of the tier makes the body longer, and with it the bound on its tokens.
    dear = request(max_tokens=50, service_tier="priority")
    bound = dear.shape.tokens_bound
    assert estimate(dear, deployment, server).hold_nusd == (bound + 50) * TOKEN * 2 > usual * 2
    assert worst_case_nusd(request(max_tokens=50, service_tier="flex"), deployment) == (
        (request(max_tokens=50, service_tier="flex").shape.tokens_bound + 50) * TOKEN
    )


@pytest.mark.parametrize(
    ("options", "fee"),
    [({"search_context_size": "low"}, 0.01), ({}, 0.02), ({"search_context_size": "high"}, 0.03), ({"search_context_size": "huge"}, 0.03)],
)
def test_a_search_holds_the_fee_of_its_size(options: dict[str, str], fee: float) -> None:
    """A size that nobody knows costs what the dearest does."""
    asked = request(max_tokens=50, web_search_options=options)
    hold = estimate(asked, config().deployments["one/m"], config().server).hold_nusd
    assert hold == (asked.shape.tokens_bound + 50) * TOKEN + int(fee * 10**9)


@pytest.mark.parametrize(
    ("more", "said", "rate", "tier"),
    [
        ({"service_tier": "priority"}, "priority", 2, "priority"),
        ({"service_tier": "priority"}, "default", 1, ""),
        ({"service_tier": "priority"}, None, 2, "priority"),
        ({"service_tier": "flex"}, "flex", 0.5, "flex"),
        ({"service_tier": "flex"}, None, 1, ""),
        ({}, "priority", 2, "priority"),
        ({}, "default", 1, ""),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
async def test_the_tier_that_served_is_charged(more: dict[str, Any], said: str | None, rate: float, tier: str, stream: bool) -> None:
    """What the answer says wins over what was asked; without a word of it the dearer one counts. The record can be priced again."""
    extra: dict[str, Any] = {} if said is None else {"service_tier": said}
    named = piece() if said is None else piece().replace(b'{"id"', b'{"service_tier":"%b","id"' % said.encode())
    answer = stream_answer(named) if stream else json_answer(**extra)
    world = World(config(), answer)
    await world.ask(ask(stream=stream, **more))
    (record,) = world.ledger.records
    assert (record.service_tier, record.price_input) == (tier, int(10**10 * rate))
    assert record.charge_nusd == int((record.input_tokens + record.output_tokens) * TOKEN * rate) > 0
    price = price_of(record)
    assert price is not None
    assert charge_at(record, price) == record.charge_nusd
    assert charge_at(record, config().deployments["one/m"].price or price) == record.charge_nusd


async def test_a_search_is_charged_and_named() -> None:
    """Its fee stands beside the tokens in the record."""
    world = World(config(), json_answer())
    await world.ask(ask(web_search_options={"search_context_size": "high"}))
    (record,) = world.ledger.records
    assert (record.web_search, record.price_web_search, record.price_request) == ("high", 30_000_000, 0)
    assert record.charge_nusd == (record.input_tokens + record.output_tokens) * TOKEN + 30_000_000
    price = price_of(record)
    assert price is not None
    assert charge_at(record, price) == record.charge_nusd


async def test_an_extra_goes_where_it_has_a_price() -> None:
    """Of two candidates the one that knows no price for it is out; if all are, the request is refused by name."""
    world = World(config(), json_answer())
    await world.ask(ask(model="both", service_tier="priority"))
    assert [record.deployment for record in world.ledger.records] == ["one/m"]
    client = await World(config(), json_answer()).ask(ask(model="bare", web_search_options={}))
    assert client.status == 400
    assert b"web_search_options" in client.sent


def test_a_text_cannot_pass_for_the_tier_of_an_answer() -> None:
    """A model that writes about tiers does not change what it costs."""
    said = json.dumps({"choices": [{"message": {"content": 'say "service_tier": "priority" please'}}], "service_tier": "default"})
    assert answered_tier(said.encode()) == "default"
    assert answered_tier(json.dumps({"content": '"service_tier": "flex"'}).encode()) == ""


def test_what_is_asked_for_is_read_from_any_shape() -> None:
    """Nonsense is unpriced, not free."""
    assert read_extras({"service_tier": 7, "web_search_options": None}) is not None
    assert read_extras({"service_tier": "default", "search_parameters": None}) is None
    searched = read_extras({"web_search_options": "yes"})
    assert searched is not None
    assert searched.search == "any"


def test_a_free_price_has_no_fees() -> None:
    """A local server that ignores a tier costs nothing with it."""
    free = Price(rates=Rates(input=0, output=0), free=True, source="config")
    assert billed(free, read_extras({"service_tier": "priority"}), "") is None
    searched = read_extras({"web_search_options": {}})
    assert searched is not None
    assert billed(free, searched, "") == Billed(free, "", "medium", 0)
    assert covers(free, searched)
    assert not covers(None, searched)


def test_the_book_has_priority_rates_and_search_fees() -> None:
    """Priority costs more than the usual tier in each class, flex at most as much; a fee is a cent, not a token."""
    entry = lookup("openai", "gpt-5.6-sol")
    assert entry is not None
    price = entry.price
    assert price.services["priority"].rates.input > price.rates.input
    assert price.services["flex"].rates.output < price.rates.output
    assert price.services["priority"].tiers[0].rates.input > price.tiers[0].rates.input
    assert price.web_search_nusd == (10_000_000,) * 3


def test_a_reseller_may_not_pick_a_host_that_is_dearer_than_the_hold() -> None:
    """The client steers among hosts; the price that the hold assumes bounds them, and a lower one of the client's own stays."""
    deployment = config().deployments["resold/x/y"]
    asked = request(provider={"sort": "throughput", "only": ["fast"], "max_price": {"prompt": 0.5, "completion": 9, "audio": 1}})
    sent = json.loads(upstream_body(asked, deployment, None))["provider"]
    assert sent == {"sort": "throughput", "only": ["fast"], "max_price": {"prompt": 0.5, "completion": 2, "audio": 1, "request": 0}}
    unpriced = replace(deployment, price=None)
    assert json.loads(upstream_body(request(provider={"sort": "price"}), unpriced, None))["provider"] == {"sort": "price"}
    elsewhere = config().deployments["one/m"]
    assert json.loads(upstream_body(request(provider={"sort": "x"}), elsewhere, None))["provider"] == {"sort": "x"}
    assert json.loads(upstream_body(request(provider="x"), deployment, None))["provider"] == "x"


@pytest.mark.parametrize(
    "price", ["{input: 1, output: 2, priority: {input: 2}}", "{free: true, web_search: 0.01}", "{input: 1, output: 2, web_search: [1]}"]
)
def test_a_price_of_an_extra_is_whole(price: str) -> None:
    """Half a price would be a guess."""
    with pytest.raises(ConfigError, match=r"priority|free price|web_search|money"):
        load_text(CONFIG.replace("{input: 1, output: 2}", price), source="test.yaml", environ={}, price_book=price_book())


CACHED = """
version: 1
server: {log_requests: false}
providers: {one: {kind: openai, base_url: "http://127.0.0.1:1/v1", api_key: k}}
models:
  m: {at: one/m, price: {input: 10, output: 10, cache_write: 12.5, cached_input: 1, priority: 2}}
  none: {at: one/none, price: {input: 10, output: 10}}
routes: {auto: {use: [m], by: fixed}}
budgets: {everyone: {limit: $10}}
"""
HOUR = {"type": "ephemeral", "ttl": "1h"}
SHORT = {"type": "ephemeral", "ttl": "5m"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}


def said_in(place: str, control: dict[str, str]) -> dict[str, Any]:
    """A request that asks for a cache there."""
    text = {"type": "text", "text": "hi"}
    return {
        "part": {"messages": [{"role": "user", "content": [{**text, "cache_control": control}]}]},
        "message": {"messages": [{"role": "user", "content": [text], "cache_control": control}]},
        "tool": {"tools": [{**TOOL, "cache_control": control}]},
        "function": {"tools": [{**TOOL, "function": {"name": "f", "cache_control": control}}]},
        "body": {"cache_control": control},
    }[place]


@pytest.mark.parametrize("place", ["part", "message", "tool", "function", "body"])
async def test_a_cache_that_lives_for_an_hour_is_held_and_charged_at_its_rate(place: str) -> None:
    """Twice the rate of input, not the rate of the short one; and the record can be priced again."""
    config = load_text(CACHED, source="test.yaml", environ={}, price_book=price_book()).snapshot
    long, short = (request(max_tokens=50, **said_in(place, control)) for control in (HOUR, SHORT))
    assert (long.extras, short.extras) == (Extras(service_tier=LONG_CACHE, member="cache_control"), None)
    deployment = config.deployments["one/m"]
    assert worst_case_nusd(long, deployment) == long.shape.tokens_bound * 20_000 + 50 * TOKEN
    assert worst_case_nusd(short, deployment) == short.shape.tokens_bound * 12_500 + 50 * TOKEN
    usage = {"prompt_tokens": 100, "completion_tokens": 5, "total_tokens": 105, "prompt_tokens_details": {"cache_write_tokens": 40}}
    world = World(config, json_answer(usage=usage, service_tier="standard"))
    await world.ask(ask(**said_in(place, HOUR)))
    (record,) = world.ledger.records
    assert (record.service_tier, record.price_cache_write) == (LONG_CACHE, 20 * 10**9)
    assert record.charge_nusd == 60 * TOKEN + 40 * 20_000 + 5 * TOKEN
    assert deployment.price is not None
    assert charge_at(record, deployment.price) == record.charge_nusd


def test_who_has_no_rate_for_writes_has_no_dearer_one_either() -> None:
    """And a tier with rates of its own beside such a cache has a price that nobody knows."""
    config = load_text(CACHED, source="test.yaml", environ={}, price_book=price_book()).snapshot
    asked = request(max_tokens=50, **said_in("part", HOUR))
    assert worst_case_nusd(asked, config.deployments["one/none"]) == (asked.shape.tokens_bound + 50) * TOKEN
    both = request(service_tier="priority", **said_in("tool", HOUR))
    assert both.extras is not None
    assert not covers(config.deployments["one/m"].price, both.extras)
    unreadable = request(tools=[{**TOOL, "cache_control": HOUR}, 5])
    assert unreadable.extras is not None
