"""How large and of what kind an input is, from its bytes."""

from __future__ import annotations

from typing import Final

import msgspec

from policies.types import TEXT_ONLY

TOKENS_PER_MESSAGE: Final = 8
"""Most tokens that a chat template puts around one message, role and name aside (those are in the bytes)."""
TOKENS_PER_REQUEST: Final = 32
BYTES_PER_TOKEN_LIKELY: Final = 4
"""English prose with some code: 1,500 characters gave 357 tokens with o200k (measured 2026-11)."""
IMAGE_TOKENS_LIKELY: Final = 1_105
"""A 1024x1024 image at high detail: 4 tiles x 170 + 85, plus two more tiles. Source: OpenAI vision guide, read 2026-11."""
IMAGE_TOKENS_BOUND: Final = 6_240
"""Largest count we know for one image at default settings; a deployment may be given another."""
AUDIO_BYTES_PER_TOKEN_BOUND: Final = 50
"""Base64 bytes per audio token at least: 10 tokens a second (OpenAI), 8 kbit/s mp3 is 1.3 kB of base64 a second."""
FILE_BYTES_PER_TOKEN: Final = 1

_BRACKETS: Final = bytes(set(range(256)) - set(b"{}[]"))
_PARTS_MARKS: Final = (b'"type"', b"\\u00")
"""Content in parts names its `type`; an escape could hide that word. Without either, all content is text."""


class InputShape(msgspec.Struct, frozen=True, kw_only=True):
    """Size of an input in tokens, likely and at most, and its modalities."""

    tokens_likely: int
    tokens_bound: int
    """UTF-8 bytes bound byte-level BPE: a token covers at least one byte."""
    modalities: frozenset[str] = TEXT_ONLY
    images: int = 0
    audio_tokens_bound: int = 0
    prompts: int = 1
    """Prompts in one completions or embeddings call."""


class _Message(msgspec.Struct):
    content: msgspec.Raw = msgspec.Raw(b"null")


_decode_messages = msgspec.json.Decoder(list[_Message]).decode
_decode_any = msgspec.json.Decoder().decode


def depth_exceeds(body: bytes, most: int) -> bool:
    """Whether JSON nests deeper than `most` levels. Brackets inside strings may cost time, never a wrong yes."""
    if body.count(b"{") + body.count(b"[") <= most:
        return False
    if _levels_exceed(body.translate(None, _BRACKETS), most) is False:
        return False
    outside_strings = b"".join(body.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2])
    return _levels_exceed(outside_strings.translate(None, _BRACKETS), most) is True


def _levels_exceed(skeleton: bytes, most: int) -> bool | None:
    """Peel innermost pairs off; None if the brackets do not pair up."""
    for _ in range(most):
        smaller = skeleton.replace(b"{}", b"").replace(b"[]", b"")
        if not smaller:
            return False
        if len(smaller) == len(skeleton):
            return None
        skeleton = smaller
    return True


def shape_of_messages(raw: msgspec.Raw, *, extra_bytes: int) -> InputShape:
    """Measure `messages`; `extra_bytes` are those of tools and schemas, which count as text.

    Raises:
        msgspec.MsgspecError, ValueError: not a list of objects, or empty.
    """
    messages = _decode_messages(raw)
    if not messages:
        raise ValueError("it is empty")
    text = bytes(raw)
    if _PARTS_MARKS[0] in text or _PARTS_MARKS[1] in text:
        return _shape_with_media(text, extra_bytes, len(messages))
    size = len(text) + extra_bytes
    return InputShape(
        tokens_likely=size // BYTES_PER_TOKEN_LIKELY + 1,
        tokens_bound=size + TOKENS_PER_MESSAGE * len(messages) + TOKENS_PER_REQUEST,
    )


def _shape_with_media(text: bytes, extra_bytes: int, messages: int) -> InputShape:
    tally = _Tally()
    for message in _decode_any(text):
        content = message.get("content")
        if isinstance(content, list):
            for part in content:
                tally.add(part)
    size = len(text) - tally.media_bytes + extra_bytes
    return InputShape(
        tokens_likely=size // BYTES_PER_TOKEN_LIKELY + 1 + tally.images * IMAGE_TOKENS_LIKELY + tally.audio_tokens + tally.file_tokens // 4,
        tokens_bound=size
        + TOKENS_PER_MESSAGE * messages
        + TOKENS_PER_REQUEST
        + tally.images * IMAGE_TOKENS_BOUND
        + tally.audio_tokens
        + tally.file_tokens,
        modalities=frozenset(tally.modalities),
        images=tally.images,
        audio_tokens_bound=tally.audio_tokens,
    )


class _Tally:
    """Counts the parts of a message that are not text."""

    def __init__(self) -> None:
        self.images = 0
        self.audio_tokens = 0
        self.file_tokens = 0
        self.media_bytes = 0
        self.modalities = {"text"}

    def add(self, part: object) -> None:
        if not isinstance(part, dict):
            return
        kind = part.get("type")
        if kind in ("image_url", "input_image", "image"):
            self.images += 1
            self.modalities.add("image")
            url = part.get("image_url")
            url = url.get("url") if isinstance(url, dict) else url
            self.media_bytes += _inline_bytes(url)
        elif kind == "input_audio":
            self.modalities.add("audio")
            audio = part.get("input_audio")
            data = audio.get("data") if isinstance(audio, dict) else None
            size = len(data) if isinstance(data, str) else 0
            self.media_bytes += size
            self.audio_tokens += size // AUDIO_BYTES_PER_TOKEN_BOUND + 1
        elif kind == "file":
            self.modalities.add("file")
            file = part.get("file")
            data = file.get("file_data") if isinstance(file, dict) else None
            size = len(data) if isinstance(data, str) else 0
            self.media_bytes += size
            self.file_tokens += max(size // FILE_BYTES_PER_TOKEN, IMAGE_TOKENS_BOUND)
        elif kind in ("video_url", "video"):
            self.modalities.add("video")
            self.file_tokens += 1_000_000


def _inline_bytes(url: object) -> int:
    return len(url) if isinstance(url, str) and url.startswith("data:") else 0


def shape_of_input(raw: msgspec.Raw) -> InputShape:
    """Measure `prompt` or `input`: a string, strings, tokens, or lists of tokens.

    Raises:
        msgspec.MsgspecError, ValueError: anything else, or empty.
    """
    text = bytes(raw)
    size = len(text)
    if text[:1] == b'"':
        return InputShape(tokens_likely=size // BYTES_PER_TOKEN_LIKELY + 1, tokens_bound=size + TOKENS_PER_MESSAGE)
    if text[:1] != b"[":
        raise ValueError("it is neither")
    items = _decode_any(text)
    if not items:
        raise ValueError("it is empty")
    if all(isinstance(item, int) for item in items):
        return InputShape(tokens_likely=len(items), tokens_bound=len(items) + TOKENS_PER_MESSAGE)
    if all(isinstance(item, list) for item in items):
        count = sum(len(item) for item in items)
        return InputShape(tokens_likely=count, tokens_bound=count + TOKENS_PER_MESSAGE * len(items), prompts=len(items))
    if not all(isinstance(item, str) for item in items):
        raise ValueError("its elements are of different kinds")
    return InputShape(
        tokens_likely=size // BYTES_PER_TOKEN_LIKELY + 1, tokens_bound=size + TOKENS_PER_MESSAGE * len(items), prompts=len(items)
    )
