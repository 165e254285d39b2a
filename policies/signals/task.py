"""What a prompt asks for, by words and marks: code, mathematics, a translation, a summary, an extraction, talk, or something else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import msgspec

from policies.signals.names import TASKS

MAX_CHARACTERS: Final = 1_500
"""From each end of a longer text: what is wanted stands at the beginning or at the end."""
ENOUGH: Final = 0.75
"""Points that a task needs."""
MOST_HITS: Final = 3
"""Of one kind of marks that count: each further one says less."""
LONG_FOR_CHAT: Final = 200
"""Characters above which a prompt is not mere talk."""


class Marks(msgspec.Struct, frozen=True, kw_only=True):
    """What speaks for a task, in lower case."""

    words: frozenset[str]
    """The verb or the thing, as whole words."""
    worth: float
    """Points of each of `words`."""
    parts: tuple[str, ...]
    """Found anywhere, `worth` as much: phrases, and words of languages that join them to others."""
    hints: frozenset[str] = frozenset()
    """Words that give half as much."""
    pattern: re.Pattern[str] | None = None
    """Marks that give as much as words. Linear in the text, whatever stands there."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_MARKS: Final[Mapping[str, Marks]] = MappingProxyType(
    {
        "code": Marks(
            worth=0.45,
            words=_words(
                "function code script program algorithm class method refactor debug compile implement traceback exception bug query"
                " regex sql python javascript typescript rust golang bash dockerfile kubernetes pytest numpy pandas react html css"
            ),
            parts=(
                "```",
                "unit test",
                "write a function",
                "write a program",
                "write a python",
                "stack trace",
                "파이썬",
                "자바스크립트",
                "정규식",
                "쿼리",
                "코드",
                "함수",
                "알고리즘",
                "구현",
                "コード",
                "代码",
            ),
            hints=_words("java c++ c# api json yaml list array string loop variable library return def import const git docker sort"),
            pattern=re.compile(r"^ {0,12}(?:def|class|import|from|func|fn|public|let|var|#include|select) |[{};]\n|=>|\(\)|==|&&|</", re.M),
        ),
        "math": Marks(
            worth=0.45,
            words=_words(
                "solve prove proof theorem equation integral derivative probability polynomial matrix triangle percent calculate compute"
                " remainder perimeter prime integer factorial logarithm vector"
            ),
            parts=(
                *("how many", "how much", "\\frac", "\\sum", "\\int", "\\sqrt", "∫", "∑", "√", "적분", "미분", "방정식", "확률", "증명"),
                *("계산", "행렬", "몇 개", "몇 명", "몇 원", "얼마", "나머지", "퍼센트", "方程", "計算", "计算"),
            ),
            hints=_words("total each cost costs twice half average sum product ratio fraction number numbers angle area volume more"),
            pattern=re.compile(r"\d ?[-+*/^=×÷] ?[\dxyz(]|\\[a-z]{3}|\$[^$\n]{1,40}\$"),
        ),
        "translation": Marks(
            worth=1.4,
            words=_words("translate translation translating translates traduire traduis traduce traducir übersetze übersetzen"),
            parts=("번역", "翻訳", "翻译", "翻譯"),
        ),
        "summary": Marks(
            worth=1.3,
            words=_words("summarize summarise summary summaries summarizing tldr tl;dr shorten condense résume résumé"),
            parts=(
                "key points",
                "in one sentence",
                "요약",
                "간추",
                "줄여",
                "핵심만",
                "한 문장으로",
                "要約",
                "总结",
                "摘要",
                "zusammenfass",
            ),
        ),
        "extraction": Marks(
            worth=1.1,
            words=_words("extract classify categorize categorise label parse entities sentiment"),
            parts=("추출", "분류", "뽑아", "골라", "감정 분석", "개체명", "抽出", "提取", "分类"),
        ),
        "chat": Marks(
            worth=0.8,
            words=_words("hi hello hey thanks thank"),
            parts=(
                "how are you",
                "who are you",
                "good morning",
                "good night",
                "tell me about yourself",
                "안녕",
                "고마워",
                "감사합니다",
                "반가워",
                "너는 누구",
                "기분이",
                "심심",
                "こんにちは",
                "你好",
            ),
        ),
    }
)
_WORK: Final = tuple(task for task in TASKS if task in _MARKS and task != "chat")
_NUMBER: Final = re.compile(r"\b\d")
NUMBERS_OF_A_PROBLEM: Final = 2
"""Numbers in a question that make it look like a problem in words."""
_PROBLEM: Final = 0.3
_find_words = re.compile(r"[^\W\d_][\w+#;]*").findall


def task_of(text: str) -> str | None:
    """What a prompt asks for, one of `TASKS`; None if there is nothing in it."""
    if not text.strip():
        return None
    sample = text if len(text) <= 2 * MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]}\n{text[-MAX_CHARACTERS:]}"
    sample = sample.lower()
    words = frozenset(_find_words(sample))
    points = {task: _points(marks, sample, words) for task, marks in _MARKS.items()}
    if "?" in sample and len(_NUMBER.findall(sample)) >= NUMBERS_OF_A_PROBLEM:
        points["math"] += _PROBLEM
    task = max(_WORK, key=points.__getitem__)
    if points[task] >= ENOUGH:
        return task
    # A greeting may stand before any task.
    return "chat" if points["chat"] >= ENOUGH and len(text) <= LONG_FOR_CHAT else "other"


def _points(marks: Marks, sample: str, words: frozenset[str]) -> float:
    found = min(len(words & marks.words), MOST_HITS) + min(len(words & marks.hints), MOST_HITS) / 2
    found += min(sum(part in sample for part in marks.parts), MOST_HITS)
    if marks.pattern is not None:
        found += _hits(marks.pattern, sample)
    return marks.worth * found


def _hits(pattern: re.Pattern[str], text: str) -> int:
    at = found = 0
    while found < MOST_HITS and (match := pattern.search(text, at)) is not None:
        found, at = found + 1, match.end()
    return found
