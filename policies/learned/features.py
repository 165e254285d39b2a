"""What the learned router sees of a prompt: hashes of words, of pairs, of beginnings and ends of words, and of its structure.

The same numbers on every machine and in every process (CRC-32). A change here is another model: trained files name the version.
"""

from __future__ import annotations

import re
from math import log2
from typing import Final
from zlib import crc32

from policies.learned.glossary import GLOSSARY, LONGEST_TERM, SHORTEST_TERM

VERSION: Final = 1
"""Of the features; a model can be used with those that it was trained on only."""
MAX_CHARACTERS: Final = 3_000
"""Of a prompt: of a longer one the first two thousand and the last thousand."""
_FIRST: Final = 2_000

_find_tokens = re.compile(r"[^\W\d_]+|\d+|[^\w\s]").findall
_LAST_LINE: Final = 12
_OPENING: Final = 6
"""Tokens at the beginning that are seen by their place, too."""


def features_of(text: str) -> set[int]:
    """Hashes of 32 bits. Every prompt has some: those of its structure."""
    if len(text) > MAX_CHARACTERS:
        text = f"{text[:_FIRST]}\n{text[_FIRST - MAX_CHARACTERS :]}"
    words = _find_tokens(text.lower())
    # A number is seen by its length: its digits say nothing about the next one.
    tokens = [b"0000"[: len(word)] if word.isdigit() else word.encode() for word in words]
    hashes = list(map(crc32, tokens))
    found = set(hashes)
    found.update(map(crc32, tokens[1:], hashes))
    for word in set(words):
        if len(word) > 3:
            _add_parts(word, found)
        if not word.isascii():
            _add_meaning(word, found)
    _add_places(text, tokens, found)
    _add_structure(text, tokens, found)
    return found


def _add_parts(word: str, found: set[int]) -> None:
    """Beginnings and ends: `differentiate` has to do with `differential`."""
    add = found.add
    add(crc32(word[:3].encode(), 3))
    add(crc32(word[-3:].encode(), 13))
    if len(word) > 4:
        add(crc32(word[:4].encode(), 4))
        add(crc32(word[-4:].encode(), 14))
    if len(word) > 5:
        add(crc32(word[:5].encode(), 5))
        add(crc32(word[:6].encode(), 6))


def _add_meaning(word: str, found: set[int]) -> None:
    """The English word that a Korean one begins with the meaning of: what was learned in English holds for it too."""
    for length in range(min(LONGEST_TERM, len(word)), SHORTEST_TERM - 1, -1):
        english = GLOSSARY.get(word[:length])
        if english is not None:
            found.add(crc32(english.encode()))
            _add_parts(english, found)
            return


def _add_places(text: str, tokens: list[bytes], found: set[int]) -> None:
    """How a prompt opens, and what stands in its further lines, such as the choices of a question."""
    found.update(crc32(token, 101) for token in tokens[:_OPENING])
    found.update(crc32(token, 102 + place) for place, token in enumerate(tokens[:3]))
    for line in text.lower().split("\n")[1 : 1 + _LAST_LINE]:
        words = _find_tokens(line[2:])
        if words:
            found.add(crc32(words[0].encode(), 201))
            found.update(crc32(b"0000"[: len(word)] if word.isdigit() else word.encode(), 202) for word in words)


def _add_structure(text: str, tokens: list[bytes], found: set[int]) -> None:
    """Sizes and counts, each as a step of a scale."""
    size = len(tokens)
    digits = sum(token[:1] == b"0" for token in tokens)
    lines = text.split("\n")
    options = sum(len(line) for line in lines[1:] if line[1:2] == ".")
    steps = (
        (b"length", int(2 * log2(size + 1))),
        (b"lines", min(len(lines), 13)),
        (b"digits", int(2 * log2(digits + 1))),
        (b"share", 10 * digits // (size + 1)),
        (b"questions", min(text.count("?"), 3)),
        (b"brackets", min(text.count("("), 6)),
        (b"quotes", min(text.count('"'), 4)),
        (b"blanks", min(text.count("_"), 2)),
        (b"dollars", min(text.count("$"), 4)),
        (b"percents", min(text.count("%"), 4)),
        (b"first", int(2 * log2(len(lines[0]) + 1))),
        (b"options", int(2 * log2(options + 1))),
        (b"words", 3 * sum(map(len, tokens)) // (size + 1)),
        (b"both", int(log2(size + 1)) * 10 + int(log2(digits + 1))),
    )
    found.update(crc32(b"%s=%d" % step) for step in steps)
