"""Bodies that a provider compressed although we asked it not to."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Final

from router.ports import UpstreamError, UpstreamResponse

GZIP_OR_ZLIB: Final = 47
"""`wbits`: gzip or zlib, told apart by the first bytes."""
RAW_DEFLATE: Final = -15
CHUNK_BYTES: Final = 256 * 1024
"""Most output of one `chunk()`: a small input can grow a thousandfold."""

ENCODINGS: Final = frozenset({b"gzip", b"x-gzip", b"deflate"})
PLAIN: Final = frozenset({b"", b"identity"})


class Inflater:
    """Decompresses gzip, zlib and raw deflate with bounded output.

    `deflate` means zlib by RFC 9110 section 8.4.1.2, which also says that some servers send raw deflate.
    """

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(GZIP_OR_ZLIB)
        self._pending = b""
        self._fresh = True

    @property
    def hungry(self) -> bool:
        """Whether it has nothing left to work on."""
        return not self._pending

    @property
    def finished(self) -> bool:
        """Whether the compressed data ended where it should."""
        return self._stream.eof and not self._pending

    def feed(self, data: bytes, limit: int) -> bytes:
        """At most `limit` bytes of output; what is left of the input is kept. Raises `zlib.error`."""
        data = self._pending + data
        if self._stream.eof and data:
            self._stream = zlib.decompressobj(GZIP_OR_ZLIB)
        try:
            output = self._stream.decompress(data, limit)
        except zlib.error:
            if not self._fresh:
                raise
            self._stream = zlib.decompressobj(RAW_DEFLATE)
            output = self._stream.decompress(data, limit)
        self._fresh = self._fresh and not data
        self._pending = self._stream.unused_data or self._stream.unconsumed_tail
        return output


class DecodedResponse(UpstreamResponse):
    """A compressed answer as plain bytes; `content-encoding` and `content-length` are gone from its headers."""

    __slots__ = ("_inflater", "_inner", "_started", "headers", "sends", "status")

    def __init__(self, inner: UpstreamResponse) -> None:
        self._inner = inner
        self._inflater = Inflater()
        self._started = False
        self.status = inner.status
        self.sends = inner.sends
        self.headers: Sequence[tuple[bytes, bytes]] = [
            field for field in inner.headers if field[0] not in (b"content-encoding", b"content-length")
        ]

    async def read(self, limit: int) -> bytes:
        """The whole body; `limit` counts both the compressed and the plain form. Raises `UpstreamError`."""
        data = await self._inner.read(limit)
        self._started = bool(data)
        parts: list[bytes] = []
        room = limit + 1
        while room > 0:
            part = self._inflate(data, room)
            data = b""
            if not part and self._inflater.hungry:
                break
            parts.append(part)
            room -= len(part)
        if room <= 0:
            raise UpstreamError("too_large", f"the answer is larger than {limit} bytes when decompressed", sent=True)
        self._check_end()
        return b"".join(parts)

    async def chunk(self) -> bytes:
        """What has arrived, decompressed, at most 256 KB at a time. Raises `UpstreamError`."""
        while True:
            if self._inflater.hungry:
                data = await self._inner.chunk()
                if not data:
                    self._check_end()
                    return b""
            else:
                data = b""
            self._started = True
            output = self._inflate(data, CHUNK_BYTES)
            if output:
                return output

    def pending(self) -> bytes:
        """What has arrived, decompressed, at most 256 KB."""
        try:
            return self._inflater.feed(self._inner.pending(), CHUNK_BYTES)
        except zlib.error:
            return b""

    def abort(self) -> None:
        """Close the connection now; harmless after the end."""
        self._inner.abort()

    def _inflate(self, data: bytes, limit: int) -> bytes:
        try:
            return self._inflater.feed(data, limit)
        except zlib.error as exc:
            self._inner.abort()
            raise UpstreamError("protocol", f"the answer cannot be decompressed: {exc}", sent=True) from exc

    def _check_end(self) -> None:
        # A body without a byte is no body: 204, or an error status with an encoding but nothing in it.
        if self._started and not self._inflater.finished:
            raise UpstreamError("truncated", "the compressed answer ended too early", sent=True)


def decoded(response: UpstreamResponse) -> UpstreamResponse:
    """The response itself if its body is plain, else one that decompresses.

    Raises `UpstreamError` (`protocol`) for a coding that we did not ask for and cannot read: nobody could meter it.
    """
    encoding = b",".join(value for name, value in response.headers if name == b"content-encoding").strip().lower()
    if encoding in PLAIN:
        return response
    if encoding in ENCODINGS:
        return DecodedResponse(response)
    response.abort()
    name = encoding.decode("latin-1")
    raise UpstreamError("protocol", f"the answer has content-encoding {name!r} although identity was asked for", sent=True)
