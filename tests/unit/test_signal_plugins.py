"""Detectors of an operator's own: how they are found, what they may say, and what happens if they fail."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from policies.types import SignalName
from router.domain.prompt_text import Prompt
from router.errors import ConfigError
from router.settings.load import load_text, price_book
from router.signal_plugins import PluginFailed, detector, load_plugin
from router.signal_port import Plugin
from router.signals import PromptSignals
from router.snapshot import SignalRules, Snapshot
from tests.pipeline_fakes import World, ask, json_answer
from tests.unit.test_signals import reading, with_rules

CARD = "4111 1111 1111 1111"


def found(signal: SignalName, plugin: Plugin, prompt: Prompt | None = None) -> object:
    steps = detector(signal, plugin)(prompt or Prompt("asked", "whole"))
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def plugged(signal: SignalName, *plugins: Plugin, wanted: Callable[[object], bool] = bool, **rules: object) -> Snapshot:
    """A configuration that reads a signal in its first rule, with plug-ins for it."""
    made = replace(SignalRules(timeout_seconds=5, plugins={signal: plugins}), **rules)
    return with_rules(reading(signal, wanted), rules=made)


async def asked(config: Snapshot, content: str = "x") -> tuple[str | None, dict[tuple[str, ...], float]]:
    """(The rule that held, signals by name and outcome)."""
    world = World(config, json_answer())
    await world.ask(ask(messages=[{"role": "user", "content": content}]))
    return world.ledger.records[0].rule, dict(world.metrics.state()["faregate_signals_total"])


@pytest.fixture
def acme(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module of an operator's own."""
    module = ModuleType("acme")
    monkeypatch.setitem(sys.modules, "acme", module)
    return module


def loaded(signals: str, pii: str = "true") -> Snapshot:
    text = f"""
version: 1
providers: {{one: {{kind: openai, base_url: "http://127.0.0.1:1/v1", api_key: k}}}}
models: {{a: {{at: one/a, price: {{input: 1, output: 1}}}}}}
routes: {{auto: {{rules: [{{when: {{pii: {pii}}}, use: a}}], default: a}}}}
signals: {signals}
"""
    return load_text(text, source="test.yaml", environ={}, price_book=price_book()).snapshot


def configured(signals: str) -> SignalRules:
    return loaded(signals).signals


def test_a_plug_in_is_named_in_the_configuration(acme: ModuleType) -> None:
    """As a function of a module, or as an attribute of an object in it."""
    acme.find = lambda text: ["card"]
    acme.task = {"of": 1}.get
    rules = configured('{pii: {plugin: "acme:find"}, task: {plugin: "acme:task"}, difficulty: {plugin: "acme:find.__call__"}}')
    assert rules.plugins["pii"] == (acme.find,)
    assert set(rules.plugins) == {"pii", "task", "difficulty"}
    assert configured("{timeout: 50ms}").plugins == {}


