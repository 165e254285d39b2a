"""Routing: from facts, fleet state and policy to a decision. Reads no clock and draws no number of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import msgspec

from policies.engine import Branch, choose, decide, order_all
from policies.filters import usd
from policies.types import NOTHING, Decision, Rejection, RequestFacts, Restriction
from policies.words import did_you_mean
from router.call import Call
from router.domain.estimate import worst_case_nusd
from router.domain.extras import Extras, covers
from router.domain.labels import MAX_LABEL_LENGTH, joined_tags, read_deadline, read_max_cost, read_pairs
from router.domain.request import ParsedRequest, unpriced
from router.edge.headers import DEADLINE_MS, LABELS, MAX_COST_USD, SESSION, TAGS, USE
from router.errors import (
    BUDGET_EXCEEDED,
    CONTEXT_LENGTH_EXCEEDED,
    FROZEN,
    INVALID_REQUEST,
    MAX_COST_EXCEEDED,
    MODEL_NOT_ALLOWED,
    MODEL_NOT_FOUND,
    NO_DEPLOYMENT,
    POLICY_REFUSED,
    RouterError,
)
from router.fleet import Fleet, FleetView
from router.guards import guard
from router.offers import offers
from router.snapshot import Route, Snapshot, Watch

LISTED_NAMES: Final = 20
LASTING: Final = frozenset(
    {
        "unpriced",
        "missing_capability",
        "context_too_long",
        "not_allowed",
        "not_selected",
        "excluded_by_request",
        "too_expensive",
        "private",
        "below_quality",
    }
)
"""Reasons that stand until the request or the configuration is another one."""
LASTING_NO_DEPLOYMENT: Final = replace(NO_DEPLOYMENT, retryable=False)


def find_route(snapshot: Snapshot, name: str, allowed: frozenset[str] | None) -> Route:
    """The route a client asked for.

    Raises:
        RouterError: 404 if there is none of that name, 403 if the key may not use it.
    """
    route = snapshot.routes.get(name)
    if route is None:
        names = sorted(route.name for route in snapshot.routes.values() if not route.aliases_model or "/" not in route.name)
        known = ", ".join(names[:LISTED_NAMES]) + (", ..." if len(names) > LISTED_NAMES else "")
        raise RouterError(
            MODEL_NOT_FOUND, f"The model '{name[:100]}' does not exist here. GET /v1/models lists what does: {known}.", param="model"
        )
    if allowed is not None and not may_ask(route, allowed, snapshot):
        raise RouterError(
            MODEL_NOT_ALLOWED, f"This key may not use '{name}'. It may use: {', '.join(sorted(allowed)) or 'nothing'}.", param="model"
        )
    return route


def may_ask(route: Route, allowed: frozenset[str], snapshot: Snapshot) -> bool:
    """A key for a model may name its deployments too."""
    if route.name in allowed:
        return True
    return route.aliases_model and all(snapshot.deployments[name].model in allowed for name in route.deployments)


def read_labels(call: Call) -> Restriction | None:
    """Fill in user, session and tags from body, headers and key; return what the request asks of routing."""
    request = call.request
    if not request.labelled and LABELS.isdisjoint(call.headers):
        call.tags = call.principal.tags
        return None
    call.user = request.user
    call.session = request.session
    tags = request.tags
    only, most, within = request.only, request.max_cost_nusd, _deadline(call)
    for name in LABELS:
        value = call.headers.get(name)
        if value is None:
            continue
        if name == TAGS:
            tags = joined_tags(tags, read_pairs(value.decode("utf-8", "replace"), "x-faregate-tags"), "x-faregate-tags")
        elif name == SESSION:
            call.session = value.decode("utf-8", "replace")[:MAX_LABEL_LENGTH]
        elif name == MAX_COST_USD:
            limit = read_max_cost(value.decode("latin-1"), "x-faregate-max-cost-usd")
            most = limit if most is None else min(most, limit)
        elif name == USE:
            wanted = frozenset(part.strip() for part in value.decode("utf-8", "replace").split(","))
            only = wanted if only is None else only & wanted
    own = call.principal.tags
    call.tags = {**tags, **own} if tags and own else (own or tags)
    if within is None and only is None and most is None and not request.steers:
        return None
    return Restriction(
        only=only,
        ignore=request.ignore,
        dear=_dear(request, call.snapshot),
        sort=request.sort,
        order=request.order,
        max_cost_nusd=most,
        deadline_ms=within,
    )


def _dear(request: ParsedRequest, snapshot: Snapshot) -> frozenset[str]:
    """Deployments whose list price is above the request's. One that resells chooses hosts itself, and is told the limit."""
    dearest, output = request.most_input_nusd, request.most_output_nusd
    if dearest is None and output is None:
        return frozenset()
    return frozenset(
        name
        for name, deployment in snapshot.deployments.items()
        if not deployment.provider.resells
        and (
            deployment.price is None
            or (dearest is not None and deployment.price.rates.input > dearest)
            or (output is not None and deployment.price.rates.output > output)
        )
    )


