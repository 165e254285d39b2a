"""Every header that is read, sent or passed on: one table each way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Final

RawHeaders = Sequence[tuple[bytes, bytes]]
"""Headers of a provider, names in lower case."""
Headers = Mapping[bytes, bytes]
"""Headers of a client by lower-case name; of several with one name, the last."""

REQUEST_ID: Final = b"x-request-id"
OWN_REQUEST_ID: Final = b"x-faregate-request-id"
MODEL: Final = b"x-faregate-model"
DEPLOYMENT: Final = b"x-faregate-deployment"
ROUTE: Final = b"x-faregate-route"
RULE: Final = b"x-faregate-rule"
REASON: Final = b"x-faregate-reason"
ATTEMPTS: Final = b"x-faregate-attempts"
COST_USD: Final = b"x-faregate-cost-usd"
BUDGET_REMAINING_USD: Final = b"x-faregate-budget-remaining-usd"
OVERHEAD_MS: Final = b"x-faregate-overhead-ms"
CLAMPED: Final = b"x-faregate-clamped"
EXPLANATION: Final = b"x-faregate-explanation"
SHOULD_RETRY: Final = b"x-should-retry"
RETRY_AFTER: Final = b"retry-after"
RATE_LIMIT: Final = b"x-ratelimit-"

SENT: Final[dict[bytes, str]] = {
    REQUEST_ID: "The client's own id if it sent one, else the provider's, else ours.",
    OWN_REQUEST_ID: "Our id of the request: the one in logs and spend records.",
    MODEL: "Name of the model that answered, as in the configuration. On a failure: of all that were called, in order.",
    DEPLOYMENT: "Deployment that answered: `provider/id`. On a failure: all that were called, in order. Missing if none was.",
    ROUTE: "Route that the client asked for.",
    RULE: "Rule of the route that matched; `default` if none did.",
    REASON: "Why this deployment: the policy kind, or `fallback:` and the cause.",
    ATTEMPTS: "Calls made to providers for this request, retries and fallbacks included.",
    COST_USD: "Charge of this request in USD, also where its calls failed. Not on streams: their headers leave before the cost is known.",
    BUDGET_REMAINING_USD: "What was left in the tightest hard budget while this request was held, USD.",
    OVERHEAD_MS: "Milliseconds spent in the proxy itself, the provider's time taken out.",
    CLAMPED: "The cap on output that was forwarded because a budget had no room for a higher one. Only on such answers.",
    EXPLANATION: "Where the body has `faregate: {explain: true}`: rule, kind, models in order with scores, others and why not. JSON.",
    SHOULD_RETRY: "`false` where sending the same request again cannot help, `true` where a service ends. OpenAI's SDKs obey it.",
    RATE_LIMIT + b"limit-requests": "Most requests in the window of the rate limit with the smallest share left; the same for `tokens`.",
    RATE_LIMIT + b"remaining-requests": "What this request leaves of it; the same for `tokens`.",
    RATE_LIMIT + b"reset-requests": "When all of it is there again if nothing more is sent: `1m0s`; the same for `tokens`.",
    RETRY_AFTER: "Seconds after which trying again makes sense.",
}

AUTHORIZATION: Final = b"authorization"
API_KEY: Final = b"x-api-key"
GOOGLE_API_KEY: Final = b"x-goog-api-key"
TAGS: Final = b"x-faregate-tags"
SESSION: Final = b"x-faregate-session"
MAX_COST_USD: Final = b"x-faregate-max-cost-usd"
USE: Final = b"x-faregate-use"
DEADLINE_MS: Final = b"x-faregate-deadline-ms"

READ: Final[dict[bytes, str]] = {
    AUTHORIZATION: "`Bearer` and a virtual key.",
    API_KEY: "A virtual key, as Anthropic's clients send it.",
    GOOGLE_API_KEY: "A virtual key, as Google's clients send it.",
    REQUEST_ID: "Taken over as the id of the request, up to 128 visible characters.",
    TAGS: "`name=value,name=value`; tags of the key win. At most 32, of at most 256 characters, with those of the body; more is a 400.",
    SESSION: "Name of the session (an agent's run) that the request belongs to.",
    MAX_COST_USD: "Most that this request may cost, USD: `0.05`, `1,250.50`. No sign, exponent or space, at most 9 decimals.",
    USE: "Only these deployments or models, separated by commas.",
    DEADLINE_MS: "Milliseconds within which the whole answer must be there, all retries and fallbacks included.",
}

TO_UPSTREAM: Final[frozenset[bytes]] = frozenset({b"traceparent", b"tracestate", b"idempotency-key", b"openai-beta"})
"""Request headers that are passed on to providers. Everything else stays here."""

FROM_UPSTREAM: Final[frozenset[bytes]] = frozenset(
    {
        b"openai-processing-ms",
        b"openai-version",
        b"x-ratelimit-limit-requests",
        b"x-ratelimit-limit-tokens",
        b"x-ratelimit-remaining-requests",
        b"x-ratelimit-remaining-tokens",
        b"x-ratelimit-reset-requests",
        b"x-ratelimit-reset-tokens",
        b"retry-after",
        b"retry-after-ms",
        b"x-should-retry",
    }
)
"""Response headers of providers that are passed on to clients."""

MAX_ID_LENGTH: Final = 128


def passed_from_upstream(headers: RawHeaders, *, ours: bool = False) -> list[tuple[bytes, bytes]]:
    """The provider's headers that a client may see. `ours`: rate limits of our own are told instead of the provider's."""
    return [pair for pair in headers if pair[0] in FROM_UPSTREAM and not (ours and pair[0].startswith(RATE_LIMIT))]


def passed_to_upstream(headers: Headers) -> list[tuple[bytes, bytes]]:
    """The client's headers that a provider may see."""
    return [] if TO_UPSTREAM.isdisjoint(headers) else [(name, headers[name]) for name in sorted(TO_UPSTREAM) if name in headers]


def find(headers: RawHeaders, name: bytes) -> bytes | None:
    """The first value of a header, by its lower-case name."""
    for key, value in headers:
        if key == name:
            return value
    return None


def safe_id(value: bytes | None) -> str | None:
    """A client's request id if it is short and visible ASCII, else None."""
    if value is None or not 0 < len(value) <= MAX_ID_LENGTH or not value.isascii():
        return None
    text = value.decode("ascii")
    return text if text.isprintable() and " " not in text else None


@lru_cache(maxsize=4096)
def clean_value(text: str) -> bytes:
    """A header value that cannot break the framing: visible ASCII, the rest replaced by `?`."""
    return bytes(byte if 32 <= byte < 127 else 63 for byte in text.encode("ascii", "replace"))


def encode(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Header lines, as they stand on the wire."""
    return b"".join([b"%b: %b\r\n" % pair for pair in headers])


def decode(lines: bytes) -> list[tuple[bytes, bytes]]:
    """The opposite of `encode`."""
    pairs = (line.partition(b": ") for line in lines.split(b"\r\n") if line)
    return [(name, value) for name, _, value in pairs]


LABELS: Final[frozenset[bytes]] = frozenset({TAGS, SESSION, MAX_COST_USD, USE, DEADLINE_MS})
"""Headers by which a request tells about itself or tightens its routing."""