def test_a_distribution_may_name_its_plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, acme: ModuleType) -> None:
    """Then nobody has to know in which module it lies."""
    acme.find = lambda text: ["card"]
    folder = tmp_path / "acme-1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1\n")
    (folder / "entry_points.txt").write_text("[faregate.signals]\nacme-pii = acme:find\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert load_plugin("acme-pii") is acme.find
    with pytest.raises(ConfigError, match=r'no entry point "acme-task" in faregate\.signals; known: acme-pii; write module:attribute'):
        load_plugin("acme-task")


@pytest.mark.parametrize(
    ("signals", "said"),
    [
        ('{pii: {plugin: "nowhere.at:all"}}', "6:25: signals.pii.plugin: the plug-in .* ModuleNotFoundError: .*install its package"),
        ('{task: {plugin: "acme:missing"}}', "signals.task.plugin: the plug-in .* AttributeError"),
        ("{language: {plugin: acme}}", 'signals.language.plugin: there is no entry point "acme"'),
        ('{pii: {plugin: "acme:number"}}', '"acme:number" cannot be called'),
        ('{pii: {plugin: "acme:Kind"}}', "is a class; name a function, or an instance"),
        ('{pii: {plugin: "acme:later"}}', "is asynchronous"),
        ('{difficulty: {plugin: "acme:find", target: {share: 30%}}}', "target: of the learned router, which plugin takes the place of"),
        ("{pii: {entities: [US_SSN]}}", "entities: used with engine: presidio only"),
    ],
)
def test_a_plug_in_that_cannot_be_used_is_refused(signals: str, said: str, acme: ModuleType) -> None:
    """When the file is loaded, at its line, with the way out."""

    async def later(text: str) -> None:
        return None

    acme.number, acme.Kind, acme.later, acme.find = 7, Prompt, later, len
    with pytest.raises(ConfigError, match=said):
        configured(signals)


def test_a_class_that_nothing_finds_is_told_of(acme: ModuleType) -> None:
    """A rule for names of people would never hold, and nobody would see it."""
    acme.find = lambda text: ["person"]
    (warning,) = [each for each in loaded("{}", "[card, person]").warnings if "plug-in" in each]
    assert "routes.auto.rules[0].when.pii: person: only a plug-in finds it, and there is none" in warning
    assert not [each for each in loaded('{pii: {plugin: "acme:find"}}', "[card, person]").warnings if "plug-in" in each]


def test_what_it_says_is_read() -> None:
    """Classes of personal data that have no name here count as others; a generator may find them one by one."""

    def one_by_one(text: str) -> Generator[str | None, None, list[str]]:
        yield "card"
        yield None
        return ["iban"]

    prompt = Prompt("asked", "whole", beside="beside")
    assert found("pii", lambda text: ["email", "customer number", text], prompt) == {"email", "other"}
    assert found("pii", lambda text: [] if text == "whole\nbeside" else ["card"], prompt) == frozenset()
    assert found("pii", one_by_one) == {"card", "iban"}
    assert found("pii", lambda text: None) == frozenset()
    assert found("task", lambda text: "code" if text == "asked" else None, prompt) == "code"
    assert found("language", lambda text: "ko") == "ko"
    assert found("difficulty", lambda text: 1) == 1.0
    assert found("difficulty", lambda text: None) is None


@pytest.mark.parametrize(
    ("signal", "said"),
    [("pii", "card"), ("pii", 7), ("pii", [7]), ("task", "cooking"), ("language", "Korean"), ("difficulty", 7), ("difficulty", "x")],
)
def test_what_is_no_value_of_a_signal_is_a_failure(signal: SignalName, said: object) -> None:
    """No rule could name it; to go on with it would hide the mistake."""
    with pytest.raises(PluginFailed):
        found(signal, lambda text: said)


async def test_personal_data_is_what_the_built_in_patterns_or_the_plug_in_finds() -> None:
    """A plug-in adds to the patterns with check digits; it cannot switch them off."""
    config = plugged("pii", lambda text: ["person"] if "Kim" in text else [], wanted=lambda classes: classes == {"card", "person"})
    assert await asked(config, f"{CARD} of Kim") == ("rule-1", {("pii", "ok"): 1})
    assert (await asked(config, CARD))[0] == (await asked(config, "Kim"))[0] == "default"


@pytest.mark.parametrize(("private", "classes"), [(True, {"card", "unknown"}), (False, {"card"})])
async def test_what_was_found_before_a_plug_in_failed_stays(private: bool, classes: set[str]) -> None:
    """The text was not read through, so it counts as the configuration says; its card number is known whatever that is."""
    config = plugged("pii", lambda text: [1 / 0], wanted=lambda seen: seen == classes, unread_is_private=private)
    assert await asked(config, CARD) == ("rule-1", {("pii", "error"): 1})


async def test_a_plug_in_that_hangs_makes_no_other_signal_late() -> None:
    """It has a thread of its own: what is built in goes on."""
    release = threading.Event()
    try:
        late = await asked(plugged("task", lambda text: release.wait(60), timeout_seconds=0.01))
        other = await asked(with_rules(reading("language", lambda code: code == "ko"), rules=SignalRules(timeout_seconds=5)), "서울의 날씨")
    finally:
        release.set()
    assert late == ("default", {("task", "timeout"): 1})
    assert other == ("rule-1", {("language", "ok"): 1})


async def test_a_plug_in_takes_the_place_of_a_detector_and_fails_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """Then its signal is unknown, and the log says where, once, without a word of the prompt."""

    def broken(text: str) -> str:
        raise ValueError(text)

    assert await asked(plugged("language", lambda text: "eo", wanted=lambda code: code == "eo")) == ("rule-1", {("language", "ok"): 1})
    world = World(plugged("language", broken, wanted=lambda code: True), json_answer(), json_answer())
    for _ in range(2):
        await world.ask(ask(messages=[{"role": "user", "content": "a secret"}]))
    assert [record.rule for record in world.ledger.records] == ["default", "default"]
    logged = capsys.readouterr()
    told = [line for line in (logged.out + logged.err).splitlines() if "a plug-in for a signal failed" in line]
    assert len(told) == 1
    assert re.search(r"ValueError in .*test_signal_plugins\.py:\d+", told[0])
    assert "secret" not in told[0]


async def test_a_plug_in_is_warm_before_the_first_request() -> None:
    """What it loads at its first text, no request waits for; if it fails there, the service begins all the same."""
    read: list[str] = []

    def loads(text: str) -> list[str]:
        read.append(threading.current_thread().name)
        return [1 / 0] if "Python" in text else []

    signals = PromptSignals(SignalRules(plugins={"pii": (loads,)}))
    await signals.warm(["pii"])
    assert read
    assert {name.partition("_")[0] for name in read} == {"plug-ins of pii"}
