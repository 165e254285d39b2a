"""Every error a client can get: one table, one exception."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

Source = Literal["client", "router", "upstream"]


@dataclass(frozen=True, slots=True)
class ErrorSpec:
    """One kind of error: how it looks on the wire and whether waiting helps."""

    code: str
    http_status: int
    openai_type: str
    source: Source
    retryable: bool
    """Whether the same request can succeed later. False sends `x-should-retry: false`."""


INVALID_JSON: Final = ErrorSpec("invalid_json", 400, "invalid_request_error", "client", False)
INVALID_REQUEST: Final = ErrorSpec("invalid_request", 400, "invalid_request_error", "client", False)
CONTEXT_LENGTH_EXCEEDED: Final = ErrorSpec("context_length_exceeded", 400, "invalid_request_error", "client", False)
REQUEST_LIMIT: Final = ErrorSpec("request_limit_exceeded", 400, "invalid_request_error", "client", False)
BAD_HTTP: Final = ErrorSpec("bad_http", 400, "invalid_request_error", "client", False)
INVALID_API_KEY: Final = ErrorSpec("invalid_api_key", 401, "authentication_error", "client", False)
KEY_EXPIRED: Final = ErrorSpec("key_expired", 401, "authentication_error", "client", False)
ADMIN_UNKNOWN: Final = ErrorSpec("invalid_admin_credential", 401, "authentication_error", "client", False)
BUDGET_EXCEEDED: Final = ErrorSpec("budget_exceeded", 402, "insufficient_quota", "client", False)
MAX_COST_EXCEEDED: Final = ErrorSpec("max_cost_exceeded", 402, "insufficient_quota", "client", False)
MODEL_NOT_ALLOWED: Final = ErrorSpec("model_not_allowed", 403, "permission_error", "client", False)
ROLE_NOT_ALLOWED: Final = ErrorSpec("role_not_allowed", 403, "permission_error", "client", False)
FROZEN: Final = ErrorSpec("frozen", 403, "permission_error", "client", False)
SESSION_PAUSED: Final = ErrorSpec("session_paused", 403, "permission_error", "client", False)
SESSION_REFUSED: Final = ErrorSpec("session_refused", 403, "permission_error", "client", False)
POLICY_REFUSED: Final = ErrorSpec("policy_refused", 403, "permission_error", "client", False)
MODEL_NOT_FOUND: Final = ErrorSpec("model_not_found", 404, "invalid_request_error", "client", False)
ROUTE_NOT_FOUND: Final = ErrorSpec("unknown_url", 404, "invalid_request_error", "client", False)
NOT_FOUND: Final = ErrorSpec("not_found", 404, "invalid_request_error", "client", False)
METHOD_NOT_ALLOWED: Final = ErrorSpec("method_not_allowed", 405, "invalid_request_error", "client", False)
REQUEST_TIMEOUT: Final = ErrorSpec("request_timeout", 408, "invalid_request_error", "client", True)
BODY_TOO_LARGE: Final = ErrorSpec("body_too_large", 413, "invalid_request_error", "client", False)
UNSUPPORTED_MEDIA_TYPE: Final = ErrorSpec("unsupported_media_type", 415, "invalid_request_error", "client", False)
RATE_LIMITED: Final = ErrorSpec("rate_limit_exceeded", 429, "rate_limit_error", "client", True)
HEADERS_TOO_LARGE: Final = ErrorSpec("headers_too_large", 431, "invalid_request_error", "client", False)
RATE_LIMIT_TOO_SMALL: Final = ErrorSpec("rate_limit_exceeded", 429, "rate_limit_error", "client", False)
CLIENT_CLOSED: Final = ErrorSpec("client_closed_request", 499, "invalid_request_error", "client", False)
INTERNAL: Final = ErrorSpec("internal_error", 500, "api_error", "router", True)
UPSTREAM_FAILED: Final = ErrorSpec("upstream_failed", 502, "api_error", "upstream", True)
UPSTREAM_INVALID: Final = ErrorSpec("upstream_invalid_response", 502, "api_error", "upstream", True)
UPSTREAM_REFUSED: Final = ErrorSpec("upstream_refused", 400, "invalid_request_error", "upstream", False)
UPSTREAM_BUSY: Final = ErrorSpec("upstream_refused", 409, "invalid_request_error", "upstream", True)
UPSTREAM_AUTH: Final = ErrorSpec("upstream_authentication_failed", 502, "api_error", "upstream", False)
NO_DEPLOYMENT: Final = ErrorSpec("no_deployment_available", 503, "api_error", "router", True)
STORE_UNAVAILABLE: Final = ErrorSpec("budget_store_unavailable", 503, "api_error", "router", True)
DRAINING: Final = ErrorSpec("shutting_down", 503, "api_error", "router", True)
OVERLOADED: Final = ErrorSpec("overloaded", 503, "api_error", "router", True)
DEADLINE_EXCEEDED: Final = ErrorSpec("deadline_exceeded", 504, "api_error", "client", False)
UPSTREAM_TIMEOUT: Final = ErrorSpec("upstream_timeout", 504, "api_error", "upstream", True)

ALL: Final[tuple[ErrorSpec, ...]] = tuple(value for value in list(globals().values()) if isinstance(value, ErrorSpec))


def of_upstream_status(status: int) -> ErrorSpec:
    """Our own error for a provider's status whose body says nothing: it keeps the status where clients know it."""
    if status == 429:
        return RATE_LIMITED
    if 400 <= status < 500:
        return replace(UPSTREAM_BUSY if status in (408, 409) else UPSTREAM_REFUSED, http_status=status)
    return replace(UPSTREAM_FAILED, http_status=status) if status in (503, 504) else UPSTREAM_FAILED


class RouterError(Exception):
    """A refusal or failure that a client is told about.

    The message names the thing, the limit and the unit, and never a secret or a prompt.
    """

    def __init__(
        self,
        spec: ErrorSpec,
        message: str,
        *,
        param: str | None = None,
        retry_after_seconds: float | None = None,
        details: dict[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.spec = spec
        self.message = message
        self.param = param
        self.retry_after_seconds = retry_after_seconds
        self.details = details
        """Further fields for machines, put into the error object beside `message`."""


class StoreUnavailable(Exception):
    """The budget store did not answer in time, or answered that it cannot serve."""


class LogReplaced(StoreUnavailable):
    """The ledger's log is not the one that a reader was in: it was restored from a backup, or made anew."""


class ConfigError(Exception):
    """The configuration cannot be used. The message holds all findings, one a line."""
