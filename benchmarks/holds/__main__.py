"""Spend a budget to its end with many calls at once, by several ways to hold: `python -m benchmarks.holds`.

The service is real but for its sockets: the pipeline with everything in it, and a ledger in a SQLite file or, with
`--store redis://...`, in Redis. The provider is simulated: answers of lognormal length (median 300 tokens, sigma 1.1), 150
tokens a second after 0.3 seconds. 50 clients ask without a cap of their own, again and again; one that was refused
asks again half a second later. A run ends when a call is refused though no other is under way. Time runs faster
than on the clock, by the same factor for the provider, the clients and the wait for room.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Final

from benchmarks.holds.provider import Client, InProcess, Provider
from router.app import Service
from router.settings.load import load_text, price_book
from router.snapshot import Snapshot

BUDGET_USD: Final = 10
USD_PER_TOKEN: Final = 10 / 1_000_000
CLIENTS: Final = 50
REFUSED_PAUSE_SECONDS: Final = 0.5
BEST: Final = "learned, wait, clamp, refuse"
"""The way of which the targets are."""
TARGETS: Final = {"json": 0.85, "streams": 0.95}
"""Least share of the budget that is settled at the first refusal."""
SETTLED: Final = 0.995
"""Least share that is settled in the end."""
CUT: Final = 0.01
"""Fewer answers than this share are cut."""
REFUSALS_AT_THE_END: Final = 3
"""In a row, with nothing under way: no call fits any more."""

CONFIG: Final = """
version: 1
server: {{store: "{store}", log_requests: false, {server}}}
providers: {{one: {{kind: openai, base_url: "http://127.0.0.1:1/v1", api_key: none}}}}
models: {{m: {{at: one/m, price: {{input: 1, output: 10}}, default_max_output: {cap}}}}}
budgets: {{everyone: {{limit: ${limit}, on_short: {on_short}}}}}
"""


@dataclass(frozen=True)
class Way:
    """One way to hold."""

    name: str
    cap: int
    on_short: str
    server: str


def ways(faster: float, least_output: int) -> Sequence[Way]:
    """What is compared."""
    flat = "strict: true, learn_lengths: false, slice_tokens: {}"
    wait = f"short_wait: {2000 / faster:g}ms, least_output: {least_output}"
    return (
        Way("flat 16,384", 16384, "refuse", flat.format(16384)),
        Way("flat 4,096", 4096, "refuse", flat.format(4096)),
        Way("learned, refuse", 16384, "refuse", wait),
        Way("learned, wait, refuse", 16384, "[wait, refuse]", wait),
        Way(BEST, 16384, "[wait, clamp, refuse]", wait),
    )


@dataclass(frozen=True)
class Result:
    """What came of one run; shares of the budget or of the answers."""

    overshoot: float
    first_refusal: float
    with_streams: float
    """The same with what streams had written by then."""
    settled: float
    cut: float
    answers: int


class SimulatedService(Service):
    """The service with a provider in its own process."""

    def __init__(self, snapshot: Snapshot, provider: Provider) -> None:
        super().__init__(snapshot, log_target=os.devnull)
        self.provider = provider
        self._lanes = InProcess(self._stack, provider)


class Run:
    """One budget, spent to its end."""

    def __init__(self, service: SimulatedService, *, stream: bool, faster: float) -> None:
        self._service = service
        self._faster = faster
        prompt = "Tell me something that I do not know about the history of trains and the people who built them. " * 4
        self._body = json.dumps({"model": "m", "stream": stream, "messages": [{"role": "user", "content": prompt}]}).encode()
        self._first_refusal: float | None = None
        self._written = 0.0
        self._refused_alone = 0

    async def spend(self) -> Result:
        await asyncio.gather(*(self._ask_again_and_again() for _ in range(CLIENTS)))
        spent, debt = await self._spent()
        tally = self._service.provider.tally
        cuts = self._service.metrics.counted("faregate_budget_refusals_total").get(("everyone", "cut"), 0)
        return Result(
            overshoot=max(0.0, spent - 1, debt),
            first_refusal=self._first_refusal or 0.0,
            with_streams=(self._first_refusal or 0.0) + self._written,
            settled=spent,
            cut=(tally.limited + cuts) / tally.answers,
            answers=tally.answers,
        )

    async def _ask_again_and_again(self) -> None:
        while self._refused_alone < REFUSALS_AT_THE_END:
            client = Client(self._body)
            await self._service.pipeline.serve(client, "chat")
            if client.status == 200:
                self._refused_alone = 0
                continue
            if client.status != 402:
                raise RuntimeError(f"status {client.status}")
            if self._first_refusal is None:
                self._first_refusal, _ = await self._spent()
                tokens = sum(attempt.meter.events for attempt in self._service.live.values() if attempt.meter is not None)
                self._written = tokens * USD_PER_TOKEN / BUDGET_USD
            if not self._service.live:
                self._refused_alone += 1
            await asyncio.sleep(REFUSED_PAUSE_SECONDS / self._faster)

    async def _spent(self) -> tuple[float, float]:
        """Spent and debt as shares of the budget."""
        (state,) = await self._service.ledger.bucket_states()
        whole = BUDGET_USD * 10**9
        return state.spent_nusd / whole, state.debt_nusd / whole


async def run(way: Way, *, stream: bool, seed: int, faster: float, store: str) -> Result:
    """Spend one budget."""
    with tempfile.TemporaryDirectory() as folder:
        where = store or str(Path(folder) / "ledger.sqlite")
        text = CONFIG.format(store=where, server=way.server, cap=way.cap, on_short=way.on_short, limit=BUDGET_USD)
        snapshot = load_text(text, source="holds.yaml", environ={}, price_book=price_book()).snapshot
        async with SimulatedService(snapshot, Provider(seed, faster)) as service:
            return await Run(service, stream=stream, faster=faster).spend()


def main(words: Sequence[str] | None = None) -> None:
    """Run all ways and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=4, help="runs of each way")
    parser.add_argument("--faster", type=float, default=10.0, help="the provider's seconds per second")
    parser.add_argument("--least-output", type=int, default=3072, help="smallest cap near the end of the budget, tokens")
    parser.add_argument("--store", default="", help="an empty Redis for a single run; default: a file for each run")
    parser.add_argument("--only", default="", help="ways whose name contains this")
    parser.add_argument("--kind", choices=("json", "streams", "both"), default="both")
    given = parser.parse_args(words)
    columns = ("overshoot", "settled at the first refusal (least)", "written too", "settled in the end (least)", "answers cut")
    print(f"| {CLIENTS} clients, {BUDGET_USD} USD, {given.seeds} runs | {' | '.join(columns)} |")
    print("|---|---|---|---|---|---|")
    verdicts = []
    for kind in ("json", "streams") if given.kind == "both" else (given.kind,):
        for way in ways(given.faster, given.least_output):
            if given.only not in way.name:
                continue
            results = [
                asyncio.run(run(way, stream=kind == "streams", seed=seed, faster=given.faster, store=given.store))
                for seed in range(given.seeds)
            ]
            print(f"| {kind}: {way.name} | {_row(results)} |", flush=True)
            if way.name == BEST:
                verdicts.append(_verdict(kind, results))
    print("", *verdicts, sep="\n")


