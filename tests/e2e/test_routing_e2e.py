"""Where a call goes when providers fail, and what a request may say about it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import openai
import pytest

from tests.gateway import KEY
from tests.running import Running, chat, running
from tests.scripted_behaviours import Behaviour, Close, Fail, Hang, Json, Raw, Sequence, Stream
from tests.scripted_upstream import ScriptedUpstream

LIMITED = "sk-test-limited-0123456789abcdefghijklm"
AGENT = "sk-test-agent-0123456789abcdefghijklmno"

CONFIG = """
version: 1
server: {store: "STORE"}
providers:
  up: {kind: openai, base_url: "UP", api_key: $PROVIDER_KEY, timeouts: {first_byte: 300ms, idle: 300ms}}
  down: {kind: openai, base_url: "http://127.0.0.1:9/v1", api_key: $PROVIDER_KEY}
models:
  a: {at: up/a, price: {input: 1, output: 10}, default_max_output: 100}
  b: {at: up/b, price: {input: 2, output: 20}, default_max_output: 100}
  c: {at: up/c, price: {input: 3, output: 30}, default_max_output: 100, context: 100k}
  gone: {at: down/g, price: {input: 1, output: 1}}
  small: {at: up/small, price: {input: 1, output: 1}, context: 10k}
routes:
  pair: {use: [a, b], by: fixed, fallback: {retries: 0}}
  again: {use: [a], by: fixed, fallback: {retries: 2}}
  many: {use: [a, b, c], by: fixed, fallback: {tries: 2, retries: 0}}
  first-gone: {use: [gone, a], by: fixed, fallback: {retries: 0}}
  grow: {use: [small, c], by: fixed, fallback: {retries: 0}}
  stay: {use: [a, b], by: fixed, fallback: {on: [429], retries: 0}}
  cheap: [c, b, a]
  ruled:
    rules:
      - {name: agents, when: {tags: {kind: agent}}, use: b}
    default: a
budgets:
  all: $100
keys:
  tester: {secret: $TEST_KEY}
  limited: {secret: $LIMITED, models: [a, cheap]}
  agent: {secret: $AGENT, tags: {kind: agent}}
