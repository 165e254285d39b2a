"""What may be done when a budget has too little room, in which order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

OnShort = Literal["cheaper", "wait", "clamp", "refuse"]
"""The next candidate that fits; room that calls under way will leave; a smaller cap; 402."""

DEFAULT: Final[tuple[OnShort, ...]] = ("cheaper", "refuse")


class Plan(NamedTuple):
    """The ways to deal with a shortage, as they are tried."""

    first: tuple[OnShort, ...]
    """For the candidate that does not fit, before others are tried."""
    cheaper: bool
    """Whether others are tried."""
    then: tuple[OnShort, ...]
    """For all of them, once none fits."""
    waits: bool
    softens: bool
    """Whether a smaller cap is tried after a wait."""


def plan_of(ways: Sequence[OnShort]) -> Plan:
    """Put the ways into their order. What comes after `refuse` is never reached."""
    kept = list(ways)
    if "refuse" in kept:
        kept = kept[: kept.index("refuse")]
    softens = "wait" in kept and "clamp" in kept[kept.index("wait") :]
    place = kept.index("cheaper") if "cheaper" in kept else len(kept)
    return Plan(tuple(kept[:place]), "cheaper" in kept, tuple(kept[place + 1 :]), "wait" in kept, softens)
