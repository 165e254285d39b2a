"""The adapter lane: providers with a wire of their own, translated by litellm used as a library.

The only file that imports litellm, and only when a provider needs it: it takes seconds and 170 MB. Of litellm
nothing is used but the translation: its retries, router, cache, callbacks, telemetry and price lookups stay off.

Nothing in a request reaches litellm but the parameters that stand in `CHAT`, `COMPLETIONS` and `EMBEDDINGS`. An
unknown one is refused with 400, because litellm takes credentials, addresses, headers, retries, fallbacks and
fake answers by keyword, and new ones come with every release. A parameter that the provider lacks is refused by
litellm itself (`drop_params` is off): an answer that silently ignores what was asked for is worse than none.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import logging
import os
import re
import socket
import warnings
from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping, Sequence
from typing import Any, Final, NoReturn, TypeVar

import msgspec

from router.errors import INVALID_JSON, INVALID_REQUEST, UPSTREAM_FAILED, RouterError
from router.ports import Timeouts, UpstreamError, UpstreamFault, UpstreamResponse
from router.snapshot import Provider

_SAMPLING: Final = frozenset(
    {"frequency_penalty", "logit_bias", "logprobs", "max_tokens", "n", "presence_penalty", "seed", "stop", "stream", "stream_options"}
    | {"temperature", "top_p", "user"}
)
CHAT: Final = _SAMPLING | {
    "audio",
    "function_call",
    "functions",
    "max_completion_tokens",
    "messages",
    "modalities",
    "parallel_tool_calls",
    "prediction",
    "reasoning_effort",
    "response_format",
    "service_tier",
    "thinking",
    "tool_choice",
    "tools",
    "top_logprobs",
    "verbosity",
    "web_search_options",
}
COMPLETIONS: Final = _SAMPLING | {"best_of", "echo", "prompt", "suffix"}
EMBEDDINGS: Final = frozenset({"dimensions", "encoding_format", "input", "user"})
PARAMETERS: Final[Mapping[str, frozenset[str]]] = {"chat": CHAT, "completions": COMPLETIONS, "embeddings": EMBEDDINGS}
"""What may pass, by operation."""

IGNORED: Final = frozenset({"model", "metadata", "store", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"})
"""Known to OpenAI's own API only, about bookkeeping there and not about the answer; taken out."""

URL: Final = re.compile(r"\s*[a-z][a-z0-9+.-]*://", re.IGNORECASE)
PREFIX: Final = re.compile(r"^(?:(?:litellm\.)?\w*(?:Error|Timeout|Exception)(?:: | - ))+")
WRAPPING: Final = re.compile(r"\.? Handle with `litellm\.\w+`\.?|^b(?=['\"])")
MAX_MESSAGE: Final = 2000
JSON_HEADERS: Final = ((b"content-type", b"application/json"),)
STREAM_HEADERS: Final = ((b"content-type", b"text/event-stream; charset=utf-8"),)
DONE: Final = b"data: [DONE]\n\n"
TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
}

T = TypeVar("T")


class LitellmLane:
    """Calls providers through litellm, and answers in OpenAI's wire."""

    def __init__(self) -> None:
        self._sdk: Any = None
        self._loading: asyncio.Task[Any] | None = None

    async def warm(self) -> None:
        """Import litellm in a thread, once. Raises `RouterError` if it is not installed.

        Call it at start if a model needs the lane; otherwise the first call does it.
        """
        if self._sdk is None:
            if self._loading is None:
                self._loading = asyncio.create_task(asyncio.to_thread(load))
            try:
                self._sdk = await asyncio.shield(self._loading)
            except ImportError as exc:
                self._loading = None
                raise RouterError(UPSTREAM_FAILED, "litellm cannot be imported: pip install 'faregate[litellm]'.") from exc

    async def call(self, provider: Provider, upstream_id: str, operation: str, body: bytes, *, timeouts: Timeouts) -> UpstreamResponse:
        """Make one call, without retries. An error of the provider is an answer with its status.

        Cancelling closes the connection. Raises `UpstreamError`, or `RouterError` for a request that cannot be
        put into the provider's wire; then nothing was sent.
        """
        given = parameters(provider, operation, body)
        await self.warm()
        sdk = self._sdk
        function = {"chat": sdk.acompletion, "completions": sdk.atext_completion, "embeddings": sdk.aembedding}[operation]
        self._drop_user(provider, upstream_id, operation, given)
        clock = Clock(provider.name, timeouts)
        work = function(
            **given,
            **provider.litellm_options,
            model=upstream_id,
            custom_llm_provider=provider.litellm_provider,
            timeout=timeouts.total_seconds,
            num_retries=0,
            max_retries=0,
            drop_params=False,
            caching=False,
            **{"no-log": True},
        )
        try:
            return await clock.begin(_answer(work, provider.name, clock, stream=bool(given.get("stream"))))
        except UpstreamError:
            raise
        # Every provider and SDK below litellm raises classes of its own; `failed` names what it knows.
        except Exception as exc:  # noqa: BLE001
            return failed(exc, provider)

    async def close(self) -> None:
        """Close litellm's connections."""
        if self._sdk is not None:
            await self._sdk.close_litellm_async_clients()

    def _drop_user(self, provider: Provider, upstream_id: str, operation: str, given: dict[str, Any]) -> None:
        """The end user's name is no wish about the answer, so a provider that has no field for it goes without."""
        if "user" in given and operation == "chat":
            known = self._sdk.get_supported_openai_params(model=upstream_id, custom_llm_provider=provider.litellm_provider)
            if "user" not in (known or ()):
                del given["user"]


