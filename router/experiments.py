"""What came of the arms of canaries and splits; what was taken back stays so, in every process and after a restart.

Each process counts the calls and ratings of its own, and knows those of the others (`router/experience.py`). That an arm is taken back
is written into the ledger's store as a control, which every worker of every replica reads (`router/live_controls.py`): the first one
that is certain decides for all.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache

from policies.plans import Stop
from policies.sequential import ArmState, reason_to_stop
from router.domain.controls import Control
from router.domain.experience import Trial, trials_together
from router.domain.feedback import Lesson
from router.metrics import Metrics

log = logging.getLogger("faregate.experiments")

Key = tuple[str, str, str, str]
"""Route, rule, name, and what else tells it from an earlier one of that name."""


class Experiment:
    """What came of an experiment's arms."""

    __slots__ = ("own", "stopped", "stops")

    def __init__(self, since: float, run: int = 0) -> None:
        self.own = Trial(since, run, {})
        """What this process saw."""
        self.stops: tuple[Stop, ...] = ()
        """What would end it."""
        self.stopped = ""
        """Why it was taken back; empty while it runs."""

    @property
    def arms(self) -> dict[str, ArmState]:
        """What this process saw of each arm."""
        return self.own.arms

    def reason(self, others: Trial | None = None) -> str:
        """Why it is to be taken back now, by what all processes saw; empty: it goes on."""
        arms = self.own.arms if others is None else trials_together((self.own, others)).arms
        return next((why for stop in self.stops if (why := reason_to_stop(stop, arms))), "")


def target_of(key: Key) -> str:
    """How people name an experiment: `route/rule/name`."""
    return "/".join(key[:3])


@lru_cache(maxsize=4096)
def mark_of(key: Key) -> str:
    """Tells an experiment, or another kind that learns, from all others, and from an earlier one of its name."""
    return hashlib.blake2b("\0".join(key).encode(), digest_size=6).hexdigest()


class Experiments:
    """All experiments that this process has met."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` gives Unix seconds."""
        self._clock = clock
        self.known: dict[Key, Experiment] = {}
        self.unsaid: dict[Key, str] = {}
        """Why some were taken back here, as long as the store has not been told."""
        self.others: Mapping[str, Trial] = {}
        """What other processes saw, by mark."""
        self._taken_back: Mapping[str, str] = {}
        """Why some were, by their mark, as the store says."""
        self._runs: Mapping[str, int] = {}
        """How often some were let begin anew, by their mark."""

    def of(self, key: Key, since: float | None = None) -> Experiment:
        """An experiment; one that is met for the first time begins now, unless `since` says when."""
        found = self.known.get(key)
        if found is None:
            mark = mark_of(key)
            found = self.known[key] = Experiment(self._clock() if since is None else since, self._runs.get(mark, 0))
            found.stopped = self._taken_back.get(mark, "")
        return found

    def since(self, key: Key, given: float | None) -> float:
        """When an experiment began, Unix seconds: as is `given`, or when the first process met it."""
        if given is not None:
            return given
        own, others = self.of(key).own, self.others.get(mark_of(key))
        return own.since if others is None or others.run != own.run else min(own.since, others.since)

    def count(
        self,
        key: Key,
        arm: str,
        stops: Iterable[Stop],
        metrics: Metrics,
        *,
        failed: bool,
        first_token_ms: float | None,
        charge_nusd: int,
    ) -> None:
        """One more call of an arm."""
        experiment = self.of(key)
        experiment.stops = tuple(stop for stop in stops if stop.experiment == key[2])
        experiment.arms.setdefault(arm, ArmState()).add(failed=failed, first_token_ms=first_token_ms, charge_nusd=charge_nusd)
        self._look(key, experiment, metrics)

    def rated(self, lesson: Lesson, before: float | None, rating: float, metrics: Metrics) -> None:
        """Somebody says how good an answer of an arm was, 0 to 1, whichever process gave it; `before`: what was said and counted of it."""
        experiment = self.of(lesson.key)
        if experiment.own.run != lesson.run:
            return
        state = experiment.arms.setdefault(lesson.arm, ArmState())
        if before is not None:
            state.replaced.add(before)
        state.rated.add(rating)
        self._look(lesson.key, experiment, metrics)

    def _look(self, key: Key, experiment: Experiment, metrics: Metrics) -> None:
        if experiment.stopped or not (reason := experiment.reason(self.others.get(mark_of(key)))):
            return
        experiment.stopped = self.unsaid[key] = reason
        metrics.experiment_stopped(experiment=key[2], reason=reason)
        log.warning(f"route {key[0]}, experiment {key[2]}: {experiment.stops[0].arm} is taken back ({reason})")

    def take(self, controls: Iterable[Control], runs: Mapping[str, int]) -> None:
        """Go by what the store says: others may have taken an experiment back, and people may let it begin anew.

        `runs`: how often they did, by mark.
        """
        taken_back = {each.scope: each.reason for each in controls if each.kind == "stop"}
        if taken_back == self._taken_back and runs == self._runs:
            return
        self._taken_back, self._runs = taken_back, runs
        for key, experiment in list(self.known.items()):
            mark = mark_of(key)
            reason = taken_back.get(mark)
            if experiment.own.run != runs.get(mark, 0):
                del self.known[key]
                log.warning(f"route {key[0]}, experiment {key[2]}: it begins anew")
            elif reason is not None and not experiment.stopped:
                experiment.stopped = reason
                log.warning(f"route {key[0]}, experiment {key[2]}: taken back ({reason}), as another process found")
