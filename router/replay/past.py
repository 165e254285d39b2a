"""A request of the past: why it went where it went, and what every candidate would have cost for the tokens that it took."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from policies.plans import described
from policies.types import Decision, RequestFacts
from router.domain.money import format_usd
from router.domain.records import SpendRecord
from router.errors import ConfigError
from router.facts_text import RuleLine, facts_text, rules_of, rules_text
from router.replay.observed import Observed
from router.replay.requests import Asked, read_requests
from router.replay.simulate import World, cost_on
from router.replay.trace import Trace, read_trace, recall, states_of
from router.snapshot import Snapshot


class AttemptLine(msgspec.Struct, kw_only=True):
    """One call of a provider."""

    deployment: str
    reason: str
    outcome: str
    http_status: int
    charge_nusd: int
    hold_nusd: int
    duration_ms: int


class PastCandidate(msgspec.Struct, kw_only=True):
    """One deployment that the route can reach."""

    deployment: str
    model: str
    place: int | None = None
    """Place in the order to try, from 1; None if it was out."""
    score: float | None = None
    parts: dict[str, float] = {}
    """What the score is made of."""
    reason: str = ""
    detail: str = ""
    state: str = ""
    """What was known of it then, in words."""
    cost_nusd: int | None = None
    """What the request would have cost there, for the same tokens; None: no price is known, or it is not configured any more."""


class Past(msgspec.Struct, kw_only=True):
    """What the books say of a request."""

    request_id: str
    at_ms: int
    route: str
    rule: str
    kind: str
    measure: str
    """What the scores are."""
    draw: float | None
    """The number that stood for chance; None: not kept."""
    team: str
    key_id: str
    config_version: str
    kept: bool
    """Whether the decision was kept; else it was made again from what the record tells, under the configuration at hand."""
    again: bool | None
    """Whether the configuration at hand makes the same decision of what was kept; None: it cannot be asked."""
    input_tokens: int
    output_tokens: int
    charge_nusd: int
    attempts: list[AttemptLine]
    candidates: list[PastCandidate]
    facts: RequestFacts | None = None
    """What the decision was made of; None: it was not kept."""
    rules: list[RuleLine] = []
    """What the rules of the configuration at hand say of that, up to the one that holds."""
    plan: list[str] = []
    """What was to be done beside trying them one after the other, and what the kind knew of the moment."""


def find_past(snapshot: Snapshot, records: list[SpendRecord]) -> Past:
    """Tell of a request by all of its records.

    Raises:
        ConfigError: they say too little.
    """
    requests = read_requests(records)
    if not requests:
        raise ConfigError("The log has records of this request, but none that names a deployment.")
    asked = requests[0]
    traced = next((record for record in records if record.trace), None)
    trace = None if traced is None else read_trace(traced)
    decision = _again(snapshot, asked) if trace is None else trace.decision
    again = None
    if trace is not None and traced is not None:
        made = recall(snapshot, traced, trace)
        again = None if made is None else _told_apart(made) == _told_apart(trace.decision)
    return Past(
        request_id=asked.request_id,
        at_ms=asked.starts_ms,
        route=asked.facts.route,
        rule=asked.rule,
        kind="" if decision is None else decision.kind,
        measure="" if decision is None else decision.measure,
        draw=None if trace is None else trace.draw,
        team=asked.facts.team,
        key_id=asked.facts.key_id,
        config_version=asked.config_version,
        kept=trace is not None,
        again=again,
        input_tokens=asked.usage.input_tokens,
        output_tokens=asked.usage.output_tokens,
        charge_nusd=asked.charge_nusd,
        attempts=[_attempt(record) for record in records],
        candidates=_candidates(snapshot, asked, decision, trace),
        facts=None if trace is None else asked.facts,
        rules=[] if trace is None or (route := snapshot.routes.get(asked.facts.route)) is None else rules_of(route.policy, asked.facts),
        plan=[] if decision is None else described(decision.plan, asked.facts.live, when="then"),
    )


def _told_apart(decision: Decision) -> Decision:
    """What makes it another decision. In which order those that are out were found does not, nor what is only said about it."""
    plan = None if decision.plan is None else msgspec.structs.replace(decision.plan, full=())
    return msgspec.structs.replace(decision, rejected=tuple(sorted(decision.rejected, key=lambda out: out.deployment)), plan=plan)


def _again(snapshot: Snapshot, asked: Asked) -> Decision | None:
    world = World(snapshot, Observed([asked]))
    route = world.route_of(asked)
    if route is None:
        return None
    world.remember(asked)
    return world.decide(asked, route)


def _attempt(record: SpendRecord) -> AttemptLine:
    return AttemptLine(
        deployment=record.deployment,
        reason=record.reason,
        outcome=record.outcome,
        http_status=record.http_status,
        charge_nusd=record.charge_nusd,
        hold_nusd=record.hold_nusd,
        duration_ms=record.duration_ms,
    )


def _candidates(snapshot: Snapshot, asked: Asked, decision: Decision | None, trace: Trace | None) -> list[PastCandidate]:
    states = {} if trace is None else states_of(trace)
    lines: dict[str, PastCandidate] = {}
    if decision is not None:
        for place, ranked in enumerate(decision.order, start=1):
            lines[ranked.deployment] = PastCandidate(
                deployment=ranked.deployment, model="", place=place, score=ranked.score, parts=dict(ranked.parts or {})
            )
        for out in decision.rejected:
            lines[out.deployment] = PastCandidate(deployment=out.deployment, model="", reason=out.reason, detail=out.detail)
    route = snapshot.routes.get(asked.facts.route)
    for name in () if route is None else route.deployments:
        lines.setdefault(name, PastCandidate(deployment=name, model="", reason="not_selected", detail="by this rule"))
    for name, line in lines.items():
        deployment = snapshot.deployments.get(name)
        if deployment is not None:
            line.model, line.cost_nusd = deployment.model, cost_on(asked, deployment)
        if name in states:
            state = states[name]
            parts = [str(state["health"]), f"{state['in_flight']} in flight"]
            parts += [f"{word} {state[field]:.0f} ms" for word, field in _TIMES if state[field] is not None]
            line.state = ", ".join(parts)
    return list(lines.values())


_TIMES = (("first token", "first_token_ms"), ("whole call", "total_ms"))


def as_text(told: Past) -> str:
    """For people."""
    when = datetime.fromtimestamp(told.at_ms / 1000, UTC)
    who = ", ".join(f"{word} {value}" for word, value in (("team", told.team), ("key", told.key_id)) if value) or "nobody in particular"
    lines = [
        f"request {told.request_id} of {when:%Y-%m-%d %H:%M:%S} UTC, by {who}, under configuration {told.config_version or 'unknown'}",
        f"route {told.route}, rule {told.rule}, kind {told.kind or 'unknown'}"
        + ("" if told.draw is None else f", number drawn {told.draw:.6f}"),
        _how_known(told),
        f"{told.input_tokens:,} tokens in, {told.output_tokens:,} out, charged {format_usd(told.charge_nusd)} USD",
    ]
    if told.facts is not None:
        lines.append(f"request: {facts_text(told.facts)}")
    lines += rules_text(told.rules)
    lines += [f"plan: {line}" for line in told.plan]
    for number, one in enumerate(told.attempts, start=1):
        lines.append(
            f"attempt {number}: {one.deployment} ({one.reason}): {one.outcome}, HTTP {one.http_status}, {one.duration_ms:,} ms, "
            f"held {format_usd(one.hold_nusd)}, charged {format_usd(one.charge_nusd)} USD"
        )
    for line in told.candidates:
        place = "- " if line.place is None else f"{line.place}."
        why = f": {line.reason}{f', {line.detail}' if line.detail else ''}" if line.reason else ""
        score = "" if line.score is None else f"; {told.measure or 'score'} {line.score:g}"
        cost = "no price known" if line.cost_nusd is None else f"would have cost {format_usd(line.cost_nusd)} USD"
        lines.append(f"{place} {line.deployment} (model {line.model or 'unknown'}){why}")
        made = f" ({', '.join(f'{name} {value:g}' for name, value in line.parts.items())})" if line.parts else ""
        lines.append(f"   {cost}{score}{made}{f'; {line.state}' if line.state else ''}")
    return "\n".join(lines)


def _how_known(told: Past) -> str:
    if not told.kept:
        return "its decision was not kept (server.record_decisions): it was made again from what the record tells, all deployments up"
    if told.again is None:
        return "its decision was kept; the configuration at hand does not know its route or a deployment, or asks what was not asked then"
    same = "the same decision" if told.again else "another decision"
    return f"its decision was kept; of what was known then, the configuration at hand makes {same}"
