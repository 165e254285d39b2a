"""Explain: where a request would go, by the code that serves it, and what every candidate would have cost."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Final

import msgspec

from policies.plans import described, no_second_call
from policies.types import Decision, MissingSignal, Rejection, RequestFacts
from router.call import Call, Principal
from router.domain.controls import Freezes
from router.domain.estimate import estimate, expected_nusd, worst_case_nusd
from router.domain.money import format_usd
from router.domain.request import Operation, parse_request
from router.edge.headers import Headers
from router.errors import BUDGET_EXCEEDED, ErrorSpec, RouterError
from router.explain_budgets import BudgetLine, Spent, budget_lines, budget_text, refusal_text
from router.facts_text import RuleLine, facts_text, rules_of, rules_text
from router.fleet import USUAL_LENGTH, Fleet
from router.live_controls import refuse_frozen
from router.metrics import Metrics
from router.moments import Moments, now_ms
from router.routing import route_call
from router.signals import PromptSignals
from router.snapshot import Deployment, Snapshot
from router.steering import Steering

NO_HEADERS: Final[Headers] = MappingProxyType({})


class CandidateLine(msgspec.Struct, kw_only=True):
    """One deployment that the route can reach."""

    deployment: str
    model: str
    place: int | None
    """Place in the order to try, from 1; None if it is out."""
    reason: str = ""
    """Why it is out."""
    detail: str = ""
    """The numbers behind the reason."""
    score: dict[str, float] = {}
    """What the policy kind ordered by."""
    parts: dict[str, float] = {}
    """What the score is made of, and `late_ms`."""
    expected_nusd: int | None
    worst_case_nusd: int | None
    """None: no price is known."""
    hold_nusd: int
    """What would be reserved at first; a stream holds its worst case in slices."""
    output_cap: int | None
    """Cap on output tokens that would be sent."""
    budgets: list[BudgetLine]


class Explanation(msgspec.Struct, kw_only=True):
    """A decision, with everything that led to it."""

    route: str
    rule: str
    kind: str
    draw: float
    """The number from 0 to 1 that stood for chance."""
    rules: list[RuleLine]
    """In order, up to the one that matched."""
    facts: RequestFacts
    candidates: list[CandidateLine]
    """Those to try, in order; then those that are out."""
    plan: list[str] = []
    """What would be done beside trying them one after the other, and what the kind knows of the moment."""
    error: str = ""
    """What the client would be told if nothing can serve it."""
    error_status: int | None = None
    """HTTP status of that answer; None: it is served."""
    error_code: str = ""
    """Its `code`."""


_MEMBERS: Final[tuple[tuple[str, Operation], ...]] = (("messages", "chat"), ("prompt", "completions"), ("input", "embeddings"))


def explain(
    snapshot: Snapshot,
    body: bytes,
    *,
    model: str | None = None,
    principal: Principal | None = None,
    headers: Headers = NO_HEADERS,
    fleet: Fleet,
    freezes: Freezes | None = None,
    draw: float = 0.5,
    spent: Spent | None = None,
    clock_ms: Callable[[], int] = now_ms,
) -> Explanation:
    """Decide as the server would, and tell why.

    Args:
        snapshot: configuration in force.
        body: of an OpenAI request; its members tell whether it is for chat, completions or embeddings.
        model: asked for instead of the body's `model`.
        principal: who asks; None: anyone.
        headers: of the request, names in lower case.
        fleet: what is known of the deployments; a new one stands for all being up and unseen.
        freezes: who is refused; None: nobody.
        draw: in [0, 1), stands for chance.
        clock_ms: Unix milliseconds, for rules that read the time.
        spent: what the ledger holds; None: it was not read, and nothing is taken for spent.

    Raises:
        RouterError: the request is refused before a decision: bad body, no such model, not allowed.
    """
    body, operation = _prepared(body, model)
    call = Call(request_id="explain", operation=operation, headers=headers, snapshot=snapshot, began=0.0)
    call.principal = principal or Principal()
    call.request = parse_request(body, operation)
    if freezes:
        refuse_frozen(call, freezes)
    call.moments = Moments(snapshot, clock_ms, lambda: {} if spent is None else spent.limits)
    if spent is not None:
        call.moments.read(spent.states)
        fleet.memory.read_budgets(spent.states, snapshot.budgets)
        _steer(call, spent)
    error = ""
    spec: ErrorSpec | None = None
    try:
        decision = _decision(call, fleet, draw)
    except RouterError as exc:
        if call.decision is None:
            raise
        decision, error, spec = call.decision, str(exc), exc.spec
    candidates = _candidates(call, decision, fleet, spent)
    if spec is None:
        error = refusal_text([(line.deployment, line.budgets) for line in candidates if line.place is not None], operation)
        spec = BUDGET_EXCEEDED if error else None
    return Explanation(
        route=call.route.name,
        rule=decision.rule,
        kind=decision.kind,
        draw=draw,
        rules=rules_of(call.route.policy, call.facts),
        facts=call.facts,
        candidates=candidates,
        plan=_plan(call, decision, candidates),
        error=error,
        error_status=None if spec is None else spec.http_status,
        error_code="" if spec is None else spec.code,
    )


def _plan(call: Call, decision: Decision, candidates: list[CandidateLine]) -> list[str]:
    """What is done beside trying one after the other; and of a hedge, why it does nothing."""
    lines = described(decision.plan, call.facts.live) if decision.plan is not None or call.facts.live else []
    hedges = [live for live in call.branch.live if live.what == "hedge"]
    if not hedges or len(decision.order) < 2 or (decision.plan is not None and decision.plan.hedge is not None):
        return lines
    charges = {line.deployment: line.expected_nusd or 0 for line in candidates}
    first, second = (ranked.deployment for ranked in decision.order[:2])
    return lines + [no_second_call(each, first, second, charges, call.facts.live) for each in hedges]


def _steer(call: Call, spent: Spent) -> None:
    """Let budgets that fill leave out what they would now."""
    steering = Steering(call.snapshot, Metrics())
    steering.read(spent.states)
    if steering.levels:
        call.steering = steering


def _decision(call: Call, fleet: Fleet, draw: float) -> Decision:
    """As the server decides, with every signal that a rule reads."""
    signals = PromptSignals(call.snapshot.signals, lengths=fleet.likely_length)
    while True:
        try:
            return route_call(call, fleet, draw)
        except MissingSignal as missing:
            signals.find_now(call, missing.name)


def _prepared(body: bytes, model: str | None) -> tuple[bytes, Operation]:
    """The body with the model asked for, and the operation that its members show."""
    try:
        fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except msgspec.MsgspecError:
        # The parser of the server says better what is wrong.
        return body, "chat"
    operation: Operation = next((name for member, name in _MEMBERS if member in fields), "chat")
    if model is None:
        return body, operation
    return msgspec.json.encode({**fields, "model": model}), operation


def _candidates(call: Call, decision: Decision, fleet: Fleet, spent: Spent | None) -> list[CandidateLine]:
    lines = []
    for place, ranked in enumerate(decision.order, start=1):
        line = _line(call, call.snapshot.deployments[ranked.deployment], fleet, spent)
        line.place, line.score = place, _score(decision.measure, ranked.score)
        for name, value in (ranked.parts or {}).items():
            line.parts |= _score(name, value)
        lines.append(line)
    told = {*call.branch.selected, *(each.deployment for each in decision.rejected)}
    others = [Rejection(name, "not_selected", "by this rule") for name in call.route.deployments if name not in told]
    for rejected in (*decision.rejected, *others):
        line = _line(call, call.snapshot.deployments[rejected.deployment], fleet, spent)
        line.reason, line.detail = rejected.reason, rejected.detail
        lines.append(line)
    return lines


def _score(measure: str, value: float | None) -> dict[str, float]:
    """The score by its name; people read amounts in USD."""
    if value is None:
        return {}
    return {measure.replace("_nusd", "_usd"): value / 1e9} if measure.endswith("_nusd") else {measure: value}


def _line(call: Call, deployment: Deployment, fleet: Fleet, spent: Spent | None) -> CandidateLine:
    request, timeouts = call.request, call.route.timeouts
    likely = fleet.view(deployment.name, input_tokens=request.shape.tokens_likely).expected_output_tokens
    priced = estimate(request, deployment, call.snapshot.server, timeouts)
    return CandidateLine(
        deployment=deployment.name,
        model=deployment.model,
        place=None,
        expected_nusd=expected_nusd(request, deployment, int(likely or USUAL_LENGTH)),
        worst_case_nusd=worst_case_nusd(request, deployment, timeouts),
        hold_nusd=priced.hold_nusd,
        output_cap=priced.output_cap,
        budgets=budget_lines(call, deployment, priced, spent),
    )


def as_text(told: Explanation) -> str:
    """The explanation for people."""
    lines = [f"route {told.route}, rule {told.rule}, kind {told.kind}", f"request: {facts_text(told.facts)}"]
    lines += rules_text(told.rules)
    lines += [f"plan: {line}" for line in told.plan]
    tried = [line for line in told.candidates if line.place is not None]
    out = [line for line in told.candidates if line.place is None]
    for line in tried:
        lines.append(f"{line.place}. {line.deployment} (model {line.model})")
        lines += _details(line)
    if out:
        lines.append("not tried:")
    for line in out:
        lines.append(f"-  {line.deployment} (model {line.model}): {line.reason}{f', {line.detail}' if line.detail else ''}")
        lines.append(f"   {_money_text(line)}")
    if told.error:
        lines.append(f"error: {told.error}")
    return "\n".join(lines)


def _details(line: CandidateLine) -> list[str]:
    lines = [f"   {_money_text(line)}"]
    if line.score:
        lines.append("   score: " + ", ".join(f"{name} {value:g}" for name, value in line.score.items()))
    if line.parts:
        lines.append("   made of: " + ", ".join(f"{name} {value:g}" for name, value in line.parts.items()))
    return [*lines, f"   budgets: {', '.join(map(budget_text, line.budgets)) or 'none'}"]


def _money_text(line: CandidateLine) -> str:
    if line.worst_case_nusd is None or line.expected_nusd is None:
        return "no price known"
    cap = "" if line.output_cap is None else f" with output cap {line.output_cap:,}"
    held = "" if line.hold_nusd == line.worst_case_nusd else f", held at first {format_usd(line.hold_nusd)} USD"
    return f"expected {format_usd(line.expected_nusd)} USD, worst case {format_usd(line.worst_case_nusd)} USD{cap}{held}"
