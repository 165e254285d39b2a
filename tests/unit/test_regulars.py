"""Plain calls are routed by what is known of their like; the decision must not differ by that."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.types import Decision
from router.call import Call, Principal
from router.domain.request import parse_request
from router.errors import RouterError
from router.fleet import Fleet
from router.lines import Ways
from router.regulars import Regulars
from router.routing import route_call
from router.settings.load import load_text, price_book

CONFIG = """
version: 1
providers:
  one: {kind: openai, base_url: "http://127.0.0.1:1/v1", api_key: k}
models:
  small: {at: one/small, price: {input: 1, output: 3}, context: 5000}
  large: {at: one/large, price: {input: 3, output: 2}, capabilities: [chat, stream]}
routes:
  auto:
    rules:
      - {name: agents, when: {tags: {kind: agent}}, use: [large]}
      - {name: long, when: {input_tokens: ">100"}, use: [large, small], by: fixed}
      - {name: theirs, when: {team: search}, use: [small]}
    default: {use: [small, large], by: cost}
  capped: {default: {use: [small, large], by: cost}, max_cost: $0.0005}
  by-header:
    rules:
      - {name: beta, when: {header: {x-stage: beta}}, use: [large]}
    default: {use: [small], by: fixed}
teams: {search: {}}
"""
SNAPSHOT = load_text(CONFIG, source="test.yaml", environ={}, price_book=price_book()).snapshot
PRINCIPALS = (
    Principal(),
    Principal(key_id="a", team="search"),
    Principal(key_id="b", tags={"kind": "agent"}),
    Principal(key_id="c", models=frozenset({"capped"})),
    Principal(key_id="d", max_cost_nusd=400_000),
)
REGULARS = Regulars(SNAPSHOT)
"""One for all examples: what is known of one call must not show in another."""


def call_of(principal: Principal, headers: dict[bytes, bytes], body: dict[str, object]) -> Call:
    call = Call(request_id="r", operation="chat", headers=headers, snapshot=SNAPSHOT, began=0.0)
    call.request = parse_request(msgspec.json.encode(body), "chat")
    call.stream = call.request.stream
    call.principal = principal
    return call


def decided(call: Call, *, known: bool) -> tuple[object, ...]:
    """All that routing leaves behind; of an error, what is said."""
    try:
        if known:
            call.regular = REGULARS.of(call)
        decision: Decision = route_call(call, Fleet(lambda: 1000.0), 0.25)
    except RouterError as error:
        return (error.spec.code, error.message)
    return (decision, call.facts, call.restrict, call.route.name, call.branch.rule, call.tags, call.user, call.session, call.special)


@settings(max_examples=60)
@given(
    principal=st.sampled_from(PRINCIPALS),
    model=st.sampled_from(["auto", "capped", "by-header", "small", "nothing"]),
    words=st.integers(1, 200),
    body=st.fixed_dictionaries(
        {},
        optional={
            "max_tokens": st.sampled_from([5, 500, 9000]),
            "stream": st.booleans(),
            "temperature": st.just(0.5),
            "user": st.just("u"),
            "n": st.just(2),
            "tools": st.just([{"type": "function"}]),
            "faregate": st.sampled_from([{"use": "large"}, {"tags": {"kind": "agent"}}, {"deadline_ms": 500}]),
        },
    ),
    headers=st.sampled_from([{}, {b"x-stage": b"beta"}, {b"x-faregate-tags": b"kind=agent"}, {b"x-faregate-deadline-ms": b"500"}]),
)
def test_calls_are_decided_alike_whether_their_like_is_known_or_not(
    principal: Principal, model: str, words: int, body: dict[str, object], headers: dict[bytes, bytes]
) -> None:
    """Errors too; and what is plain goes the way that is told apart by all that can differ."""
    whole = {"model": model, "messages": [{"role": "user", "content": "word " * words}], **body}
    short, long = call_of(principal, headers, whole), call_of(principal, headers, whole)
    assert decided(short, known=True) == decided(long, known=False)
    if short.routed:
        deployment = SNAPSHOT.deployments["one/small"]
        assert Ways().of(short, deployment, "cost").record == Ways().of(long, deployment, "cost").record


def test_a_key_that_is_read_again_stays_known_and_one_that_was_changed_does_not() -> None:
    """Minted keys are read every few seconds; ways that are kept by it must neither pile up nor tell what was before."""
    regulars = Regulars(SNAPSHOT)
    body: dict[str, object] = {"model": "auto", "messages": [{"role": "user", "content": "x"}]}
    first, again, changed = [regulars.of(call_of(Principal(key_id="a", team=team), {}, body)) for team in ("search", "search", "other")]
    assert first is again
    assert changed is not None
    assert changed is not first
    assert changed.facts(1, 1, None, 1, False).team == "other"


@pytest.mark.parametrize(("model", "plain"), [("auto", True), ("capped", False), ("by-header", False)])
def test_only_routes_with_nothing_to_look_at_before_the_policy_have_plain_calls(model: str, plain: bool) -> None:
    """Or the comparison above would compare a way with itself."""
    call = call_of(Principal(key_id="a"), {}, {"model": model, "messages": [{"role": "user", "content": "x"}]})
    assert (REGULARS.of(call) is not None) is plain
