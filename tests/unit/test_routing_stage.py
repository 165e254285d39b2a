"""From a request to an order of deployments, and to an error that names every reason."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Literal

import msgspec
import pytest

from policies.engine import decide
from policies.types import Rejection
from router.admission import Admission
from router.call import Call, Principal
from router.domain.estimate import expected_nusd
from router.domain.prices import Price, Rates
from router.domain.request import parse_request
from router.errors import RouterError
from router.fleet import Fleet, size_class
from router.offers import offers
from router.routing import find_route, nothing_left, read_labels, route_call
from router.settings.load import load_text, price_book
from router.snapshot import Snapshot

CONFIG = """
version: 1
providers:
  one: {kind: openai, base_url: "http://127.0.0.1:1/v1", api_key: k}
models:
  small: {at: one/small, price: {input: 1, output: 1}, context: 5000, size: small}
  large: {at: one/large, price: {input: 100, output: 100}, size: large, capabilities: [chat, stream]}
routes:
  auto: [small, large]
  strict:
    rules:
      - {name: tools-at-large, when: {tools: true}, use: [large], otherwise: refuse}
    default: {use: [small], by: fixed}
  capped: {default: {use: [large], by: fixed}, max_cost: $0.000001}
  low: {default: {use: [large], by: {kind: cost, max_request_usd: 0.0000002}}}
  by-header:
    rules:
      - {name: beta, when: {header: {x-stage: beta}}, use: [large]}
    default: {use: [small], by: fixed}
