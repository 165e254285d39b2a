"""What the learned router sees of a prompt: hashes of words, of pairs of words, of where they stand, and of its structure.

The same numbers on every machine and in every process (CRC-32). A change here is another model: trained files name the version.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import repeat
from math import log2
from typing import Final
from zlib import crc32

from policies.learned.glossary import GLOSSARY, LONGEST_TERM, SHORTEST_TERM

VERSION: Final = 2
"""Of the features; a model can be used with those that it was trained on only."""
MAX_CHARACTERS: Final = 3_000
"""Of a prompt: of a longer one the first two thousand and the last thousand."""
CACHED_WORDS: Final = 8_192
LONGEST_WORD: Final = 60
"""Bytes; what is longer is no word, and would fill the cache."""
_FIRST: Final = 2_000
_UPPER: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_PLAIN: Final = bytes.maketrans(_UPPER, _UPPER.lower())
_NO_DIGITS: Final = b"0123456789"
_find_tokens = re.compile(rb"[a-z0-9_\x80-\xff]+|[^\sa-z0-9_\x80-\xff]|\n").findall
_find_foreign = re.compile(rb"[\x80-\xff]{4,}").findall
_NEW_LINE: Final = b"\n"
_OPENING: Final = 6
"""Tokens at the beginning that are seen by their place, too."""


def features_of(text: str) -> set[int]:
    """Hashes of 32 bits. Every prompt has some: those of its structure."""
    if len(text) > MAX_CHARACTERS:
        text = f"{text[:_FIRST]}\n{text[_FIRST - MAX_CHARACTERS :]}"
    # What is no character (half of a surrogate pair) is no reason to fail.
    data = text.encode("utf-8", "replace").translate(_PLAIN)
    tokens: list[bytes] = _find_tokens(data)
    hashes = list(map(crc32, tokens))
    found = set(hashes)
    found.update(map(crc32, tokens[1:], hashes))
    if not data.isascii():
        for word in set(_find_foreign(data)):
            if len(word) <= LONGEST_WORD:
                found.update(_parts(word))
    _add_places(tokens, found)
    _add_structure(data, len(tokens), found)
    return found


@lru_cache(maxsize=CACHED_WORDS)
def _parts(word: bytes) -> tuple[int, ...]:
    """Beginnings and ends of a word, and what a Korean one means in English: Korean joins endings to its words."""
    text = word.decode("utf-8", "replace")
    found = (*[crc32(text[:size].encode(), size) for size in (2, 3, 4) if len(text) >= size], crc32(text[-2:].encode(), 12))
    for length in range(min(LONGEST_TERM, len(text)), SHORTEST_TERM - 1, -1):
        english = GLOSSARY.get(text[:length])
        if english is not None:
            return (*found, crc32(english.encode()))
    return found


def _add_places(tokens: list[bytes], found: set[int]) -> None:
    """How a prompt opens; and on which side of the end of its first line a word stands: a question, and its choices or its code."""
    found.update(map(crc32, tokens[:_OPENING], repeat(101)))
    if _NEW_LINE in tokens:
        first = tokens.index(_NEW_LINE)
        found.update(map(crc32, set(tokens[:first]), repeat(201)))
        found.update(map(crc32, set(tokens[first:]), repeat(202)))


def _add_structure(data: bytes, size: int, found: set[int]) -> None:
    """Sizes and counts, each as a step of a scale."""
    digits = len(data) - len(data.translate(None, _NO_DIGITS))
    lines = data.split(_NEW_LINE)
    options = sum(len(line) for line in lines[1:] if line[1:2] == b".")
    steps = (
        (b"length", int(2 * log2(size + 1))),
        (b"lines", min(len(lines), 13)),
        (b"digits", int(2 * log2(digits + 1))),
        (b"share", 10 * digits // (size + 1)),
        (b"first", int(2 * log2(len(lines[0]) + 1))),
        (b"options", int(2 * log2(options + 1))),
        (b"words", 3 * len(data) // (size + 1)),
        (b"both", int(log2(size + 1)) * 10 + int(log2(digits + 1))),
    )
    found.update([crc32(b"%s=%d" % step) for step in steps])
