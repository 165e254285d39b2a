"""A client of OpenAI's wire, small enough to read: one connection per request, nothing hidden."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

_HEAD_LIMIT: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes

    @property
    def error(self) -> dict[str, Any] | None:
        """The member `error` of the body, if the request failed; also if a stream ended in one."""
        if self.status < 400:
            return None if b'"error"' not in self.body[-2048:] or b"[DONE]" in self.body[-64:] else {"code": "stream_failed"}
        try:
            found = msgspec.json.decode(self.body)
        except msgspec.DecodeError:
            return {"code": "not_json"}
        return found.get("error") if isinstance(found, dict) else {"code": "not_json"}


async def post(url: str, body: bytes, headers: Mapping[str, str]) -> Reply:
    """POST JSON over plain HTTP and read the answer to its end.

    Raises:
        OSError, EOFError, ValueError: the server is not there, broke off, or does not speak HTTP/1.1.
    """
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=_HEAD_LIMIT)
    try:
        lines = [f"{name}: {value}" for name, value in headers.items()]
        head = [f"POST {parts.path} HTTP/1.1", f"host: {parts.netloc}", "content-type: application/json", f"content-length: {len(body)}"]
        writer.write("\r\n".join([*head, "connection: close", *lines, "", ""]).encode() + body)
        await writer.drain()
        return await _read(reader)
    finally:
        writer.close()


async def _read(reader: asyncio.StreamReader) -> Reply:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    status_line, _, rest = head.partition("\r\n")
    pairs = (line.partition(":") for line in rest.split("\r\n") if line)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    if headers.get("transfer-encoding") == "chunked":
        body = await _read_chunks(reader)
    else:
        body = await reader.readexactly(int(headers["content-length"])) if "content-length" in headers else await reader.read()
    return Reply(int(status_line.split(" ")[1]), headers, body)


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    parts: list[bytes] = []
    while size := int(await reader.readuntil(b"\r\n"), 16):
        parts.append((await reader.readexactly(size + 2))[:-2])
    return b"".join(parts)
