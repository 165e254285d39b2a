"""What the compilers of providers, models, routes and access share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from router.domain.prices import Price
from router.settings.findings import Finding, Path
from router.settings.model import Settings
from router.settings.model_routing import ModelSettings


class BookEntry(Protocol):
    """What a price book knows of a model."""

    @property
    def price(self) -> Price: ...

    @property
    def context_tokens(self) -> int | None: ...

    @property
    def max_output_tokens(self) -> int | None: ...

    @property
    def capabilities(self) -> frozenset[str] | None: ...


PriceLookup = Callable[[str, str], Any]
"""(provider kind, model id) -> `BookEntry` or None."""


@dataclass(frozen=True, slots=True)
class Guest:
    """A model that stands in the file only where it is to replace another one."""

    path: Path
    settings: ModelSettings


@dataclass(slots=True)
class Context:
    """One compilation: its inputs, and what was found wrong or doubtful so far."""

    settings: Settings
    environ: Mapping[str, str]
    price_book: PriceLookup
    broken: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Section -> names of entries that stand in the file but have errors of their own."""
    guests: Mapping[str, Guest] = field(default_factory=dict)
    """Models that only experiments name."""
    met: set[tuple[str, str]] = field(default_factory=set)
    """(experiment, what it replaces), as far as some branch leads to it."""
    findings: list[Finding] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)

    def wrong(self, path: Path, message: str, *, at_key: bool = False) -> None:
        """Note an error."""
        self.findings.append(Finding(path, message, at_key))

    def doubtful(self, path: Path, message: str, *, at_key: bool = False) -> None:
        """Note a warning."""
        self.warnings.append(Finding(path, message, at_key))

    def is_broken(self, section: str, name: str) -> bool:
        """Whether an entry of that name stands in the file, with errors that are reported already."""
        return name in self.broken.get(section, frozenset())

    def names(self, section: str, known: Iterable[str]) -> list[str]:
        """Known names and those of broken entries, for suggestions."""
        return [*known, *sorted(self.broken.get(section, frozenset()))]
