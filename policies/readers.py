"""What gives the values that rules compare."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any, Final

from msgspec import UNSET

from policies.types import MissingSignal, RequestFacts, SignalName

Getter = Callable[[RequestFacts], Any]

WEEKDAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def read_signal(name: SignalName) -> Getter:
    """What gives the value of a signal."""
    get = attrgetter(name)

    def read(facts: RequestFacts) -> Any:
        value = get(facts.signals)
        if value is UNSET:
            raise MissingSignal(name)
        return value

    return read
