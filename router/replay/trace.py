"""The trace of a decision: everything that it was made of, small enough to stand in a spend record.

A trace holds no prompt. Read back with the configuration that was in force, it gives the same decision, bit for bit:
`recall` does that.
"""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, get_args, get_type_hints

import msgspec

from policies.engine import choose, decide
from policies.types import Candidate, Decision, MissingSignal, Rejection, RequestFacts, Restriction
from router.domain.estimate import worst_case_nusd
from router.domain.records import SpendRecord

if TYPE_CHECKING:
    from router.call import Call
    from router.fleet import Fleet
    from router.snapshot import Snapshot

IN_RECORD: Final[Mapping[str, str]] = MappingProxyType(
    {name: name for name in ("operation", "route", "org", "team", "key_id", "user", "session", "tags", "stream")}
)
"""Facts that the spend record names anyway."""
SECRET_HEADERS: Final = frozenset({"authorization", "proxy-authorization", "cookie", "x-api-key", "x-goog-api-key", "api-key"})
"""Never kept, even if a rule reads them; a decision by their value cannot be made again."""
STEERED: Final = frozenset({"budget_downgrade", "budget_exhausted", "rate_limited"})
"""Reasons that were found before the policy was asked: such candidates were not offered to it."""


def _twin(name: str, of: type[msgspec.Struct], leave_out: frozenset[str], extra: list[Any]) -> type[msgspec.Struct]:
    """The same fields, written only where they differ from their defaults."""
    hints = get_type_hints(of)
    fields: list[Any] = []
    for field in msgspec.structs.fields(of):
        if field.name not in leave_out:
            kind = hints[field.name]
            if isinstance(field.default, MappingProxyType):
                # Mappings that never change are no defaults that a copy may share.
                fields.append((field.name, dict.__class_getitem__(get_args(kind)), msgspec.field(default_factory=dict)))
            else:
                fields.append((field.name, kind, field.default))
    return msgspec.defstruct(name, extra + fields, omit_defaults=True, gc=False)


_FACT_NAMES: Final = tuple(field.name for field in msgspec.structs.fields(RequestFacts) if field.name not in IN_RECORD)
_STATE_NAMES: Final = tuple(field.name for field in msgspec.structs.fields(Candidate) if field.name != "traits")
_Facts: Final[Any] = _twin("TracedFacts", RequestFacts, frozenset(IN_RECORD), [])
_State: Final[Any] = _twin("TracedCandidate", Candidate, frozenset({"traits"}), [("deployment", str)])
_facts_of: Final = attrgetter(*_FACT_NAMES)
_state_of: Final = attrgetter(*_STATE_NAMES)


class Trace(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A decision and what it was made of."""

    draw: float
    """The number in [0, 1) that stood for chance."""
    facts: msgspec.Raw
    """Fields of `RequestFacts` that are not in the record, where they differ from their defaults."""
    candidates: msgspec.Raw
    """What was offered to the policy: `deployment`, and fields of `Candidate` where they differ from their defaults."""
    restrict: Restriction | None = None
    """What the request asked of its own routing."""
    decision: Decision


def trace_of(call: Call, fleet: Fleet, draw: float) -> bytes:
    """The trace of a call that was just routed, as JSON. To be called before anything else is routed."""
    decision, restrict = call.decision, call.restrict
    # Set by routing, or routing has raised.
    assert decision is not None  # noqa: S101
    out = {rejected.deployment for rejected in decision.rejected if rejected.reason in STEERED}
    by_worst = bool(out) or call.branch.reads_worst_case or (restrict is not None and restrict.max_cost_nusd is not None)
    states = []
    for name in call.branch.deployments:
        if name in out:
            continue
        state = _State(name, *_state_of(fleet.seen(name)))
        if by_worst:
            state.worst_case_nusd = worst_case_nusd(call.request, call.snapshot.deployments[name], call.route.timeouts)
        states.append(state)
    facts = _Facts(*_facts_of(call.facts))
    if facts.headers:
        facts.headers = {name: value for name, value in facts.headers.items() if name not in SECRET_HEADERS}
    told: dict[str, Any] = {"draw": draw, "facts": facts, "candidates": states, "decision": decision}
    if restrict is not None:
        told["restrict"] = restrict
    return msgspec.json.encode(told, enc_hook=dict)


_decoder: Final = msgspec.json.Decoder(Trace)
_facts_decoder: Final = msgspec.json.Decoder(_Facts)
_states_decoder: Final = msgspec.json.Decoder(list[_State])


def read_trace(record: SpendRecord) -> Trace | None:
    """The trace in a record; None if it has none, or one of a form that this release does not know."""
    if not record.trace:
        return None
    try:
        return _decoder.decode(record.trace)
    except msgspec.MsgspecError:
        return None


def facts_of_record(record: SpendRecord, trace: Trace | None) -> RequestFacts:
    """The facts of the request: all of them if there is a trace, else what the record tells."""
    named = {field: getattr(record, name) for field, name in IN_RECORD.items()}
    if trace is None:
        return RequestFacts(**named, input_tokens=record.input_tokens, input_tokens_bound=record.input_tokens)
    facts = _facts_decoder.decode(trace.facts)
    return RequestFacts(**named, **{name: getattr(facts, name) for name in _FACT_NAMES})


def states_of(trace: Trace) -> dict[str, dict[str, Any]]:
    """What was known of each deployment that was offered: fields of `Candidate` by name."""
    return {state.deployment: {name: getattr(state, name) for name in _STATE_NAMES} for state in _states_decoder.decode(trace.candidates)}


def recall(snapshot: Snapshot, record: SpendRecord, trace: Trace) -> Decision | None:
    """Decide again on what the trace says. None: the configuration is another one, and does not know the route or a deployment, or
    reads what nobody had asked for then."""
    route = snapshot.routes.get(record.route)
    states = states_of(trace)
    if route is None or not snapshot.deployments.keys() >= states.keys():
        return None
    facts = facts_of_record(record, trace)
    try:
        branch = choose(route.policy, facts)
    except MissingSignal:
        return None
    steered: tuple[Rejection, ...] = tuple(
        out for out in trace.decision.rejected if out.reason in STEERED and out.deployment in branch.selected
    )
    left_out = {out.deployment for out in steered}
    # In the order of this configuration: kinds go by it. Of what it has added, nothing was known then.
    names = dict.fromkeys([*(name for name in branch.deployments if name not in left_out), *states])
    candidates = [Candidate(snapshot.deployments[name].traits, **states.get(name, {})) for name in names]
    made = decide(branch, facts, candidates, trace.draw, trace.restrict)
    return msgspec.structs.replace(made, rejected=(*made.rejected, *steered)) if steered else made
