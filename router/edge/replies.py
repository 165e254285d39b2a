"""Errors as OpenAI's clients know them."""

from __future__ import annotations

import math
from typing import NamedTuple

import msgspec

from router.edge.headers import RETRY_AFTER, SHOULD_RETRY
from router.errors import DRAINING, INTERNAL, RouterError

JSON: tuple[bytes, bytes] = (b"content-type", b"application/json")
MAX_RETRY_AFTER_SECONDS = 60
"""Some clients sleep for the whole Retry-After without a word, so a longer one is not sent."""


SERVING_FAILED = RouterError(INTERNAL, "The router failed to serve this request; its log says why.")


class Reply(NamedTuple):
    """A whole answer."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


def error_object(error: RouterError) -> dict[str, object]:
    """The member `error` of the body."""
    shown: dict[str, object] = {
        "message": error.message,
        "type": error.spec.openai_type,
        "param": error.param,
        "code": error.spec.code,
    }
    return shown if error.details is None else {**shown, **error.details}


def error_reply(error: RouterError, *, status: int | None = None) -> Reply:
    """The answer for an error; `x-should-retry` says `false` wherever waiting does not help."""
    headers = [JSON]
    if not error.spec.retryable:
        headers.append((SHOULD_RETRY, b"false"))
    if error.retry_after_seconds is not None and error.spec.retryable:
        seconds = min(MAX_RETRY_AFTER_SECONDS, max(1, math.ceil(error.retry_after_seconds)))
        headers.append((RETRY_AFTER, b"%d" % seconds))
        if error.spec is DRAINING:
            # Another process serves it: whoever does not try again on a 503 should here.
            headers.append((SHOULD_RETRY, b"true"))
    return Reply(status or error.spec.http_status, headers, msgspec.json.encode({"error": error_object(error)}))