def load() -> Any:
    """Import litellm and switch off all of it that is not translation. Takes seconds."""
    # Otherwise the import fetches a price list from the network.
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sdk: Any = importlib.import_module("litellm")
    sdk.telemetry = False
    sdk.suppress_debug_info = True
    sdk.turn_off_message_logging = True
    sdk.disable_streaming_logging = True
    sdk.disable_token_counter = True
    sdk.disable_end_user_cost_tracking = True
    sdk.disable_aiohttp_trust_env = True
    sdk.drop_params = False
    sdk.modify_params = False
    sdk.num_retries = None
    sdk.cache = None
    for hooks in ("callbacks", "success_callback", "failure_callback", "_async_success_callback", "_async_failure_callback"):
        setattr(sdk, hooks, [])
    # Its loggers write prompts at debug level and whole exceptions at error level.
    for name in ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # 300,000 more objects would make every full collection pause for 165 ms.
    gc.collect()
    gc.freeze()
    return sdk


def parameters(provider: Provider, operation: str, body: bytes) -> dict[str, Any]:
    """The keyword arguments in a request body. Raises `RouterError` for what may not pass."""
    try:
        fields = msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.MsgspecError as exc:
        raise RouterError(INVALID_JSON, f"The body is not a JSON object: {exc}.") from exc
    allowed = PARAMETERS[operation]
    given = {name: value for name, value in fields.items() if name not in IGNORED and value is not None}
    for name in given:
        if name not in allowed:
            raise RouterError(
                INVALID_REQUEST, f"Provider '{provider.name}' is called through an adapter that has no field '{name}'.", param=name
            )
    for tool in _dicts(given.get("tools")):
        if tool.get("type") != "function":
            raise RouterError(INVALID_REQUEST, f"Provider '{provider.name}' takes tools of type 'function' only.", param="tools")
    if any(URL.match(text) for text in _references(given.get("messages"))):
        message = f"Provider '{provider.name}' takes images and files as data: URLs only; the router fetches nothing."
        raise RouterError(INVALID_REQUEST, message, param="messages")
    return given


def _dicts(value: Any) -> Iterator[dict[str, Any]]:
    for item in value if isinstance(value, list) else ():
        if isinstance(item, dict):
            yield item


def _references(messages: Any) -> Iterator[str]:
    """All texts inside content parts that are not text: litellm would fetch those that are addresses."""
    for message in _dicts(messages):
        for part in _dicts(message.get("content")):
            if part.get("type") != "text":
                yield from _texts(part)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)


class Clock:
    """The time limits of one call."""

    def __init__(self, name: str, timeouts: Timeouts) -> None:
        self._name = name
        self._timeouts = timeouts
        self._loop = asyncio.get_running_loop()
        self._total_at = self._loop.time() + timeouts.total_seconds

    async def begin(self, work: Awaitable[T]) -> T:
        """Wait for the beginning of the answer. Raises `UpstreamError`."""
        timeouts = self._timeouts
        return await self._limited(
            work, timeouts.connect_seconds + timeouts.first_byte_seconds, "first_byte_timeout", "no answer began in time"
        )

    async def next(self, work: Awaitable[T]) -> T:
        """Wait for the next part of the answer. Raises `UpstreamError`."""
        idle = self._timeouts.idle_seconds
        return await self._limited(work, idle, "idle_timeout", f"nothing came for {idle:g} s in the middle of the answer")

    async def _limited(self, work: Awaitable[T], seconds: float, fault: UpstreamFault, message: str) -> T:
        limit = min(self._loop.time() + seconds, self._total_at)
        scope = asyncio.timeout_at(limit)
        try:
            async with scope:
                return await work
        except TimeoutError as exc:
            if not scope.expired():
                raise
            if limit >= self._total_at:
                fault, message = "total_timeout", "the answer did not end within its total time"
            raise UpstreamError(fault, f"{self._name}: {message}", sent=True) from exc


