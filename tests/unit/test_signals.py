"""Signals on the way of a request: worked out when a rule asks, within a time, off the event loop."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import msgspec
import pytest

from policies.engine import RoutePolicy, Rule
from policies.learned.thresholds import Seen, Target
from policies.types import MissingSignal, RequestFacts, SignalName
from router.domain.prompt_text import MAX_ASKED, MAX_CHARACTERS, MAX_RAW, Prompt, prompt_of
from router.domain.request import parse_request
from router.signals import Detector, PromptSignals
from router.snapshot import DifficultyRules, SignalRules, Snapshot
from tests.pipeline_fakes import World, ask, json_answer, snapshot


def reading(name: SignalName, holds: Callable[[object], bool]) -> Callable[[RequestFacts], bool]:
    """A condition on a signal, as a compiled rule has it."""

    def matches(facts: RequestFacts) -> bool:
        value = getattr(facts.signals, name)
        if value is msgspec.UNSET:
            raise MissingSignal(name)
        return value is not None and holds(value)

    return matches


def with_rules(*conditions: Callable[[RequestFacts], bool], rules: SignalRules | None = None) -> Snapshot:
    """The n-th condition leads to the second deployment as rule `rule-n`; without one, the first comes first."""
    made = snapshot()
    route = made.routes["auto"]
    second = replace(route.policy.default, deployments=("two/m",))
    made_rules = tuple(
        Rule(name=f"rule-{n}", matches=condition, branch=replace(second, rule=f"rule-{n}")) for n, condition in enumerate(conditions, 1)
    )
    changed = replace(route, policy=RoutePolicy(rules=made_rules, default=route.policy.default))
    return replace(made, routes={**made.routes, "auto": changed}, signals=rules or SignalRules(timeout_seconds=5))


def korean(value: object) -> bool:
    return value == "ko"


async def test_a_rule_by_language_sends_a_korean_request_elsewhere() -> None:
    """A Korean-strong model for Korean, the usual one for the rest."""
    world = World(with_rules(reading("language", korean)), json_answer(), json_answer())
    await world.ask(ask(messages=[{"role": "user", "content": "서울의 날씨를 알려 줘"}]))
    await world.ask(ask(messages=[{"role": "user", "content": "Tell me about the weather in Seoul"}]))
    assert [record.deployment for record in world.ledger.records] == ["two/m", "one/m"]
    assert [record.rule for record in world.ledger.records] == ["rule-1", "default"]


async def test_signals_are_worked_out_in_the_order_in_which_rules_ask() -> None:
    """A costly signal is not worked out if an earlier rule holds already."""
    read: list[str] = []

    def detector(name: str, value: str | frozenset[str]) -> Detector:
        def detect(prompt: Prompt) -> str | frozenset[str]:
            read.append(name)
            return value

        return detect

    config = with_rules(reading("language", lambda v: False), reading("task", lambda v: v == "code"), reading("pii", bool))
    world = World(config, json_answer())
    detectors: dict[SignalName, Detector] = {
        "language": detector("language", "ko"),
        "task": detector("task", "code"),
        "pii": detector("pii", frozenset({"card"})),
    }
    world.pipeline._signals = PromptSignals(config.signals, world.metrics, detectors)
    await world.ask(ask())
    assert read == ["language", "task"]
    assert world.ledger.records[0].rule == "rule-2"
    assert world.metric("faregate_signals_total") == 2


async def test_nothing_is_read_where_no_rule_asks() -> None:
    """A signal costs nothing where it is not used."""
    world = World(with_rules(lambda facts: False), json_answer())
    await world.ask(ask())
    assert world.pipeline._signals is None


async def test_a_detector_that_takes_too_long_leaves_its_signal_unknown() -> None:
    """The request goes on without it, and no condition on it holds."""
    config = with_rules(reading("language", lambda v: True), rules=SignalRules(timeout_seconds=0.01))
    world = World(config, json_answer())
    release = threading.Event()

    def slow(prompt: Prompt) -> str:
        release.wait(10)
        return "ko"

    world.pipeline._signals = PromptSignals(config.signals, world.metrics, {"language": slow})
    try:
        await world.ask(ask())
    finally:
        release.set()
    assert world.ledger.records[0].rule == "default"
    assert {labels: value for labels, value in world.metrics.state()["faregate_signals_total"]} == {("language", "timeout"): 1}


@pytest.mark.parametrize(
    ("content", "unread_is_private", "rule"),
    [
        ("call 010-1234-5678", True, "rule-1"),
        ("nothing of that kind", True, "default"),
        ([{"type": "image_url", "image_url": {"url": "https://x.example/a.png"}}], True, "rule-1"),
        ([{"type": "image_url", "image_url": {"url": "https://x.example/a.png"}}], False, "default"),
        ([{"type": "text", "text": "call 010-1234-5678"}], False, "rule-1"),
    ],
)
async def test_what_cannot_be_read_counts_as_personal_data_unless_told_otherwise(
    content: object, unread_is_private: bool, rule: str
) -> None:
    """A scan of a passport must not leave because nobody could read it."""
    config = with_rules(reading("pii", bool), rules=SignalRules(timeout_seconds=5, unread_is_private=unread_is_private))
    world = World(config, json_answer())
    await world.ask(ask(messages=[{"role": "user", "content": content}]))
    assert world.ledger.records[0].rule == rule


@pytest.mark.parametrize(("private", "classes"), [(True, frozenset({"unknown"})), (False, None)])
async def test_a_search_for_personal_data_that_runs_out_of_time_is_no_search(private: bool, classes: frozenset[str] | None) -> None:
    """What was not looked through in time is not taken for clean."""
    signals = PromptSignals(SignalRules(unread_is_private=private))
    assert signals._careful(None) == classes


async def test_a_price_that_is_held_counts_what_both_models_cost() -> None:
    """The price of a request is that of its own length: the likely cost at the pair that the configuration names."""
    target = Target(kind="price", value=1.0)
    rules = SignalRules(timeout_seconds=5, difficulty=DifficultyRules(target=target, small="one/m", large="two/m"))
    world = World(with_rules(reading("difficulty", lambda v: isinstance(v, float) and v >= 0), rules=rules), json_answer())
    await world.ask(ask())
    assert world.ledger.records[0].rule == "rule-1"
    thresholds = world.pipeline._signals._thresholds if world.pipeline._signals else None
    assert thresholds is not None
    [window] = thresholds._windows.values()
    [seen] = window._seen
    assert (seen.small_usd, seen.extra_usd) == (pytest.approx(0.0022, rel=0.2), 0.0)


async def test_a_price_that_is_held_goes_by_the_lengths_that_were_seen() -> None:
    """A large model that answers at length costs more than its price per token says; all answers at one length would miss the target."""
    rules = SignalRules(timeout_seconds=5, difficulty=DifficultyRules(target=Target(kind="price", value=1.0), small="one/m", large="two/m"))
    config = with_rules(reading("difficulty", lambda v: isinstance(v, float) and v >= 0), rules=rules)
    world = World(config, *[json_answer() for _ in range(3)])
    one, two = (config.deployments[name].price for name in ("one/m", "two/m"))
    assert one is not None
    assert one == two

    async def asked() -> Seen:
        await world.ask(ask(max_tokens=4000))
        assert world.pipeline._signals is not None
        assert world.pipeline._signals._thresholds is not None
        [window] = world.pipeline._signals._thresholds._windows.values()
        return window._seen[-1]

    unseen = await asked()
    assert unseen.extra_usd == 0.0
    tokens = parse_request(msgspec.json.encode(ask(max_tokens=4000)), "chat").shape.tokens_likely
    for _ in range(40):
        world.fleet.succeeded("one/m", first_token_ms=None, total_ms=1.0, output_tokens=100, input_tokens=tokens)
        world.fleet.succeeded("two/m", first_token_ms=None, total_ms=1.0, output_tokens=2000, input_tokens=tokens)
    lengths = [world.fleet.likely_length(name, tokens) for name in ("one/m", "two/m")]
    assert lengths[0] < 300 < 1500 < lengths[1]
    seen = await asked()
    rate = one.rates.output / 1e6 / 1e9
    assert seen.extra_usd == pytest.approx((lengths[1] - lengths[0]) * rate)
    assert seen.small_usd == pytest.approx(unseen.small_usd + (lengths[0] - 300) * rate)


@pytest.mark.parametrize(("content", "rule"), [("Who wrote Hamlet?", "rule-1"), ("  ", "default")])
async def test_how_difficult_nothing_is_cannot_be_told(content: str, rule: str) -> None:
    """Without a target it is what the learned router says; of an empty prompt it says nothing."""
    world = World(with_rules(reading("difficulty", lambda v: True)), json_answer())
    await world.ask(ask(messages=[{"role": "user", "content": content}]))
    assert world.ledger.records[0].rule == rule


def test_the_text_of_a_prompt_is_what_people_wrote() -> None:
    """What is asked is the last message of the user; personal data is looked for in all of them."""
    body = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "tool", "content": [{"type": "text", "text": "found"}, {"type": "text", "text": "more"}]},
        {"role": "user", "content": "second"},
    ]
    assert prompt_of(msgspec.json.encode(body), chat=True) == Prompt("second", "Be brief.\nfirst\n\nfound\nmore\nsecond", True)
    odd = [{"role": "user", "content": [7, {"type": "audio"}, {"type": "text", "text": 1}]}, {"role": "x", "content": 5}]
    assert prompt_of(msgspec.json.encode(odd), chat=True) == Prompt("\n", "\n", False)


@pytest.mark.parametrize(
    ("given", "asked", "readable"), [("one", "one", True), (["one", "two"], "one", True), ([1, 2], "", False), ([[1], [2]], "", False)]
)
def test_prompts_and_inputs_are_read_too(given: object, asked: str, readable: bool) -> None:
    """Completions and embeddings are routed by the same rules; token numbers cannot be read."""
    found = prompt_of(msgspec.json.encode(given), chat=False)
    assert (found.asked, found.readable) == (asked, readable)


def test_a_long_text_is_read_at_both_ends() -> None:
    """What is wanted stands at one of them; the middle is not worth the time."""
    found = prompt_of(msgspec.json.encode([{"role": "user", "content": "a" * 300_000 + "z"}]), chat=True)
    assert (len(found.asked), found.asked[0], found.asked[-1], len(found.whole)) == (MAX_ASKED + 1, "a", "z", MAX_CHARACTERS)


def test_personal_data_beside_the_text_is_read_too() -> None:
    """Arguments of calls, names, descriptions of tools, the end user's id: all of it is sent."""
    calls = [{"id": "c", "type": "function", "function": {"name": "pay", "arguments": '{"card":"4111 1111 1111 1111"}'}}]
    messages = [{"role": "assistant", "content": None, "tool_calls": calls}, {"role": "user", "name": "kim", "content": "go on"}]
    members = {"model": msgspec.Raw(b'"m"'), "user": msgspec.Raw(b'"kim@example.com"'), "n": msgspec.Raw(b"1")}
    found = prompt_of(msgspec.json.encode(messages), chat=True, members=members)
    assert (found.whole, found.readable) == ("\ngo on", True)
    assert {"kim", "pay", "kim@example.com", '{"card":"4111 1111 1111 1111"}'} <= set(found.beside.splitlines())
    assert '"m"' not in found.beside


