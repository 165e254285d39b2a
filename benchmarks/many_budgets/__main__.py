"""What a request costs under ten budgets, and beside a million of them: `python -m benchmarks.many_budgets`.

Programs and load are those of `benchmarks.overhead`: JSON, 64 connections, a real Redis, the proxy on one core. Three services in
turn: the four budgets that are measured there; ten budgets; and ten budgets in a Redis that has a million buckets and 100,000 minted
keys. CPU time is counted for the proxy and for Redis, whatever else the machine does.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks.overhead import programs
from benchmarks.overhead.__main__ import Run
from benchmarks.overhead.measure import PHASES, Figures, cpu_us
from benchmarks.overhead.programs import Target, free_port
from router.adapters.redis.ledger import RedisLedger
from router.adapters.redis.scripts import command
from router.domain.budgets import BucketSet, Reservation
from router.domain.windows import bucket_at
from router.ports import StoredKey
from router.settings.load import load_text, price_book
from router.snapshot import Snapshot

SIX_MORE: Final = """  hourly: {limit: $100000/hour, each: key}
  weekly: {limit: $500000/week, each: key}
  monthly: {limit: $900000/month, each: key}
  ever: {limit: $2000000, each: key}
  daily: {limit: $300000/day, each: [key, route]}
  route: {limit: $900000/month, each: [key, route]}
"""
BATCH: Final = 64
BETWEEN_SECONDS: Final = 6.0
"""Until a service has looked at its budgets again."""


def ten_budgets() -> str:
    """The usual configuration with six budgets more."""
    usual = programs.configuration()
    before, line, after = usual.partition("teams:\n")
    return before + SIX_MORE + line + after


async def fill(url: str, *, buckets: int, keys: int) -> tuple[int, float]:
    """Put buckets of the split budgets, and minted keys, into a store. Returns how many buckets, and what one takes, bytes."""
    environment = {"BENCH_KEY": programs.KEY, "BENCH_PROVIDER_KEY": "x"}
    text = ten_budgets().replace("PROVIDER", "http://127.0.0.1:1/v1")
    snapshot = load_text(text, source="benchmark", environ=environment, price_book=price_book()).snapshot
    ledger = RedisLedger(url, timeout_seconds=30)
    await ledger.open(replica_id="fill", lease_seconds=600)
    try:
        before = await used_bytes(ledger)
        split = sum(1 for budget in snapshot.budgets if "key" in budget.dimensions)
        for at in range(0, buckets // split, BATCH):
            await asyncio.gather(*(_used(ledger, snapshot, f"k{number:07}") for number in range(at, min(at + BATCH, buckets // split))))
        count = await ledger.bucket_count()
        size = (await used_bytes(ledger) - before) / max(1, count)
        for at in range(0, keys, BATCH):
            some = [StoredKey(key_id=f"k{number:07}", secret_hmac=secrets.token_hex(32)) for number in range(at, min(at + BATCH, keys))]
            await asyncio.gather(*map(ledger.put_key, some))
        return count, size
    finally:
        await ledger.release()
        await ledger.close()


async def _used(ledger: RedisLedger, snapshot: Snapshot, key: str) -> None:
    """A key has used each of its budgets."""
    now_ms = time.time_ns() // 1_000_000
    scope = {("key",): f"key={key}", ("key", "route"): f"key={key}&route=auto"}
    members = tuple(bucket_at(budget, scope[budget.dimensions], now_ms) for budget in snapshot.budgets if "key" in budget.dimensions)
    held = await ledger.reserve(attempt_id=f"fill-{key}", amount_nusd=1000, buckets=BucketSet(members, min(b.ends_ms for b in members)))
    if not isinstance(held, Reservation):
        raise SystemExit(f"The store could not be filled: {held}")
    await ledger.settle(held, charge_nusd=1000, record=b'{"attempt_id":"%b"}' % held.attempt_id.encode())


async def used_bytes(ledger: RedisLedger) -> int:
    """Memory of the store's data."""
    told: bytes = await ledger._reads.call(command("INFO", "memory"))
    return int(told.partition(b"used_memory:")[2].split()[0])


def targets(run: Run) -> list[Target]:
    """nginx, and the three services."""
    port = free_port()
    found = [Target("nginx", port, programs.nginx(run.folder, "nginx", port, run.proxy_cpus, provider=run.provider_port))]
    named = (("four budgets", programs.configuration()), ("ten budgets", ten_budgets()), ("ten of many", ten_budgets()))
    for database, (name, text) in enumerate(named):
        port = free_port()
        program = programs.faregate(
            run.folder, name.replace(" ", "-"), port, run.proxy_cpus, provider=run.provider_port, store=run.redis_url(database), text=text
        )
        found.append(Target(name, port, program, service=run.store))
    return found


def table(rounds: dict[str, list[Figures]], memory: dict[str, float]) -> str:
    """CPU per request, and each beside four budgets and nginx of the same round."""
    phase = PHASES[0]
    lines = ["| | proxy, CPU-µs | × four budgets | × nginx | Redis, CPU-µs | memory of the proxy, MiB |", "|---|---:|---:|---:|---:|---:|"]
    for name, figures in rounds.items():
        proxy = [cpu_us(phase, one) or 0.0 for one in figures]
        redis = [cpu_us(phase, one, "service") for one in figures]

        def beside(other: str, proxy: list[float] = proxy) -> str:
            return f"{median(one / (cpu_us(phase, two) or 1.0) for one, two in zip(proxy, rounds[other], strict=True)):.2f}"

        shown = f"{median(value or 0.0 for value in redis):.0f}" if any(redis) else ""
        against = beside("four budgets") if name != "nginx" else ""
        lines.append(f"| {name} | {median(proxy):.0f} | {against} | {beside('nginx')} | {shown} | {memory.get(name, 0):.0f} |")
    return "\n".join(lines)


def main(words: list[str]) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.many_budgets", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--buckets", type=int, default=1_000_000)
    parser.add_argument("--keys", type=int, default=100_000)
    given = parser.parse_args(words)
    try:
        programs.check_installed()
    except programs.Missing as exc:
        raise SystemExit(str(exc)) from None
    phase = PHASES[0]
    rounds: dict[str, list[Figures]] = {}
    memory: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="faregate-bench-") as folder:
        run = Run(Path(folder))
        try:
            run.start([])
            count, size = asyncio.run(fill(run.redis_url(2), buckets=given.buckets, keys=given.keys))
            for target in targets(run):
                run.targets.append(target)
                target.start()
            time.sleep(BETWEEN_SECONDS)
            for number in range(given.rounds):
                for target in run.targets if number % 2 == 0 else reversed(run.targets):
                    rounds.setdefault(target.name, []).append(run.load.run(target, phase, warm=1.0, seconds=phase.seconds))
            for target in run.targets:
                target.remember_memory()
                memory[target.name] = target.memory[-1] if target.memory else 0.0
        finally:
            run.stop()
    print(table({target.name: rounds[target.name] for target in run.targets}, memory))
    print(f"\nBeside the last one: {count:,} buckets of {size:.0f} bytes each in Redis, {given.keys:,} minted keys. {given.rounds} rounds.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
