"""What a branch of a policy has to offer at this moment: its deployments as candidates, and whether all of them fit."""

from __future__ import annotations

from sys import maxsize
from typing import Final, NamedTuple

from policies.engine import Branch
from policies.filters import required_capabilities
from policies.types import TEXT_ONLY
from router.call import Call
from router.domain.estimate import expected_nusd
from router.domain.extras import covers
from router.domain.request import ParsedRequest
from router.fleet import Fleet, FleetView, bound_by
from router.snapshot import Deployment, Snapshot


class Sized(NamedTuple):
    """What calls with an input of one size likely cost where all prices are plain, but for the input itself."""

    longest: int
    """Tokens of the longest likely answer: a smaller cap makes some answer shorter than that."""
    uncapped: bool
    """Whether all are as long without a cap: no deployment's own is smaller."""
    costs: tuple[tuple[FleetView, int, int, int], ...]
    """Rate of the input, cost of the answer in millionths of nano-USD, nano-USD of the request."""


_NOT_PLAIN: Final = Sized(longest=maxsize, uncapped=False, costs=())


class Prepared:
    """What of a branch does not change while the views show one configuration."""

    __slots__ = ("bounded", "branch", "capable", "least_context", "lines", "sizes", "texts", "views")

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
        self.texts = {
            stream: all(required_capabilities("chat", stream, False, False, TEXT_ONLY) <= one.traits.capabilities for one in self.views)
            for stream in (False, True)
        }
        """The same of a chat of texts: whole, and as a stream."""
        self.sizes: dict[int, Sized] = {}
        """By size of the input, until the fleet learns something new of lengths."""

    def work_out(self, size: int, fleet: Fleet) -> Sized:
        """What calls with inputs of this size likely cost; from now on known."""
        usual = fleet.usual_length(size)
        costs, longest, uncapped = [], 0, True
        for view, lengths, deployment in self.lines:
            length, tariff = lengths.get(size) or usual, deployment.tariff
            if tariff is None:
                return self.sizes.setdefault(size, _NOT_PLAIN)
            longest = max(longest, length)
            uncapped = uncapped and length <= deployment.default_max_output_tokens
            costs.append((view, tariff.input, length * tariff.output, tariff.fixed))
        return self.sizes.setdefault(size, Sized(longest, uncapped, tuple(costs)))


def offers(call: Call, branch: Branch, fleet: Fleet) -> tuple[list[FleetView], bool]:
    """The candidates of a branch as they are now, with what the call will likely cost at each.

    The second says that the filters of `policies.engine.decide` find nothing against any of them, unless the request asks
    for something of its own.
    """
    request = call.request
    fit = fleet.refresh()
    if fleet.shown is not call.snapshot:
        _show(call.snapshot, fleet)
    prepared: Prepared = fleet.offered.get(id(branch)) or _prepare(call, branch, fleet)
    likely, cap = request.shape.tokens_likely, request.output_cap
    size = (likely.bit_length() + 1) >> 1  # As `size_class`.
    sized = prepared.sizes.get(size) or prepared.work_out(size, fleet)
    # Most have a plain price, and answers that end by themselves: what `expected_nusd` answers then, without asking it.
    if request.common and (cap >= sized.longest if cap else sized.uncapped):
        for view, rate, answer, fixed in sized.costs:
            view.expected_nusd = fixed - (-(likely * rate + answer) // 1_000_000)
    else:
        fit = _expect(call, prepared, size, fleet) and fit
    if prepared.bounded:
        for view, most in prepared.bounded:
            bound_by(view, most)
            fit = fit and view.health == "up"
    if not fit:
        # Some deployment is down: maybe none of these.
        fit = request.extras is None and all(view.health == "up" and view.expected_nusd is not None for view in prepared.views)
    if likely + (cap or 0) > prepared.least_context:
        return prepared.views, False
    return prepared.views, fit and (prepared.texts[request.stream] if request.common else _capable(request, prepared))


def _capable(request: ParsedRequest, prepared: Prepared) -> bool:
    needs = required_capabilities(request.operation, request.stream, request.tools, request.json_schema, request.shape.modalities)
    capable = prepared.capable.get(needs)
    if capable is None:
        capable = prepared.capable[needs] = all(needs <= view.traits.capabilities for view in prepared.views)
    return capable


def _expect(call: Call, prepared: Prepared, size: int, fleet: Fleet) -> bool:
    """Fill in what the call will likely cost at each, whatever its price is made of. True: there is nothing special about it."""
    request = call.request
    for view, lengths, deployment in prepared.lines:
        view.expected_nusd = expected_nusd(request, deployment, lengths.get(size) or fleet.usual_length(size))
    if request.extras is None:
        return all(view.expected_nusd is not None for view in prepared.views)
    if call.snapshot.server.unpriced == "refuse":
        # No price is known where none covers what the request may buy beside tokens.
        for view, _, deployment in prepared.lines:
            if not covers(deployment.price, request.extras):
                view.expected_nusd = None
    return False


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
