"""Presidio as a plug-in for personal data, on a small stand-in of its API: the real one is 300 MB with what it needs."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pytest

from policies.signals.names import PII_CLASSES
from router.domain.prompt_text import Prompt
from router.errors import ConfigError
from router.presidio import CLASSES, OVERLAP, STEP, class_of, presidio
from router.signal_plugins import detector
from tests.unit.test_signal_plugins import configured, found, loaded

DOWNLOADED = "en_small"


class Pipeline:
    """spaCy's: splits at spaces, and with a model names whoever is called Kim."""

    def __init__(self, lang: str, *, model: bool = False) -> None:
        self.lang, self.parts, self.zones = lang, [], 0
        self.pipe_labels = {"ner": ["PERSON", "CARDINAL"]} if model else {}

    def add_pipe(self, name: str) -> None:
        self.parts.append(name)

    @contextmanager
    def memory_zone(self) -> Iterator[None]:
        self.zones += 1
        yield


class Recognizer:
    entity, pattern = "", ""

    def __init__(self, supported_language: str) -> None:
        self.supported_language, self.supported_entities = supported_language, [self.entity]


def recognizer(entity: str, pattern: str, home: str) -> type[Recognizer]:
    return type(entity, (Recognizer,), {"entity": entity, "pattern": pattern, "__module__": f"presidio_analyzer.{home}.x"})


USUAL = [
    recognizer("US_SSN", r"\d{3}-\d\d-\d{4}", "country_specific"),
    recognizer("DATE_TIME", r"\d{4}-\d\d-\d\d", "generic"),
]
RARE = recognizer("UK_POSTCODE", r"EC1A 1BB", "country_specific")
ASKS = recognizer("HEALTH", ".", "third_party")
NAMES = recognizer("PERSON", "Kim", "nlp_engine_recognizers")


class Registry:
    def __init__(self, supported_languages: list[str], recognizers: list[Recognizer] | None = None) -> None:
        self.recognizers = recognizers or []

    def load_predefined_recognizers(self, languages: list[str]) -> None:
        self.recognizers = [each(languages[0]) for each in (*USUAL, NAMES)]


class Engine:
    """Presidio's engine around a pipeline: one that is set is not loaded."""

    def __init__(self, models: Any, ner_model_configuration: Any) -> None:
        self.nlp: dict[str, Pipeline] = {}
        self.ignored = ner_model_configuration.labels_to_ignore


class Analyzer:
    made: ClassVar[list[Analyzer]] = []

    def __init__(self, registry: Registry, nlp_engine: Engine, supported_languages: list[str]) -> None:
        self.recognizers, self.engine = registry.recognizers, nlp_engine
        self.split: list[str] = []
        Analyzer.made.append(self)

    def analyze(self, text: str, entities: list[str], score_threshold: float = 0, **more: Any) -> list[SimpleNamespace]:
        assert len(text) <= STEP + OVERLAP
        if "nlp_artifacts" not in more:
            assert self.engine.nlp[more["language"]].zones
            self.split.append(text)
        certainty = 0.3 if "nlp_artifacts" in more and "maybe" in text else 0.8
        wanted = [each for each in self.recognizers if each.entity in entities and score_threshold <= certainty]
        return [SimpleNamespace(entity_type=each.entity, score=certainty) for each in wanted if re.search(each.pattern, text)]