def _deadline(call: Call) -> float | None:
    """Milliseconds for the whole answer, the least of what header and body say; None: neither says anything."""
    within, value = call.request.deadline_ms, call.headers.get(DEADLINE_MS)
    if value is not None:
        told = read_deadline(value.decode("latin-1"), "x-faregate-deadline-ms")
        within = told if within is None else min(within, told)
    if within is not None:
        call.special, call.deadline_ms, call.deadline = True, within, call.began + within / 1000
    return within


def facts_of(call: Call, route: Route) -> RequestFacts:
    """What the policy may know of the request."""
    request, principal = call.request, call.principal
    shape = request.shape
    # By position, in the order of the fields: this runs for every request.
    return RequestFacts(
        request.operation,
        route.name,
        principal.team,
        principal.key_id,
        call.user,
        call.session,
        call.tags,
        _headers_read(call, route) if route.headers_read else NOTHING,
        shape.tokens_likely,
        shape.tokens_bound,
        request.output_cap,
        request.choices,
        request.stream,
        request.tools,
        request.json_schema,
        shape.modalities,
        call.signals,
        principal.org,
        call.deadline_ms or None,
    )


def _headers_read(call: Call, route: Route) -> Mapping[str, str]:
    found = {name: call.headers.get(name.encode("latin-1")) for name in route.headers_read}
    return {name: value.decode("utf-8", "replace")[:MAX_LABEL_LENGTH] for name, value in found.items() if value is not None}


def _at_the_moment(call: Call, watch: Watch, facts: RequestFacts, fleet: Fleet) -> RequestFacts:
    """With what the rules read of the time, the budgets and the providers; the same if it is decided again."""
    if call.moment is None:
        # Set before routing wherever a route of the configuration has something to watch.
        assert call.moments is not None  # noqa: S101
        call.moment = call.moments.at(call, watch, fleet)
    return msgspec.structs.replace(facts, moment=call.moment)


def _decide_by_worst_case(
    call: Call, branch: Branch, candidates: Sequence[FleetView], draw: float, restrict: Restriction | None
) -> Decision:
    for view in candidates:
        view.worst_case_nusd = worst_case_nusd(call.request, call.snapshot.deployments[view.traits.deployment], call.route.timeouts)
    decision = decide(branch, call.facts, candidates, draw, restrict)
    for view in candidates:
        # The next request must not be judged by what this one could have cost.
        view.worst_case_nusd = None
    return decision


def _read(call: Call, fleet: Fleet) -> tuple[RequestFacts, Restriction | None]:
    """Find the route and read what the request says of itself and asks of routing."""
    route = call.route = find_route(call.snapshot, call.request.model, call.principal.models)
    if call.request.extras is not None:
        _check_extras(call, call.request.extras, route)
    if route.guards or call.principal.guards:
        guard(call)
    restrict = read_labels(call)
    if route.max_cost_nusd is not None or call.principal.max_cost_nusd is not None:
        restrict = _limited(restrict, route.max_cost_nusd, call.principal.max_cost_nusd)
    call.restrict = restrict
    facts = call.facts = facts_of(call, route)
    if route.watch is not None:
        facts = call.facts = _at_the_moment(call, route.watch, facts, fleet)
    return facts, restrict


