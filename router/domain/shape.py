"""How large and of what kind an input is, from its bytes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import accumulate
from typing import Final

import msgspec

from policies.types import TEXT_ONLY
from router.domain.extras import lives_long

TOKENS_PER_PROMPT: Final = 8
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
MAX_BRACKETS: Final = 200_000
"""A conversation of 10,000 messages in parts has about 60,000."""
MAX_ITEMS: Final = 1_000_000
"""Tokens or texts in one `prompt` or `input`."""
COMMON_DEPTH: Final = 8
LONGEST_COPIED: Final = 16 * 1024
UNSEEN_TOKENS_BOUND: Final = 1_000_000
"""For what is known by its address only and may be of any length."""

_opens_list_of_objects: Final = re.compile(rb"\[\s*\{").match
MAX_SCHEME: Final = 64
"""Characters in which the scheme of an address ends."""
_TEXTS: Final = frozenset({"text", "input_text", "output_text", "refusal", "thinking", "reasoning", "redacted_thinking"})
"""Kinds of parts whose bytes are all that is read."""
_MODALITIES: Final = {
    "image_url": "image",
    "input_image": "image",
    "image": "image",
    "input_audio": "audio",
    "audio_url": "audio",
    "file": "file",
    "input_file": "file",
    "video_url": "video",
    "video": "video",
}
_ADDRESSES: Final = ("image_url", "video_url", "audio_url")
_NEITHER_BRACKETS_NOR_QUOTES: Final = bytes(set(range(256)) - set(b'{}[]"'))
_AS_BRACES: Final = bytes.maketrans(b"[]", b"{}")
_STEPS: Final = {ord("{"): 1, ord("}"): -1}


class InputShape(msgspec.Struct, frozen=True, gc=False):
    """Size of an input in tokens, likely and at most, and its modalities."""

    tokens_likely: int
    tokens_bound: int
    """UTF-8 bytes bound byte-level BPE: a token covers at least one byte."""
    modalities: frozenset[str] = TEXT_ONLY
    images: int = 0
    audio_tokens_bound: int = 0
    prompts: int = 1
    """Prompts in one completions or embeddings call."""
    long_cache: bool = False
    """Whether a message asks for a prompt cache that lives longer than usual."""


class _Message(msgspec.Struct):
    content: msgspec.Raw = msgspec.Raw(b"null")
    cache_control: msgspec.Raw = msgspec.Raw(b"null")


_NULL: Final = msgspec.Raw(b"null")
_decode_messages = msgspec.json.Decoder(list[_Message]).decode
_decode_any = msgspec.json.Decoder().decode


def opens_few(body: bytes, most: int) -> bool:
    """Whether JSON opens at most so many objects and lists, text counted in: then it cannot nest deeper.

    Taking brackets out finds them with `memchr`, a dozen times as fast as `count` (CPython 3.11); long texts, whose copies cost
    more than to look for one bracket after the other, are not copied.
    """
    if len(body) > LONGEST_COPIED:
        return _opens_few_of_long(body, most)
    enough = most + 1
    return len(body) - len(body.replace(b"{", b"", enough).replace(b"[", b"", enough)) < enough


def _opens_few_of_long(body: bytes, most: int) -> bool:
    for bracket in (b"{", b"["):
        at = body.find(bracket)
        while at >= 0:
            most -= 1
            if most < 0:
                return False
            at = body.find(bracket, at + 1)
    return True


def depth_exceeds(body: bytes, most: int) -> bool:
    """Whether JSON nests deeper than `most` levels. Brackets inside strings neither hide nor add a level.

    Almost every body is spared this by `opens_few`.

    Raises:
        ValueError: there are more objects and lists than anybody needs; reading them would take the loop's time.
    """
    # A backslash alone is looked for first: that is a hundred times as fast.
    escaped = body.find(b"\\") >= 0 and body.rfind(b'\\"') >= 0
    plain = body.replace(b"\\\\", b"").replace(b'\\"', b"") if escaped else body
    # Strings without a bracket are pairs of quotes now; without them there is little left to split.
    skeleton = plain.translate(_AS_BRACES, _NEITHER_BRACKETS_NOR_QUOTES).replace(b'""', b"")
    skeleton = b"".join(skeleton.split(b'"')[::2])
    if len(skeleton) > MAX_BRACKETS:
        raise ValueError(f"it holds more than {MAX_BRACKETS // 2:,} objects and lists")
    return not _peels_off(skeleton) and any(depth > most for depth in accumulate(_STEPS[byte] for byte in skeleton))


def _peels_off(skeleton: bytes) -> bool:
    """Whether nothing is left after the innermost pairs were taken off a few times."""
    for _ in range(COMMON_DEPTH):
        rest = skeleton.replace(b"{}", b"")
        if len(rest) == len(skeleton):
            break
        skeleton = rest
    return not skeleton


def shape_of_messages(messages: msgspec.Raw, body: bytes) -> InputShape:
    """Measure a chat: its `messages`, and the body that they came in.

    Every member of the body may be input to some provider (tools, documents, predictions): all bytes count. The
    bytes that name roles and keys of each message are more than the tokens that a chat template puts around it.

    Raises:
        msgspec.MsgspecError, ValueError: not a list of objects, or empty.
    """
    # Content in parts stands in a list of its own, within the list of messages.
    if body.find(b"[") == body.rfind(b"[") and _opens_list_of_objects(messages):
        size = len(body)
        return InputShape(size // BYTES_PER_TOKEN_LIKELY + 1, size + TOKENS_PER_REQUEST)
    return _shape_with_parts(messages, len(body))


def _shape_with_parts(raw: msgspec.Raw, size: int) -> InputShape:
    messages = _decode_messages(raw)
    if not messages:
        raise ValueError("it is empty")
    tally = _Tally()
    for message in messages:
        if message.cache_control != _NULL:
            tally.look_at_cache(_decode_any(message.cache_control))
        content = bytes(message.content)
        if content[:1] == b"[":
            for part in _decode_any(content):
                tally.add(part)
    size -= tally.media_bytes
    return InputShape(
        size // BYTES_PER_TOKEN_LIKELY + 1 + tally.images * IMAGE_TOKENS_LIKELY + tally.audio_tokens + tally.file_tokens // 4,
        size + TOKENS_PER_REQUEST + tally.images * IMAGE_TOKENS_BOUND + tally.audio_tokens + tally.file_tokens,
        frozenset(tally.modalities),
        tally.images,
        tally.audio_tokens,
        long_cache=tally.long_cache,
    )


class _Tally:
    """Counts the parts of a message that are not text."""

    def __init__(self) -> None:
        self.images = 0
        self.audio_tokens = 0
        self.file_tokens = 0
        self.media_bytes = 0
        self.long_cache = False
        self.modalities = {"text"}

    def look_at_cache(self, cache_control: object) -> None:
        self.long_cache = self.long_cache or lives_long(cache_control)

    def add(self, part: object) -> None:
        if not isinstance(part, dict):
            return
        if "cache_control" in part:
            self.look_at_cache(part["cache_control"])
        # vLLM reads a part without a type by its address (chat_utils.py, read 2026-11).
        kind = part.get("type") or next((name for name in _ADDRESSES if name in part), None)
        if kind in _TEXTS:
            return
        modality = _MODALITIES.get(kind) if isinstance(kind, str) else None
        if modality is not None:
            self.modalities.add(modality)
        if modality == "image":
            self._add_image(part)
        elif kind == "input_audio":
            self._add_audio(part.get("input_audio"))
        elif kind in ("file", "input_file"):
            file = part.get("file", part)
            self._add_file(file.get("file_data") if isinstance(file, dict) else None)
        else:
            # A kind that we do not know may name a book.
            self.file_tokens += UNSEEN_TOKENS_BOUND

    def _add_image(self, part: Mapping[object, object]) -> None:
        url = part.get("image_url")
        url = url.get("url") if isinstance(url, dict) else url
        if isinstance(url, str) and url.startswith("data:") and not url.startswith("data:image/"):
            self._add_file(url)
            return
        self.images += 1
        if isinstance(url, str) and url.startswith("data:"):
            self.media_bytes += len(url)

    def _add_audio(self, audio: object) -> None:
        data = audio.get("data") if isinstance(audio, dict) else None
        if not isinstance(data, str) or _is_address(data):
            self.file_tokens += UNSEEN_TOKENS_BOUND
            return
        self.media_bytes += len(data)
        self.audio_tokens += len(data) // AUDIO_BYTES_PER_TOKEN_BOUND + 1

    def _add_file(self, data: object) -> None:
        if not isinstance(data, str) or not data or _is_address(data):
            self.file_tokens += UNSEEN_TOKENS_BOUND
            return
        self.media_bytes += len(data)
        self.file_tokens += max(len(data) // FILE_BYTES_PER_TOKEN, IMAGE_TOKENS_BOUND)


def _is_address(data: str) -> bool:
    """Whether what should be the data itself says where it is to be fetched; base64 has no colon."""
    return ":" in data[:MAX_SCHEME] and not data.startswith("data:")


def shape_of_input(raw: msgspec.Raw, body: bytes) -> InputShape:
    """Measure `prompt` or `input` (a string, strings, tokens, or lists of tokens) and the body that it came in.

    All other bytes count for each prompt: it is completed with the same suffix.

    Raises:
        msgspec.MsgspecError, ValueError: anything else, or empty.
    """
    text = bytes(raw)
    extra_bytes = len(body) - len(text)
    likely = len(text) // BYTES_PER_TOKEN_LIKELY + 1
    bound = len(text)
    prompts = 1
    if text[:1] != b'"':
        if text[:1] != b"[":
            raise ValueError("it is neither")
        if text.count(b",") >= MAX_ITEMS:
            raise ValueError(f"it holds more than {MAX_ITEMS:,} items")
        items = _decode_any(text)
        if not items:
            raise ValueError("it is empty")
        if all(isinstance(item, int) for item in items):
            likely = bound = len(items)
        elif all(isinstance(item, list) for item in items):
            if not all(isinstance(token, int) for item in items for token in item):
                raise ValueError("its lists hold something else than tokens")
            likely = bound = sum(len(item) for item in items)
            prompts = len(items)
        elif all(isinstance(item, str) for item in items):
            prompts = len(items)
        else:
            raise ValueError("its elements are of different kinds")
    return InputShape(
        tokens_likely=likely + prompts * (extra_bytes // BYTES_PER_TOKEN_LIKELY),
        tokens_bound=bound + prompts * (extra_bytes + TOKENS_PER_PROMPT),
        prompts=prompts,
    )