"""


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path, CONFIG, environment={"LIMITED": LIMITED, "AGENT": AGENT}) as served:
        yield served


def later(app: Running, seconds: float) -> None:
    """Let time pass for what is known of the deployments."""
    fleet = app.app.service.fleet
    fleet._clock = lambda: time.monotonic() + seconds


def asked(up: ScriptedUpstream) -> list[str]:
    """The models of all calls that reached the provider."""
    return [seen.model for seen in up.requests]


# Fallback


FAILURES: dict[str, Behaviour] = {
    "500": Fail(status=500),
    "529": Fail(status=529),
    "408": Fail(status=408),
    "429": Fail(status=429),
    "html": Json(status=503, body=b"<html>"),
    "closed": Close(),
    "reset": Close(reset=True),
    "no_http": Raw([b"what?\r\n\r\n"]),
    "silence": Hang(),
    "empty": Json(body=b""),
    "error_in_200": Json(body={"error": {"message": "overloaded"}}),
    "credentials": Fail(status=401),
}


@pytest.mark.parametrize("stream", [False, True], ids=["json", "sse"])
@pytest.mark.parametrize("failure", FAILURES)
async def test_before_the_first_byte_the_next_candidate_answers(app: Running, failure: str, stream: bool) -> None:
    """The client waits a little longer and sees nothing of the outage."""
    app.up.on("a", FAILURES[failure])
    answer = await app.ask("pair", stream=stream)
    assert answer.status_code == 200
    assert asked(app.up) == ["a", "b"]
    assert answer.headers["x-faregate-model"] == "b"
    assert answer.headers["x-faregate-deployment"] == "up/b"
    assert answer.headers["x-faregate-attempts"] == "2"
    assert answer.headers["x-faregate-reason"].startswith("fallback:")
    assert (b"[DONE]" in answer.content) is stream
    await app.settled()
    outcomes = [record.get("outcome", "ok") for record in await app.records()]
    assert len(outcomes) == 2
    assert outcomes[1] == "ok"


async def test_a_provider_that_refuses_connections_costs_nothing(app: Running) -> None:
    """The hold of a call that never left is given back whole."""
    answer = await app.ask("first-gone")
    assert answer.status_code == 200
    assert answer.headers["x-faregate-reason"] == "fallback:connect"
    await app.settled()
    assert [record["deployment"] for record in await app.records() if record["charge_nusd"]] == ["up/a"]


async def test_a_stream_that_begins_with_an_error_event_falls_back(app: Running) -> None:
    """Some providers answer 200 and say in the first event that they are overloaded."""
    event = b'data: {"error": {"message": "overloaded", "code": "overloaded"}}\n\n'
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n" % len(event)
    app.up.on("a", Raw([head + event]))
    answer = await app.ask("pair", stream=True)
    assert answer.status_code == 200
    assert answer.headers["x-faregate-model"] == "b"
    assert answer.text.endswith("data: [DONE]\n\n")
    assert "overloaded" not in answer.text


@pytest.mark.parametrize("end", ["reset", "truncate", "error_event", "hang"])
async def test_after_the_first_byte_nobody_else_is_asked(app: Running, end: str) -> None:
    """Two halves of two answers are no answer; the client must see that this one is broken."""
    # One of End.
    app.up.on("a", Stream(end=end))  # type: ignore[arg-type]
    answer = await app.ask("pair", stream=True)
    assert asked(app.up) == ["a"]
    assert '"error"' in answer.text
    assert "[DONE]" not in answer.text
    assert answer.headers["x-faregate-attempts"] == "1"


@pytest.mark.parametrize("status", [400, 404, 413, 422])
async def test_the_clients_own_mistakes_are_not_tried_elsewhere(app: Running, status: int) -> None:
    """What one provider finds wrong with the request, the next finds too, for more money."""
    app.up.on("a", Fail(status=status, code="bad"))
    assert (await app.ask("pair")).status_code == status
    assert asked(app.up) == ["a"]


async def test_only_the_configured_causes_lead_to_a_fallback(app: Running) -> None:
    """Whoever pins `on: [429]` wants to see the 500."""
    app.up.on("a", Fail(status=500))
    assert (await app.ask("stay")).status_code == 500
    app.up.on("a", Hang())
    assert (await app.ask("stay")).status_code == 504
    app.up.on("a", Fail(status=429))
    assert (await app.ask("stay")).status_code == 200


async def test_no_more_calls_than_tries_allows(app: Running) -> None:
    """A request must not multiply over every provider there is."""
    app.up.default = Fail(status=500)
    answer = await app.ask("many")
    assert answer.status_code == 500
    assert asked(app.up) == ["a", "b"]


async def test_a_context_that_is_too_long_goes_to_a_model_with_room(app: Running) -> None:
    """Our count is an estimate; the provider's refusal is the truth, and a larger model can help."""
    app.up.on("small", Fail(status=400, code="context_length_exceeded", type="invalid_request_error", param="messages"))
    answer = await app.ask("grow")
    assert answer.status_code == 200
    assert answer.headers["x-faregate-reason"] == "fallback:context_length_exceeded"
    assert asked(app.up) == ["small", "c"]
    assert (await app.ask("grow")).status_code == 200
    assert asked(app.up)[2:] == ["small", "c"], "one long request must not take the model from all others"


async def test_a_context_that_is_too_long_for_all_is_the_clients_to_know(app: Running) -> None:
    """The SDKs' users catch this code to shorten their prompt."""
    app.up.default = Fail(status=400, code="context_length_exceeded", type="invalid_request_error", param="messages")
    answer = await app.ask("grow")
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "context_length_exceeded"


# Retries


async def test_the_last_candidate_is_tried_again(app: Running) -> None:
    """A single hiccup of the only provider is not worth an error."""
    app.up.on("a", Sequence([Fail(status=503), Fail(status=502), Json()]))
    answer = await app.ask("again")
    assert answer.status_code == 200
    assert answer.headers["x-faregate-attempts"] == "3"
    assert answer.headers["x-faregate-reason"].startswith("retry:")


async def test_retries_end(app: Running) -> None:
    """The provider's last word is passed on."""
    app.up.on("a", Fail(status=503, code="still_down"))
    answer = await app.ask("again")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "still_down")
    assert asked(app.up) == ["a", "a", "a"]


