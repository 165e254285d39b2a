"""Numbers of the moment that rules read by a name: of one budget, provider, model or deployment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final, Literal

import msgspec

from policies.readers import Getter

Section = Literal["budget", "provider", "model", "deployment"]

_OF_FLEET: Final[Mapping[str, str]] = MappingProxyType(
    {
        "in_flight": "int",
        "headroom": "int",
        "error_rate": "double",
        "first_token_ms": "double",
        "first_token_p95_ms": "double",
        "total_ms": "double",
        "total_p95_ms": "double",
    }
)
FIGURES: Final[Mapping[str, Mapping[str, str]]] = MappingProxyType(
    {
        "budget": MappingProxyType({"used": "double", "left_usd": "double", "left_tokens": "int", "passed": "double"}),
        "provider": _OF_FLEET,
        "model": _OF_FLEET,
        "deployment": _OF_FLEET,
    }
)
"""Names and types of the numbers, by what they are of."""
UNITS: Final[Mapping[str, str]] = MappingProxyType({"left_usd": "usd", "left_tokens": "tokens"})
"""The unit of the only budgets that have a number."""


class Figure(msgspec.Struct, frozen=True, gc=False):
    """A number that rules read."""

    section: str
    name: str
    field: str

    @property
    def key(self) -> str:
        """What it stands under in `Moment.numbers`."""
        return f"{self.field}@{self.section}:{self.name}"


def figure_of(reads: str) -> Figure | None:
    """The number that a condition reads; None: it reads something else."""
    head, _, name = reads.partition(":")
    field, sign, section = head.partition("@")
    return Figure(section, name, field) if sign else None


def read_figure(figure: Figure) -> Getter:
    """What gives the value of a number. None: nobody knows."""
    key = figure.key
    return lambda facts: facts.moment.numbers.get(key)


def fields_of(section: str) -> tuple[str, ...]:
    """What is known of a budget, or of a provider, a model or a deployment."""
    return (*(() if section == "budget" else ("up",)), *FIGURES[section])


def read_state(section: str, name: str, field: str) -> tuple[str, Getter]:
    """What must be filled in before one of `fields_of` is asked, and what gives its value. None: nobody knows."""
    reads = f"{section}:{name}"
    if field == "up":
        return reads, lambda facts: facts.moment.up.get(reads)
    if (section, field) == ("provider", "error_rate"):
        return reads, lambda facts: facts.moment.error_rate.get(reads)
    figure = Figure(section, name, field)
    return figure.key, read_figure(figure)


def figures_text(numbers: Mapping[str, int | float | None]) -> Iterable[str]:
    """What was read, for people: `provider openai in_flight 3`."""
    for key, value in numbers.items():
        field, _, of = key.partition("@")
        yield f"{of.replace(':', ' ', 1)} {field} {'unknown' if value is None else f'{value:g}'}"