@pytest.mark.parametrize(
    "raw",
    [
        b'[{"role":"user","content":"kim@example.com","content":"hi"}]',
        b'[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:,x"},"text":"x"}]}]',
        b'[{"role":"user","content":[{"type":"text","text":"x","more":{}}]}]',
        b'[{"role":"user","content":["x"]}]',
    ],
)
def test_what_may_hold_more_than_its_text_was_not_read(raw: bytes) -> None:
    """A member that stands there twice, a picture with a caption."""
    assert not prompt_of(raw, chat=True).readable


async def test_a_signal_takes_no_longer_than_the_call_has() -> None:
    """Its time is part of the deadline that the client set, and nothing is sent when that has passed."""
    config = with_rules(reading("language", lambda v: True), rules=SignalRules(timeout_seconds=5))
    world = World(config, json_answer())
    release = threading.Event()
    world.pipeline._signals = PromptSignals(config.signals, world.metrics, {"language": lambda prompt: str(release.wait(10))})
    try:
        exchange = await world.ask(ask(faregate={"deadline_ms": 1}))
    finally:
        release.set()
    assert exchange.status == 504
    assert world.ledger.records == []


def test_of_a_huge_body_only_what_was_looked_through_counts_as_read() -> None:
    """To look for members that stand twice in 20 MB takes longer than any signal may."""
    huge = b'[{"role":"user","content":"hi"},{"role":"tool","content":"' + b"x" * MAX_RAW + b'"}]'
    found = prompt_of(huge, chat=True)
    assert (found.asked, found.readable) == ("hi", False)
    beside = {"tools": msgspec.Raw(b'["' + b"x" * MAX_RAW + b'"]')}
    assert not prompt_of(b'"hi"', chat=False, members=beside).readable
