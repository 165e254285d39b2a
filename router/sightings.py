"""What processes tell each other of deployments: how fast they were of late, and which of them are cooling down.

It goes the way of all that is learned (`router/experience.py`), and only into what routing goes by anyway. What a process has seen itself
comes first: others' times stand in for its own where it has none of late, and others' cooldowns are taken over unless it has had an answer
since.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

from router.domain.experience import Sighting
from router.figures import RING_SIZE, STALE_SECONDS, Latencies

if TYPE_CHECKING:
    from router.fleet import Fleet
    from router.fleet_state import DeploymentState

TOLD_TIMES: Final = 16
"""So many times of a deployment are told of, evenly out of those that are known."""
STALE_MS: Final = int(STALE_SECONDS * 1000)
LONGEST_MS: Final = 600_000
"""No cooldown that others tell of is longer, as no provider's wish is heard that is: `fleet.LONGEST_RETRY_AFTER_SECONDS`."""


class Sightings:
    """One process's part in it."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._told: dict[str, tuple[tuple[float, float, float | None], Sighting]] = {}
        """What was told last, and what of the deployment that was made of: the same is told in the same words."""
        self._heard: dict[str, float] = {}
        """Ends of cooldowns that others began: those are not told again."""

    @property
    def are_urgent(self) -> bool:
        """Whether a deployment began to cool down here that nobody was told of."""
        if self._fleet.calm:
            return False
        own = ((name, state.cooled_until) for name, state in self._fleet.look().items() if state.cooled_until is not None)
        return any(until != self._heard.get(name) and (name not in self._told or self._told[name][0][2] != until) for name, until in own)

    def tell(self, now_ms: int) -> dict[str, Sighting]:
        """What was seen here of late, by deployment. `now_ms` is the store's clock."""
        now = self._fleet.clock()
        told = {}
        for name, state in self._fleet.look().items():
            until = None if state.cooled_until == self._heard.get(name) else state.cooled_until
            made_of = (_fresh_at(state.first_token, now), _fresh_at(state.total, now), until)
            if made_of == (0.0, 0.0, None):
                continue
            before = self._told.get(name)
            told[name] = (
                before if before is not None and before[0] == made_of else (made_of, self._sighting(name, state, made_of, now_ms, now))
            )
        self._told = told
        return {name: sighting for name, (_, sighting) in told.items()}

    def _sighting(self, name: str, state: DeploymentState, made_of: tuple[float, float, float | None], now_ms: int, now: float) -> Sighting:
        def at(seconds: float) -> int:
            return max(0, now_ms + round((seconds - now) * 1000))

        first_at, total_at, until = made_of
        sighting = Sighting()
        if first_at:
            sighting.first_token, sighting.first_token_at_ms = _some(state.first_token.values, TOLD_TIMES), at(first_at)
        if total_at:
            sighting.total, sighting.total_at_ms = _some(state.total.values, TOLD_TIMES), at(total_at)
        if until is not None:
            sighting.cause, failed_at = self._fleet.troubles[name]
            sighting.failed_at_ms, sighting.until_ms, sighting.cooldown_seconds = at(failed_at), at(until), state.cooldown_seconds
        return sighting

    def hear(self, rows: Iterable[Mapping[str, Sighting]], now_ms: int) -> None:
        """Go by what others have seen, each of which told a row, where nothing was seen here."""
        found: dict[str, list[Sighting]] = {}
        for row in rows:
            for name, sighting in row.items():
                found.setdefault(name, []).append(sighting)
        now = self._fleet.clock()
        for name, sightings in found.items():
            first = _known([(one.first_token_at_ms, one.first_token) for one in sightings], now_ms, now)
            total = _known([(one.total_at_ms, one.total) for one in sightings], now_ms, now)
            self._fleet.borrow(name, first_token=first, total=total)
            for one in sightings:
                if one.until_ms:
                    self._hear_of_failure(name, one, now_ms, now)

    def _hear_of_failure(self, name: str, told: Sighting, now_ms: int, now: float) -> None:
        failed_at = now + min(0, told.failed_at_ms - now_ms) / 1000
        until = now + min(LONGEST_MS, told.until_ms - now_ms) / 1000
        if now - until > STALE_SECONDS:
            return
        end = self._fleet.cool(name, told.cause, failed_at, until, told.cooldown_seconds)
        if end is not None:
            self._heard[name] = end


def _fresh_at(times: Latencies, now: float) -> float:
    """When the newest own time came; 0: there is none of late."""
    return 0.0 if times.borrowed or now - times.at > STALE_SECONDS else times.at


def _some(values: Iterable[float], most: int) -> list[float]:
    """So many of them, evenly by size."""
    ordered = sorted(values)
    if len(ordered) > most:
        ordered = [ordered[(2 * place + 1) * len(ordered) // (2 * most)] for place in range(most)]
    return [round(value, 1) for value in ordered]


def _known(told: list[tuple[int, list[float]]], now_ms: int, now: float) -> tuple[list[float], float] | None:
    """All that is fresh of what was told, and when the newest of it came; None: nothing is."""
    fresh = [(at_ms, values) for at_ms, values in told if values and now_ms - at_ms <= STALE_MS]
    if not fresh:
        return None
    newest = min(now, now + (max(at_ms for at_ms, _ in fresh) - now_ms) / 1000)
    return _some((value for _, values in fresh for value in values), RING_SIZE), newest
