"""What policy kinds learn from calls, in a form that can be kept, and put together from what several processes learned. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Final, TypeVar

import msgspec

from policies.sequential import MOST, ArmState, Count, Figure, Positive, arms_together

PRIOR_MEAN: Final = 0.5
"""Of a reward, before any is known; it counts as one answer."""
LEAST_CASCADES: Final = 20
"""Requests before a cascade may be switched off."""
CASCADE_WEIGHT: Final = 0.02
"""Of the newest request in the moving averages of a cascade: about the last hundred count."""
LEAST_VENDOR_CALLS: Final = 20
"""Calls before shares of providers say anything."""
KEEP_MS: Final = 90 * 86_400_000
"""What nothing was added to for so long is forgotten: nobody asks for it any more."""

T = TypeVar("T")


class Belief(msgspec.Struct, gc=False):
    """What is known of one candidate of a bandit."""

    seen: Positive = 0.0
    mean: Figure = PRIOR_MEAN
    memory: Positive = 1.0
    """So many answers count at most."""

    def add(self, reward: float, memory: float) -> None:
        """One more answer."""
        self.memory = memory
        self.seen = min(self.seen + 1.0, memory)
        self.mean += (reward - self.mean) / (self.seen + 1.0)

    def beside(self, others: Belief) -> Belief:
        """With what others know: the own answers are the newest, so the others' fill what is left of `memory`."""
        room = max(0.0, self.memory - self.seen) if self.seen else others.memory
        return _beliefs((self, 1.0), (others, min(1.0, room / others.seen) if others.seen else 0.0))


def beliefs_together(parts: Iterable[Belief]) -> Belief:
    """As if all answers had come to one; the prior counts once."""
    return _beliefs(*((part, 1.0) for part in parts))


def _beliefs(*weighted: tuple[Belief, float]) -> Belief:
    seen = sum(part.seen * weight for part, weight in weighted)
    rewards = sum((part.mean * (part.seen + 1.0) - PRIOR_MEAN) * weight for part, weight in weighted)
    memory = max(part.memory for part, _ in weighted)
    return Belief(min(seen, memory), (PRIOR_MEAN + rewards) / (seen + 1.0), memory)


class CascadeState(msgspec.Struct, gc=False):
    """What a cascade costs beside what the last step alone would."""

    requests: Count = 0
    asked: Count = 0
    """Requests whose first answers did not do."""
    spent: Figure = 0.0
    """Moving average of what a request cost, nano-USD."""
    alone: Figure = 0.0
    """Moving average of what the last step alone costs, nano-USD."""
    escalated: Figure = 0.0
    """Moving share of requests that went to the last step."""

    def add(self, *, spent_nusd: int, alone_nusd: int, escalated: bool) -> None:
        """One more request."""
        self.requests += 1
        self.asked += escalated
        weight = max(CASCADE_WEIGHT, 1.0 / self.requests)
        self.spent += (spent_nusd - self.spent) * weight
        self.alone += (alone_nusd - self.alone) * weight
        self.escalated += (float(escalated) - self.escalated) * weight

    @property
    def pays(self) -> float | None:
        """What is saved, as a share of the price of the last step alone; below 0: it costs more. None: too little is known."""
        if self.requests < LEAST_CASCADES or self.alone <= 0:
            return None
        return 1.0 - self.spent / self.alone

    def beside(self, others: CascadeState) -> CascadeState:
        """With what others know: the own requests are the newest, so the others' count as far as these do not fill the averages."""
        own = min(self.requests * CASCADE_WEIGHT, 1.0)
        return _cascades((self, own), (others, min(others.requests * CASCADE_WEIGHT, 1.0 - own)))


def cascades_together(parts: Iterable[CascadeState]) -> CascadeState:
    """Averages of the averages, by how many requests stand behind them."""
    return _cascades(*((part, min(part.requests * CASCADE_WEIGHT, 1.0)) for part in parts))


def _cascades(*weighted: tuple[CascadeState, float]) -> CascadeState:
    whole = sum(weight for _, weight in weighted) or 1.0
    return CascadeState(
        requests=sum(part.requests for part, _ in weighted),
        asked=sum(part.asked for part, _ in weighted),
        spent=sum(part.spent * weight for part, weight in weighted) / whole,
        alone=sum(part.alone * weight for part, weight in weighted) / whole,
        escalated=sum(part.escalated * weight for part, weight in weighted) / whole,
    )