async def _answer(work: Awaitable[Any], name: str, clock: Clock, *, stream: bool) -> UpstreamResponse:
    result = await work
    if not stream:
        return WholeAnswer(200, JSON_HEADERS, msgspec.json.encode(plain(result)))
    # Some providers are called only when the first chunk is asked for, so their errors come there.
    events = aiter(result)
    try:
        first = await anext(events, None)
    except BaseException:
        await result.aclose()
        raise
    return StreamedAnswer(name, result, events, first, clock)


def plain(result: Any) -> dict[str, Any]:
    """An answer or a chunk as OpenAI would send it: no empty extras, but the empty fields that clients look at.

    litellm reports 0 tokens where it found no usage, and only there; that is unknown, so the field is left out.
    """
    answer: dict[str, Any] = result.model_dump(mode="json", exclude_none=True)
    usage = answer.get("usage")
    if usage and not usage.get("prompt_tokens") and not usage.get("completion_tokens"):
        del answer["usage"]
    for choice in answer.get("choices", ()):
        choice.setdefault("finish_reason", None)
        if "message" in choice:
            choice["message"].setdefault("content", None)
    return answer


def event(chunk: Any) -> bytes:
    """A chunk as a server-sent event; empty if it says nothing. The one with usage has no choices, as at OpenAI."""
    answer = plain(chunk)
    choices = answer.get("choices") or []
    if not any(choice["finish_reason"] or choice.get("delta") or choice.get("text") for choice in choices):
        if "usage" not in answer:
            return b""
        answer["choices"] = []
    return b"data: " + msgspec.json.encode(answer) + b"\n\n"


