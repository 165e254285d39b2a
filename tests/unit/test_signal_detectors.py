"""What is read in a prompt: its language, what it asks for, personal data."""

from __future__ import annotations

import time

import pytest

from policies.signals import language as told
from policies.signals.language import language_of
from policies.signals.names import LANGUAGES, MISTAKEN, PII_CLASSES, TASKS
from policies.signals.pii import MAX_CHARACTERS, STEP, pii_of
from policies.signals.task import task_of


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("이 코드에서 TypeError: 'NoneType' object is not subscriptable 오류가 나는 이유는?", "ko"),
        ("明日の天気はどうですか。東京の気温を教えてください。", "ja"),
        ("请解释一下量子纠缠的基本原理。", "zh"),
        ("Where is the nearest station?", "en"),
        ("Wie komme ich zum nächsten Bahnhof?", "de"),
        ("Où est la gare la plus proche ?", "fr"),
        ("¿Dónde está la estación más cercana?", "es"),
        ("Onde fica a estação mais próxima?", "pt"),
        ("Где находится ближайший вокзал?", "ru"),
        ("Де знаходиться найближчий вокзал і готель?", "uk"),
        ("Къде се намира най-близката гара и хотел?", "bg"),
        ("أين تقع أقرب محطة؟", "ar"),
        ("نزدیک‌ترین ایستگاه کجاست؟ لطفاً بگویید چگونه", "fa"),
        ("निकटतम स्टेशन कहाँ है?", "hi"),
        ("Πού είναι ο πλησιέστερος σταθμός;", "el"),
        ("SELECT name FROM users", "en"),
        ("12345 + 678", None),
        ("", None),
        (
            "Explain the difference between the German words Donaudampfschifffahrtsgesellschaft, Unabhaengigkeitserklaerungen,"
            " Rechtsschutzversicherungsgesellschaften, Geschwindigkeitsbegrenzungen, Freundschaftsbeziehungen,"
            " Betriebsunterbrechungsversicherung and Arbeitsunfaehigkeitsbescheinigung: which of these is it that you have in my book?",
            "en",
        ),
    ],
)
def test_a_language_is_told_by_its_script_and_its_small_words(text: str, language: str | None) -> None:
    """A question in Korean about English code is Korean: it will be answered in Korean."""
    assert language_of(text) == language
    assert language is None or language in LANGUAGES


def test_the_languages_that_are_named_are_those_that_are_told_apart() -> None:
    """A configuration that names another is warned; one that is told must not be."""
    scripts = set(told._RUNS) - {"kana", "han", "cyrillic", "arabic", "devanagari", "latin"}
    assert scripts | set(told._ONLY.values()) | {"uk", "bg", "ru", "fa", "ar"} | set(told._SMALL_WORDS) == LANGUAGES
    assert LANGUAGES.issuperset(MISTAKEN.values())
    assert LANGUAGES.isdisjoint(MISTAKEN)


@pytest.mark.parametrize(
    ("text", "task"),
    [
        ("Write a Python function that reverses a linked list.", "code"),
        ("파이썬으로 피보나치 함수를 구현해줘", "code"),
        ("def f(x):\n    return x + 1\nassert f(1) == ??", "code"),
        ("Janet had 3 apples and bought 4 more for $2 each. How many does she have in total?", "math"),
        ("x^2 + 3x = 4 방정식을 풀어줘", "math"),
        ("Translate to Korean: good morning, how are you?", "translation"),
        ("다음 글을 세 줄로 요약해줘", "summary"),
        ("Extract all names and dates as JSON.", "extraction"),
        ("안녕! 오늘 기분이 어때?", "chat"),
        ("Hello, how are you? " + "The report is as follows. " * 20, "other"),
        ("Who wrote Hamlet?", "other"),
        ("Summarize this: " + "x" * 10_000, "summary"),
        ("  \n", None),
    ],
)
def test_a_task_is_told_by_what_is_asked(text: str, task: str | None) -> None:
    """Rules send tasks to models that are good at them; a wrong guess costs more than `other`."""
    assert task_of(text) == task
    assert task is None or task in TASKS


