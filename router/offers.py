"""What a branch of a policy has to offer at this moment: its deployments as candidates, and whether all of them fit."""

from __future__ import annotations

from sys import maxsize

from policies.engine import Branch
from policies.filters import required_capabilities
from router.call import Call
from router.domain.estimate import expected_nusd
from router.domain.extras import covers
from router.fleet import Fleet, FleetView, bound_by
from router.snapshot import Deployment, Snapshot


class Prepared:
    """What of a branch does not change while the views show one configuration."""

    __slots__ = ("bounded", "branch", "capable", "least_context", "lines", "views")

    def __init__(self, branch: Branch, snapshot: Snapshot, fleet: Fleet) -> None:
        self.branch = branch
        states = fleet.look()
        found = [(snapshot.deployments[name], states[name].view) for name in branch.deployments]
        self.lines: list[tuple[FleetView, dict[int, int], Deployment]] = [(view, view.lengths, one) for one, view in found]
        self.views = [view for _, view in found]
        self.bounded = [(view, one.max_in_flight) for one, view in found if one.max_in_flight is not None]
        limits = [one.traits.context_tokens for one, _ in found]
        self.least_context = min((limit for limit in limits if limit is not None), default=maxsize)
        self.capable: dict[frozenset[str], bool] = {}
        """Whether all of them can do what is needed."""


def offers(call: Call, branch: Branch, fleet: Fleet) -> tuple[list[FleetView], bool]:
    """The candidates of a branch as they are now, with what the call will likely cost at each.

    The second says that the filters of `policies.engine.decide` find nothing against any of them, unless the request asks
    for something of its own.
    """
    request = call.request
    fleet.look()
    if fleet.shown is not call.snapshot:
        _show(call.snapshot, fleet)
    prepared: Prepared = fleet.offered.get(id(branch)) or _prepare(call, branch, fleet)
    for view, most in prepared.bounded:
        bound_by(view, most)
    likely = request.shape.tokens_likely
    size = (likely.bit_length() + 1) >> 1  # As `size_class`.
    cap, choices, fit = request.output_cap, request.choices, True
    # Most have a plain price, and answers that end by themselves: what `expected_nusd` answers then, without asking it.
    plain = request.extras is None and request.operation != "embeddings"
    for view, lengths, deployment in prepared.lines:
        length, tariff = lengths.get(size) or fleet.usual_length(size), deployment.tariff
        if plain and tariff is not None and length <= (cap or deployment.default_max_output_tokens):
            rate_in, rate_out, _, _, fixed = tariff
            view.expected_nusd = fixed - (-(likely * rate_in + length * choices * rate_out) // 1_000_000)
        else:
            view.expected_nusd = expected_nusd(request, deployment, length)
            fit = fit and view.expected_nusd is not None
        if view.health != "up":
            fit = False
    if request.extras is not None:
        return _covered(call, prepared), False
    if likely + (cap or 0) > prepared.least_context:
        fit = False
    needs = required_capabilities(request.operation, request.stream, request.tools, request.json_schema, request.shape.modalities)
    capable = prepared.capable.get(needs)
    if capable is None:
        capable = prepared.capable[needs] = all(needs <= view.traits.capabilities for view in prepared.views)
    return prepared.views, fit and capable


def _prepare(call: Call, branch: Branch, fleet: Fleet) -> Prepared:
    # They hold their branch, so that no other one can have its number.
    made = fleet.offered[id(branch)] = Prepared(branch, call.snapshot, fleet)
    return made


def _show(snapshot: Snapshot, fleet: Fleet) -> None:
    """Let the views show the traits of another configuration: two may be in use until the last call of the old one ends."""
    states = fleet.look()
    for name, deployment in snapshot.deployments.items():
        view = states[name].view
        view.traits = deployment.traits
        if view.health == "busy":
            # By a limit that may be gone; where it stands, it is looked at for every call.
            view.health = "up"
    fleet.offered.clear()
    fleet.shown = snapshot


def _covered(call: Call, prepared: Prepared) -> list[FleetView]:
    """No price is known where none covers what the request may buy beside tokens."""
    extras = call.request.extras
    if extras is not None and call.snapshot.server.unpriced == "refuse":
        for view, _, deployment in prepared.lines:
            if not covers(deployment.price, extras):
                view.expected_nusd = None
    return prepared.views
