"""How a call shows itself once it is over: headers, the refusal for money, the log line."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from router.call import Attempt, Call
from router.domain.budgets import NEVER_MS, Refusal
from router.domain.money import NUSD_PER_USD, format_usd
from router.edge import headers as h
from router.edge.replies import JSON
from router.errors import BUDGET_EXCEEDED, RouterError
from router.relay import STREAM_HEADERS

_IDS: Final = b"%b: %%b\r\n%b: %%b\r\n" % (h.REQUEST_ID, h.OWN_REQUEST_ID)
_COST: Final = b"%b: %%d.%%09d\r\n" % h.COST_USD
_LEFT: Final = b"%b: %%d.%%09d\r\n" % h.BUDGET_REMAINING_USD
_ANSWER: Final = b"%%b%b: %%d\r\n%b: %%.3f\r\n%%b%%b" % (h.ATTEMPTS, h.OVERHEAD_MS)


def with_ids(call: Call, headers: list[tuple[bytes, bytes]], upstream_id: bytes | None = None) -> bytes:
    """Header lines with the request ids: the client's own first, else the provider's, else ours."""
    return h.encode(headers) + _id_lines(call, upstream_id)


def _id_lines(call: Call, upstream_id: bytes | None) -> bytes:
    own = call.id_bytes
    client = call.headers.get(h.REQUEST_ID)
    shown = client if client is not None and h.safe_id(client) is not None else upstream_id or own
    return _IDS % (shown, own)


def _where_lines(model: str, deployment: str, route: str, rule: str, reason: str, stream: bool) -> bytes:
    """The part of an answer's head that is the same for all requests that took the same way. Names are from the configuration."""
    return h.encode(
        [
            *(STREAM_HEADERS if stream else (JSON,)),
            (h.MODEL, h.clean_value(model)),
            (h.DEPLOYMENT, h.clean_value(deployment)),
            (h.ROUTE, h.clean_value(route)),
            (h.RULE, h.clean_value(rule)),
            (h.REASON, h.clean_value(reason)),
        ]
    )


def answer_headers(attempt: Attempt, from_upstream: h.RawHeaders, *, stream: bool, overhead_seconds: float) -> bytes:
    """Header lines of an answer: the content type, what the provider may show, where the call went and what it cost."""
    call, way = attempt.call, attempt.way
    head = way.heads.get(stream)
    if head is None:
        deployment = attempt.deployment
        head = way.heads[stream] = _where_lines(
            deployment.model, deployment.name, call.route.name, call.branch.rule, attempt.reason, stream
        )
    named = dict(from_upstream)
    passed = b"" if h.FROM_UPSTREAM.isdisjoint(named) else h.encode(h.passed_from_upstream(from_upstream))
    if not stream:
        passed += _COST % divmod(call.charge_nusd, NUSD_PER_USD)
    left = call.budget_left_nusd
    if left is not None:
        passed += _LEFT % divmod(left if left > 0 else 0, NUSD_PER_USD)
    ids = _id_lines(call, named.get(h.REQUEST_ID))
    return _ANSWER % (head, call.attempts, overhead_seconds * 1000, passed, ids)


def _reset_text(ends_ms: int) -> str:
    if ends_ms >= NEVER_MS:
        return "never"
    return datetime.fromtimestamp(ends_ms / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def budget_error(call: Call, refusal: Refusal) -> RouterError:
    """The refusal for money: which budget, its limit, what is spent and held, what was needed, when it resets."""
    bucket = refusal.bucket
    whose = f" ({bucket.scope})" if bucket.scope else ""
    resets = _reset_text(bucket.ends_ms)
    when = "It does not reset: its owner must raise it" if resets == "never" else f"It resets at {resets}"
    changed = "" if refusal.limit_nusd == bucket.limit_nusd else f" for now ({format_usd(bucket.limit_nusd)} USD in the configuration)"
    held = f" and {format_usd(refusal.held_nusd)} USD held by calls under way" if refusal.held_nusd else ""
    message = (
        f"Budget '{bucket.budget}'{whose} has no room for this request: limit {format_usd(refusal.limit_nusd)} USD{changed}, "
        f"spent {format_usd(refusal.spent_nusd)} USD{held}, {format_usd(refusal.left_nusd)} USD left; "
        f"this request could cost {format_usd(refusal.needed_nusd)} USD. "
        f"{when}. A smaller max_tokens needs less. Request {call.request_id}."
    )
    return RouterError(
        BUDGET_EXCEEDED,
        message,
        details={
            "budget": bucket.budget,
            "scope": bucket.scope,
            "limit_usd": format_usd(refusal.limit_nusd),
            "spent_usd": format_usd(refusal.spent_nusd),
            "held_usd": format_usd(refusal.held_nusd),
            "left_usd": format_usd(refusal.left_nusd),
            "needed_usd": format_usd(refusal.needed_nusd),
            "resets_at": None if resets == "never" else resets,
            "request_id": call.request_id,
        },
    )