async def test_a_short_retry_after_is_waited_for(app: Running) -> None:
    """The provider knows best when it is ready; asking earlier makes it worse."""
    app.up.on("a", Sequence([Fail(status=503, headers={"retry-after-ms": "50"}), Json()]))
    assert (await app.ask("again")).status_code == 200
    first, second = app.up.requests
    assert second.at - first.at >= 0.05


async def test_a_long_retry_after_is_the_clients_to_wait(app: Running) -> None:
    """A request must not hang for minutes inside the proxy."""
    app.up.on("a", Fail(status=503, headers={"retry-after": "60"}))
    answer = await app.ask("again")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "60")
    assert asked(app.up) == ["a"]


async def test_retries_are_a_share_of_the_calls(app: Running) -> None:
    """In an outage, retries of everybody would double the load; only a fifth of the calls may be made again."""
    fleet = app.app.service.fleet
    app.up.on("a", Fail(status=503))
    fleet._saved_retries = 0.0
    fleet._floor, fleet._floor_at = 0.0, time.monotonic() + 3600
    await asyncio.gather(*(app.ask("again") for _ in range(10)))
    tried_again = len(app.up.requests) - 10
    assert tried_again <= 2


# Cooldown


async def test_a_deployment_that_fails_is_left_alone_then_probed_then_back(app: Running) -> None:
    """Every call to a dead provider is time lost; one call now and then finds out when it is back."""
    app.up.on("a", Fail(status=500))
    for _ in range(3):
        assert (await app.ask("pair")).headers["x-faregate-model"] == "b"
    assert asked(app.up).count("a") == 3
    assert (await app.ask("pair")).headers["x-faregate-attempts"] == "1"
    assert asked(app.up).count("a") == 3
    later(app, 6)
    assert (await app.ask("pair")).headers["x-faregate-model"] == "b"
    assert asked(app.up).count("a") == 4, "one probe"
    await app.ask("pair")
    assert asked(app.up).count("a") == 4, "and no more, for twice as long"
    app.up.on("a", Json())
    later(app, 30)
    assert (await app.ask("pair")).headers["x-faregate-model"] == "a"
    assert (await app.ask("pair")).headers["x-faregate-model"] == "a"


async def test_only_one_call_probes_at_a_time(app: Running) -> None:
    """A provider that comes back must not be met by everybody at once."""
    app.up.on("a", Fail(status=500))
    for _ in range(3):
        await app.ask("pair")
    gate = Hang()
    app.up.on("a", gate)
    later(app, 6)
    before = len(app.up.requests)
    probe = asyncio.ensure_future(app.ask("pair"))
    await app.up.until_seen(before + 1)
    others = await asyncio.gather(*(app.ask("pair") for _ in range(5)))
    assert {answer.headers["x-faregate-model"] for answer in others} == {"b"}
    assert asked(app.up)[before:].count("a") == 1
    gate.gate.open()
    assert (await probe).status_code == 200


async def test_retry_after_of_a_rate_limit_is_honoured_exactly(app: Running) -> None:
    """Calling earlier prolongs the limit at many providers; calling later wastes what was paid for."""
    app.up.on("a", Fail(status=429, headers={"retry-after": "20"}))
    await app.ask("pair")
    app.up.on("a", Json())
    later(app, 19)
    assert (await app.ask("pair")).headers["x-faregate-model"] == "b"
    later(app, 21)
    assert (await app.ask("pair")).headers["x-faregate-model"] == "a"


async def test_a_rate_limit_of_all_candidates_is_passed_on(app: Running) -> None:
    """The client's own back-off is the right place to wait, with the provider's own words; also while all of them cool."""
    app.up.default = Fail(status=429, type="requests", code="rate_limit_exceeded", headers={"retry-after": "30"})
    first = await app.ask("pair")
    assert (first.status_code, first.headers["retry-after"]) == (429, "30")
    count = len(app.up.requests)
    again = await app.ask("pair")
    assert again.status_code == 429
    assert again.json()["error"]["code"] == "rate_limit_exceeded"
    assert 1 <= int(again.headers["retry-after"]) <= 30
    assert len(app.up.requests) == count


async def test_when_everything_cools_down_the_client_is_told_when_to_come_back(app: Running) -> None:
    """503 with all reasons, and a Retry-After that is true."""
    app.up.default = Fail(status=500)
    for _ in range(3):
        await app.ask("pair")
    count = len(app.up.requests)
    answer = await app.ask("pair")
    assert answer.status_code == 503
    assert 1 <= int(answer.headers["retry-after"]) <= 5
    error = answer.json()["error"]
    assert error["rejected"] == [{"deployment": "up/a", "reason": "cooldown"}, {"deployment": "up/b", "reason": "cooldown"}]
    assert len(app.up.requests) == count


