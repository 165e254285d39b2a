"""What a log says of deployments and models: how long answers are, how long they take, how they were rated."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from policies.types import Traits
from router.fleet import USUAL_LENGTH, size_class
from router.replay.requests import Asked

LEAST_SEEN: Final = 20
"""So many answers before a figure is one's own, not everybody's."""
PRIOR_RATINGS: Final = 5.0
"""Weight of what is known of a model beside its ratings: the catalogue's quality, else everybody's mean."""


@dataclass(slots=True)
class Line:
    """Milliseconds of a call over its output tokens, by least squares."""

    n: int = 0
    x: float = 0.0
    y: float = 0.0
    xx: float = 0.0
    xy: float = 0.0

    def add(self, tokens: int, ms: float) -> None:
        """One call."""
        self.n += 1
        self.x += tokens
        self.y += ms
        self.xx += tokens * tokens
        self.xy += tokens * ms

    def at(self, tokens: float) -> float | None:
        """Milliseconds for an answer of so many tokens; None if too little was seen."""
        if self.n < LEAST_SEEN:
            return None
        spread = self.n * self.xx - self.x * self.x
        slope = (self.n * self.xy - self.x * self.y) / spread if spread > 0 else 0.0
        # A negative slope is noise: longer answers do not take less.
        slope = max(0.0, slope)
        return max(0.0, (self.y - slope * self.x) / self.n + slope * tokens)


@dataclass(slots=True)
class Mean:
    """A sum and how many it is of."""

    n: int = 0
    total: float = 0.0

    def add(self, value: float) -> None:
        self.n += 1
        self.total += value

    @property
    def mean(self) -> float | None:
        return self.total / self.n if self.n else None


class Observed:
    """Learned from the answered requests of a log, in one pass."""

    def __init__(self, requests: Iterable[Asked]) -> None:
        self._lengths: dict[tuple[str, int], Mean] = {}
        self._outputs: dict[str, Mean] = {}
        self._times: dict[str, Line] = {}
        self._firsts: dict[str, Mean] = {}
        self._ratings: dict[str, Mean] = {}
        self._everybody = Mean()
        self._escalations: dict[str, Mean] = {}
        self._asides: dict[str, Mean] = {}
        for asked in requests:
            if asked.rating is not None:
                self._ratings.setdefault(asked.model, Mean()).add(asked.rating)
                self._everybody.add(asked.rating)
            if asked.cascaded:
                self._add_cascade(asked)
            if asked.answered:
                self._add(asked)

    def _add(self, asked: Asked) -> None:
        tokens = asked.usage.output_tokens
        if tokens:
            for name in (asked.deployment, ""):
                self._lengths.setdefault((name, size_class(asked.facts.input_tokens)), Mean()).add(tokens)
            self._outputs.setdefault(asked.model, Mean()).add(tokens)
        self._times.setdefault(asked.deployment, Line()).add(tokens, asked.duration_ms)
        if asked.first_byte_ms is not None:
            self._firsts.setdefault(asked.deployment, Mean()).add(asked.first_byte_ms)

    def _add_cascade(self, asked: Asked) -> None:
        began = next((part.model for part in asked.parts if part.deployment == asked.first), "")
        self._escalations.setdefault(began, Mean()).add(asked.escalated)
        for part in asked.asides:
            self._asides.setdefault(part.model, Mean()).add(part.charge_nusd)

    def escalation(self, model: str) -> float | None:
        """Share of the first answers of a model in cascades that did not pass; None if too little was seen."""
        found = self._escalations.get(model)
        return None if found is None or found.n < LEAST_SEEN else found.mean

    def aside_nusd(self, model: str) -> float | None:
        """What one question to a judge or second opinion costs, on average; None if too little was seen."""
        found = self._asides.get(model)
        return None if found is None or found.n < LEAST_SEEN else found.mean

    def length(self, deployment: str, input_tokens: int) -> int:
        """Output tokens of a likely answer to an input of this size."""
        size = size_class(input_tokens)
        for name in (deployment, ""):
            found = self._lengths.get((name, size))
            if found is not None and found.n >= (LEAST_SEEN if name else 1):
                return int(found.mean or USUAL_LENGTH)
        return USUAL_LENGTH

    def stretch(self, model: str, other: str) -> float:
        """How much longer the answers of `other` are than those of `model`; 1 if too little was seen of one of them."""
        one, two = self._outputs.get(model), self._outputs.get(other)
        if model == other or one is None or two is None or min(one.n, two.n) < LEAST_SEEN or not one.total:
            return 1.0
        return (two.total / two.n) / (one.total / one.n)

    def total_ms(self, deployment: str, output_tokens: float) -> float | None:
        """Milliseconds that an answer of so many tokens takes; None if too little was seen."""
        line = self._times.get(deployment)
        return None if line is None else line.at(output_tokens)

    def usual_ms(self, deployment: str) -> float | None:
        """Milliseconds of a call, on average; None if never seen."""
        line = self._times.get(deployment)
        return line.y / line.n if line is not None and line.n else None

    def first_ms(self, deployment: str) -> float | None:
        """Milliseconds to the first byte, on average; None if never seen."""
        found = self._firsts.get(deployment)
        return None if found is None else found.mean

    def rating(self, traits: Traits) -> float | None:
        """How an answer of this model would be rated, from 0 to 1: ratings, drawn towards what is known beside them."""
        found = self._ratings.get(traits.model)
        prior = traits.quality if traits.quality is not None else self._everybody.mean
        if found is None or not found.n:
            # What nobody rated is known from the catalogue, or not at all.
            return traits.quality
        return found.total / found.n if prior is None else (found.total + PRIOR_RATINGS * prior) / (found.n + PRIOR_RATINGS)
