"""The text of a prompt, for signals: what is asked last, and all of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import msgspec

MAX_CHARACTERS: Final = 262_145
"""Of `whole`: one more than a detector reads, so that it can tell that there is more."""
MAX_RAW: Final = 1_048_576
"""Bytes of JSON that are looked through member by member; of more, some text was not read."""
MAX_ASKED: Final = 8_000
"""Characters of `asked`: of a longer text the first six thousand and the last two thousand."""
_FIRST: Final = 6_000


class Prompt(msgspec.Struct, frozen=True, gc=False):
    """What people wrote."""

    asked: str
    """The text of the last message of the user, or of the first prompt; bounded by `MAX_ASKED`."""
    whole: str
    """The texts of all messages, of the system and of tools too, one a line."""
    readable: bool = True
    """False: something is there that is not text to be read here, such as token numbers, images or files."""
    beside: str = ""
    """Texts that travel with it: names, arguments of calls, descriptions of tools, the end user's id."""


_NO_MEMBERS: Final[Mapping[str, msgspec.Raw]] = {}
_NOT_SENT: Final = frozenset({"model", "faregate"})
"""Members that name no text, or do not leave."""
_TEXT_PARTS: Final = frozenset({"text", "input_text", "output_text", "refusal"})

_decode_messages: Final = msgspec.json.Decoder(list[dict[str, object]]).decode
_decode_any: Final = msgspec.json.Decoder().decode


def prompt_of(raw: bytes, *, chat: bool, members: Mapping[str, msgspec.Raw] = _NO_MEMBERS) -> Prompt:
    """Read `messages`, `prompt` or `input` as it stands in the body of a request that was accepted, and its other members."""
    looked, others = _beside(members)
    if not chat:
        return _of_input(_decode_any(raw), _bounded(others), readable=looked)
    texts: list[str] = []
    asked, readable = "", looked and len(raw) <= MAX_RAW and not _repeats(raw)
    for message in _decode_messages(raw):
        text, plain = _content(message.pop("content", None))
        role = message.pop("role", None)
        others.extend(text for value in message.values() for text in _texts(value))
        readable = readable and plain
        texts.append(text)
        if role == "user" and text:
            asked = text
    return Prompt(_ends_of(asked or "\n".join(texts)), _bounded(texts), readable, _bounded(others))


def _beside(members: Mapping[str, msgspec.Raw]) -> tuple[bool, list[str]]:
    """(Whether all of them were looked through, their texts)."""
    sent = [value for name, value in members.items() if name not in _NOT_SENT]
    if sum(map(len, sent)) > MAX_RAW:
        return False, []
    return True, [text for value in sent for text in _texts(_decode_any(value))]


def _repeats(raw: bytes) -> bool:
    """Whether an object has a member twice: nobody knows which of them a provider reads."""

    def look(pairs: list[tuple[str, object]]) -> None:
        if len({name for name, _ in pairs}) < len(pairs):
            raise ValueError("a member twice")

    try:
        json.loads(bytes(raw), object_pairs_hook=look)
    except (ValueError, RecursionError):
        return True
    return False


def _texts(value: object) -> Iterator[str]:
    """All texts in a value, names of members too."""
    waiting = [value]
    while waiting:
        found = waiting.pop()
        if isinstance(found, str):
            yield found
        elif isinstance(found, dict):
            waiting.extend(found)
            waiting.extend(found.values())
        elif isinstance(found, list):
            waiting.extend(found)


def _content(content: object) -> tuple[str, bool]:
    """The text of a message, and whether there is nothing else in it."""
    if isinstance(content, str):
        return content, True
    if not isinstance(content, list):
        return "", content is None
    texts = [part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str)]
    return "\n".join(texts), all(_is_text(part) for part in content)


def _is_text(part: object) -> bool:
    if not isinstance(part, dict) or part.get("type", "text") not in _TEXT_PARTS:
        return False
    return all(isinstance(value, str) for name, value in part.items() if name != "cache_control")


def _of_input(given: object, beside: str, *, readable: bool) -> Prompt:
    items = given if isinstance(given, list) else [given]
    texts = [item for item in items if isinstance(item, str)]
    return Prompt(_ends_of(texts[0] if texts else ""), _bounded(texts), readable and len(texts) == len(items), beside)


def _bounded(texts: Iterable[str]) -> str:
    return "\n".join(texts)[:MAX_CHARACTERS]


def _ends_of(text: str) -> str:
    return text if len(text) <= MAX_ASKED else f"{text[:_FIRST]}\n{text[_FIRST - MAX_ASKED :]}"
