"""A provider that does what the text of a call says, lies about its usage where told to, and keeps the true bill."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import struct
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

INPUT_NUSD: Final = 1_000
OUTPUT_NUSD: Final = 10_000
PROMPT_TOKENS: Final = 20
WISH: Final = re.compile(r"\[\[(\w+) (\d+) (\d+)\]\]")
"""Kind of answer, tokens of output, ms it takes. In the text of the message, because every proxy passes that on."""


@dataclass(slots=True)
class Bill:
    """What the provider asks for: for every call that it began, by what it really made."""

    calls: int = 0
    nusd: int = 0
    by_minute: dict[int, int] = field(default_factory=dict)
    begins: float = 0.0
    """When a minute began, Unix time."""

    def add(self, tokens: int, began: float) -> None:
        price = PROMPT_TOKENS * INPUT_NUSD + tokens * OUTPUT_NUSD
        minute = int((began - self.begins) // 60)
        self.calls += 1
        self.nusd += price
        self.by_minute[minute] = self.by_minute.get(minute, 0) + price


def usage(kind: str, tokens: int) -> dict[str, int] | None:
    """What it says of its usage."""
    said = {"missing": None, "zero": 0, "negative": -tokens}.get(kind, tokens)
    if said is None:
        return None
    prompt = 0 if kind == "zero" else PROMPT_TOKENS
    return {"prompt_tokens": prompt, "completion_tokens": said, "total_tokens": prompt + said}


class Provider:
    """`async with Provider() as provider`: listens on `provider.port` of loopback."""

    def __init__(self, port: int = 0) -> None:
        self.port = port
        self.bill = Bill()

    async def __aenter__(self) -> Provider:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = re.search(rb"content-length: *(\d+)", head)
                body = await reader.readexactly(int(length[1])) if length else b"{}"
                if not await self._answer(json.loads(body or b"{}"), writer):
                    break
        writer.close()

    async def _answer(self, call: dict[str, Any], writer: asyncio.StreamWriter) -> bool:
        """False: the connection is over."""
        wish = WISH.search(json.dumps(call.get("messages", "")))
        kind, tokens, wait_ms = (wish[1], int(wish[2]), int(wish[3])) if wish else ("ok", 1, 0)
        made = tokens * int(call.get("n") or 1)
        began = time.time()
        if call.get("stream"):
            return await self._stream(kind, made, wait_ms, began, writer)
        if kind != "error":
            # A call that is answered with 500 is not billed.
            self.bill.add(made, began)
        await asyncio.sleep(wait_ms / 1000)
        message = {"role": "assistant", "content": "word " * tokens}
        answer: dict[str, Any] = {"id": "c", "object": "chat.completion", "created": 1, "model": "m"}
        answer["choices"] = [{"index": n, "message": message, "finish_reason": "stop"} for n in range(int(call.get("n") or 1))]
        if told := usage(kind, made):
            answer["usage"] = told
        body = json.dumps(answer).encode()
        if kind == "reset":
            return _reset(writer)
        if kind == "error":
            body = b'{"error": {"message": "broken", "type": "server_error"}}'
            writer.write(b"HTTP/1.1 500 Error\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
            return True
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
        writer.write(head + (body[: len(body) // 2] if kind == "truncated" else body))
        await writer.drain()
        return kind != "truncated"

    async def _stream(self, kind: str, tokens: int, wait_ms: int, began: float, writer: asyncio.StreamWriter) -> bool:
        broken = kind in {"reset", "error", "truncated"}
        made = tokens // 2 if broken else tokens
        # Billed when it begins: whoever goes away does not pay less.
        self.bill.add(made, began)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for part in range(10):
            await asyncio.sleep(wait_ms / 10_000)
            text = "word " * (made * (part + 1) // 10 - made * part // 10)
            writer.write(_event({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}))
            await writer.drain()
        if kind == "reset":
            return _reset(writer)
        if kind == "truncated":
            return False
        if kind == "error":
            writer.write(_event({"error": {"message": "broken", "type": "server_error"}}) + b"0\r\n\r\n")
            return True
        writer.write(_event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}))
        if told := usage(kind, made):
            writer.write(_event({"choices": [], "usage": told}))
        writer.write(_chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
        await writer.drain()
        return True


def _event(more: dict[str, Any]) -> bytes:
    base = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return _chunk(b"data: " + json.dumps({**base, **more}).encode() + b"\n\n")


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _reset(writer: asyncio.StreamWriter) -> bool:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    return False
