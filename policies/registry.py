"""All policy kinds by name. A new kind is one file in `policies/kinds/` and one line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from pydantic import BaseModel

from policies.engine import Order
from policies.kinds import cost, fixed, latency, least_busy, weighted


def _no_names(options: BaseModel) -> frozenset[str]:
    return frozenset()


def _never(options: BaseModel) -> bool:
    return False


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


_ALL: Final = (
    Kind(name="fixed", options=fixed.FixedOptions, bind=fixed.bind),
    Kind(name="weighted", options=weighted.WeightedOptions, bind=weighted.bind, names=weighted.names),
    Kind(name="cost", options=cost.CostOptions, bind=cost.bind, reads_worst_case=cost.reads_worst_case),
    Kind(name="latency", options=latency.LatencyOptions, bind=latency.bind),
    Kind(name="least_busy", options=least_busy.LeastBusyOptions, bind=least_busy.bind),
)

KINDS: Final[Mapping[str, Kind]] = MappingProxyType({kind.name: kind for kind in _ALL})
