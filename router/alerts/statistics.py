"""What the log says of the recent past, kept small: burn rates of buckets, spend by hour, models without a price."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from router.alerts.anomaly import HOUR_MS, WEEK_HOURS, WEEKS
from router.alerts.forecast import DAY, Burn, Profile, shape_of
from router.domain.budgets import Budget
from router.domain.rerate import REASON
from router.domain.windows import budget_of

VERSION: Final = 1
"""Of the form in which statistics are kept."""
MAX_BURNS: Final = 2_000
"""Buckets whose burn rate is followed; those that spent last."""
MAX_TEAMS: Final = 50
"""Teams whose hours are followed."""
MAX_UNPRICED: Final = 100


class Line(msgspec.Struct):
    """What is read of a spend record."""

    at_ms: int = 0
    reason: str = ""
    charge_nusd: int = 0
    team: str = ""
    deployment: str = ""
    price_source: str = ""
    buckets: list[str] = []


_DECODER: Final = msgspec.json.Decoder(Line)


class Statistics(msgspec.Struct, dict=True):
    """Sums over the log up to `cursor`."""

    version: int = VERSION
    cursor: str = ""
    burns: dict[str, Burn] = {}
    """By `budget|scope`, last spent last."""
    hours: dict[str, dict[int, int]] = {}
    """Nano-USD by team and hour since the Unix epoch; the empty team is all together."""
    first_hour: int | None = None
    """Of the first record that was read."""
    assumed: list[str] = []
    """Deployments that were called at an assumed price."""

    def add(self, record: bytes, *, budgets: Mapping[str, Budget], is_team: Callable[[str], bool]) -> None:
        """Count a record; one that cannot be read is left out, and so is a change of old charges: nobody spent then."""
        try:
            line = _DECODER.decode(record)
        except msgspec.MsgspecError:
            return
        if line.reason == REASON:
            return
        self._add_hour(line, is_team)
        for bucket in line.buckets:
            self._add_burn(bucket, line, budgets)
        if line.price_source == "assumed" and line.deployment not in self.assumed and len(self.assumed) < MAX_UNPRICED:
            self.assumed.append(line.deployment)

    def _add_hour(self, line: Line, is_team: Callable[[str], bool]) -> None:
        hour = line.at_ms // HOUR_MS
        if self.first_hour is None or hour < self.first_hour:
            self.first_hour = hour
        for name in {"", line.team}:
            sums = self.hours.get(name)
            if sums is None:
                if name and (not is_team(name) or len(self.hours) > MAX_TEAMS):
                    continue
                sums = self.hours[name] = {}
            sums[hour] = sums.get(hour, 0) + line.charge_nusd

    def _add_burn(self, bucket: str, line: Line, budgets: Mapping[str, Budget]) -> None:
        name = bucket.rpartition("|")[0]
        burn = self.burns.pop(name, None)
        if burn is None:
            budget = budgets.get(budget_of(bucket))
            shape = None if budget is None else shape_of(budget.window)
            if shape is None:
                return
            burn = Burn(bin_ms=shape[0], half_life_ms=shape[1], bin=line.at_ms // shape[0])
        burn.add(line.charge_nusd, line.at_ms, self.profile(line.at_ms))
        self.burns[name] = burn
        if len(self.burns) > MAX_BURNS:
            del self.burns[next(iter(self.burns))]

    def profile(self, now_ms: int) -> Profile | None:
        """How busy the hours are, from all spend up to this one; None until a day is known."""
        hour, first = now_ms // HOUR_MS, self.first_hour
        if first is None or hour - first < DAY:
            return None
        made: tuple[int, Profile] | None = self.__dict__.get("made")
        if made is None or made[0] != hour:
            # Not a field: it is made anew after a restart.
            made = self.__dict__["made"] = hour, Profile(self.hours.get("", {}), first_hour=first, now_hour=hour)
        return made[1]

    def forget(self, now_ms: int) -> None:
        """Drop hours that nothing looks back to any more."""
        oldest = now_ms // HOUR_MS - WEEKS * WEEK_HOURS
        for name, sums in list(self.hours.items()):
            self.hours[name] = {hour: nusd for hour, nusd in sums.items() if hour >= oldest}
            if name and not self.hours[name]:
                del self.hours[name]


def encode(statistics: Statistics) -> bytes:
    """As they are kept in the store."""
    return msgspec.msgpack.encode(statistics)


def decode(text: bytes) -> Statistics:
    """What `encode` wrote; empty ones if that is nothing, or of another release."""
    try:
        found = msgspec.msgpack.decode(text, type=Statistics)
    except msgspec.MsgspecError:
        return Statistics()
    return found if found.version == VERSION else Statistics()