def route_call(call: Call, fleet: Fleet, draw: float) -> Decision:
    """Decide where the call goes.

    Raises:
        MissingSignal: a rule reads what is not in `call.signals` yet; add it and decide again.
        RouterError: 400, 403 or 404 for what the client asked; 402 if every candidate could cost more than the
            request allows; 503 with every reason if nothing can serve it.
    """
    regular, request = call.regular, call.request
    if regular is None:
        facts, restrict = _read(call, fleet)
    else:
        call.route, call.tags, shape, restrict = regular.route, regular.principal.tags, request.shape, None
        facts = call.facts = regular.facts(shape.tokens_likely, shape.tokens_bound, request.output_cap, 1, request.stream)
    branch = call.branch = choose(call.route.policy, facts)
    call.routed = True
    candidates, fit = offers(call, branch, fleet)
    if branch.live:
        facts = call.facts = fleet.memory.facts(call, branch, candidates)
    if call.steering is not None and (out := call.steering.out(call, candidates, call.snapshot.deployments)):
        return _steered(call, fleet, draw, restrict, candidates, out)
    if branch.reads_worst_case or (restrict is not None and restrict.max_cost_nusd is not None):
        decision = _decide_by_worst_case(call, branch, candidates, draw, restrict)
    elif fit and restrict is None:
        decision = order_all(branch, facts, candidates, draw)
    else:
        decision = decide(branch, facts, candidates, draw, restrict)
    call.decision = decision
    if not decision.order:
        raise nothing_left(call, decision, fleet)
    return decision


def _steered(
    call: Call, fleet: Fleet, draw: float, restrict: Restriction | None, candidates: Sequence[FleetView], out: Sequence[Rejection]
) -> Decision:
    """Decide among what budgets that fill leave."""
    names = {rejection.deployment for rejection in out}
    kept = [view for view in candidates if view.traits.deployment not in names]
    decision = _decide_by_worst_case(call, call.branch, kept, draw, restrict)
    call.decision = decision = msgspec.structs.replace(decision, rejected=(*decision.rejected, *out))
    if not decision.order:
        raise nothing_left(call, decision, fleet)
    return decision


def _check_extras(call: Call, extras: Extras, route: Route) -> None:
    """Refuse what no deployment of the route has a price for, as `server.unpriced` says of prices."""
    deployments = (call.snapshot.deployments[name] for name in route.deployments)
    if call.snapshot.server.unpriced == "refuse" and not any(covers(one.price, extras) for one in deployments):
        raise unpriced(extras.member)


def _limited(restrict: Restriction | None, *limits_nusd: int | None) -> Restriction:
    """What the request asks, and the limits of its route and of its key: the least counts. One of them must be there."""
    restrict = restrict or Restriction()
    known = [limit for limit in (restrict.max_cost_nusd, *limits_nusd) if limit is not None]
    return msgspec.structs.replace(restrict, max_cost_nusd=min(known))


def _contradiction(call: Call) -> str:
    """What a rule and a class of private requests ask for that no model has both of, and what to do; empty if it is something else."""
    branch, policy = call.branch, call.route.policy
    if not branch.private or branch.deployments:
        return ""
    classes = " and ".join(f"'{one.name}' ({one.describe})" for one in policy.privacy if one.name in branch.private)
    rule = next((f"rule '{one.name}' ({one.describe})" for one in policy.rules if one.name == branch.rule), f"'{branch.rule}'")
    return (
        f" It is private by {classes}, and no model that {rule} leads to may see that. To serve it, let the rule name one that may behind"
        " the others, or put a rule for such requests before it."
    )