# What a response says, and what a request may say


async def test_headers_say_where_the_call_went_and_what_it_cost(app: Running) -> None:
    """Whoever debugs a client sees the decision without asking the operator."""
    answer = await app.ask("cheap", headers={"x-request-id": "mine-1"})
    assert answer.headers["x-faregate-route"] == "cheap"
    assert answer.headers["x-faregate-rule"] == "default"
    assert answer.headers["x-faregate-reason"] == "cost"
    assert answer.headers["x-faregate-deployment"] == "up/a"
    assert float(answer.headers["x-faregate-cost-usd"]) == pytest.approx((11 * 1 + 3 * 10) / 1e6)
    assert 99.99 < float(answer.headers["x-faregate-budget-remaining-usd"]) < 100
    assert float(answer.headers["x-faregate-overhead-ms"]) >= 0
    assert answer.headers["x-request-id"] == "mine-1"
    assert answer.headers["x-faregate-request-id"].startswith("fg-")


@pytest.mark.parametrize("wish", ["b", "up/b", ["b", "c"]])
async def test_a_request_may_narrow_the_choice(app: Running, wish: object) -> None:
    """An application that trusts one model only can say so without a route of its own."""
    answer = await app.ask("cheap", faregate={"use": wish})
    assert answer.headers["x-faregate-model"] == "b"
    # The third is a list.
    header = wish if isinstance(wish, str) else ", ".join(str(name) for name in wish)  # type: ignore[attr-defined]
    answer = await app.ask("cheap", headers={"x-faregate-use": header})
    assert answer.headers["x-faregate-model"] == "b"
    assert all("faregate" not in seen.body for seen in app.up.requests)


async def test_a_request_cannot_widen_the_choice(app: Running) -> None:
    """A wish names what is left of the route, never something beside it."""
    answer = await app.ask("pair", faregate={"use": ["c"]})
    assert (answer.status_code, answer.headers["x-should-retry"]) == (400, "false")
    assert {item["reason"] for item in answer.json()["error"]["rejected"]} == {"excluded_by_request"}
    assert app.up.requests == []


async def test_a_request_may_lower_the_limit_and_not_raise_it(app: Running) -> None:
    """`max_cost_usd` is the lower of what body, header and route say."""
    worst_of_a = 100 * 10 / 1e6
    answer = await app.ask("cheap", faregate={"max_cost_usd": worst_of_a / 2})
    assert (answer.status_code, answer.json()["error"]["code"]) == (402, "max_cost_exceeded")
    answer = await app.ask("cheap", faregate={"max_cost_usd": 1}, headers={"x-faregate-max-cost-usd": "0.0001"})
    assert answer.status_code == 402
    answer = await app.ask("cheap", faregate={"max_cost_usd": worst_of_a * 1.2})
    assert answer.headers["x-faregate-model"] == "a"
    assert asked(app.up) == ["a"]


async def test_openrouters_provider_preferences_are_understood(app: Running) -> None:
    """Applications written for OpenRouter keep their `provider` object."""
    assert (await app.ask("cheap", provider={"ignore": ["a"]})).headers["x-faregate-model"] == "b"
    assert (await app.ask("cheap", provider={"order": ["c"]})).headers["x-faregate-model"] == "c"
    assert (await app.ask("cheap", provider={"only": ["up/c", "up/b"], "order": ["up/b"]})).headers["x-faregate-model"] == "b"
    assert (await app.ask("many", provider={"sort": "price", "ignore": ["a"]})).headers["x-faregate-model"] == "b"
    assert (await app.ask("stay", provider={"max_price": {"prompt": 5, "completion": 19.99}})).headers["x-faregate-model"] == "a"
    client = openai.AsyncOpenAI(base_url=app.base_url, api_key=KEY, max_retries=0)
    with pytest.raises(openai.BadRequestError) as refusal:
        await client.chat.completions.create(
            model="stay", messages=[{"role": "user", "content": "Hi"}], extra_body={"provider": {"max_price": {"prompt": "0.9"}}}
        )
    await client.close()
    assert "its price is above the request's max_price" in refusal.value.message
    assert "A higher `provider.max_price`" in refusal.value.message


