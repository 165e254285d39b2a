"""Dispatch: one call to one deployment, and what its outcome means for the next step."""

from __future__ import annotations

import email.utils
import re
import time
from collections.abc import Awaitable, Mapping
from typing import Any, Final, Protocol

import msgspec

from router.call import Attempt
from router.domain.request import upstream_body
from router.edge.headers import REQUEST_ID, TO_UPSTREAM, RawHeaders, find, passed_from_upstream, passed_to_upstream
from router.edge.replies import JSON, Reply
from router.errors import (
    UPSTREAM_AUTH,
    UPSTREAM_FAILED,
    UPSTREAM_INVALID,
    UPSTREAM_TIMEOUT,
    RouterError,
    of_upstream_status,
)
from router.fleet import cause_of_status
from router.ports import Timeouts, Upstream, UpstreamError, UpstreamResponse
from router.quoted import body_without_secrets, headers_without_secrets, without_secrets
from router.snapshot import Fallback, Provider

PATHS: Final[Mapping[str, str]] = {"chat": "/chat/completions", "completions": "/completions", "embeddings": "/embeddings"}
MAX_ERROR_BYTES: Final = 256 * 1024
TIMEOUT_FAULTS: Final = frozenset({"connect_timeout", "first_byte_timeout", "idle_timeout", "total_timeout"})
CREDENTIAL_STATUSES: Final = frozenset({401, 402, 403})
"""About the proxy's own account at the provider, not about the client."""
MAX_MESSAGE: Final = 2000
MOST_DIGITS: Final = 12
"""Of a wait in a header; more is no wait but a mistake, or an attack."""
_KEY_LIKE: Final = re.compile(r"\b(?:sk|pk|key|gsk|xai)[-_][\w.-]{12,}", re.IGNORECASE)


class AdapterLane(Protocol):
    """Calls a provider whose wire is not OpenAI's, and answers as if it were."""

    async def call(self, provider: Provider, upstream_id: str, operation: str, body: bytes, *, timeouts: Timeouts) -> UpstreamResponse: ...


class Failure(msgspec.Struct, kw_only=True):
    """Why an attempt gave no answer, and what may be done about it."""

    cause: str
    """A member of a small closed set; becomes a metric label."""
    error: RouterError | None = None
    reply: Reply | None = None
    """The provider's own error, to be passed on if nothing else works."""
    status: int = 0
    body: bytes = b""
    """What came instead of an answer; never shown to the client."""
    upstream_id: bytes | None = None
    """The provider's id of the request."""
    headers: list[tuple[bytes, bytes]] = []
    """The provider's headers that go with `reply`: Retry-After and the like."""
    retry_after_seconds: float | None = None
    fall_back: bool = True
    """Whether another candidate may be tried."""
    retry_same: bool = False
    """Whether the same deployment may be tried again."""


class Dispatcher:
    """Sends an attempt on its lane."""

    def __init__(self, *, wire: Upstream, second_wire: Upstream | None = None, adapter: AdapterLane | None = None) -> None:
        self._wire = wire
        self._second_wire = second_wire
        self._adapter = adapter

    def send(self, attempt: Attempt) -> Awaitable[UpstreamResponse]:
        """Send the request. The answer's head has arrived when what this returns has been awaited.

        Raises:
            UpstreamError: when awaited; no answer.
            RouterError: the request cannot be put into the provider's wire.
        """
        call, deployment, timeouts = attempt.call, attempt.deployment, attempt.way.timeouts
        provider, operation = deployment.provider, call.operation
        body = upstream_body(call.request, deployment, attempt.estimate.output_cap)
        if provider.lane == "litellm":
            return self._adapted(provider).call(provider, deployment.upstream_id, operation, body, timeouts=timeouts)
        endpoint = provider.endpoint
        wire = self._second_wire if self._second_wire is not None and endpoint.by_second_wire else self._wire
        passed = [] if TO_UPSTREAM.isdisjoint(call.headers) else passed_to_upstream(call.headers)
        return wire.post(endpoint, PATHS[operation], body, headers=passed, timeouts=timeouts)

    def _adapted(self, provider: Provider) -> AdapterLane:
        if self._adapter is None:
            raise RouterError(UPSTREAM_FAILED, f"Provider '{provider.name}' needs the litellm extra: pip install 'faregate[litellm]'.")
        return self._adapter


def of_upstream_error(error: UpstreamError, attempt: Attempt, fallback: Fallback) -> Failure:
    """What a failure below HTTP means."""
    timed_out = error.fault in TIMEOUT_FAULTS
    spec = UPSTREAM_TIMEOUT if timed_out else UPSTREAM_INVALID if error.fault in ("protocol", "too_large") else UPSTREAM_FAILED
    message = f"Deployment '{attempt.deployment.name}' did not answer: {error}."
    return Failure(
        cause=error.fault,
        error=RouterError(spec, message),
        fall_back=fallback.on_timeout if timed_out else True,
        retry_same=not timed_out,
    )


