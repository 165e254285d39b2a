"""Names that a stop can be meant for: one that is misspelt would stop nobody, and say that it had."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from router.domain.controls import DEFAULT_TEAM, Known
from router.snapshot import Snapshot

MOST_SHOWN: Final = 20
"""Names that are listed where none is close."""


def known_names(snapshot: Snapshot) -> Known:
    """What a configuration has by name."""
    deployments = snapshot.deployments
    models = {*snapshot.routes, *(each.model for each in deployments.values())}
    return Known(
        team=tuple(sorted({*snapshot.teams, DEFAULT_TEAM})),
        key=tuple(sorted({*snapshot.keys, *(entry.name for entry in snapshot.keys.values())})),
        model=tuple(sorted(models)),
        target=tuple(sorted({*deployments, *(each.provider.name for each in deployments.values())})),
    )


def unknown(what: str, name: str, names: Iterable[str]) -> str:
    """What is said of a name that is none of those."""
    known = list(names)
    hint = meant(name, known) or f"known: {', '.join(known[:MOST_SHOWN]) or 'none'}"
    return f"there is no {what} '{name}'; {hint}"


def meant(name: str, names: Iterable[str]) -> str:
    """A question for the name that is close to it; empty: none is."""
    from difflib import get_close_matches

    near = get_close_matches(name, list(names), n=1)
    return f"did you mean '{near[0]}'?" if near else ""
