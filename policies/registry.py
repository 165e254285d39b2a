"""All policy kinds by name. A new kind is one file in `policies/kinds/` and one line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Final, Union

from pydantic import BaseModel, Field

from policies.engine import Order
from policies.kinds import bandit, cascade, cost, fixed, hedge, latency, least_busy, pace, quality, shadow, split, vendors, weighted
from policies.kinds.fields import Problem, inside
from policies.plans import Live
from policies.types import Traits


def _no_names(options: BaseModel) -> frozenset[str]:
    return frozenset()


def _never(options: BaseModel) -> bool:
    return False


def _no_problems(options: BaseModel, offered: Sequence[Traits]) -> Sequence[Problem]:
    return ()


def _nothing(options: BaseModel) -> tuple[Live, ...]:
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """An algorithm that orders candidates."""

    name: str
    options: type[BaseModel]
    """Its schema in YAML: `by: {kind: <name>, ...}`."""
    # Each kind binds its own options class; only the loader, which has validated them, calls it.
    bind: Callable[[Any], Order]
    """From validated options to the function that orders."""
    reads_worst_case: Callable[[Any], bool] = _never
    """Whether the order that these options give looks at worst cases."""
    names: Callable[[Any], frozenset[str]] = _no_names
    """Deployments and models that options refer to, so that the loader can refuse unknown ones."""
    problems: Callable[[Any, Sequence[Traits]], Sequence[Problem]] = _no_problems
    """What is wrong with options for what the rule leads to."""
    live: Callable[[Any], tuple[Live, ...]] = _nothing
    """What the order reads of the moment."""


_ALL: Final = (
    Kind(name="fixed", options=fixed.FixedOptions, bind=fixed.bind),
    Kind(name="weighted", options=weighted.WeightedOptions, bind=weighted.bind, names=weighted.names),
    Kind(name="cost", options=cost.CostOptions, bind=cost.bind, reads_worst_case=cost.reads_worst_case, live=cost.live),
    Kind(name="latency", options=latency.LatencyOptions, bind=latency.bind, live=latency.live),
    Kind(name="least_busy", options=least_busy.LeastBusyOptions, bind=least_busy.bind),
    Kind(name="quality", options=quality.QualityOptions, bind=quality.bind, problems=quality.problems, live=quality.live),
    Kind(name="split", options=split.SplitOptions, bind=split.bind_split, problems=split.split_problems),
    Kind(name="canary", options=split.CanaryOptions, bind=split.bind_canary, problems=split.canary_problems, live=split.canary_live),
    Kind(name="cascade", options=cascade.CascadeOptions, bind=cascade.bind, problems=cascade.problems, live=cascade.live),
    Kind(name="hedge", options=hedge.HedgeOptions, bind=hedge.bind, live=hedge.live),
    Kind(name="shadow", options=shadow.ShadowOptions, bind=shadow.bind, problems=shadow.problems),
    Kind(name="bandit", options=bandit.BanditOptions, bind=bandit.bind, live=bandit.live),
    Kind(name="pace", options=pace.PaceOptions, bind=pace.bind, live=pace.live),
    Kind(name="vendors", options=vendors.VendorsOptions, bind=vendors.bind, problems=vendors.problems, live=vendors.live),
)

KINDS: Final[Mapping[str, Kind]] = MappingProxyType({kind.name: kind for kind in _ALL})


if TYPE_CHECKING:
    AnyKind = BaseModel
else:
    # UP007: the kinds are known at run time only, so the union cannot be written with |.
    AnyKind = Annotated[Union[tuple(kind.options for kind in _ALL)], Field(discriminator="kind")]  # noqa: UP007

for _module in (cascade, hedge, shadow, split, vendors):
    # Kinds that hold others could not name them all before they were there. Their schemas are built when one is first used.
    vars(_module)["AnyKind"] = AnyKind


def all_inside(options: BaseModel) -> list[BaseModel]:
    """The options themselves and those of all kinds that stand inside them."""
    return [options, *(each for one in inside(options) for each in all_inside(one))]