def invalid_answer(attempt: Attempt, what: str, body: bytes = b"") -> Failure:
    """A success that is no answer; `body` is kept, because it may be billed all the same."""
    return Failure(
        cause="invalid",
        error=RouterError(
            UPSTREAM_INVALID,
            f"Deployment '{attempt.deployment.name}' answered 200 with {without_secrets(what, attempt.deployment.provider)}.",
        ),
        body=body,
        retry_same=True,
    )


async def of_status(response: UpstreamResponse, attempt: Attempt, fallback: Fallback) -> Failure:
    """What an HTTP error of a provider means; its body is read and kept for the client."""
    status = response.status
    try:
        body = await response.read(MAX_ERROR_BYTES)
    except UpstreamError:
        response.abort()
        body = b""
    attempt.status = status
    shown, code = _error_body(body_without_secrets(body, attempt.deployment.provider))
    too_long = code == "context_length_exceeded"
    fall_back = status in fallback.statuses or status in CREDENTIAL_STATUSES or (too_long and fallback.on_context_length)
    failure = Failure(
        cause=code if too_long else cause_of_status(status),
        status=status,
        retry_after_seconds=retry_after(response.headers),
        fall_back=fall_back,
        retry_same=status in fallback.statuses,
    )
    name = attempt.deployment.name
    if status in CREDENTIAL_STATUSES:
        failure.error = RouterError(
            UPSTREAM_AUTH,
            f"Deployment '{name}' refused this router's own credentials (HTTP {status}): {_said(shown, attempt.deployment.provider)} "
            "Whoever runs the router must check the provider's API key and account.",
        )
        failure.retry_same = False
    elif shown is None or not 400 <= status < 600:
        failure.error = RouterError(of_upstream_status(status), f"Deployment '{name}' answered HTTP {status} without an error object.")
    else:
        failure.reply = Reply(status, [JSON], shown)
        headers = headers_without_secrets(response.headers, attempt.deployment.provider)
        failure.headers = passed_from_upstream(headers)
        failure.upstream_id = find(headers, REQUEST_ID)
    return failure


def _error_body(body: bytes) -> tuple[bytes | None, str]:
    """The body if it is in OpenAI's shape, and its code; else (None, "")."""
    try:
        error = msgspec.json.decode(body, type=dict[str, Any]).get("error")
    except (msgspec.MsgspecError, RecursionError):
        return None, ""
    if isinstance(error, dict):
        code = error.get("code")
        return body, code if isinstance(code, str) else ""
    if isinstance(error, str):
        shaped = {"message": error[:MAX_MESSAGE], "type": "api_error", "param": None, "code": None}
        return msgspec.json.encode({"error": shaped}), ""
    return None, ""


def _said(body: bytes | None, provider: Provider) -> str:
    """The message of an error body, without the credentials that were sent and what looks like a part of a key."""
    if body is None:
        return "no reason given."
    error = msgspec.json.decode(body).get("error")
    message = error.get("message") if isinstance(error, dict) else error
    said = without_secrets(str(message), provider)
    return _KEY_LIKE.sub("[key]", said[:MAX_MESSAGE])


def retry_after(headers: RawHeaders) -> float | None:
    """Seconds a provider asks to wait: `retry-after-ms`, `retry-after` in seconds or as a date; None if it says nothing."""
    exact = find(headers, b"retry-after-ms")
    if exact is not None and exact.isdigit() and len(exact) <= MOST_DIGITS:
        return int(exact) / 1000
    value = find(headers, b"retry-after")
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value.decode("latin-1")).timestamp() - time.time()
        # The parser of dates raises more than it says: years and zones of 20 digits overflow.
        except (ValueError, OverflowError, TypeError):
            return None
    return max(0.0, seconds) if seconds == seconds and seconds < 1e9 else None


def says_error(body: bytes) -> bool:
    """Whether a JSON body is an error object in spite of its status 200."""
    if body.find(b'"error"', 0, 4096) < 0:
        return False
    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.MsgspecError, RecursionError):
        return False
    return isinstance(decoded, dict) and bool(decoded.get("error")) and "choices" not in decoded and "data" not in decoded


def is_event_stream(headers: RawHeaders) -> bool:
    value = find(headers, b"content-type")
    return value is not None and value.lower().startswith(b"text/event-stream")


def is_json(headers: RawHeaders) -> bool:
    value = find(headers, b"content-type")
    return value is not None and value.lower().startswith(b"application/json")
