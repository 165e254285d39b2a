"""Presidio's recognisers as a plug-in for personal data (the extra `faregate[presidio]`). Nothing is downloaded.

Of Presidio 2.2.366, spaCy 3.8.18 and tldextract 5.4 (read 2026-11): a pipeline that is set on the engine is not loaded by it; its
address recogniser would fetch the list of public suffixes at the first address.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Generator, Iterable
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from router.settings.findings import one_of
from router.signal_plugins import OTHER
from router.signal_port import Plugin

if TYPE_CHECKING:
    from collections.abc import Mapping

STEP: Final = 1_024
"""Characters that are read at a time: what waits for the thread can go on after each."""
OVERLAP: Final = 256
"""Characters that are read again with the next ones, so that nothing is cut in two."""
KEPT: Final = 4
"""Engines that are kept: most configurations that are reloaded ask for the same one."""
NOT_PERSONAL: Final = frozenset({"DATE_TIME", "URL", "UUID", "ORGANIZATION", "NRP"})
"""What is looked for only if it is named."""
CLASSES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "EMAIL_ADDRESS": "email",
        "PHONE_NUMBER": "phone",
        "ZA_MOBILE_NUMBER": "phone",
        "ZA_TELEPHONE_NUMBER": "phone",
        "CREDIT_CARD": "card",
        "IBAN_CODE": "iban",
        "KR_RRN": "kr_resident",
        "KR_FRN": "kr_foreigner",
        "KR_BRN": "kr_business",
        "PERSON": "person",
        "LOCATION": "address",
        "CA_POSTAL_CODE": "address",
        "DE_PLZ": "address",
        "UK_POSTCODE": "address",
        "CRYPTO": "account",
        "US_BANK_NUMBER": "account",
        "ABA_ROUTING_NUMBER": "account",
        "IP_ADDRESS": "device",
        "MAC_ADDRESS": "device",
        "MEDICAL_LICENSE": "national_id",
    }
)
"""Our class of each of Presidio's entities; see `class_of` for the others."""
_LEMMAS: Final = "faregate_lemmas"
_ANY_LANGUAGE: Final = "xx"
_HOMES: Final = re.compile(r"\.(generic|country_specific)\.")
"""Where recognisers are that go by patterns."""


