"""How good the forecast is, on simulated spend: `python -m benchmarks.forecast [--windows N] [--seed N]`. Prints a Markdown table.

Calls arrive as a Poisson process, 60 in a bin on average; each costs a lognormal amount (sigma 1.1). Four shapes: even; office
hours (eight hours with nine tenths of the spend); bursts (one hour in eight, or five minutes of an hourly window, has six times
the rate of the others); and a runaway (ten times the rate from a random moment on). Limits go from three quarters to four thirds
of what such a window usually spends. The log is that of at least eight days before, and goes through the statistics of the
service. Only the seed decides what is drawn.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

import msgspec

from router.alerts.forecast import LEAST_SHARE, Forecast, forecast, shape_of
from router.alerts.statistics import Statistics
from router.domain.budgets import Budget, WindowKind

HOUR_MS = 3_600_000
LENGTH_MS: dict[WindowKind, int] = {"hour": HOUR_MS, "day": 24 * HOUR_MS, "month": 30 * 24 * HOUR_MS}
KNOWN_MS = 8 * 24 * HOUR_MS
CALLS = 60.0
NUSD = 1_000_000
"""Mean cost of a call."""

Rate = Callable[[int, random.Random, bool], float]
"""(moment in ms, random, whether the runaway has begun) -> factor on the mean rate."""


def even(at: int, rng: random.Random, wild: bool) -> float:
    return 1.0


def office(at: int, rng: random.Random, wild: bool) -> float:
    return 2.7 if 9 <= at // HOUR_MS % 24 < 17 else 0.15


def bursts(at: int, rng: random.Random, wild: bool) -> float:
    return (6.0 if rng.random() < 0.125 else 1.0) / 1.625


def runaway(at: int, rng: random.Random, wild: bool) -> float:
    return 10.0 if wild else 1.0


SHAPES: dict[str, Rate] = {"even": even, "office hours": office, "bursts": bursts, "runaway": runaway}


@dataclass
class Result:
    """What became of the windows of one row."""

    exceeded: int = 0
    told_exceeded: int = 0
    kept: int = 0
    told_kept: int = 0
    ahead: list[float] = field(default_factory=list)
    error: list[float] = field(default_factory=list)
    inside: int = 0


def spend(rng: random.Random, calls: float) -> int:
    """What one bin spends."""
    count = max(0, round(rng.gauss(calls, calls**0.5)))
    # exp(mu + sigma^2 / 2), the mean, is 1.
    return int(sum(rng.lognormvariate(-0.605, 1.1) for _ in range(count)) * NUSD)


class Simulation:
    """One window of one budget, after a past that the service knows."""

    def __init__(self, window: WindowKind, rate: Rate, seed: int) -> None:
        self.rng, self.rate, self.length = random.Random(seed), rate, LENGTH_MS[window]
        shape = shape_of(window)
        assert shape is not None
        self.bin_ms = shape[0]
        self.budgets = {"b": Budget(name="b", limit_nusd=0, window=window)}
        self.statistics = Statistics()
        self.begin = -(-max(KNOWN_MS, self.length) // (24 * HOUR_MS)) * 24 * HOUR_MS
        for at in range(0, self.begin, self.bin_ms):
            self.book(at, self.draw(at, False))

    def draw(self, at: int, wild: bool) -> int:
        # An hour of bursts is a burst as a whole.
        steps = max(1, (HOUR_MS if self.length > HOUR_MS else 5 * 60_000) // self.bin_ms)
        if at // self.bin_ms % steps == 0 or not hasattr(self, "factor"):
            self.factor = self.rate(at, self.rng, wild)
        if self.rate is runaway:
            self.factor = self.rate(at, self.rng, wild)
        return spend(self.rng, CALLS * self.factor)

    def book(self, at: int, nusd: int) -> None:
        record = msgspec.json.encode({"at_ms": at, "charge_nusd": nusd, "buckets": ["b||w"]})
        self.statistics.add(record, budgets=self.budgets, is_team=lambda _: False)

    def run(self, share: float, result: Result) -> None:
        usual = sum(self.draw(self.begin + at, False) for at in range(0, self.length, self.bin_ms))
        limit, wild_from = int(usual * share), self.begin + self.rng.uniform(0.2, 0.9) * self.length
        told, spent, ends = None, 0, self.begin + self.length
        for at in range(self.begin, ends, self.bin_ms):
            nusd, now = self.draw(at, at >= wild_from), at + self.bin_ms
            self.book(at, nusd)
            spent += nusd
            if spent >= limit:
                self.exceeded(now, told, result)
                return
            if told is None and spent >= LEAST_SHARE * limit:
                burn, profile = self.statistics.burns["b|"], self.statistics.profile(now)
                burn.advance(now, profile)
                found = forecast(burn, left_nusd=limit - spent, spent_nusd=spent, now_ms=now, ends_ms=ends, profile=profile)
                told = None if found is None else (now, found)
        result.kept += 1
        result.told_kept += told is not None

    def exceeded(self, exhausted: int, told: tuple[int, Forecast] | None, result: Result) -> None:
        result.exceeded += 1
        if told is None:
            return
        now, found = told
        result.told_exceeded += 1
        result.ahead.append((exhausted - now) / self.length)
        result.error.append(abs(found.likely_ms - exhausted) / self.length)
        result.inside += found.earliest_ms - self.bin_ms <= exhausted <= found.latest_ms + self.bin_ms


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.forecast")
    parser.add_argument("--windows", type=int, default=50, help="simulated windows for each row")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    print("| window | spend | told, of those used up | told in vain | told ahead | error of the moment | moment in the interval |")
    print("|---|---|---|---|---|---|---|")
    for window in LENGTH_MS:
        for name, rate in SHAPES.items():
            if window == "hour" and name == "office hours":
                continue
            result = Result()
            for number in range(args.windows):
                share = 0.75 * (16 / 9) ** (number / max(1, args.windows - 1))
                Simulation(window, rate, args.seed * 1_000_003 + number).run(share, result)
            print(row(window, name, result), flush=True)


def row(window: str, name: str, result: Result) -> str:
    def of(part: int, whole: int) -> str:
        return f"{part} of {whole}" if whole else "-"

    cells = (
        window,
        name,
        of(result.told_exceeded, result.exceeded),
        of(result.told_kept, result.kept),
        f"{median(result.ahead):.0%}" if result.ahead else "-",
        f"{median(result.error):.0%}" if result.error else "-",
        of(result.inside, result.told_exceeded),
    )
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
