"""Classes of private requests: what the configuration says of them, and that nothing leads past them."""

from __future__ import annotations

from typing import Any

import pytest

from policies.engine import choose, decide
from policies.types import Candidate, MissingSignal, RequestFacts, Signals
from router.call import Attempt, Call
from router.domain.request import parse_request
from router.errors import RouterError
from router.fleet import Fleet
from router.routing import route_call
from router.snapshot import Route
from tests.settings_help import BASE, load, warnings, wrong

BOTH = """\
privacy:
  personal: {when: {pii: true}, only: {locality: local}}
  dark: {when: 'tag("data") == "dark" && header("x-lab") != ""', only: [home, tiny]}
routes:
  auto: [big, tiny, home]
  away: {rules: [{when: {hour: 9}, use: home}], use: big}
"""


def facts(tags: dict[str, str] | None = None, pii: Any = frozenset(), **headers: str) -> RequestFacts:
    return RequestFacts(operation="chat", route="auto", tags=tags or {}, headers=headers, signals=Signals(pii=pii))


def route(name: str = "auto") -> Route:
    return load(BASE + BOTH).snapshot.routes[name]


def test_a_private_request_is_offered_only_what_may_see_it() -> None:
    """The others are out with the reason, and refused is refused: 403."""
    policy, data = route().policy, {"data": "dark"}
    assert choose(policy, facts()) is policy.default
    personal = choose(policy, facts(pii=frozenset({"email"})))
    assert (personal.deployments, personal.private, personal.refuse) == (("ollama/qwen3",), ("personal",), True)
    dark = choose(policy, facts(data, **{"x-lab": "1"}))
    assert (dark.deployments, dark.private) == (("openai/small", "ollama/qwen3"), ("dark",))
    both = choose(policy, facts(data, frozenset({"email"}), **{"x-lab": "1"}))
    assert (both.deployments, both.private, both.allowed) == (("ollama/qwen3",), ("personal", "dark"), frozenset({"ollama/qwen3"}))
    assert choose(policy, facts(pii=frozenset({"card"}))) is personal
    deployments = load(BASE + BOTH).snapshot.deployments
    decision = decide(personal, facts(), [Candidate(d.traits, expected_nusd=1) for d in deployments.values()], 0.5)
    assert [ranked.deployment for ranked in decision.order] == ["ollama/qwen3"]
    told = [(out.deployment, out.reason, out.detail) for out in decision.rejected if out.reason == "private"]
    assert told == [(name, "private", "may not see personal requests") for name in ("openai/large", "openai/small")]


def test_what_cannot_be_told_is_private() -> None:
    """A detector that ran out of time has not found the prompt to be harmless."""
    assert choose(route().policy, facts(pii=None)).private == ("personal",)
    with pytest.raises(MissingSignal, match="pii"):
        choose(route().policy, RequestFacts(operation="chat", route="auto"))


def test_every_name_that_can_be_asked_for_is_covered() -> None:
    """Else a client would leave the class by naming a model."""
    snapshot = load(BASE + BOTH).snapshot
    assert {len(one.policy.privacy) for one in snapshot.routes.values()} == {2}
    assert {one.headers_read for one in snapshot.routes.values()} == {frozenset({"x-lab"})}
    watch = snapshot.routes["away"].watch
    assert watch is not None
    assert watch.timezone is not None
    assert snapshot.routes["big"].watch is None


def test_no_attempt_can_be_made_at_what_may_not_see_the_request() -> None:
    """Whatever a policy kind or a way around a shortage comes up with, it begins with an attempt."""
    snapshot = load(BASE + BOTH).snapshot
    call = Call(request_id="r", operation="chat", headers={}, snapshot=snapshot, began=0.0)
    call.request = parse_request(b'{"model":"auto","messages":[{"role":"user","content":"x"}]}', "chat")
    call.signals = Signals(pii=frozenset({"email"}))
    route_call(call, Fleet(lambda: 0.0), 0.5)
    way: Any = None
    with pytest.raises(RouterError, match="openai/large may not see personal requests") as caught:
        Attempt(call, snapshot.deployments["openai/large"], "shadow", way)
    assert caught.value.spec.http_status == 403


def test_one_class_needs_no_name() -> None:
    """The shortest form is the one that is written."""
    loaded = load(BASE + "privacy: {when: {pii: [email]}, only: home}\n")
    (one,) = loaded.snapshot.routes["big"].policy.privacy
    assert (one.name, one.allowed, one.describe) == ("private", {"ollama/qwen3"}, "pii is email")


def test_doubtful_classes_are_pointed_out() -> None:
    """A class that nothing may serve, a route that it closes, and a place that is only said to be local."""
    text = BASE + "  near: {at: openai/near, locality: local, price: {input: 1, output: 1}}\n"
    assert warnings(text + "privacy: {when: {pii: true}, only: {locality: local}}\n") == [
        "8:36: privacy.only: openai/near counts as local, but its provider is openai, in the cloud"
    ]
    assert warnings(text + "privacy:\n  x: {when: {pii: true}, only: {locality: edge}}\nroutes: {auto: [big, tiny, home, near]}\n") == [
        "9:32: privacy.x.only: no model has these classes: locality: edge; every request that comes here is refused",
        '10:10: routes.auto: leads to no model that may see "x" requests: they are refused',
    ]


def test_a_mistake_in_a_class_is_told_with_its_place() -> None:
    """A class that is not in force protects nothing."""
    assert wrong(BASE + "privacy: {when: {pii: emial}, only: hme}\n") == [
        '7:23: privacy.when.pii: unknown class of personal data "emial"; did you mean "email"?',
        '7:37: privacy.only: there is no model "hme"; did you mean "home"?',
    ]
    (line,) = wrong(BASE + "privacy: {personal: {when: {pii: true}}}\n")
    assert line == "7:21: privacy.personal.only: is missing"


def test_a_refusal_names_both_demands_and_the_way_out() -> None:
    """A language that only a model in the cloud is strong in, and personal data: whoever reads the error must see which rule to change."""
    rules = "routes:\n  auto:\n    rules: [{name: korean, when: {language: ko}, use: tiny}]\n    use: [tiny, home]\n"
    snapshot = load(BASE + "privacy: {when: {pii: true}, only: home}\n" + rules).snapshot
    call = Call(request_id="r", operation="chat", headers={}, snapshot=snapshot, began=0.0)
    call.request = parse_request(b'{"model":"auto","messages":[{"role":"user","content":"x"}]}', "chat")
    call.signals = Signals(pii=frozenset({"email"}), language="ko")
    with pytest.raises(RouterError) as caught:
        route_call(call, Fleet(lambda: 0.0), 0.5)
    assert (caught.value.spec.code, caught.value.spec.http_status) == ("policy_refused", 403)
    assert "It is private by 'private' (pii is true), and no model that rule 'korean' (language is ko) leads to" in str(caught.value)
    assert "let the rule name one that may behind the others" in str(caught.value)