class VendorSpend(msgspec.Struct):
    """What providers have had of late; money counts less and less as time passes."""

    half_seconds: Annotated[float, msgspec.Meta(gt=0, le=MOST)]
    nusd: dict[str, Figure] = {}
    calls: Count = 0
    at: Figure = 0.0
    """When money was added last, Unix seconds."""

    def add(self, provider: str, nusd: int, now: float) -> None:
        """One more call."""
        self.nusd = self.faded(now)
        self.nusd[provider] = self.nusd.get(provider, 0.0) + nusd
        self.at = max(self.at, now)
        self.calls += 1

    def faded(self, now: float) -> dict[str, float]:
        """What the money counts at a later time, nano-USD."""
        fade = 0.5 ** (max(0.0, now - self.at) / self.half_seconds)
        return {name: value * fade for name, value in self.nusd.items()}

    def shares(self) -> Mapping[str, float]:
        """Of each provider that has had any, 0 to 1; empty while too little is known."""
        total = sum(self.nusd.values())
        if self.calls < LEAST_VENDOR_CALLS or total <= 0:
            return {}
        return {name: value / total for name, value in self.nusd.items()}


def vendors_together(parts: Iterable[VendorSpend]) -> VendorSpend:
    """The sums, as of the last call of all."""
    parts = list(parts)
    last = max(parts, key=lambda part: part.at)
    made = VendorSpend(last.half_seconds, {}, sum(part.calls for part in parts), last.at)
    for part in parts:
        for name, value in part.faded(last.at).items():
            made.nusd[name] = made.nusd.get(name, 0.0) + value
    return made


class Trial(msgspec.Struct):
    """What came of an experiment's arms."""

    since: Figure
    """When it began, Unix seconds."""
    run: Count = 0
    """How often it was let begin anew."""
    arms: dict[str, ArmState] = {}


def trials_together(parts: Iterable[Trial]) -> Trial:
    """All calls of the newest run, which began when the first process met it."""
    parts = list(parts)
    run = max(part.run for part in parts)
    parts = [part for part in parts if part.run == run]
    names = dict.fromkeys(name for part in parts for name in part.arms)
    arms = {name: arms_together([part.arms[name] for part in parts if name in part.arms]) for name in names}
    return Trial(min(part.since for part in parts), run, arms)


class Sighting(msgspec.Struct, omit_defaults=True):
    """What one process has seen of a deployment of late. Moments are Unix ms by the store's clock; 0: nothing."""

    first_token: list[Positive] = []
    """Some of the latest times to the first token, ms."""
    first_token_at_ms: Count = 0
    total: list[Positive] = []
    """The same of whole calls."""
    total_at_ms: Count = 0
    cause: str = ""
    """Why it is cooling down."""
    failed_at_ms: Count = 0
    until_ms: Count = 0
    """When a call may probe it."""
    cooldown_seconds: Positive = 0.0
    """The next cooldown is twice as long."""


class Experience(msgspec.Struct, omit_defaults=True):
    """All that one process, or several together, have learned: by the mark of a kind in a rule."""

    at_ms: Count = 0
    """When this was written, by the store's clock."""
    taken_over: list[str] = []
    """Processes that are gone, and whose experience is in here."""
    used_ms: dict[str, Count] = {}
    """When something was added last, by mark."""
    trials: dict[str, Trial] = {}
    bandits: dict[str, dict[str, Belief]] = {}
    """By mark and candidate."""
    cascades: dict[str, CascadeState] = {}
    vendors: dict[str, VendorSpend] = {}
    seen: dict[str, Sighting] = {}
    """By deployment, what the process itself has seen; not put together with what others have."""

    def kept(self, now_ms: int) -> Experience:
        """Without what nobody has used for `KEEP_MS`."""
        gone = {mark for mark, used_ms in self.used_ms.items() if used_ms < now_ms - KEEP_MS}
        return Experience(
            at_ms=self.at_ms,
            taken_over=self.taken_over,
            used_ms=_without(self.used_ms, gone),
            trials=_without(self.trials, gone),
            bandits=_without(self.bandits, gone),
            cascades=_without(self.cascades, gone),
            vendors=_without(self.vendors, gone),
        )


def together(parts: Iterable[Experience]) -> Experience:
    """As if one process had served all calls."""
    parts = list(parts)
    return Experience(
        used_ms=_merged([part.used_ms for part in parts], max),
        trials=_merged([part.trials for part in parts], trials_together),
        bandits=_merged([part.bandits for part in parts], lambda found: _merged(found, beliefs_together)),
        cascades=_merged([part.cascades for part in parts], cascades_together),
        vendors=_merged([part.vendors for part in parts], vendors_together),
    )


def _merged(parts: Iterable[Mapping[str, T]], join: Callable[[list[T]], T]) -> dict[str, T]:
    found: dict[str, list[T]] = {}
    for part in parts:
        for name, value in part.items():
            found.setdefault(name, []).append(value)
    return {name: join(values) for name, values in found.items()}


def _without(found: Mapping[str, T], gone: set[str]) -> dict[str, T]:
    return {name: value for name, value in found.items() if name not in gone}
