"""The order of stages: what is tried next, what the client is told, what is counted."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from router.fleet import Fleet
from router.ports import Endpoint
from router.settings.load import load_text, price_book
from router.snapshot import Snapshot
from tests.pipeline_fakes import FakeExchange, Script, World, ask, failing, json_answer, lost, snapshot, stream_answer

TWO_PRICES = """
version: 1
server: {log_requests: false}
providers:
  one: {kind: openai, base_url: "http://127.0.0.1:1/v1", api_key: k}
models:
  dear: {at: one/dear, price: {input: 100, output: 100}, default_max_output: 100}
  cheap: {at: one/cheap, price: {input: 1, output: 1}, default_max_output: 100}
routes:
  auto: {default: {use: [dear, cheap], by: fixed}}
budgets:
  everyone: {limit: $0.001}
"""


def two_prices() -> Snapshot:
    return load_text(TWO_PRICES, source="test.yaml", environ={}, price_book=price_book()).snapshot


def code_of(exchange: FakeExchange) -> str:
    """The code of the error that the client got."""
    code = msgspec.json.decode(exchange.sent)["error"]["code"]
    assert isinstance(code, str)
    return code


async def test_the_next_candidate_answers_when_the_first_one_fails() -> None:
    """And the headers say why it was asked."""
    world = World(snapshot(), failing(500), json_answer())
    exchange = await world.ask(ask())
    assert exchange.status == 200
    assert world.upstream.called == ["one", "two"]
    assert b"x-faregate-reason: fallback:5xx" in exchange.head
    assert b"x-faregate-attempts: 2" in exchange.head
    assert world.metric("faregate_fallbacks_total") == 1


async def test_what_the_client_did_wrong_is_not_tried_elsewhere() -> None:
    """Every provider would say the same, and some would bill it."""
    world = World(snapshot(), failing(400))
    exchange = await world.ask(ask())
    assert exchange.status == 400
    assert world.upstream.called == ["one"]


async def test_the_last_candidate_is_called_again_after_a_pause() -> None:
    """A hiccup must not become an error while a retry is allowed."""
    world = World(snapshot(retries=2), failing(500), failing(500), failing(503), json_answer())
    exchange = await world.ask(ask())
    assert exchange.status == 200
    assert world.upstream.called == ["one", "two", "two", "two"]
    assert b"x-faregate-reason: retry:5xx" in exchange.head
    assert world.metric("faregate_retries_total") == 2


async def test_a_retry_that_the_budget_refuses_leaves_the_first_failure() -> None:
    """The client is told what the provider said, not that a second try was too dear."""
    tried = World(snapshot(), json_answer())
    await tried.ask(ask())
    world = World(snapshot(), failing(500), Script(fault=lost("reset")), json_answer(), limit_nusd=tried.ledger.records[0].hold_nusd)
    exchange = await world.ask(ask())
    assert exchange.status == 502
    assert code_of(exchange) == "upstream_failed"
    assert not world.ledger.open_holds


async def test_no_more_calls_are_made_than_the_route_allows() -> None:
    """Retries and fallbacks count together."""
    world = World(snapshot(retries=9), *(failing(500) for _ in range(9)))
    exchange = await world.ask(ask())
    assert exchange.status == 500
    assert len(world.upstream.called) == 4


async def test_a_pause_longer_than_anybody_waits_is_not_waited() -> None:
    """The client gets the Retry-After and decides itself."""
    world = World(snapshot(), failing(500), failing(503, retry_after="60"))
    exchange = await world.ask(ask())
    assert exchange.status == 503
    assert b"retry-after: 60" in exchange.head
    assert len(world.upstream.called) == 2


async def test_a_cheaper_candidate_serves_what_the_first_one_cannot_be_paid_for() -> None:
    """Better a smaller model than a refusal."""
    world = World(two_prices(), json_answer())
    exchange = await world.ask(ask())
    assert exchange.status == 200
    assert b"x-faregate-model: cheap" in exchange.head
    assert b"x-faregate-reason: fallback:budget" in exchange.head
    assert world.metric("faregate_budget_refusals_total") == 1


@pytest.mark.parametrize("status", [402, 429])
async def test_a_refusal_for_money_has_the_status_that_was_configured(status: int) -> None:
    """Clients that come from elsewhere may know another one."""
    world = World(two_prices(), limit_nusd=1).with_budget_status(status)
    exchange = await world.ask(ask())
    assert exchange.status == status
    assert code_of(exchange) == "budget_exceeded"
    assert b"with the cheapest of 2 candidates" in exchange.sent
    assert b"x-should-retry: false" in exchange.head
    assert world.upstream.called == []


async def test_nothing_is_spent_while_the_store_is_away() -> None:
    """A guard that lets everything through when it cannot look is none."""
    world = World(snapshot())
    world.ledger.away = True
    exchange = await world.ask(ask())
    assert exchange.status == 503
    assert code_of(exchange) == "budget_store_unavailable"
    assert b"retry-after: 1" in exchange.head
    assert world.upstream.called == []


@pytest.mark.parametrize("hindrance", ["store-away", "no-money"])
async def test_a_probe_that_led_to_no_call_is_free_again(hindrance: str) -> None:
    """Else one call without money would keep a deployment out for half a minute."""
    world = World(snapshot(), json_answer(), limit_nusd=1)
    world.ledger.away = hindrance == "store-away"
    for name in ("one/m", "two/m"):
        world.fleet.failed(name, cause="429", retry_after_seconds=1)
    world.clock.now += 2
    assert (await world.ask(ask())).status in (402, 503)
    world.ledger.away, world.ledger.limit_nusd = False, 10**9
    assert (await world.ask(ask())).status == 200


async def test_a_rate_limit_of_all_candidates_is_passed_on_while_it_lasts() -> None:
    """The provider's own words, and no call that would only be refused."""
    world = World(snapshot(), failing(429, retry_after="30"), failing(429, retry_after="30"))
    first = await world.ask(ask())
    second = await world.ask(ask())
    assert first.status == second.status == 429
    assert first.sent == second.sent
    assert len(world.upstream.called) == 2
    assert len(world.ledger.records) == 2


