"""What is written once per call: the spend record and the line of the request log, as bytes.

Most of a line is the same for every call of one principal by one rule to one deployment. That part is encoded once
and kept (`Way`); the rest is numbers and words of closed sets. `SpendRecord` and `RequestLine` say what the lines mean.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from functools import lru_cache
from typing import Any, Final

import msgspec

from router.call import Attempt, Call, Plain, Way
from router.domain.addresses import in_url
from router.domain.extras import Billed
from router.domain.learning import Learned
from router.domain.prices import Price
from router.domain.pricing import rates_for
from router.domain.usage import Usage
from router.quoted import secrets_of
from router.snapshot import Deployment, Snapshot

MOST_WAYS: Final = 50_000
MAX_SERVED_MODEL: Final = 128

_encode = msgspec.json.encode

# As `spend_record` and `log_line` write them.
_PLAIN: Final = (
    b'{"attempt_id":"%%b","request_id":"%%b","at_ms":%%d,%b,"outcome":"ok","http_status":%%d,"attempt_number":%%d,'
    b'"hold_nusd":%%d,"charge_nusd":%%d,"duration_ms":%%d,"input_tokens":%%d,"output_tokens":%%d,"evidence":"exact",'
    b'"first_byte_ms":%%d%%b}'
)
_OK_LOG: Final = (
    b'{"at_ms":%%d,"request_id":"%%b",%b,"status":%%d,"outcome":"ok","error":"","attempts":%%d,'
    b'"input_tokens":%%d,"output_tokens":%%d,"cost_nusd":%%d,"overhead_ms":%%.3f,"total_ms":%%.3f}'
)

_PARTS_OF_USAGE: Final = ("cache_read_tokens", "cache_write_tokens", "audio_input_tokens", "reasoning_tokens", "audio_output_tokens")


class Ways:
    """Finds what calls that go the same way have in common."""

    def __init__(self, learned: Learned | None = None, *, strict: bool = False) -> None:
        """`learned`: what answers teach; None: nothing is to be learned. `strict`: until it is known to which budgets a way
        leads, its inputs are held at their certain bound."""
        self._learned = learned
        self._strict = strict
        self._ways: OrderedDict[tuple[object, ...], Way] = OrderedDict()

    def of(self, call: Call, deployment: Deployment, reason: str) -> Way:
        """The way of this call to this deployment."""
        key: tuple[object, ...]
        branch, regular = call.branch, call.regular
        if regular is not None:
            # It stands for all the others: what may be said of a call is not said by a plain one.
            key = (regular, branch.rule, branch.private, deployment.name, reason, call.stream)
        else:
            key = self._key(call, deployment, reason)
        way = self._ways.get(key)
        if way is None:
            way = self._ways[key] = _make_way(call, deployment, reason)
            if self._learned is not None:
                way.habits = self._learned.habits(
                    route=call.route.name, model=deployment.model, deployment=deployment.name, strict=self._strict
                )
            if len(self._ways) > MOST_WAYS:
                self._ways.popitem(last=False)
        return way

    @staticmethod
    def _key(call: Call, deployment: Deployment, reason: str) -> tuple[object, ...]:
        principal = call.principal
        return (
            principal.key_id,
            principal.team,
            call.user,
            call.session,
            call.route.name,
            call.branch.rule,
            call.branch.private,
            deployment.name,
            reason,
            call.operation,
            call.request.stream,
            tuple(call.tags.items()),
        )


def ways_of(snapshot: Snapshot, learned: Learned) -> Ways:
    """The ways of calls under a configuration. Nothing is learned where no budget refuses: only then must holds be tight."""
    guards = any(budget.hard for budget in snapshot.budgets)
    strict = snapshot.server.strict or any(budget.strict for budget in snapshot.budgets)
    return Ways(learned if guards else None, strict=strict)


def _make_way(call: Call, deployment: Deployment, reason: str) -> Way:
    principal = call.principal
    who_and_where: dict[str, Any] = {
        "operation": call.operation,
        "route": call.route.name,
        "rule": call.branch.rule,
        "reason": reason,
        "model": deployment.model,
        "deployment": deployment.name,
        "provider": deployment.provider.name,
        "team": principal.team,
        "key_id": principal.key_id,
        "user": call.user,
        "session": call.session,
        "tags": dict(call.tags),
        "stream": call.request.stream,
        "config_version": call.snapshot.version,
    }
    if principal.org:
        who_and_where["org"] = principal.org
    if call.branch.private:
        endpoint = deployment.provider.endpoint
        who_and_where |= {"private": call.branch.private, "host": f"{in_url(endpoint.host)}:{endpoint.port}"}
        who_and_where |= {"locality": deployment.traits.locality or ""}
    price = deployment.price
    if price is not None:
        who_and_where |= _price_fields(price)
    record = _inside(who_and_where)
    shown = {name: who_and_where[name] for name in ("route", "rule", "model", "deployment", "team", "key_id", "operation", "stream")}
    log = _inside(shown)
    return Way(
        record=record,
        log=log,
        ok_log=_OK_LOG % _escaped(log),
        plain=_plain(call, deployment, record),
        tiered=price is not None and bool(price.tiers),
        priced_by_image=price is not None and price.per_image_nusd is not None,
        timeouts=call.route.timeouts or deployment.timeouts,
        secrets=secrets_of(deployment.provider).starts,
    )


def _plain(call: Call, deployment: Deployment, record: bytes) -> Plain | None:
    """None where an answer costs more than its tokens, or more must be said of each."""
    price = deployment.price
    if price is None or price.tiers or price.services or price.per_image_nusd is not None or price.per_hour_nusd is not None:
        return None
    if call.snapshot.server.baseline is not None:
        return None
    return Plain(_PLAIN % _escaped(record), price.rates.input, price.rates.output, price.per_request_nusd)


def _escaped(text: bytes) -> bytes:
    """To stand in a template."""
    return text.replace(b"%", b"%%")


def _price_fields(price: Price) -> dict[str, Any]:
    """What of a price is the same for calls with prompts of any length."""
    named: dict[str, Any] = {"price_source": price.source, "price_date": price.date or None, "price_request": price.per_request_nusd}
    if price.per_image_nusd is not None:
        named["price_image"] = price.per_image_nusd
    if price.per_hour_nusd is not None:
        named |= {"price_hour": price.per_hour_nusd, "price_concurrency": price.concurrency}
    if not price.tiers:
        named |= _rates(price, 0)
    return {name: value for name, value in named.items() if value is not None}


def _rates(price: Price, input_tokens: int) -> dict[str, int]:
    rates = rates_for(price, input_tokens)
    passed = [tier.above_input_tokens for tier in price.tiers if tier.above_input_tokens < input_tokens]
    named = {
        "price_input": rates.input,
        "price_cache_read": rates.cache_read,
        "price_cache_write": rates.cache_write,
        "price_audio_input": rates.audio_input,
        "price_output": rates.output,
        "price_reasoning": rates.reasoning,
        "price_audio_output": rates.audio_output,
        "price_above_tokens": passed[-1] if passed else None,
    }
    return {name: rate for name, rate in named.items() if rate is not None}


def _special_fields(way: bytes, special: Billed, usage: Usage | None) -> bytes:
    """The same as `way` for a call that is not charged at the usual price alone."""
    fields: dict[str, Any] = msgspec.json.decode(b"{%b}" % way)
    fields = {name: value for name, value in fields.items() if not name.startswith("price_")} | _price_fields(special.price)
    if special.price.tiers:
        fields |= _rates(special.price, 0 if usage is None else usage.input_tokens)
    fields["price_request"] -= special.search_nusd
    if special.service_tier:
        fields["service_tier"] = special.service_tier
    if special.search:
        fields |= {"web_search": special.search, "price_web_search": special.search_nusd}
    return _inside(fields)


def _inside(fields: dict[str, Any]) -> bytes:
    """The members of a JSON object, without its braces."""
    return _encode(fields)[1:-1]


def note(call: Call, way: Way) -> bytes:
    """What the books say of an attempt whose process dies before it can settle."""
    return b'{"request_id":"%b",%b}' % (call.id_bytes, way.record)


def spend_record(
    attempt: Attempt,
    *,
    usage: Usage | None,
    outcome: str,
    served_model: str,
    at_ms: int,
    duration_ms: int,
    baseline_nusd: int | None,
    overrun_cause: str,
    charged_hold: bool = False,
) -> bytes:
    """One `router.domain.records.SpendRecord`."""
    call, held = attempt.call, attempt.held.amount_nusd
    line = (
        b'{"attempt_id":"%b","request_id":"%b","at_ms":%d,%b,"outcome":"%b","http_status":%d,"attempt_number":%d,'
        b'"hold_nusd":%d,"charge_nusd":%d,"duration_ms":%d'
        % (
            attempt.attempt_id.encode("ascii"),
            call.id_bytes,
            at_ms,
            attempt.way.record if attempt.billed is None else _special_fields(attempt.way.record, attempt.billed, usage),
            outcome.encode("ascii"),
            attempt.status,
            attempt.number,
            held,
            attempt.charge_nusd,
            duration_ms,
        )
    )
    if usage is not None:
        line += b',"input_tokens":%d,"output_tokens":%d,"evidence":"%b"' % (
            usage.input_tokens,
            usage.output_tokens,
            usage.evidence.encode("ascii"),
        )
    if attempt.first_byte_at is not None:
        line += b',"first_byte_ms":%d' % int((attempt.first_byte_at - attempt.began) * 1000)
    if served_model and served_model != attempt.deployment.upstream_id:
        line += served_as(served_model[:MAX_SERVED_MODEL])
    if baseline_nusd is not None:
        line += b',"baseline_nusd":%d' % baseline_nusd
    if attempt.clamped_to:
        line += b',"clamped_to":%d' % attempt.clamped_to
    if attempt.sends > 1:
        line += b',"sends":%d' % attempt.sends
    if attempt.way.priced_by_image and call.request.shape.images:
        line += b',"images":%d' % call.request.shape.images
    if charged_hold or call.trace or call.plan is not None:
        line += _seldom(call, charged_hold=charged_hold)
    if attempt.charge_nusd <= held and (usage is None or _is_plain(usage)) and not attempt.way.tiered:
        return line + b"}"
    rare = _rare(attempt, usage, overrun_cause)
    return line + (b",%b}" % _inside(rare) if rare else b"}")


@lru_cache(maxsize=1024)
def served_as(model: str) -> bytes:
    """The member that names another model than the one that was asked for; at most `MAX_SERVED_MODEL` characters of it."""
    return b',"served_model":%b' % _encode(model)


def _seldom(call: Call, *, charged_hold: bool) -> bytes:
    line = b',"charged_hold":true' if charged_hold else b""
    if call.plan is not None and call.plan.arms:
        chance = math.prod(arm.propensity for arm in call.plan.arms)
        line += b',"arms":%b,"propensity_ppm":%d' % (_encode({arm.experiment: arm.arm for arm in call.plan.arms}), round(chance * 1e6))
    if call.trace:
        # Once per request: the other attempts follow from the same decision.
        line += b',"trace":%b' % call.trace
        call.trace = b""
    return line


def _is_plain(usage: Usage) -> bool:
    """Whether nothing is to be said of it but the tokens in and out."""
    return not (
        usage.cache_read_tokens
        or usage.reasoning_tokens
        or usage.doubt
        or usage.cache_write_tokens
        or usage.audio_input_tokens
        or usage.audio_output_tokens
    )


def _rare(attempt: Attempt, usage: Usage | None, overrun_cause: str) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    over = attempt.charge_nusd - attempt.held.amount_nusd
    if over > 0:
        fields["overrun_nusd"] = over
        fields["overrun_cause"] = overrun_cause
    if usage is None:
        return fields
    for name in _PARTS_OF_USAGE:
        tokens = getattr(usage, name)
        if tokens:
            fields[name] = tokens
    if usage.doubt:
        fields["doubt"] = usage.doubt
    price = attempt.price
    if price is not None and price.tiers and attempt.billed is None:
        fields |= _rates(price, usage.input_tokens)
    return fields


def _where_it_failed(call: Call) -> bytes:
    """The members of a log line that say who asked, where it went, and who refused."""
    tried = [deployment.name for deployment, _ in call.tried]
    if call.winner is not None:
        where = call.winner.way.log
    elif call.tried:
        where = call.tried[-1][1].log
    else:
        principal = call.principal
        route = call.route.name if call.routed else ""
        where = _inside({"route": route, "team": principal.team, "key_id": principal.key_id, "operation": call.operation})
    more: dict[str, Any] = {}
    if tried:
        more["tried"] = tried
    if call.refused_by:
        more["refused_by"] = call.refused_by
    return b"%b,%b" % (where, _inside(more)) if more else where


def log_line(call: Call, *, at_ms: int, overhead_seconds: float, total_seconds: float) -> bytes:
    """One `router.logs.RequestLine`."""
    attempt, usage = call.winner, call.usage
    if attempt is not None and usage is not None and call.outcome == "ok" and not call.error_code and not call.refused_by:
        return attempt.way.ok_log % (
            at_ms,
            call.id_bytes,
            call.status,
            call.attempts,
            usage.input_tokens,
            usage.output_tokens,
            call.charge_nusd,
            overhead_seconds * 1000,
            total_seconds * 1000,
        )
    where = attempt.way.log if attempt is not None and not call.refused_by else _where_it_failed(call)
    return (
        b'{"at_ms":%d,"request_id":"%b",%b,"status":%d,"outcome":"%b","error":"%b","attempts":%d,'
        b'"input_tokens":%b,"output_tokens":%b,"cost_nusd":%d,"overhead_ms":%.3f,"total_ms":%.3f}'
        % (
            at_ms,
            call.id_bytes,
            where,
            call.status,
            call.outcome.encode("ascii"),
            call.error_code.encode("ascii", "replace"),
            call.attempts,
            b"null" if usage is None else b"%d" % usage.input_tokens,
            b"null" if usage is None else b"%d" % usage.output_tokens,
            call.charge_nusd,
            overhead_seconds * 1000,
            total_seconds * 1000,
        )
    )
