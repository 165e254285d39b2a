"""How a call shows itself once it is over: headers, the refusal for money, the log line."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from router.call import Attempt, Call
from router.domain.budgets import NEVER_MS, Bucket, Budget, Refusal, Unit
from router.domain.limits import reset_text
from router.domain.money import NUSD_PER_USD, format_amount, format_usd
from router.domain.request import Operation
from router.edge import headers as h
from router.edge.replies import JSON
from router.errors import BUDGET_EXCEEDED, RouterError
from router.facts_text import explanation
from router.quoted import secrets_of
from router.relay import STREAM_HEADERS

_IDS: Final = b"%b: %%b\r\n%b: %%b\r\n" % (h.REQUEST_ID, h.OWN_REQUEST_ID)
_COST: Final = b"%b: %%d.%%09d\r\n" % h.COST_USD
_LEFT: Final = b"%b: %%d.%%09d\r\n" % h.BUDGET_REMAINING_USD
_ANSWER: Final = b"%%b%b: %%d\r\n%b: %%.3f\r\n%%b%b" % (h.ATTEMPTS, h.OVERHEAD_MS, _IDS)


def with_ids(call: Call, headers: list[tuple[bytes, bytes]], upstream_id: bytes | None = None) -> bytes:
    """Header lines of a failure: where it was tried, and the request ids: the client's own first, else the provider's, else ours."""
    if call.rate_lines:
        headers = [pair for pair in headers if not pair[0].startswith(h.RATE_LIMIT)]
    return h.encode(headers) + call.rate_lines + _tried_lines(call) + _IDS % (_shown_id(call, upstream_id), call.id_bytes)


def _tried_lines(call: Call) -> bytes:
    """The deployments that were called, and their models, each once and in order; and what all of that cost."""
    if not call.attempts:
        return b""
    tried = [deployment for deployment, _ in call.tried]
    if call.winner is not None:
        tried.append(call.winner.deployment)
    return h.encode(
        [
            (h.MODEL, h.clean_value(", ".join(dict.fromkeys(deployment.model for deployment in tried)))),
            (h.DEPLOYMENT, h.clean_value(", ".join(dict.fromkeys(deployment.name for deployment in tried)))),
            (h.ROUTE, h.clean_value(call.route.name)),
            (h.RULE, h.clean_value(call.branch.rule)),
            (h.ATTEMPTS, b"%d" % call.attempts),
            (h.COST_USD, b"%d.%09d" % divmod(call.charge_nusd, NUSD_PER_USD)),
        ]
    )


def refused_by(error: RouterError) -> str:
    """The budget, limit or guard that a refusal names."""
    details = error.details or {}
    return str(details.get("budget") or details.get("limit_name") or details.get("guard") or "")


def _shown_id(call: Call, upstream_id: bytes | None) -> bytes:
    client = call.headers.get(h.REQUEST_ID)
    return client if client is not None and h.safe_id(client) is not None else upstream_id or call.id_bytes


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
    """Header lines of an answer: the content type, what the provider may show, where the call went and what it cost.

    `from_upstream`: the provider's headers, or at least those that may be shown.
    """
    call, way = attempt.call, attempt.way
    head = way.heads.get(stream)
    if head is None:
        deployment = attempt.deployment
        head = way.heads[stream] = _where_lines(
            deployment.model, deployment.name, call.route.name, call.branch.rule, attempt.reason, stream
        )
    passed = call.rate_lines
    upstream_id = None
    if from_upstream:
        passed = h.encode(h.passed_from_upstream(from_upstream, ours=bool(passed))) + passed
        upstream_id = h.find(from_upstream, h.REQUEST_ID)
    if not stream:
        passed += _COST % divmod(call.charge_nusd, NUSD_PER_USD)
    if attempt.clamped_to:
        passed += h.encode([(h.CLAMPED, b"%d" % attempt.clamped_to)])
    if call.request.explain and call.decision is not None:
        passed += h.encode([(h.EXPLANATION, explanation(call.decision))])
    left = call.budget_left_nusd
    if left is not None:
        passed += _LEFT % divmod(left if left > 0 else 0, NUSD_PER_USD)
    lines = _ANSWER % (head, call.attempts, overhead_seconds * 1000, passed, _shown_id(call, upstream_id), call.id_bytes)
    if from_upstream and any(start in lines for start in way.secrets):
        return secrets_of(attempt.deployment.provider).hide(lines)
    return lines


def _reset_text(ends_ms: int) -> str:
    return "never" if ends_ms >= NEVER_MS else reset_time(ends_ms)


def reset_time(ends_ms: int) -> str:
    """Unix milliseconds as ISO 8601 in UTC."""
    return datetime.fromtimestamp(ends_ms / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


SHARE_GROWS: Final = "More comes to this ledger in a second or two if other ones have not used it"
RAISE_IT: Final = "That is more than the whole limit: its owner must raise it"


def smaller_text(unit: Unit, limit_nusd: int, operation: Operation) -> str:
    """Says that a lower cap helps, where it can: not where there is no output to cap, or nothing to be had."""
    return " A smaller max_tokens needs less." if unit in ("usd", "tokens") and limit_nusd > 0 and operation != "embeddings" else ""


def _amounts(refusal: Refusal) -> dict[str, object]:
    """The amounts of a refusal: `limit_usd` and so on as text, or `limit` and so on as whole numbers of another unit."""
    unit = refusal.bucket.unit
    names = ("limit", "spent", "held", "left", "needed")
    values = (refusal.limit_nusd, refusal.spent_nusd, refusal.held_nusd, refusal.left_nusd, refusal.needed_nusd)
    if unit == "usd":
        return {f"{name}_usd": format_usd(value) for name, value in zip(names, values, strict=True)}
    return {"unit": unit, **dict(zip(names, values, strict=True))}


def _crowded_error(call: Call, refusal: Refusal) -> RouterError:
    bucket = refusal.bucket
    split = " and ".join(part.partition("=")[0] for part in bucket.scope.split("&"))
    message = (
        f"Budget '{bucket.budget}' counts at most {refusal.limit_nusd:,} different values of {split} in a window, and this one is new "
        f"({bucket.scope}). Use one that is known, or ask for a larger max_scopes. Request {call.request_id}."
    )
    details = {"budget": bucket.budget, "scope": bucket.scope, "max_scopes": refusal.limit_nusd, "request_id": call.request_id}
    return RouterError(BUDGET_EXCEEDED, message, details=details)


def _budget_of(call: Call, bucket: Bucket) -> Budget | None:
    """The budget that is counted in a bucket; None: a rate limit, which has no owner and is nowhere shared."""
    return next((budget for budget in call.snapshot.budgets if budget.name == bucket.budget), None)


def budget_error(call: Call, refusal: Refusal, *, deployment: str = "", among: int = 1) -> RouterError:
    """The refusal by a budget: which one, its limit, what is spent and held, what was needed, when it resets.

    `deployment`: what was refused; of so many candidates (`among`), the one that needs least.
    """
    bucket = refusal.bucket
    if refusal.crowded:
        return _crowded_error(call, refusal)

    def amount(value: int) -> str:
        return format_amount(value, bucket.unit)

    whose = f" ({bucket.scope})" if bucket.scope else ""
    resets = _reset_text(bucket.ends_ms)
    if resets != "never":
        when = f"It resets at {resets}"
    elif refusal.retry_after_ms is not None:
        when = f"There is room for it in {reset_text(refusal.retry_after_ms)}"
    elif bucket.unit == "concurrent":
        when = "Try again when one of them has ended"
    else:
        when = "It does not reset: its owner must raise it"
    if bucket.unit != "concurrent" and refusal.needed_nusd > refusal.limit_nusd:
        when = RAISE_IT
    changed = "" if refusal.limit_nusd == bucket.limit_nusd else f" for now ({amount(bucket.limit_nusd)} in the configuration)"
    budget = _budget_of(call, bucket)
    owner = "" if budget is None else budget.owner
    if budget is not None and budget.shared:
        whole = budget.limit_nusd
        # Its buckets have no limit but the share that the store knows.
        changed = f" in this ledger, as its share of {amount(whole)}"
        when = RAISE_IT if refusal.needed_nusd > whole else f"{SHARE_GROWS}. {when}" if when != RAISE_IT else SHARE_GROWS
    held = f" and {amount(refusal.held_nusd)} held by calls under way" if refusal.held_nusd else ""
    named = f", {deployment}" if deployment else ""
    cheapest = f" with the cheapest of {among} candidates{named}" if among > 1 else f" with {deployment}" if deployment else ""
    message = (
        f"Budget '{bucket.budget}'{whose} has no room for this request: limit {amount(refusal.limit_nusd)}{changed}, "
        f"spent {amount(refusal.spent_nusd)}{held}, {amount(refusal.left_nusd)} left; "
        f"this request could {'cost' if bucket.unit == 'usd' else 'need'} {amount(refusal.needed_nusd)}{cheapest}. "
        f"{when}.{f' Its owner: {owner}.' if owner else ''}"
        f"{smaller_text(bucket.unit, refusal.limit_nusd, call.operation)} Request {call.request_id}."
    )
    return RouterError(
        BUDGET_EXCEEDED,
        message,
        details={
            "budget": bucket.budget,
            "scope": bucket.scope,
            **({"deployment": deployment} if deployment else {}),
            **_amounts(refusal),
            "retry_after_ms": refusal.retry_after_ms,
            "resets_at": None if resets == "never" else resets,
            **({"owner": owner} if owner else {}),
            "request_id": call.request_id,
        },
    )
