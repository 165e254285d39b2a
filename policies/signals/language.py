"""Which language most of a text is in: by its script, and where a script serves many languages, by small words, letters and trigrams."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from policies.signals.profiles import TRIGRAMS

MAX_CHARACTERS: Final = 1_000
"""Of a text; more would not change the answer."""
LEAST_SHARE: Final = 0.2
"""Of the letters, counted with `WEIGHTS`, that a script other than Latin needs to win: a Korean question may quote much English."""

_RUNS: Final[Mapping[str, re.Pattern[str]]] = MappingProxyType(
    {
        "ko": re.compile("[\uac00-\ud7a3\u1100-\u11ff\u3131-\u318e]+"),
        "kana": re.compile("[\u3041-\u30ff\u31f0-\u31ff\uff66-\uff9f]+"),
        "han": re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+"),
        "cyrillic": re.compile("[\u0400-\u052f]+"),
        "el": re.compile("[\u0370-\u03ff\u1f00-\u1fff]+"),
        "he": re.compile("[\u0590-\u05ff]+"),
        "arabic": re.compile("[\u0600-\u06ff\u0750-\u077f]+"),
        "devanagari": re.compile("[\u0900-\u097f]+"),
        "bn": re.compile("[\u0980-\u09ff]+"),
        "ta": re.compile("[\u0b80-\u0bff]+"),
        "te": re.compile("[\u0c00-\u0c7f]+"),
        "th": re.compile("[\u0e00-\u0e7f]+"),
        "ka": re.compile("[\u10a0-\u10ff]+"),
        "hy": re.compile("[\u0530-\u058f]+"),
        "latin": re.compile("[A-Za-z\u00c0-\u024f\u1e00-\u1eff]+"),
    }
)
WEIGHTS: Final[Mapping[str, float]] = MappingProxyType({"ko": 2.5, "kana": 2.0, "han": 3.5})
"""Letters of other scripts that one of these says as much as."""

_SMALL_WORDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "en": "the of and to in is that it for you was with on as are this be not have what from or by how which can an at does if will my"
        " i we they there would a write please me your when why who"
        " hello explain summarize give list make create show tell find get run fix install using into all use help add test describe",
        "de": "der die das und ist nicht ein eine zu den mit von für auf sich dem des im wie was ich sie wir es auch als an bei aus dass"
        " werden wird sind oder kann einen einer bitte nach über muss diese dieser haben",
        "fr": "le la les des et est une un du que qui dans pour pas ne sur au avec ce il elle je vous nous sont en plus par ou cette être"
        " avoir quel comment pourquoi aux mais votre ces fait l d c qu n s",
        "es": "el la los las de y que en un una es por con para no se del al lo como más pero su sus este esta qué cómo o son ser está"
        " puede tiene entre cuando muy si me mi hay",
        "pt": "o a os as de e que em um uma é por com para não se do da no na dos das ao como mais mas seu sua este esta são ser está pode"
        " você ou quando muito eu pelo pela foi tem isso",
        "it": "il lo la gli le di e che in un una è per con non si del della dei delle al come più ma suo questo questa sono essere può nel"
        " nella anche i da o ha alla cosa quando perché l dell",
        "nl": "de het een en van is dat in niet op te zijn voor met die aan er om ook als maar dit bij uit naar kan wat hoe je ik wordt"
        " worden deze moet heeft door over geen u",
        "sv": "och att det som en på är av för med till den inte om ett har de jag var från kan så vi man eller när hur vad ska måste",
        "da": "og at det er en på af for med til den ikke om et har de jeg var fra kan så vi man eller når hvordan hvad skal denne ved",
        "pl": "i w nie na się jest to z do że jak o co po za od dla przez czy ale są być który może tego lub musi został ma tylko proszę",
        "cs": "a je se na v že to s z do jak o pro není jsou ale by jako nebo který být může musí tato tento co už jen při pokud",
        "tr": "ve bir bu için ile de da ne olarak çok daha gibi değil mi olan kadar sonra her ama ben var nasıl veya lütfen olmalıdır",
        "vi": "và của là có không được cho các một những trong với này để người khi đã thì tôi bạn như từ hay hoặc phải nào gì",
        "id": "dan yang di untuk dengan ini itu tidak dari pada adalah dalam akan atau ke saya anda apa bagaimana oleh bisa harus sebuah"
        " dapat telah juga ada",
        "fi": "ja on ei se että oli mutta hän tämä kun niin ovat mitä miten tai voi joka kuin myös minä olla ole täytyy saa",
        "ro": "și de la în că nu este un o cu pe pentru din ce mai care sunt să se dacă trebuie sau prin fi această acest",
        "hu": "a az és hogy nem is egy van ez de ha mint vagy csak meg kell lehet már ki el mi hogyan legyen érték",
    }
)
_SPECIAL: Final[Mapping[str, str]] = MappingProxyType(
    {
        "de": "ßäöü",
        "fr": "çèêëœùûîïà",
        "es": "ñ¿¡áíóú",
        "pt": "ãõçêâá",
        "it": "àèìòù",
        "sv": "åäö",
        "da": "åæø",
        "pl": "ąćęłńśźż",
        "cs": "ěščřžůýáí",
        "tr": "ğışçöü",
        "vi": "ăâđêôơưạảấầẩậắằẵặẹẻếềểễệỉịọỏốồổộớờởợụủứừửữựỳỵ",
        "fi": "äö",
        "ro": "ășțâî",
        "hu": "őűáéíóöü",
    }
)


def _inverted(texts: Mapping[str, str]) -> Mapping[str, tuple[str, ...]]:
    """The languages of each word."""
    found: dict[str, tuple[str, ...]] = {}
    for language, text in texts.items():
        for word in text.split():
            found[word] = (*found.get(word, ()), language)
    return MappingProxyType(found)


_BY_WORD: Final[Mapping[str, tuple[str, ...]]] = _inverted(_SMALL_WORDS)
_BY_LETTER: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        letter: tuple(language for language, others in _SPECIAL.items() if letter in others)
        for letters in _SPECIAL.values()
        for letter in letters
    }
)
_LETTERS: Final = re.compile(f"[{''.join(_BY_LETTER)}]")
_LETTER_WEIGHT: Final = 0.6
_ENGLISH: Final = 0.8
_MOST_TIMES: Final = 5
"""How often one word counts."""
_TRIGRAM_WEIGHT: Final = 0.6
CERTAIN: Final = 6.0
"""Points that tell a language without a closer look, if no other has half as many."""
_BY_TRIGRAM: Final[Mapping[str, tuple[str, ...]]] = _inverted(TRIGRAMS)
_UKRAINIAN: Final = re.compile("[іїєґІЇЄҐ]")
_BULGARIAN: Final = re.compile("ъ[а-яА-Я]|\\b(?:се|на|за|да|от|не|са)\\b")
_RUSSIAN: Final = re.compile("[ыэёЫЭЁ]|\\b(?:и|не|что|это|как|для|в)\\b")
_PERSIAN: Final = re.compile("[\u067e\u0686\u0698\u06af\u06cc\u06a9]")


def language_of(text: str) -> str | None:
    """The language that most of a text is in, as a code of ISO 639-1; None if it has no letters.

    Latin letters without a small word of a known language are taken for English, which commands and identifiers are closest to.
    """
    sample = text[:MAX_CHARACTERS].lower()
    if sample.isascii():
        return _latin(sample)
    letters = {script: sum(map(len, pattern.findall(sample))) * WEIGHTS.get(script, 1.0) for script, pattern in _RUNS.items()}
    total = sum(letters.values())
    letters.pop("latin")
    japanese = letters["kana"] > 0.1 * letters["han"]
    if japanese:
        letters["kana"] += letters.pop("han")
    script = max(letters, key=letters.__getitem__)
    if letters[script] <= LEAST_SHARE * total:
        return _latin(sample)
    return _of_script(script, sample)


def _of_script(script: str, sample: str) -> str:
    if script == "cyrillic":
        if _UKRAINIAN.search(sample):
            return "uk"
        return "bg" if len(_BULGARIAN.findall(sample)) > len(_RUSSIAN.findall(sample)) else "ru"
    if script == "arabic":
        return "fa" if len(_PERSIAN.findall(sample)) * 25 > len(sample) else "ar"
    return _ONLY.get(script, script)


_ONLY: Final[Mapping[str, str]] = MappingProxyType({"kana": "ja", "han": "zh", "devanagari": "hi"})


def _latin(sample: str) -> str | None:
    words = _RUNS["latin"].findall(sample)
    if not words:
        return None
    points = dict.fromkeys(_SMALL_WORDS, 0.0)
    # Commands, names of things and of programs are English in every language.
    points["en"] = _ENGLISH
    for word, times in Counter(words).items():
        languages = _BY_WORD.get(word)
        if languages is not None:
            worth = min(times, _MOST_TIMES) / len(languages)
            for language in languages:
                points[language] += worth
    for letter in _LETTERS.findall(sample):
        for language in _BY_LETTER[letter]:
            points[language] += _LETTER_WEIGHT / len(_BY_LETTER[letter])
    best, second = sorted(points.values())[:-3:-1]
    if best < CERTAIN or best < 2 * second:
        _add_trigrams(words, points)
    # The first of equals, which is English.
    return max(points, key=points.__getitem__)


def _add_trigrams(words: list[str], points: dict[str, float]) -> None:
    """Look closer: at what words are made of."""
    for word in words:
        framed = f"_{word}_"
        for start in range(len(framed) - 2):
            languages = _BY_TRIGRAM.get(framed[start : start + 3])
            if languages is not None:
                for language in languages:
                    points[language] += _TRIGRAM_WEIGHT / len(languages)
