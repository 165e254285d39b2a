"""Which values may become labels: names from the configuration and words of the program, nothing else."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from router.snapshot import Snapshot

UNKNOWN: Final = "unknown"
NONE: Final = "none"
"""Shown for an empty value: a request without a team, or one that was refused before a rule was found."""

_WORD: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_MAX_WORDS: Final = 64
"""Distinct values of a label whose words the program itself makes, such as an outcome or a cause."""


class Names(msgspec.Struct, frozen=True, kw_only=True):
    """What the configuration names: the only such values that become labels."""

    route: frozenset[str] = frozenset()
    rule: frozenset[str] = frozenset({"default"})
    model: frozenset[str] = frozenset()
    deployment: frozenset[str] = frozenset()
    provider: frozenset[str] = frozenset()
    team: frozenset[str] = frozenset()
    budget: frozenset[str] = frozenset()


def names_of(snapshot: Snapshot) -> Names:
    """Collect the names that may become labels."""
    policies = [route.policy for route in snapshot.routes.values()]
    branches = [p.default for p in policies] + [rule.branch for p in policies for rule in p.rules]
    deployments = snapshot.deployments.values()
    return Names(
        route=frozenset(snapshot.routes),
        rule=frozenset({"default", *(branch.rule for branch in branches)}),
        model=frozenset(deployment.model for deployment in deployments),
        deployment=frozenset(snapshot.deployments),
        provider=frozenset(snapshot.providers),
        team=frozenset({*snapshot.teams, *(key.team for key in snapshot.keys.values())}),
        budget=frozenset(budget.name for budget in snapshot.budgets),
    )


class LabelGuard:
    """Lets values through that belong to a bounded set, and replaces the others by `unknown`."""

    def __init__(self) -> None:
        self.names = Names()
        self._words: dict[str, set[str]] = {}

    def name(self, kind: str, value: str) -> str:
        """A name from the configuration; `kind` is a field of `Names`."""
        if not value:
            return NONE
        return value if value in getattr(self.names, kind) else UNKNOWN

    def names_in(self, **labels: str) -> tuple[str, ...]:
        """Several names, by kind."""
        return tuple([self.name(kind, value) for kind, value in labels.items()])

    def word(self, kind: str, value: str) -> str:
        """A word that the program itself made; the first few distinct ones of a kind are let through."""
        words = self._words.setdefault(kind, set())
        if value in words:
            return value
        if not value:
            return NONE
        if len(words) >= _MAX_WORDS or not _WORD.fullmatch(value):
            return UNKNOWN
        words.add(value)
        return value