class WholeAnswer(UpstreamResponse):
    """An answer that is here. See `router.ports.UpstreamResponse`."""

    def __init__(self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self._body = body

    async def read(self, limit: int) -> bytes:
        """The whole body. Raises `UpstreamError` (`too_large`)."""
        if len(self._body) > limit:
            raise UpstreamError("too_large", f"the answer is larger than {limit} bytes", sent=True)
        return await self.chunk()

    async def chunk(self) -> bytes:
        """The body, then nothing."""
        body, self._body = self._body, b""
        return body

    def abort(self) -> None:
        """Nothing is open."""


class StreamedAnswer(UpstreamResponse):
    """Chunks from litellm as server-sent events. See `router.ports.UpstreamResponse`."""

    def __init__(self, name: str, stream: Any, events: AsyncIterator[Any], first: Any, clock: Clock) -> None:
        self.status = 200
        self.headers: Sequence[tuple[bytes, bytes]] = STREAM_HEADERS
        self._name = name
        self._stream = stream
        self._events = events
        self._waiting = first
        self._clock = clock
        self._error: UpstreamError | None = None
        self._ended = False
        self._closing: asyncio.Task[None] | None = None

    async def read(self, limit: int) -> bytes:
        """All events. Raises `UpstreamError`."""
        parts: list[bytes] = []
        size = 0
        while data := await self.chunk():
            parts.append(data)
            size += len(data)
            if size > limit:
                self.abort()
                raise UpstreamError("too_large", f"{self._name}: the answer is larger than {limit} bytes", sent=True)
        return b"".join(parts)

    async def chunk(self) -> bytes:
        """The next event; empty after `[DONE]`. Raises `UpstreamError`."""
        if self._error is not None:
            raise self._error
        if self._ended:
            return b""
        while not self._ended:
            item, self._waiting = self._waiting, None
            if item is None:
                item = await self._next()
            if item is None:
                self._ended = True
            elif data := event(item):
                return data
        return DONE

    async def _next(self) -> Any:
        try:
            return await self._clock.next(anext(self._events, None))
        except UpstreamError as exc:
            self._fail(exc)
        # As in `call`; after the head an error can only end the stream.
        except Exception as exc:  # noqa: BLE001
            self._fail(UpstreamError("reset", f"{self._name}: {_cause(exc)}", sent=True), exc)

    def abort(self) -> None:
        """Close the provider's connection now; harmless after the end."""
        if not self._ended and self._error is None:
            self._error = UpstreamError("reset", f"{self._name}: the call was given up", sent=True)
            self._closing = asyncio.create_task(self._hang_up())

    async def _hang_up(self) -> None:
        # litellm's aclose leaves the connection of some providers open; a read that is cancelled closes it for all.
        reading = asyncio.create_task(self._read_on())
        await asyncio.sleep(0)
        reading.cancel()
        await asyncio.wait([reading])
        await self._stream.aclose()

    async def _read_on(self) -> None:
        async for _ in self._events:
            pass

    def _fail(self, error: UpstreamError, cause: BaseException | None = None) -> NoReturn:
        self.abort()
        self._error = error
        raise error from cause


def failed(exc: Exception, provider: Provider) -> UpstreamResponse:
    """What litellm raised, as the provider's own error answer. Raises `UpstreamError` if there was none."""
    fault, sent = _below_http(exc)
    if fault is not None:
        raise UpstreamError(fault, f"{provider.name}: {_cause(exc)}", sent=sent) from exc
    status = _status(exc)
    code = "context_length_exceeded" if type(exc).__name__ == "ContextWindowExceededError" else None
    # What litellm says of its own failures holds its stack and pieces of the answer.
    told = status < 500 or any(type(link).__name__ == "HTTPStatusError" for link in _chain(exc))
    message = _without(_message(exc), provider.litellm_options) if told else f"The adapter failed: {_cause(exc)}."
    error = {"message": message, "type": TYPES.get(status, "api_error"), "param": getattr(exc, "param", None), "code": code}
    headers = [*JSON_HEADERS]
    retry_after = _retry_after(exc)
    if retry_after is not None:
        headers.append((b"retry-after", retry_after))
    return WholeAnswer(status, headers, msgspec.json.encode({"error": error}))


def _below_http(exc: BaseException) -> tuple[UpstreamFault | None, bool]:
    """The fault if no answer came, and whether something may have been sent; (None, ...) if there was an answer."""
    kinds = {type(link).__name__ for link in _chain(exc)}
    for link in _chain(exc):
        if isinstance(link, socket.gaierror):
            return "dns", False
        if isinstance(link, ConnectionRefusedError):
            return "connect", False
    if kinds & {"ClientConnectorCertificateError", "ClientConnectorSSLError", "SSLCertVerificationError"}:
        return "tls", False
    if "Timeout" in kinds and not kinds & {"HTTPStatusError"}:
        return "total_timeout", True
    if kinds & {
        "RemoteProtocolError",
        "ReadError",
        "ServerDisconnectedError",
        "ClientPayloadError",
        "ClientOSError",
        "ConnectionResetError",
    }:
        return "reset", True
    if kinds & {"APIConnectionError", "TransportError", "ConnectError"}:
        return "reset", True
    return None, True


def _chain(exc: BaseException | None) -> Iterator[BaseException]:
    seen = 0
    while exc is not None and seen < 20:
        yield exc
        exc = exc.__cause__ or exc.__context__
        seen += 1


def _cause(exc: BaseException) -> str:
    """What was at the bottom of it, in a word or two that hold nothing of the request or the answer."""
    last = list(_chain(exc))[-1]
    return getattr(last, "strerror", None) or type(last).__name__


def _status(exc: BaseException) -> int:
    """The status that the provider sent; litellm's own for what it refused itself. It makes some 500s a 503."""
    for link in _chain(exc):
        if type(link).__name__ == "HTTPStatusError":
            response: Any = getattr(link, "response", None)
            return int(response.status_code)
    return int(getattr(exc, "status_code", 500))


def _message(exc: BaseException) -> str:
    """What the provider said, without litellm's wrapping."""
    text = WRAPPING.sub("", PREFIX.sub("", str(getattr(exc, "message", "") or exc)))
    start, end = text.find("{"), text.rfind("}")
    try:
        said = msgspec.json.decode(text[start : end + 1].encode(), type=dict[str, Any]) if 0 <= start < end else {}
    except msgspec.MsgspecError:
        said = {}
    inner = said.get("error", said)
    message = inner.get("message") if isinstance(inner, dict) else inner
    return (message if isinstance(message, str) and message else text)[:MAX_MESSAGE]


def _without(text: str, options: Mapping[str, str]) -> str:
    """The text without any value of the provider's options: they hold secrets."""
    for value in options.values():
        if isinstance(value, str) and len(value) > 3:
            text = text.replace(value, "***")
    return text


def _retry_after(exc: BaseException) -> bytes | None:
    for link in _chain(exc):
        for headers in (getattr(link, "litellm_response_headers", None), getattr(getattr(link, "response", None), "headers", None)):
            value = headers.get("retry-after") if headers is not None else None
            if value is not None:
                return str(value).encode("latin-1", "replace")
    return None