def _unknown_wishes(call: Call) -> str:
    """What is said of a request that excludes all there is: the names in it that are none of its route, and what may be meant."""
    offered = [call.snapshot.deployments[name] for name in call.route.deployments]
    known = dict.fromkeys(word for one in offered for word in (one.model, one.name, one.provider.name))
    asked = None if call.restrict is None else call.restrict.only
    wrong = sorted(name[:MAX_LABEL_LENGTH] for name in (asked or frozenset()).difference(known))
    if not wrong and call.restrict is not None and call.restrict.dear:
        return " A higher `provider.max_price` (USD per million tokens) would allow more."
    if not wrong:
        return " Name deployments, models or providers of this route."
    return f" This route has no deployment, model or provider '{wrong[0]}'{did_you_mean(wrong[0], known)}"


def _whose_ceiling(call: Call, rejected: Sequence[Rejection]) -> str:
    """Whose limit no candidate's highest cost keeps, and what to do."""
    least = None if call.restrict is None else call.restrict.max_cost_nusd
    if least is None or not any(item.detail.endswith(f", limit {usd(least)} USD") for item in rejected):
        whose = f"of the policy's `max_request_usd` (rule '{call.branch.rule}')"
    elif least == call.route.max_cost_nusd:
        whose = f"of route '{call.route.name}' (`max_cost`)"
    elif least == call.principal.max_cost_nusd:
        whose = "of the key or its team (`max_cost`)"
    else:
        whose = "that the request sets itself (`x-faregate-max-cost-usd` or `faregate.max_cost_usd`)"
    smaller = "" if call.operation == "embeddings" else " A smaller max_tokens lowers what the request could cost."
    return f" The limit is the one {whose}.{smaller} Request {call.request_id}."


def nothing_left(call: Call, decision: Decision, fleet: Fleet) -> RouterError:
    """The error for a decision without candidates: it names every one and why it is out."""
    reasons = [f"{item.deployment}: {item.reason}" + (f" ({item.detail})" if item.detail else "") for item in decision.rejected]
    listed = "; ".join(reasons) or "the rule selects no deployment"
    details: dict[str, object] = {
        "route": call.route.name,
        "rule": decision.rule,
        "rejected": [{"deployment": item.deployment, "reason": item.reason} for item in decision.rejected],
    }
    causes = {item.reason for item in decision.rejected}
    message = f"No deployment of '{call.route.name}' (rule '{decision.rule}') can serve this request: {listed}."
    if causes == {"too_expensive"}:
        details["request_id"] = call.request_id
        return RouterError(MAX_COST_EXCEEDED, message + _whose_ceiling(call, decision.rejected), details=details)
    if causes - {"not_selected"} == {"context_too_long"}:
        way_out = f" A shorter prompt or a smaller max_tokens fits. Request {call.request_id}."
        return RouterError(CONTEXT_LENGTH_EXCEEDED, message + way_out, details=details)
    if causes == {"excluded_by_request"}:
        return RouterError(INVALID_REQUEST, f"{message}{_unknown_wishes(call)}", details=details)
    if causes == {"frozen"}:
        return RouterError(FROZEN, message, details=details)
    if causes and causes <= {"budget_downgrade", "budget_exhausted"}:
        return RouterError(BUDGET_EXCEEDED, message, details=details)
    passing = causes & {"cooldown", "unhealthy"}
    if call.branch.refuse and not passing:
        return RouterError(POLICY_REFUSED, f"{message}{_contradiction(call)}", details=details)
    waits = [fleet.view(name).available_in_seconds for name in call.branch.deployments] if passing else []
    shortest = min((wait for wait in waits if wait is not None), default=1.0 if passing else None)
    if causes and causes <= LASTING:
        way_out = " Give it a price (`price:`), or say what unknown prices mean (`server.unpriced`)." if "unpriced" in causes else ""
        return RouterError(LASTING_NO_DEPLOYMENT, message + way_out, details=details)
    return RouterError(NO_DEPLOYMENT, message, retry_after_seconds=shortest, details=details)