"""


def snapshot() -> Snapshot:
    return load_text(CONFIG, source="test.yaml", environ={}, price_book=price_book()).snapshot


def call_of(model: str = "auto", *, headers: dict[bytes, bytes] | None = None, principal: Principal | None = None, **more: object) -> Call:
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], **more}
    call = Call(request_id="r", operation="chat", headers=headers or {}, snapshot=snapshot(), began=0.0)
    call.request = parse_request(msgspec.json.encode(body), "chat")
    call.principal = principal or Principal()
    return call


def free_price() -> Price:
    return Price(rates=Rates(input=0, output=0), free=True, source="config")


def fleet() -> Fleet:
    return Fleet(lambda: 1000.0)


def refused(call: Call, state: Fleet | None = None) -> RouterError:
    with pytest.raises(RouterError) as caught:
        route_call(call, state or fleet(), 0.0)
    return caught.value


def test_a_model_that_does_not_exist_is_told_with_those_that_do() -> None:
    """A typing error is found without asking anybody."""
    error = refused(call_of("smal"))
    assert (error.spec.code, error.param) == ("model_not_found", "model")
    assert "auto, by-header, capped, large, low, small, strict" in error.message


def test_a_wish_for_a_name_that_the_route_does_not_have_is_told() -> None:
    """All is excluded then, and none of it is what is wrong."""
    error = refused(call_of(faregate={"use": ["lage"]}))
    assert error.spec.code == "invalid_request"
    assert error.message.endswith("This route has no deployment, model or provider 'lage'; did you mean \"large\"?")


def test_a_long_list_of_models_is_shortened() -> None:
    """An error is not a catalogue."""
    config = snapshot()
    routes = {f"r{n:02}": replace(config.routes["auto"], name=f"r{n:02}") for n in range(30)}
    with pytest.raises(RouterError, match=r"r19, \.\.\."):
        find_route(replace(config, routes=routes), "nope", None)


@pytest.mark.parametrize(
    ("allowed", "model", "may"),
    [
        ({"auto"}, "auto", True),
        ({"small"}, "small", True),
        ({"small"}, "one/small", True),
        ({"small"}, "large", False),
        (set(), "auto", False),
    ],
)
def test_a_key_may_ask_for_its_models_and_their_deployments(allowed: set[str], model: str, may: bool) -> None:
    """By any of their names, and for nothing else."""
    call = call_of(model, principal=Principal(models=frozenset(allowed)))
    if may:
        assert route_call(call, fleet(), 0.0).order
    else:
        assert refused(call).spec.code == "model_not_allowed"


@pytest.mark.parametrize(("rule", "refuses"), [("refuse", True), ("free", False)])
def test_an_extra_without_a_price_is_refused_like_a_model_without_one(rule: Literal["refuse", "free"], refuses: bool) -> None:
    """A web search or a dearer tier is billed beside what the hold covers; the operator says whether that may be."""
    call = call_of(web_search_options={})
    config = call.snapshot
    call.snapshot = replace(config, server=replace(config.server, unpriced=rule))
    if refuses:
        error = refused(call)
        assert (error.spec.http_status, error.param) == (400, "web_search_options")
    else:
        assert route_call(call, fleet(), 0.0).order


def test_an_extra_is_no_matter_where_nothing_is_billed() -> None:
    """A local server that ignores a tier keeps working with clients that always send one."""
    call = call_of("small", service_tier="priority")
    local = {name: replace(one, price=free_price()) for name, one in call.snapshot.deployments.items()}
    call.snapshot = replace(call.snapshot, deployments=local)
    assert route_call(call, fleet(), 0.0).order


def test_labels_come_from_body_headers_and_key_and_the_key_wins() -> None:
    """A client may say more of itself, never something else than its key."""
    headers = {
        b"x-faregate-tags": b"stage=beta,team=fake",
        b"x-faregate-session": b"s-1",
        b"x-faregate-use": b"small, one/large",
        b"x-faregate-max-cost-usd": b"0.5",
    }
    call = call_of(
        headers=headers, principal=Principal(tags={"team": "real"}), user="u-1", faregate={"max_cost_usd": 0.25, "use": ["small"]}
    )
    restrict = read_labels(call)
    assert restrict is not None
    assert restrict.only == frozenset({"small"})
    assert restrict.max_cost_nusd == 250_000_000
    assert dict(call.tags) == {"stage": "beta", "team": "real"}
    assert (call.user, call.session) == ("u-1", "s-1")


def test_a_request_that_asks_for_nothing_is_not_restricted() -> None:
    """The usual case costs nothing."""
    assert read_labels(call_of()) is None
    call = call_of(headers={b"x-faregate-session": b"s"}, principal=Principal(tags={"a": "b"}))
    assert read_labels(call) is None
    assert dict(call.tags) == {"a": "b"}


@pytest.mark.parametrize("header", [None, b"0.4", b"0.0000001"])
def test_the_route_s_own_limit_is_never_loosened(header: bytes | None) -> None:
    """A request may ask for less."""
    headers = {b"x-faregate-max-cost-usd": header} if header is not None else {}
    error = refused(call_of("capped", headers=headers))
    assert error.spec.code == "max_cost_exceeded"
    assert error.details is not None
    assert error.details["rejected"] == [{"deployment": "one/large", "reason": "too_expensive"}]
    own = header is not None and float(header) < 0.1
    whose = "the request sets itself (`x-faregate-max-cost-usd`" if own else "of route 'capped' (`max_cost`)"
    assert whose in error.message
    assert "A smaller max_tokens lowers" in error.message


def test_a_limit_of_the_policy_is_not_taken_for_one_of_the_request() -> None:
    """Both apply; which one refused is what the client needs to know. An embedding has no cap that it could lower."""
    call = call_of("low", headers={b"x-faregate-max-cost-usd": b"5"})
    call.operation = "embeddings"
    message = refused(call).message
    assert "The limit is the one of the policy's `max_request_usd` (rule 'default'). Request r." in message


def test_a_limit_of_one_request_leaves_nothing_behind_for_the_next() -> None:
    """What a call could cost at most is worked out for limits only; the next request must not be judged by it."""
    state = fleet()
    route_call(call_of("auto", faregate={"max_cost_usd": 1}), state, 0.0)
    free = call_of("auto")
    route_call(free, state, 0.0)
    offered, _ = offers(free, free.branch, state)
    assert [view.worst_case_nusd for view in offered] == [None, None]
    assert [view.expected_nusd is not None for view in offered] == [True, True]


def test_a_model_never_used_is_compared_at_the_length_that_the_others_answer() -> None:
    """Its price decides, not that nobody knows how long it would answer."""
    state = fleet()
    call = call_of("auto", max_tokens=4000)
    size = call.request.shape.tokens_likely
    state.succeeded("one/small", first_token_ms=None, total_ms=1.0, output_tokens=2000, input_tokens=size)
    route_call(call, state, 0.0)
    (small, large), _ = offers(call, call.branch, state)
    assert small.expected_nusd is not None
    assert large.expected_nusd is not None
    # A hundred times the price for the same tokens; no difference but the rounding.
    assert abs(large.expected_nusd - 100 * small.expected_nusd) < 100


def test_deployments_with_all_their_calls_are_busy_until_one_ends() -> None:
    """The limit of calls in flight is looked at for every request."""
    state = fleet()
    call = call_of("small")
    limited = replace(call.snapshot.deployments["one/small"], max_in_flight=1)
    # A plain dict behind a Mapping.
    call.snapshot.deployments["one/small"] = limited  # type: ignore[index]
    state.began("one/small")
    assert "busy" in refused(call, state).message
    state.ended("one/small")
    assert route_call(call, state, 0.0).order[0].deployment == "one/small"


@pytest.mark.parametrize(("stage", "deployment"), [(b"beta", "one/large"), (b"other", "one/small"), (None, "one/small")])
def test_a_rule_may_read_a_header(stage: bytes | None, deployment: str) -> None:
    """Only those that a rule names are looked at."""
    call = call_of("by-header", headers={b"x-stage": stage} if stage is not None else {})
    assert route_call(call, fleet(), 0.0).order[0].deployment == deployment
    assert set(call.facts.headers) <= {"x-stage"}


def test_a_rule_that_refuses_is_not_fallen_back_from() -> None:
    """403: waiting does not help, and no other model may take it."""
    error = refused(call_of("strict", tools=[{"type": "function", "function": {"name": "f"}}]))
    assert error.spec.code == "policy_refused"
    assert "tools-at-large" in error.message


def test_nothing_that_can_serve_is_told_with_every_reason() -> None:
    """Whoever wonders why sees all candidates at once."""
    error = refused(call_of("auto", max_tokens=9000, tools=[{"type": "function", "function": {"name": "f"}}]))
    assert error.spec.code == "no_deployment_available"
    assert "one/small: context_too_long" in error.message
    assert "one/large: missing_capability" in error.message
    assert error.retry_after_seconds is None


def test_a_prompt_too_long_for_every_model_is_the_clients_to_shorten() -> None:
    """400 with the code that client libraries know; a model that could take it and rests is waited for instead."""
    call = call_of()
    decision = route_call(call, fleet(), 0.0)
    told = Rejection("one/small", "context_too_long", "needs 9,120 tokens, limit 8,192")
    error = nothing_left(
        call, msgspec.structs.replace(decision, order=(), rejected=(told, Rejection("one/large", "not_selected"))), fleet()
    )
    assert (error.spec.http_status, error.spec.code, error.spec.retryable) == (400, "context_length_exceeded", False)
    assert "needs 9,120 tokens, limit 8,192" in error.message
    assert "smaller max_tokens" in error.message
    resting = msgspec.structs.replace(decision, order=(), rejected=(told, Rejection("one/large", "cooldown")))
    assert nothing_left(call, resting, fleet()).spec.code == "no_deployment_available"


def test_a_cooldown_says_when_to_come_back() -> None:
    """The shortest of all waits, so that nobody waits for the longest."""
    state = fleet()
    state.failed("one/small", cause="429", retry_after_seconds=20)
    state.failed("one/large", cause="429", retry_after_seconds=7)
    error = refused(call_of("auto"), state)
    assert error.retry_after_seconds == pytest.approx(7)


def test_a_refusing_rule_whose_deployments_rest_is_waited_for() -> None:
    """503, not 403: it will be possible again."""
    state = fleet()
    state.failed("one/large", cause="429", retry_after_seconds=7)
    call = call_of("strict", tools=[{"type": "function", "function": {"name": "f"}}])
    # A plain dict behind a Mapping.
    call.snapshot.deployments["one/large"] = replace(  # type: ignore[index]
        call.snapshot.deployments["one/large"], traits=call.snapshot.deployments["one/small"].traits
    )
    error = refused(call_of("large"), state)
    assert error.spec.code == "no_deployment_available"
    assert error.retry_after_seconds == pytest.approx(7)


def test_a_branch_without_deployments_says_so() -> None:
    """A selector may match nothing."""
    call = call_of()
    decision = route_call(call, fleet(), 0.0)
    empty = msgspec.structs.replace(decision, order=(), rejected=())
    assert "the rule selects no deployment" in nothing_left(call, empty, fleet()).message


def test_what_no_waiting_helps_is_not_sent_again_and_names_the_way_out() -> None:
    """Client libraries would repeat it; whoever runs the router must act."""
    call = call_of()
    decision = route_call(call, fleet(), 0.0)
    lasting = msgspec.structs.replace(decision, order=(), rejected=(Rejection("one/large", "unpriced"),))
    error = nothing_left(call, lasting, fleet())
    assert (error.spec.http_status, error.spec.code, error.spec.retryable) == (503, "no_deployment_available", False)
    assert "`price:`" in error.message
    assert "`server.unpriced`" in error.message
    passing = msgspec.structs.replace(decision, order=(), rejected=(*lasting.rejected, Rejection("one/small", "cooldown")))
    assert nothing_left(call, passing, fleet()).spec.retryable


def test_admission_is_another_stage() -> None:
    """Routing never looks at credentials."""
    assert Admission.__module__ == "router.admission"


@pytest.mark.parametrize("cap", [None, 200, 10_000])
@pytest.mark.parametrize("more", [{}, {"n": 2}, {"tools": [{"type": "function"}]}, {"stream": True}])
@pytest.mark.parametrize("health", ["up", "cooldown"])
def test_candidates_that_fit_are_those_that_the_filters_leave_alone(cap: int | None, more: dict[str, object], health: str) -> None:
    """The short way to a decision must not differ from the long one by a bit."""
    state = fleet()
    call = call_of("auto", **({} if cap is None else {"max_tokens": cap}), **more)
    # What was worked out with the first length must not outlive the second.
    for answered in (700, 40):
        state.succeeded(
            "one/small", first_token_ms=None, total_ms=1.0, output_tokens=answered, input_tokens=call.request.shape.tokens_likely
        )
        if health == "cooldown":
            state.failed("one/large", cause="auth")
        with suppress(RouterError):
            route_call(call, state, 0.0)
        views, fit = offers(call, call.branch, state)
        long_way = decide(call.branch, call.facts, views, 0.0)
        assert fit is (not long_way.rejected)
        assert call.decision == long_way
        usual = state.usual_length(size_class(call.request.shape.tokens_likely))
        for view in views:
            deployment = call.snapshot.deployments[view.traits.deployment]
            length = view.lengths.get(size_class(call.request.shape.tokens_likely), usual)
            assert view.expected_nusd == expected_nusd(call.request, deployment, length)
