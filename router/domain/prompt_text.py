"""The text of a prompt, for signals: what is asked last, and all of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

MAX_CHARACTERS: Final = 262_145
"""Of `whole`: one more than a detector reads, so that it can tell that there is more."""
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


class _Message(msgspec.Struct):
    role: object = None
    content: object = None


_decode_messages: Final = msgspec.json.Decoder(list[_Message]).decode
_decode_any: Final = msgspec.json.Decoder().decode


def prompt_of(raw: bytes, *, chat: bool) -> Prompt:
    """Read `messages`, `prompt` or `input` as it stands in the body of a request that was accepted."""
    if not chat:
        return _of_input(_decode_any(raw))
    texts: list[str] = []
    asked, readable = "", True
    for message in _decode_messages(raw):
        text, plain = _content(message.content)
        readable = readable and plain
        texts.append(text)
        if message.role == "user" and text:
            asked = text
    return Prompt(_ends_of(asked or "\n".join(texts)), _bounded(texts), readable)


def _content(content: object) -> tuple[str, bool]:
    """The text of a message, and whether there is nothing else in it."""
    if isinstance(content, str):
        return content, True
    if not isinstance(content, list):
        return "", content is None
    found = [_part(part) for part in content]
    texts = [text for text in found if text is not None]
    return "\n".join(texts), len(texts) == len(found)


def _part(part: object) -> str | None:
    if not isinstance(part, dict):
        return None
    text = part.get("text")
    return text if isinstance(text, str) else None


def _of_input(given: object) -> Prompt:
    items = given if isinstance(given, list) else [given]
    texts = [item for item in items if isinstance(item, str)]
    return Prompt(_ends_of(texts[0] if texts else ""), _bounded(texts), len(texts) == len(items))


def _bounded(texts: Iterable[str]) -> str:
    return "\n".join(texts)[:MAX_CHARACTERS]


def _ends_of(text: str) -> str:
    return text if len(text) <= MAX_ASKED else f"{text[:_FIRST]}\n{text[_FIRST - MAX_ASKED :]}"