async def test_one_candidate_in_cooldown_does_not_hide_the_other() -> None:
    """The rate limit of one is no answer while another serves."""
    world = World(snapshot(), failing(429, retry_after="30"), json_answer(), json_answer())
    assert (await world.ask(ask())).status == 200
    assert (await world.ask(ask())).status == 200
    assert world.upstream.called == ["one", "two", "two"]


class Taken(Fleet):
    """Somebody else probes everything."""

    # What is out for a probe is not calm; the fleet itself sets it as it begins.
    calm = property(lambda self: False, lambda self, value: None)  # type: ignore[assignment]

    def claim_probe(self, name: str) -> bool:
        return False


async def test_deployments_that_others_probe_are_waited_for_by_the_client() -> None:
    """One call at a time looks whether a deployment works again."""
    world = World(snapshot())
    world.pipeline._fleet = Taken(world.clock)
    exchange = await world.ask(ask())
    assert exchange.status == 503
    assert code_of(exchange) == "no_deployment_available"
    assert b"retry-after: 1" in exchange.head


async def test_only_streams_tell_how_long_a_first_token_takes() -> None:
    """A whole answer's first byte comes with its last: it would make a quick deployment look slow."""
    world = World(snapshot(), json_answer(), stream_answer(b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'))
    await world.ask(ask())
    assert world.fleet.view("one/m").first_token_ms is None
    assert world.fleet.view("one/m").total_ms is not None
    await world.ask(ask(stream=True))
    assert world.fleet.view("one/m").first_token_ms is not None


async def test_a_bug_after_the_call_still_settles_it() -> None:
    """The error goes to the log; the money does not stay held."""

    class Broken(FakeExchange):
        async def start(self, status: int, headers: bytes) -> None:
            raise ZeroDivisionError

    world = World(snapshot(), stream_answer(b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'))
    with pytest.raises(ZeroDivisionError):
        await world.pipeline.serve(Broken(ask(stream=True)), "chat")
    (record,) = world.ledger.records
    assert (record.outcome, record.evidence) == ("upstream_lost", "partial")
    assert not world.ledger.open_holds
    assert not world.upstream.responses[0].open


async def test_a_call_that_was_lost_before_its_answer_is_charged_for_what_is_likely() -> None:
    """The provider may have written the answer that never came, and bill it."""
    world = World(snapshot(), json_answer(completion=40), Script(fault=lost("total_timeout")), Script(fault=lost("reset")), json_answer())
    await world.ask(ask())
    await world.ask(ask())
    timed_out = world.ledger.records[1]
    assert (timed_out.outcome, timed_out.output_tokens) == ("upstream_lost", 40)
    reset = world.ledger.records[2]
    # The other deployment: nothing was learned of it, so what the others answer counts.
    assert (reset.outcome, reset.output_tokens) == ("upstream_lost", 40)


async def test_overruns_name_their_cause() -> None:
    """Whoever reads the books must know whether the provider or our bound was wrong."""
    world = World(
        snapshot(), json_answer(completion=5000), json_answer(completion=200, usage={"prompt_tokens": 9000, "completion_tokens": 200})
    )
    await world.ask(ask())
    await world.ask(ask())
    assert [record.overrun_cause for record in world.ledger.records] == ["provider_exceeded_cap", "input_above_bound"]


async def test_an_endpoint_is_never_chosen_by_a_request() -> None:
    """Whatever stands in the body, the call goes where the configuration says."""
    world = World(snapshot(), json_answer())
    await world.ask(ask(base_url="http://evil", api_base="http://evil", api_key="x"))
    assert world.upstream.called == ["one"]
    assert isinstance(world.snapshot.providers["one"].endpoint, Endpoint)


async def test_calls_that_run_together_do_not_mix() -> None:
    """Every call has its own hold, record and answer."""
    world = World(snapshot(), *(json_answer(completion=n) for n in range(1, 21)))
    exchanges = await asyncio.gather(*(world.ask(ask()) for _ in range(20)))
    assert {exchange.status for exchange in exchanges} == {200}
    assert sorted(record.output_tokens for record in world.ledger.records) == list(range(1, 21))
    assert len({record.request_id for record in world.ledger.records}) == 20
