"""Ledgers over shards, and one budget above all of them, split by advances: a simulation without I/O.

Every organisation has a ledger of its own, and every ledger lives on one shard. The budget that all share lives on the home
shard; every shard spends it from an advance that it has fetched there, sized as the service sizes its own: a share of what is left,
divided among all who take from it, refilled when half is gone.
"""

from __future__ import annotations

import hashlib
import heapq
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

TICK_SECONDS: Final = 0.1
FETCH_TICKS: Final = 1
"""How long it takes until a refill is there, in ticks."""


def ledgers(requests: int, organisations: int, skew: float, most: float) -> list[float]:
    """Requests/s of each ledger, if the organisation of rank k sends in proportion to k^-skew.

    One that would get more than `most` is split, and its own budgets are spent from advances as the shared one is.
    """
    weights = [(rank + 1) ** -skew for rank in range(organisations)]
    scale = requests / sum(weights)
    parts = [(weight * scale, math.ceil(weight * scale / most)) for weight in weights]
    return [rate / count for rate, count in parts for _ in range(count)]


def loads(rates: Sequence[float], shards: int) -> list[float]:
    """Requests/s of each shard, if a hash says where a ledger is."""
    found = [0.0] * shards
    for number, rate in enumerate(rates):
        found[int.from_bytes(hashlib.sha256(b"ledger-%d" % number).digest()[:8], "big") % shards] += rate
    return found


def shards_needed(rates: Sequence[float], capacity: float) -> int:
    """The fewest shards of which none gets more than it can take."""
    shards = max(1, math.floor(sum(rates) / capacity))
    while max(loads(rates, shards)) > capacity:
        shards += 1
    return shards


@dataclass(slots=True)
class Advance:
    """What a shard has of the budget above it, in nano-USD."""

    granted: int = 0
    left: int = 0
    spent: int = 0
    """Charged from it, and not reported yet."""


@dataclass(slots=True)
class Outcome:
    """What came of a run."""

    refills: int = 0
    refill_peak: int = 0
    """Most refills in one second."""
    overshoot_nusd: int = 0
    """Most that spent and held together were above the limit."""
    at_first_refusal: float = 0.0
    """Share of the limit that was spent when the first call was refused."""
    at_end: float = 0.0
    """Share of the limit that was spent in the end."""
    served: int = 0


@dataclass(slots=True)
class Home:
    """The budget that all shards share."""

    limit: int
    granted: int = 0
    """Held by advances."""
    spent: int = 0

    @property
    def left(self) -> int:
        return self.limit - self.granted - self.spent


@dataclass(slots=True)
class Shard:
    """One shard, and the calls that are under way on it."""

    rate: float
    advance: Advance = field(default_factory=Advance)
    under_way: list[tuple[int, int, int]] = field(default_factory=list)
    """(tick of their end, calls, nano-USD held)."""
    fetching: int | None = None
    """The tick in which the refill that was asked for is there."""


def spend(
    rates: Sequence[float], *, limit_nusd: int, hold_nusd: int, mean_charge_nusd: int, seconds: float, share: float, seed: int
) -> Outcome:
    """Let all shards spend one budget until time or money is over. A call holds `hold_nusd` for two seconds on average."""
    draw = random.Random(seed)
    home, shards, outcome = Home(limit_nusd), [Shard(rate) for rate in rates], Outcome()
    per_second: list[int] = [0] * (int(seconds) + 2)
    for tick in range(int(seconds / TICK_SECONDS)):
        for shard in shards:
            _end_calls(shard, tick, draw, mean_charge_nusd)
            before = outcome.refills
            _refill(home, shard, tick, share / len(shards), hold_nusd, outcome)
            per_second[int(tick * TICK_SECONDS)] += outcome.refills - before
            _begin_calls(shard, tick, draw, hold_nusd, outcome, home)
        used = home.spent + home.granted
        outcome.overshoot_nusd = max(outcome.overshoot_nusd, used - home.limit)
    for shard in shards:
        _end_calls(shard, 1 << 60, draw, mean_charge_nusd)
        _report(home, shard)
    outcome.refill_peak = max(per_second)
    outcome.at_end = home.spent / home.limit
    outcome.overshoot_nusd = max(outcome.overshoot_nusd, home.spent - home.limit)
    return outcome


def _end_calls(shard: Shard, tick: int, draw: random.Random, mean_charge_nusd: int) -> None:
    while shard.under_way and shard.under_way[0][0] <= tick:
        _, calls, held = heapq.heappop(shard.under_way)
        # The sum of many charges, none above its hold.
        charge = min(held, max(0, round(draw.gauss(calls * mean_charge_nusd, (calls**0.5) * mean_charge_nusd))))
        shard.advance.spent += charge
        shard.advance.left += held - charge


def _report(home: Home, shard: Shard) -> None:
    """What was charged becomes spent at home; what is under way stays held."""
    advance = shard.advance
    home.granted -= advance.spent
    home.spent += advance.spent
    advance.granted -= advance.spent
    advance.spent = 0


def _refill(home: Home, shard: Shard, tick: int, share: float, hold_nusd: int, outcome: Outcome) -> None:
    """Report what was charged and fetch anew, if half of the part is gone: one settlement and one hold at home."""
    advance = shard.advance
    if shard.fetching is None:
        wanted = round((home.left + advance.left) * share)
        if 2 * advance.left < wanted:
            shard.fetching = tick + FETCH_TICKS
        elif 4 * advance.left > 5 * max(wanted, hold_nusd):
            # More than its part by now: the rest goes home.
            back = advance.left - max(wanted, hold_nusd)
            advance.left -= back
            advance.granted -= back
            home.granted -= back
            outcome.refills += 1
        return
    if tick < shard.fetching:
        return
    shard.fetching = None
    outcome.refills += 1
    _report(home, shard)
    more = min(home.left, round((home.left + advance.left) * share) - advance.left)
    if more > 0:
        home.granted += more
        advance.granted += more
        advance.left += more


def _begin_calls(shard: Shard, tick: int, draw: random.Random, hold_nusd: int, outcome: Outcome, home: Home) -> None:
    mean = shard.rate * TICK_SECONDS
    calls = max(0, round(draw.gauss(mean, mean**0.5)))
    fitting = min(calls, shard.advance.left // hold_nusd)
    # The first moment before any advance is there is the start, not a refusal.
    if fitting < calls and tick > 5 * FETCH_TICKS and not outcome.at_first_refusal:
        outcome.at_first_refusal = (home.spent + shard.advance.spent) / home.limit
    if fitting:
        outcome.served += fitting
        shard.advance.left -= fitting * hold_nusd
        heapq.heappush(shard.under_way, (tick + max(1, round(draw.expovariate(0.5) / TICK_SECONDS)), fitting, fitting * hold_nusd))