async def test_a_key_may_use_what_it_was_given_and_nothing_else(app: Running) -> None:
    """A key for one team's models must not open another's, by whatever name."""
    own = {"authorization": f"Bearer {LIMITED}"}
    for name, status in (("a", 200), ("up/a", 200), ("cheap", 200), ("b", 403), ("up/b", 403), ("pair", 403)):
        assert (await app.ask(name, headers=own)).status_code == status, name


async def test_tags_of_the_key_win_over_those_of_the_request(app: Running) -> None:
    """Tags decide rules and budgets: whoever holds the key must not be able to deny them."""
    own = {"authorization": f"Bearer {AGENT}", "x-faregate-tags": "kind=person"}
    answer = await app.ask("ruled", headers=own, faregate={"tags": {"kind": "person"}}, metadata={"tags": {"kind": "person"}})
    assert (answer.headers["x-faregate-rule"], answer.headers["x-faregate-model"]) == ("agents", "b")
    assert (await app.ask("ruled")).headers["x-faregate-rule"] == "default"
    assert (await app.ask("ruled", headers={"x-faregate-tags": "kind=agent"})).headers["x-faregate-rule"] == "agents"


async def test_session_and_user_of_a_request_stand_in_its_record(app: Running) -> None:
    """Budgets by session and user need the names that clients already send."""
    await app.ask("a", user="anna", metadata={"session_id": "s-1"})
    await app.ask("a", safety_identifier="hash-2", faregate={"session": "s-2"}, user="anna")
    await app.ask("a", headers={"x-faregate-session": "s-3"}, faregate={"session": "s-2"})
    await app.settled()
    records = await app.records()
    assert [(record.get("user", ""), record.get("session", "")) for record in records] == [("anna", "s-1"), ("hash-2", "s-2"), ("", "s-3")]
    assert all("safety_identifier" in seen.body or seen.body.get("user") in (None, "anna") for seen in app.up.requests)


async def test_half_open_deployments_that_are_too_dear_stay_open_for_the_next_call(tmp_path: Path) -> None:
    """A probe that the budget refused has told nothing: the next call must be able to make it."""
    config = CONFIG.replace("  all: $100\n", "  all: $100\n  tight: {limit: $0.0005, each: user, when: {model: a}}\n")
    async with running(tmp_path, config, environment={"LIMITED": LIMITED, "AGENT": AGENT}) as app:
        app.up.on("a", Fail(status=500))
        for user in ("u1", "u2", "u3"):
            await app.ask("pair", user=user, max_tokens=10)
        app.up.on("a", Json(usage=None))
        later(app, 6)
        assert (await app.ask("pair", user="u4", max_tokens=100)).headers["x-faregate-model"] == "b"
        assert (await app.ask("pair", user="u5", max_tokens=10)).headers["x-faregate-model"] == "a"


async def test_calls_at_the_same_time_do_not_mix(app: Running) -> None:
    """Each answer belongs to its question."""

    async def one(number: int) -> None:
        answer = await app.client.post("/chat/completions", json=chat("a", metadata={"session_id": f"n{number}"}, seed=number))
        assert answer.status_code == 200

    await asyncio.gather(*(one(number) for number in range(30)))
    assert sorted(seen.body["seed"] for seen in app.up.requests) == list(range(30))


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_says_why_it_went_there_if_it_was_asked_to(app: Running, stream: bool) -> None:
    """In a header, so that bodies stay as the provider sent them; and only then."""
    app.up.on("a", Stream(tokens=2) if stream else Json())
    answer = await app.ask("cheap", stream=stream, faregate={"explain": True, "use": ["a", "b"]})
    told = json.loads(answer.headers["x-faregate-explanation"])
    assert (told["rule"], told["kind"], told["measure"]) == ("default", "cost", "expected_nusd")
    assert [each["deployment"] for each in told["order"]] == ["up/a", "up/b"]
    assert told["order"][0]["score"] < told["order"][1]["score"]
    assert [(each["deployment"], each["reason"]) for each in told["left_out"]] == [("up/c", "excluded_by_request")]
    assert "x-faregate-explanation" not in (await app.ask("cheap", stream=stream)).headers