class NotThere(Exception):
    """Something that the configuration asks for is not installed, or not known."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


def class_of(entity: str) -> str:
    """Our class of what Presidio calls an entity; what has a country before its name is a number that a state gives."""
    if entity in CLASSES:
        return CLASSES[entity]
    if entity.endswith("_PASSPORT"):
        return "passport"
    return "national_id" if entity[2:3] == "_" else OTHER


@lru_cache(maxsize=KEPT)
def presidio(entities: tuple[str, ...], score: float, language: str, model: str) -> Plugin:
    """A plug-in that reads a text with Presidio.

    Args:
        entities: what to look for; none: what its recognisers look for by default, and with a model names of people and places.
        score: least certainty, from 0 to 1.
        language: code of ISO 639-1.
        model: spaCy pipeline that is installed; empty: patterns only.

    Raises:
        NotThere: Presidio or the model is not installed; an entity or language that it does not know.
    """
    try:
        import presidio_analyzer as presidio_package
        import tldextract
    except ImportError as exc:
        raise NotThere("engine", f"Presidio cannot be imported ({exc}): pip install 'faregate[presidio]'") from None
    # Its own would ask the network for the list of suffixes, and write it to a disk that may be read-only.
    tldextract.extract = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)
    nlp = _pipeline(language, model)
    wanted, recognizers = _recognizers(entities, language, bool(model))
    analyzer = presidio_package.AnalyzerEngine(
        registry=presidio_package.RecognizerRegistry(recognizers=recognizers, supported_languages=[language]),
        nlp_engine=_engine(nlp, language),
        supported_languages=[language],
    )
    # Words beside a number only make it more certain. Where no pattern holds, no text has to be split into words.
    no_words = None if model else _no_words(language)
    named = sorted(wanted)

    def find(text: str) -> Generator[None, None, frozenset[str]]:
        found: set[str] = set()
        for start in range(0, max(len(text) - OVERLAP, 1), STEP):
            given = {"text": text[start : start + STEP + OVERLAP], "language": language, "entities": named}
            sure = [] if no_words is None else analyzer.analyze(**given, nlp_artifacts=no_words)
            found.update([class_of(result.entity_type) for result in sure if result.score >= score])
            if no_words is None or any(class_of(result.entity_type) not in found for result in sure):
                # Otherwise spaCy keeps every word that it ever saw.
                with nlp.memory_zone():
                    found.update([class_of(result.entity_type) for result in analyzer.analyze(**given, score_threshold=score)])
            yield
        return frozenset(found)

    return find


def _pipeline(language: str, model: str) -> Any:
    import spacy

    if model:
        try:
            nlp = spacy.load(model)
        except OSError:
            way_out = f"python -m spacy download {model}, or install its package; it is never downloaded by the service"
            raise NotThere("model", f'the spaCy pipeline "{model}" is not installed: {way_out}') from None
        if nlp.lang != language:
            raise NotThere("model", f'the spaCy pipeline "{model}" is for "{nlp.lang}"; write language: {nlp.lang}')
        return nlp
    try:
        spacy.util.get_lang_class(language)
    except ImportError:
        raise NotThere("language", f'spaCy knows no language "{language}"; write a code such as en, de or ko') from None
    try:
        nlp = spacy.blank(language)
    except ImportError:
        # Korean, Japanese and others want a library that splits words; patterns do without.
        nlp = spacy.blank(_ANY_LANGUAGE)
    # Presidio compares words beside a number with lemmas, which a blank pipeline lacks.
    spacy.language.Language.component(_LEMMAS, func=_add_lemmas)
    nlp.add_pipe(_LEMMAS)
    return nlp


def _add_lemmas(doc: Any) -> Any:
    for token in doc:
        token.lemma_ = token.lower_
    return doc


def _engine(nlp: Any, language: str) -> Any:
    """Presidio's engine around a pipeline that is loaded already: it never looks for one itself."""
    from presidio_analyzer.nlp_engine import NerModelConfiguration, SpacyNlpEngine

    rules = NerModelConfiguration()
    known = rules.model_to_presidio_entity_mapping
    # Each of those would be warned of at every text.
    rules.labels_to_ignore = [label for label in nlp.pipe_labels.get("ner", ()) if label not in known]
    engine = SpacyNlpEngine(models=[{"lang_code": language, "model_name": ""}], ner_model_configuration=rules)
    engine.nlp = {language: nlp}
    return engine


def _no_words(language: str) -> Any:
    from presidio_analyzer.nlp_engine import NoOpNlpEngine

    engine = NoOpNlpEngine(models=[{"lang_code": language, "model_name": ""}])
    engine.load()
    return engine.process_text("", language)


def _recognizers(entities: tuple[str, ...], language: str, with_model: bool) -> tuple[set[str], list[Any]]:
    """(What is looked for, who looks for it)."""
    from presidio_analyzer import RecognizerRegistry, predefined_recognizers

    registry = RecognizerRegistry(supported_languages=[language])
    registry.load_predefined_recognizers(languages=[language])
    by_model = predefined_recognizers.SpacyRecognizer
    usual = [each for each in registry.recognizers if not isinstance(each, by_model)]
    if with_model:
        usual.append(by_model(supported_language=language))
    wanted = set(entities) or _found_by(usual) - NOT_PERSONAL
    # Those that Presidio leaves out by default are there for who names what they find.
    missing = wanted - _found_by(usual)
    others = _all_recognizers(predefined_recognizers, language) if missing else []
    unknown = sorted(missing - _found_by(others))
    if unknown:
        known = sorted(_found_by(usual) | _found_by(others))
        more = "" if with_model else "; names of people and places need a model"
        raise NotThere("entities", f'Presidio has no recogniser for "{unknown[0]}" here{one_of(unknown[0], known)}{more}')
    used = [each for each in usual if wanted & set(each.supported_entities)]
    return wanted, used + [each for each in others if missing & set(each.supported_entities)]


def _found_by(recognizers: Iterable[Any]) -> set[str]:
    return {entity for each in recognizers for entity in each.supported_entities}


def _all_recognizers(package: Any, language: str) -> list[Any]:
    """All that go by patterns, whether Presidio takes them by default or not."""
    kinds: list[Any] = [each for each in vars(package).values() if inspect.isclass(each)]
    return [kind(supported_language=language) for kind in kinds if _HOMES.search(kind.__module__)]