@pytest.mark.parametrize(
    ("text", "classes"),
    [
        ("Write to kim.min-su@mail.example.co.kr", {"email"}),
        ("@here, see a@b and @decorator", set()),
        ("010-1234-5678, please", {"phone"}),
        ("+82 10 1234 5678", {"phone"}),
        ("(415) 555-2671", {"phone"}),
        ("192.168.100.200 at 2024-01-02 10:30, version 1.22.333", set()),
        ("card 4111 1111 1111 1111", {"card"}),
        ("card 4111 1111 1111 1112", set()),
        ("card 9111111111111111", set()),
        ("order 1111111111111111 and 0000000000000000", set()),
        ("IBAN GB82 WEST 1234 5698 7654 32 THANKS", {"iban"}),
        ("IBAN GB82 WEST 1234 5698 7654 33", set()),
        ("ZZ82 WEST 1234 5698 7654 32, GB82 WEST 1234 5698", set()),
        ("주민번호 900101-1234567", {"kr_resident"}),
        ("900101 1234568", {"kr_resident"}),
        ("9001011234567", set()),
        ("850101-5234567", {"kr_foreigner"}),
        ("8501015234560", set()),
        ("991301-1234567", set()),
        ("220-81-62517", {"kr_business"}),
        ("사업자등록번호: 2208162517", {"kr_business"}),
        ("220-81-62518", set()),
        ("Passport No. M12345678", {"passport"}),
        ("여권 M123A4567", {"passport"}),
        ("no personal data, 12 apples", set()),
        ("제 번호는 010-1234-5678입니다", {"phone"}),
        ("전화010-1234-5678로", {"phone"}),
        ("01012345678입니다", {"phone"}),
        ("+82 10-1234-5678로", {"phone"}),
        ("電話番号は090-1234-5678です", {"phone"}),
        ("1-415-555-2671", {"phone"}),
        ("415 555 2671", {"phone"}),
        ("06 12 34 56 78", {"phone"}),
        ("030 1234567", {"phone"}),
        ("0082-10-1234-5678", {"phone"}),
        ("card no.4111111111111111", {"card"}),
        ("4111.1111.1111.1111", {"card"}),
        ("4111\u00a01111\u00a01111\u00a01111", {"card"}),
        ("4111\u20131111\u20131111\u20131111", {"card"}),
        ("41\u200b11111111111111", {"card"}),
        ("４１１１１１１１１１１１１１１１", {"card"}),
        ("4１１１１１１１１１１１１１１１", {"card"}),
        ("٤١١١١١١١١١١١١١١١", {"card"}),
        ("१२३-४५-६७८९०", set()),
        ("kim＠example.com", {"email"}),
        ("hans@bücher.de", {"email"}),
        ("kim@한국.kr", {"email"}),
        ("INV AB12 GB82 WEST 1234 5698 7654 32", {"iban"}),
        ("gb82-west-1234-5698-7654-32", {"iban"}),
    ],
)
def test_personal_data_is_found_by_patterns_and_check_digits(text: str, classes: set[str]) -> None:
    """A number that merely looks like a card must not change where a request goes."""
    assert pii_of(text) == classes
    assert classes <= set(PII_CLASSES)


def test_personal_data_is_found_wherever_it_stands() -> None:
    """A long text is looked through in pieces; what lies across two of them is found once, and what is beyond is told."""
    number = "4111111111111111"
    for before in (STEP - 8, STEP, 3 * STEP - 1):
        assert pii_of("x " * (before // 2) + number + " end") == {"card"}
    assert pii_of("x" * MAX_CHARACTERS + " a@example.com") == {"unknown"}


HOSTILE = [
    "１1",
    "ﷺ",
    "AB12-",
    "a",
    "@",
    "1",
    "1 ",
    "+1",
    "AB12",
    "passport",
    "12-",
    "a@a.",
    "$=",
    "{\n",
    "x@" + "a." * 30,
    "가1",
    " ",
    "\\",
    "900101-1",
]


@pytest.mark.parametrize("piece", HOSTILE)
def test_no_text_takes_long_to_read(piece: str) -> None:
    """Whoever writes the prompt must not be able to stop the proxy: time grows with the length, not with its square."""

    def seconds(size: int) -> float:
        text = piece * (size // len(piece))
        began = time.thread_time()
        pii_of(text)
        language_of(text)
        task_of(text)
        return time.thread_time() - began

    # Eight times the text: 8 if linear, 64 if quadratic.
    assert seconds(128_000) < 24 * max(seconds(16_000), 0.004)