def _verdict(kind: str, results: Sequence[Result]) -> str:
    """Each target of a kind with what was reached, on average over the runs."""
    reached = (
        ("overshoot 0", all(result.overshoot == 0 for result in results)),
        (f"{TARGETS[kind]:.0%} settled at the first refusal", mean(result.first_refusal for result in results) >= TARGETS[kind]),
        (f"{SETTLED:.1%} settled in the end", mean(result.settled for result in results) >= SETTLED),
        (f"fewer than {CUT:.0%} cut", _cut(results) < CUT),
    )
    told = "; ".join(f"{target}: {'met' if met else 'missed'}" for target, met in reached)
    note = f"; {TARGETS[kind]:.0%} settled or written: {'met' if mean(r.with_streams for r in results) >= TARGETS[kind] else 'missed'}"
    return f"{kind}, {BEST}: {told}{note if kind == 'streams' else ''}"


def _cut(results: Sequence[Result]) -> float:
    return sum(result.cut * result.answers for result in results) / sum(result.answers for result in results)


def _row(results: Sequence[Result]) -> str:
    firsts, ends = [result.first_refusal for result in results], [result.settled for result in results]
    written, cut = mean(result.with_streams for result in results), _cut(results)
    worst = max(result.overshoot for result in results)
    return f"{worst:.2%} | {mean(firsts):.1%} ({min(firsts):.1%}) | {written:.1%} | {mean(ends):.2%} ({min(ends):.2%}) | {cut:.2%}"


if __name__ == "__main__":
    main()
