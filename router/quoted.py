"""Credentials that a provider quotes: in errors, in headers and in the events of a stream. No client may see them."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

import msgspec

from router.domain.sse import split_events
from router.edge.headers import RawHeaders
from router.snapshot import Provider

SHORTEST_SECRET: Final = 8
"""Shorter parts of a header's value, such as `Bearer`, are no secret."""
SECRET_START: Final = 12
"""What begins with so many characters of a secret is taken for it, wherever it was cut."""
SHOWN: Final = b"[key]"
_MORE: Final = re.compile(rb"[\w.~+/=-]*")
_ANSWERS: Final = b'"choices"'
"""In every event with text of a model, which is passed on as it is."""
_ENDS: Final = (b"\n\n", b"\r\n\r\n", b"\r\r")


class Secrets:
    """The credentials that go to a provider."""

    def __init__(self, starts: tuple[bytes, ...]) -> None:
        """`starts`: what each begins with."""
        self.starts = starts
        self._pattern = re.compile(b"(?:%b)%b" % (b"|".join(map(re.escape, starts)), _MORE.pattern)) if starts else None

    def quoted_in(self, data: bytes) -> bool:
        """Whether any of them is in it."""
        return any(start in data for start in self.starts)

    def hide(self, data: bytes) -> bytes:
        """The same without them."""
        return data if self._pattern is None else self._pattern.sub(SHOWN, data)

    def begun_at_end(self, data: bytes) -> int:
        """How many bytes at the end of it may be the beginning of one."""
        sizes = (size for start in self.starts for size in range(len(start) - 1, 0, -1) if data.endswith(start[:size]))
        return max(sizes, default=0)


@lru_cache(maxsize=1024)
def _secrets(values: tuple[str, ...]) -> Secrets:
    parts = [value.rpartition(" ")[2] for value in values]
    return Secrets(tuple(sorted({part[:SECRET_START].encode() for part in parts if len(part) >= SHORTEST_SECRET})))


def secrets_of(provider: Provider) -> Secrets:
    """What must not be shown of a provider's credentials."""
    return _secrets(tuple(value for _, value in provider.endpoint.headers))


def without_secrets(text: str, provider: Provider) -> str:
    """A text for a client or a log without the credentials that go to the provider."""
    return secrets_of(provider).hide(text.encode("utf-8", "surrogatepass")).decode("utf-8", "surrogatepass")


def body_without_secrets(body: bytes, provider: Provider) -> bytes:
    """An error body without the credentials that were sent with the call, whole or in part: some providers quote them."""
    secrets = secrets_of(provider)
    if b"\\" not in body:
        return secrets.hide(body)
    try:
        plain = msgspec.json.encode(msgspec.json.decode(body))
    except (msgspec.MsgspecError, RecursionError):
        plain = body
    # Escapes may hide a letter of it; where they hide nothing, the body stays as it came.
    return secrets.hide(plain) if secrets.quoted_in(plain) else body


def headers_without_secrets(headers: RawHeaders, provider: Provider) -> list[tuple[bytes, bytes]]:
    """Headers of a provider without the credentials that were sent to it."""
    hide = secrets_of(provider).hide
    return [(name, hide(value)) for name, value in headers]


class QuotedInStream:
    """Takes credentials out of what a stream says beside the answer, wherever its reads cut it."""

    def __init__(self, provider: Provider) -> None:
        self._secrets = secrets_of(provider)
        self._rest = b""
        """Of an event that has not ended: what may be the beginning of a credential."""
        self._before = b""
        """The end of what came of an event that has not ended."""
        self._answers = False
        """That event holds an answer."""
        self._amid = False
        """A credential was hidden, and more of it may follow."""

    def clean(self, data: bytes) -> bytes:
        """What may be passed on of a read now."""
        if self._amid:
            more = _MORE.match(data)
            data = data if more is None else data[more.end() :]
            if not data:
                return data
            self._amid = False
        data, self._rest = self._rest + data, b""
        if not self._before and data.endswith(_ENDS) and not self._secrets.quoted_in(data):
            return data
        # A line end that came before may be a part of what ends an event.
        line_end = self._before[len(self._before.rstrip(b"\r\n")) :]
        ended = (line_end + data).endswith(_ENDS)
        *events, last = split_events(line_end + data) or [b""]
        if events:
            events[0] = events[0][len(line_end) :]
        else:
            last = last[len(line_end) :]
        shown = [self._whole(event) for event in events]
        shown.append(self._whole(last) if ended else self._begun(last))
        return b"".join(shown)

    def _whole(self, event: bytes) -> bytes:
        """An event, or the end of one."""
        is_answer = self._answers or _ANSWERS in self._before + event
        self._answers, self._before = False, b""
        return event if is_answer else self._secrets.hide(event)

    def _begun(self, event: bytes) -> bytes:
        """What may be passed on of an event that has not ended."""
        before = self._before + event
        self._answers = self._answers or _ANSWERS in before
        self._before = before[-len(_ANSWERS) :]
        if self._answers:
            return event
        shown = self._secrets.hide(event)
        self._amid = shown is not event and shown.endswith(SHOWN)
        kept = self._secrets.begun_at_end(shown)
        self._rest = shown[len(shown) - kept :]
        return shown[: len(shown) - kept]

    def flush(self) -> bytes:
        """What was kept, if nothing more comes."""
        rest, self._rest = self._rest, b""
        return rest