class NoWords:
    def __init__(self, models: list[dict[str, str]]) -> None:
        self.loaded = False

    def load(self) -> None:
        self.loaded = True

    def process_text(self, text: str, language: str) -> str:
        assert self.loaded
        return "nothing"


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Presidio, spaCy with one pipeline, and tldextract. Gives the last: whether it may ask the network is told by it."""

    def module(name: str, **members: object) -> ModuleType:
        made = ModuleType(name)
        vars(made).update(members)
        monkeypatch.setitem(sys.modules, name, made)
        return made

    def known(lang: str) -> None:
        if lang == "tlh":
            raise ImportError(lang)

    def blank(lang: str) -> Pipeline:
        if lang == "ko":
            raise ImportError("its splitter of words")
        return Pipeline(lang)

    def load(name: str) -> Pipeline:
        if name != DOWNLOADED:
            raise OSError(f"Can't find model '{name}'")
        return Pipeline("en", model=True)

    def rules() -> SimpleNamespace:
        return SimpleNamespace(model_to_presidio_entity_mapping={"PERSON": "PERSON"}, labels_to_ignore=[])

    Analyzer.made.clear()
    language = SimpleNamespace(Language=SimpleNamespace(component=lambda name, func: None))
    module("spacy", blank=blank, load=load, language=language, util=SimpleNamespace(get_lang_class=known))
    kinds = module("presidio_analyzer.predefined_recognizers", SpacyRecognizer=NAMES, Rare=RARE, Asks=ASKS)
    module("presidio_analyzer.nlp_engine", NerModelConfiguration=rules, SpacyNlpEngine=Engine, NoOpNlpEngine=NoWords)
    module("presidio_analyzer", AnalyzerEngine=Analyzer, RecognizerRegistry=Registry, predefined_recognizers=kinds)
    yield module("tldextract", extract=None, TLDExtract=lambda **options: options)
    presidio.cache_clear()


def classes(text: str, *entities: str, model: str = "", score: float = 0.5) -> object:
    return found("pii", presidio(entities, score, "en", model), Prompt("", text))


def test_presidio_finds_what_it_looks_for_by_default(installed: ModuleType) -> None:
    """By patterns alone, dates are nothing personal; with a model, names of people too. Little certainty is not enough."""
    assert classes("Kim, 536-22-1234, 2026-11-23") == {"national_id"}
    assert classes("Kim", model=DOWNLOADED) == {"person"}
    assert classes("536-22-1234", score=0.9) == frozenset()
    assert [each.engine.ignored for each in Analyzer.made] == [[], ["CARDINAL"], []]


def test_presidio_finds_what_is_named(installed: ModuleType) -> None:
    """Whether it is among its defaults or not; the rest is not looked for."""
    assert classes("536-22-1234, 2026-11-23, EC1A 1BB", "DATE_TIME", "UK_POSTCODE") == {"other", "address"}


def test_a_language_that_needs_a_splitter_of_words_does_without(installed: ModuleType) -> None:
    """Its patterns need none."""
    assert found("pii", presidio((), 0.5, "ko", ""), Prompt("", "536-22-1234")) == {"national_id"}


def test_a_long_text_is_read_in_steps_that_overlap(installed: ModuleType) -> None:
    """Others have their turn between them, and no number is cut in two."""
    for before in range(STEP - 12, STEP + OVERLAP + 2):
        assert classes("x" * before + "536-22-1234") == {"national_id"}
    steps = detector("pii", presidio((), 0.5, "en", ""))(Prompt("", "x" * (3 * STEP)))
    assert sum(1 for _ in steps) == 3


def test_only_a_text_that_words_may_decide_is_split_into_them(installed: ModuleType) -> None:
    """They cost more than patterns, and only make certain what a pattern found; a model finds names among words."""
    assert classes("nothing") == classes("nothing", model=DOWNLOADED) == frozenset()
    assert classes("536-22-1234") == classes("maybe 536-22-1234") == {"national_id"}
    assert [each.split for each in Analyzer.made] == [["maybe 536-22-1234"], ["nothing"]]


def test_nothing_is_downloaded(installed: ModuleType) -> None:
    """The list of suffixes that its address recogniser wants is the one that came with it."""
    classes("x")
    assert installed.extract == {"suffix_list_urls": (), "cache_dir": None}


def test_every_entity_has_a_class() -> None:
    """Known ones have theirs; one that a country comes before is a number of a state; the rest is personal all the same."""
    assert {class_of(name) for name in ("DE_PASSPORT", "UK_NHS", "PERSON", "NEW_ONE")} == {"passport", "national_id", "person", "other"}
    assert set(CLASSES.values()) <= set(PII_CLASSES)


@pytest.mark.parametrize(
    ("pii", "said"),
    [
        ("entities: [US_SNN]", 'signals.pii.entities: Presidio has no recogniser for "US_SNN" here; did you mean "US_SSN"'),
        ("entities: [PERSON]", "names of people and places need a model"),
        ("model: en_large", 'signals.pii.model: the spaCy pipeline "en_large" is not installed: python -m spacy download en_large'),
        (f"language: de, model: {DOWNLOADED}", 'is for "en"; write language: en'),
        ("language: tlh", 'signals.pii.language: spaCy knows no language "tlh"'),
    ],
)
def test_what_presidio_does_not_have_is_refused(pii: str, said: str, installed: ModuleType) -> None:
    """When the file is loaded, at the field, with the way out."""
    with pytest.raises(ConfigError, match=re.escape(said)):
        configured(f"{{pii: {{engine: presidio, {pii}}}}}")


def test_presidio_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks for it without having it is told how to get it."""
    monkeypatch.setitem(sys.modules, "presidio_analyzer", None)
    with pytest.raises(ConfigError, match=r"signals\.pii\.engine: Presidio cannot be imported .*: pip install 'faregate\[presidio\]'"):
        configured("{pii: {engine: presidio}}")


@pytest.mark.parametrize(("timeout", "warned"), [("20ms", True), ("250ms", False)])
def test_too_little_time_is_warned_of(timeout: str, warned: bool, installed: ModuleType) -> None:
    """Every long prompt would count as private, and nobody would know why."""
    warnings = loaded(f"{{timeout: {timeout}, pii: {{engine: presidio}}}}").warnings
    assert any("signals.timeout: 20ms is short for Presidio" in each for each in warnings) == warned


def test_presidio_and_a_plug_in_are_both_asked(installed: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each adds what it finds; a configuration that is loaded again has the same engine."""
    acme = ModuleType("acme")
    monkeypatch.setitem(sys.modules, "acme", acme)
    vars(acme)["find"] = lambda text: ["person"]
    first, second = (configured('{pii: {engine: presidio, plugin: "acme:find"}}').plugins["pii"] for _ in range(2))
    assert first == second
    assert len(first) == 2
