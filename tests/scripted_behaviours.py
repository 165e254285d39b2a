"""What a scripted upstream can do with a request: answers right, wrong, slow, broken and none at all."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

PROMPT_TOKENS = 11
CREATED = 1_700_000_000
End = Literal["clean", "no_done", "truncate", "reset", "error_event", "hang"]
Encoding = Literal["identity", "gzip", "deflate", "raw-deflate"]


def usage(prompt: int = PROMPT_TOKENS, completion: int = 3, **more: object) -> dict[str, object]:
    """A usage object as OpenAI sends it."""
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion, **more}


class Gate:
    """Something that waits until the test lets it go on, any number of times."""

    def __init__(self, *, permits: int = 0) -> None:
        self._semaphore = asyncio.Semaphore(permits)
        self._open = False
        self.waiting = 0
        self.arrived = asyncio.Event()
        """Set as soon as somebody waits."""

    async def wait(self) -> None:
        """Use up one permit, when there is one."""
        if self._open:
            return
        self.waiting += 1
        self.arrived.set()
        try:
            await self._semaphore.acquire()
        finally:
            self.waiting -= 1

    def step(self, count: int = 1) -> None:
        """Let `count` waits pass."""
        for _ in range(count):
            self._semaphore.release()

    def open(self) -> None:
        """Let all pass from now on."""
        self._open = True
        self.step(self.waiting)


@dataclass(slots=True, eq=False)
class Seen:
    """A request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    """Names in lower case; of repeated fields the last."""
    fields: list[tuple[bytes, bytes]]
    """As sent."""
    raw: bytes
    at: float
    """`time.monotonic()` when it was complete."""
    connection: int
    """1 for the first connection that was accepted, and so on."""
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the peer closed the connection before the answer was complete."""
    answered: bool = False
    """Whether the whole scripted answer was written."""

    @property
    def body(self) -> dict[str, Any]:
        """The JSON object in the body; empty if there is none."""
        value = json.loads(self.raw) if self.raw else {}
        return value if isinstance(value, dict) else {}

    @property
    def model(self) -> str:
        """The body's `model`, or ''."""
        try:
            return str(self.body.get("model", ""))
        except ValueError:
            return ""


class Socket(Protocol):
    """The server's end of a connection."""

    async def write(self, data: bytes) -> None:
        """Write and wait until the socket takes more."""
        ...

    def close(self) -> None:
        """Close after what has been written."""
        ...

    def reset(self) -> None:
        """Close with a TCP RST."""
        ...


Behaviour = Callable[["Exchange"], Awaitable[None]]
"""Answers one request."""


