"""Heads of requests: what the parser found in one, and how the same head is known again."""

from __future__ import annotations

import re
from typing import Final

from router.domain.request import Operation
from router.edge.headers import Headers

CONTENT_LENGTH: Final = b"content-length"
HEAD_END: Final = b"\r\n\r\n"
LENGTH: Final = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]+)\r\n", re.IGNORECASE)
MAX_DIGITS: Final = 12
LONGEST_KNOWN: Final = 8 * 1024
"""Longer heads are not kept: one is kept per connection."""

Pairs = list[tuple[bytes, bytes]]


class RequestHead:
    """A head that has been parsed."""

    __slots__ = ("headers", "length", "method", "operation", "pairs", "query", "sound", "target", "version")

    def __init__(self, method: str, target: bytes, query: bytes, version: str, pairs: Pairs, operation: Operation | None) -> None:
        self.method = method
        self.target = target
        self.query = query
        self.version = version
        self.pairs = pairs
        """As sent, names in lower case."""
        headers = dict(pairs)
        self.length = headers.pop(CONTENT_LENGTH, None)
        """As sent; not among the headers, because it may differ where the rest of a head is the same."""
        self.headers: Headers = headers
        self.operation = operation
        """The call for a model that is asked for; None: something else."""
        self.sound = False
        """Whether the gate has looked at the headers and found nothing wrong."""


class KnownHead:
    """A head that came over a connection, was found good, and is expected again.

    Clients send the same head with every call of a connection, but for the length of the body. A head is taken for
    the known one only if it is the same byte for byte, but for the digits of that length: then it means the same, and
    need not be parsed and checked once more. It is forgotten with its connection, because it holds a credential.
    """

    __slots__ = ("_after", "_after_size", "_before", "_reach", "_start", "head")

    def __init__(self, head: RequestHead, before: bytes, after: bytes) -> None:
        """`before` and `after` are what stands around the digits of the length."""
        self.head = head
        self._before = before
        self._start = len(before)
        self._after = after
        self._after_size = len(after)
        self._reach = len(before) + MAX_DIGITS + len(after)

    def find_body(self, data: bytes) -> tuple[int, int]:
        """Where the body begins in data that begins with this head, and the body's length; (0, 0) for another head."""
        if data.startswith(self._before):
            end = data.find(self._after, self._start, self._reach)
            digits = data[self._start : end]
            if end > 0 and digits.isdigit():
                return end + self._after_size, int(digits)
        return 0, 0


def know(head: RequestHead, packet: bytes) -> KnownHead | None:
    """Make a head known that the parser took from the start of `packet`; None if it cannot be known by its bytes.

    The parser allows no line break but CR LF and no folded lines, so the first blank line ends the head.
    """
    end = packet.find(HEAD_END)
    # A blank line before the head, or a head in two packets, would make the bytes mean something else.
    if not 0 < end <= LONGEST_KNOWN or packet.count(b"\r\n", 0, end + 2) != len(head.pairs) + 1 or not packet.startswith(b"POST "):
        return None
    length = LENGTH.search(packet, 0, end + 2)
    if length is None:
        return None
    return KnownHead(head, packet[: length.start(1)], packet[length.end(1) : end + len(HEAD_END)])
