"""Rules about the text of the repository that no linter knows."""

from __future__ import annotations

import re
from typing import Final

import pytest

from tests.house.source import lines, text_files, where

MOST_LINES: Final = 500

# A letter in brackets keeps a pattern from finding itself.
_ELSEWHERE: Final = re.compile(
    r"(?:^|[^\w./~}-])/(?:[w]ork|[f]arm|[r]oot|[h]ome|[U]sers)/\w|/[t]mp/[a-z]/|[p]ypi\.org|[p]ythonhosted\.org|[r]egistry\.npmjs|[i]ndex-url\s*="
)
_UNFINISHED: Final = re.compile(
    r"\b(?:[T]ODO|[F]IXME|[X]XX)\b|[N]otImplementedError|mark\.(?:[s]kip|[x]fail)|pytest\.(?:[s]kip|[x]fail|[i]mportorskip)\("
)
_SUPPRESSION: Final = re.compile(
    r"#\s*(?:[n]oqa|[t]ype:\s*ignore|[p]ragma: no cover|[p]ragma: no branch|[f]mt:\s*off|[s]hellcheck disable|[h]adolint ignore)"
)
_NAMES_ITS_RULE: Final = re.compile(
    r"[n]oqa: [A-Z]+\d+|[t]ype: ignore\[[a-z-]+|[p]ragma: no|[s]hellcheck disable=SC\d+|[h]adolint ignore=[A-Z]+\d+"
)


def test_no_python_file_is_longer_than_a_reader_can_hold() -> None:
    """A file that grows past the limit has more than one subject; it is split before it becomes the file everybody edits."""
    long = [f"{path}: {count}" for path in text_files(".py") if (count := len(lines(path))) > MOST_LINES]
    assert long == []


@pytest.mark.parametrize(
    ("pattern", "meaning"),
    [
        pytest.param(_ELSEWHERE, "a place outside the repository", id="no paths of a machine, no hosts of registries"),
        pytest.param(_UNFINISHED, "unfinished work or a test that does not run", id="nothing unfinished"),
    ],
)
def test_nothing_in_the_repository_speaks_of(pattern: re.Pattern[str], meaning: str) -> None:
    """A reader elsewhere can do nothing with such a line, and what is unfinished belongs into no release."""
    found = [
        f"{where(path, number)}: {line.strip()[:120]}"
        for path in text_files()
        for number, line in enumerate(lines(path), 1)
        if pattern.search(line)
    ]
    assert found == [], meaning


def test_every_suppression_names_its_rule_and_gives_its_reason_on_the_line_above() -> None:
    """A check that is silenced without a reason stays silenced for ever."""
    found: list[str] = []
    for path in text_files(".py", ".sh", ""):
        before = ""
        for number, line in enumerate(lines(path), 1):
            if _SUPPRESSION.search(line) and not (_NAMES_ITS_RULE.search(line) and before.lstrip().startswith("#")):
                found.append(f"{where(path, number)}: {line.strip()[:120]}")
            before = line
    assert found == []