@dataclass(slots=True, kw_only=True)
class Json:
    """A JSON answer: a chat completion, a completion or embeddings, as the path asks, unless `body` is given."""

    status: int = 200
    text: str = "Hello there, friend."
    usage: Any = field(default_factory=usage)
    """Anything; None leaves the member out."""
    body: Any = None
    """The whole answer instead: an object to dump, or bytes as they are."""
    headers: Mapping[str, str] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)
    """Further members of the answer."""
    finish_reason: str = "stop"
    encoding: Encoding = "identity"
    framing: Literal["length", "chunked", "close"] = "length"
    pieces: Literal["whole", "bytes"] = "whole"
    """`bytes`: each byte of the answer, head included, in a write of its own."""
    before: Gate | None = None
    """Waited for before the first byte."""
    end: Literal["clean", "truncate", "reset"] = "clean"

    async def __call__(self, exchange: Exchange) -> None:
        if self.before is not None:
            await self.before.wait()
        body = self.body if isinstance(self.body, bytes) else dump(self.body if self.body is not None else self._answer(exchange.seen))
        headers = {"content-type": "application/json", **self.headers}
        body = compress(body, self.encoding)
        if self.encoding != "identity":
            headers["content-encoding"] = self.encoding.removeprefix("raw-")
        exchange.one_by_one = self.pieces == "bytes"
        length = len(body) if self.framing == "length" else None
        await exchange.head(self.status, headers, length=length, close=self.framing == "close", hold=True)
        await exchange.write(body if self.end == "clean" else body[: len(body) // 2])
        await exchange.finish(self.end)

    def _answer(self, seen: Seen) -> dict[str, Any]:
        answer = {"model": seen.model, **({} if self.usage is None else {"usage": self.usage}), **self.more}
        if seen.path.endswith("/embeddings"):
            given = seen.body.get("input")
            count = len(given) if isinstance(given, list) and not all(isinstance(item, int) for item in given) else 1
            data = [{"object": "embedding", "index": index, "embedding": [0.25, -0.5]} for index in range(count)]
            return {"object": "list", "data": data, **answer}
        choices: list[dict[str, Any]] = []
        for index in range(int(seen.body.get("n") or 1)):
            choice: dict[str, Any] = {"index": index, "finish_reason": self.finish_reason, "logprobs": None}
            if seen.path.endswith("/chat/completions"):
                choice["message"] = {"role": "assistant", "content": self.text, "refusal": None}
            else:
                choice["text"] = self.text
            choices.append(choice)
        kind = "chat.completion" if seen.path.endswith("/chat/completions") else "text_completion"
        return {"id": "chatcmpl-scripted", "object": kind, "created": CREATED, "choices": choices, **answer}


@dataclass(slots=True, kw_only=True)
class Stream:
    """A streamed chat completion of `tokens` content events; JSON if the request did not ask for a stream."""

    tokens: int = 3
    text: str = " word"
    """Content of each event."""
    usage: Any = "asked"
    """`asked`: right counts if `stream_options.include_usage` is set; None: never; else sent as it is."""
    usage_twice: bool = False
    usage_in_every: bool = False
    """Each event carries the counts so far, as some servers do."""
    finish_reason: str = "stop"
    headers: Mapping[str, str] = field(default_factory=dict)
    pacer: Gate | None = None
    """Waited for before every content event."""
    before: Gate | None = None
    """Waited for before the first byte."""
    pieces: Literal["events", "bytes", "whole"] = "events"
    """One write per event, per byte, or one for everything."""
    end: End = "clean"
    """What happens after the content events. `hang`: nothing, until the peer goes away."""
    error: Mapping[str, Any] = field(default_factory=lambda: {"message": "The engine fell over.", "type": "server_error", "code": "boom"})
    """For `error_event`."""
    framing: Literal["chunked", "close"] = "chunked"
    encoding: Encoding = "identity"

    async def __call__(self, exchange: Exchange) -> None:
        if not exchange.seen.body.get("stream"):
            counted = usage(completion=self.tokens) if self.usage == "asked" else self.usage
            await Json(text=self.text * self.tokens, usage=counted, headers=self.headers, before=self.before)(exchange)
            return
        if self.before is not None:
            await self.before.wait()
        headers = {"content-type": "text/event-stream; charset=utf-8", **self.headers}
        if self.encoding != "identity":
            headers["content-encoding"] = self.encoding.removeprefix("raw-")
        exchange.one_by_one = self.pieces == "bytes"
        await exchange.head(200, headers, length=None, close=self.framing == "close", hold=self.pieces == "whole")
        events = self._events(exchange.seen)
        if self.pieces == "whole" or self.encoding != "identity":
            await exchange.write(compress(b"".join([event async for event in events]), self.encoding))
        else:
            async for event in events:
                await exchange.write(event)
        await exchange.finish("clean" if self.end in ("no_done", "error_event") else self.end)

    async def _events(self, seen: Seen) -> AsyncIterator[bytes]:
        yield self._event(seen, {"role": "assistant", "content": ""}, count=0)
        for index in range(self.tokens):
            if self.pacer is not None:
                await self.pacer.wait()
            yield self._event(seen, {"content": self.text}, count=index + 1)
        if self.end == "error_event":
            yield sse({"error": dict(self.error)})
        if self.end in ("clean", "no_done"):
            yield self._event(seen, {}, count=self.tokens, finish_reason=self.finish_reason)
            for counts in self._usages(seen):
                yield sse({**frame(seen), "choices": [], "usage": counts})
        if self.end == "clean":
            yield b"data: [DONE]\n\n"

    def _event(self, seen: Seen, delta: dict[str, Any], *, count: int, finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        event = {**frame(seen), "choices": [choice]}
        if self.usage_in_every:
            event["usage"] = usage(completion=count)
        elif asks_usage(seen):
            event["usage"] = None
        return sse(event)

    def _usages(self, seen: Seen) -> list[Any]:
        if self.usage is None or (self.usage == "asked" and not asks_usage(seen)):
            return []
        counts = usage(completion=self.tokens) if self.usage == "asked" else self.usage
        return [counts, counts] if self.usage_twice else [counts]


@dataclass(slots=True, kw_only=True)
class Fail:
    """An error answer in OpenAI's shape."""

    status: int = 500
    message: str = "The server had an error."
    type: str = "server_error"
    code: str | None = None
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    """For example `{"retry-after": "7"}`."""

    async def __call__(self, exchange: Exchange) -> None:
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        await Json(status=self.status, body={"error": error}, headers=self.headers)(exchange)


@dataclass(slots=True, kw_only=True)
class Hang:
    """No answer until the gate opens (then the `then` behaviour), or for ever."""

    gate: Gate = field(default_factory=Gate)
    then: Behaviour = field(default_factory=Json)

    async def __call__(self, exchange: Exchange) -> None:
        await self.gate.wait()
        await self.then(exchange)


@dataclass(slots=True, kw_only=True)
class Close:
    """The connection closes without a byte of an answer; `reset` sends a TCP RST."""

    reset: bool = False

    async def __call__(self, exchange: Exchange) -> None:
        await exchange.finish("reset" if self.reset else "truncate")


@dataclass(slots=True)
class Raw:
    """Bytes straight to the socket, one write per item; then the connection is kept or closed."""

    writes: Iterable[bytes]
    close: bool = True

    async def __call__(self, exchange: Exchange) -> None:
        for data in self.writes:
            await exchange.raw(data)
        if self.close:
            await exchange.finish("truncate")


@dataclass(slots=True)
class Sequence:
    """One behaviour after the other; the last one stays."""

    behaviours: list[Behaviour]

    async def __call__(self, exchange: Exchange) -> None:
        behaviour = self.behaviours.pop(0) if len(self.behaviours) > 1 else self.behaviours[0]
        await behaviour(exchange)


class Exchange:
    """One request being answered: what a behaviour writes with."""

    def __init__(self, seen: Seen, connection: Socket) -> None:
        self.seen = seen
        self.one_by_one = False
        self._connection = connection
        self._chunked = False
        self._close = False
        self._held = b""

    async def head(self, status: int, headers: Mapping[str, str], *, length: int | None, close: bool = False, hold: bool = False) -> None:
        """Write the head; without a length the body is chunked, or ends with the connection if `close`.

        `hold`: it goes out in one packet with the first piece of the body.
        """
        fields = dict(headers)
        self._close = close
        if close:
            fields["connection"] = "close"
        elif length is not None:
            fields.setdefault("content-length", str(length))
        else:
            fields["transfer-encoding"] = "chunked"
            self._chunked = True
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        head = f"HTTP/1.1 {status} Scripted\r\n{lines}\r\n".encode("latin-1")
        if hold:
            self._held = head
        else:
            await self.raw(head)

    async def write(self, data: bytes) -> None:
        """Write a piece of the body."""
        if data:
            await self.raw(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    async def raw(self, data: bytes) -> None:
        """Write to the socket. With `one_by_one` each byte is a packet of its own."""
        data, self._held = self._held + data, b""
        for piece in [data[i : i + 1] for i in range(len(data))] if self.one_by_one else [data]:
            await self._connection.write(piece)

    async def finish(self, end: str) -> None:
        """End the body: `clean`, `truncate` (close in the middle), `reset` (RST) or `hang` until the peer leaves."""
        if self._held:
            await self.raw(b"")
        if end == "hang":
            await self.seen.gone.wait()
        elif end == "reset":
            self._connection.reset()
        elif end == "truncate":
            self._connection.close()
        else:
            if self._chunked:
                await self.raw(b"0\r\n\r\n")
            self.seen.answered = True
            if self._close:
                self._connection.close()


def dump(value: Any) -> bytes:
    """Compact JSON."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def sse(value: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + dump(value) + b"\n\n"


def frame(seen: Seen) -> dict[str, Any]:
    """What every chunk of a chat stream begins with."""
    return {"id": "chatcmpl-scripted", "object": "chat.completion.chunk", "created": CREATED, "model": seen.model}


def asks_usage(seen: Seen) -> bool:
    """Whether the request asked for a usage chunk."""
    return bool((seen.body.get("stream_options") or {}).get("include_usage"))


def compress(body: bytes, encoding: Encoding) -> bytes:
    """The body under a content-encoding."""
    if encoding == "gzip":
        return gzip.compress(body)
    if encoding == "deflate":
        return zlib.compress(body)
    if encoding == "raw-deflate":
        deflater = zlib.compressobj(wbits=-15)
        return deflater.compress(body) + deflater.flush()
    return body
