"""What 100,000 requests a second need: `python -m benchmarks.scale`.

Measured: the CPU time of a real Redis per hold and settlement, from `/proc`, which says what a core of it can take however busy
the machine is. Simulated: how organisations' ledgers spread over such shards, and a budget above all of them, see `spread.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from benchmarks.scale.spread import ledgers, loads, shards_needed, spend
from router.adapters.redis.ledger import RedisLedger
from router.domain.budgets import NEVER_MS, Bucket, BucketSet, Reservation

RATES: Final = (1_000, 10_000, 30_000, 100_000)
"""Requests/s."""
ORGANISATIONS: Final = 10_000
SKEW: Final = 0.9
"""The organisation of rank k sends in proportion to k^-SKEW."""
BUSY: Final = 0.6
"""Share of a core that a shard is loaded with."""
LARGEST: Final = 0.25
"""Of what a shard can take, the most that a single ledger brings; larger ones are split."""
BUDGETS: Final = 4
BATCH: Final = 64
"""Pairs that are under way together."""
HOLD_NUSD: Final = 40_960_000
"""4,096 tokens at $10 per million."""
CHARGE_NUSD: Final = 5_500_000
SECONDS: Final = 600
SHARE: Final = 0.5
"""Most of what is left of the shared budget that is held as advances by all shards together."""


def main(words: list[str]) -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale")
    parser.add_argument("--pairs", type=int, default=20_000, help="pairs that are measured")
    parser.add_argument("--cpu-us", type=float, help="CPU-µs of Redis per pair; given: nothing is measured")
    given = parser.parse_args(words)
    pair_us, paid_us = (given.cpu_us, None) if given.cpu_us else asyncio.run(_measure(given.pairs))
    print(f"A hold and a settlement under {BUDGETS} budgets cost Redis {pair_us:.1f} CPU-µs: {1e6 / pair_us:,.0f} pairs/s a core.\n")
    if paid_us is not None:
        print(f"A settlement that an advance pays for (`lend` and `settle`) costs {paid_us:.1f} CPU-µs.\n")
    print(_table(1e6 / pair_us * BUSY))
    return 0


def _table(capacity: float) -> str:
    heads = [
        *("requests/s", "ledgers split", "shards", "busiest shard, pairs/s", "of a core", "refills/s, mean (peak)"),
        *("overshoot, USD", "spent at the first refusal", "in the end"),
    ]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for requests in RATES:
        ledger_rates = ledgers(requests, ORGANISATIONS, SKEW, capacity * LARGEST)
        shards = shards_needed(ledger_rates, capacity)
        rates = loads(ledger_rates, shards)
        # So much that it is used up after four fifths of the time.
        limit = int(requests * CHARGE_NUSD * SECONDS * 0.8)
        found = spend(
            rates, limit_nusd=limit, hold_nusd=HOLD_NUSD, mean_charge_nusd=CHARGE_NUSD, seconds=SECONDS, share=SHARE, seed=requests
        )
        cells = [
            f"{requests:,}",
            f"{len(ledger_rates) - ORGANISATIONS}",
            f"{shards}",
            f"{max(rates):,.0f}",
            f"{max(rates) / (capacity / BUSY):.0%}",
            f"{found.refills / SECONDS:,.1f} ({found.refill_peak:,})",
            f"{found.overshoot_nusd / 1e9:.2f}",
            f"{found.at_first_refusal:.1%}",
            f"{found.at_end:.2%}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


@contextmanager
def _redis() -> Iterator[tuple[int, int]]:
    """A Redis of our own: its port and process id."""
    binary = shutil.which("redis-server") or shutil.which("valkey-server")
    if binary is None:
        sys.exit("redis-server is not installed (apt-get install redis-server); or give --cpu-us")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", "", "--appendonly", "yes"]
        process = subprocess.Popen([binary, *options], stdout=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline:
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=0.2).close()
                    break
                except OSError:
                    time.sleep(0.02)
            yield port, process.pid
        finally:
            process.terminate()
            process.wait()


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def _measure(pairs: int) -> tuple[float, float]:
    """CPU-µs of Redis for a hold and a settlement, and for a settlement that an advance pays for."""
    with _redis() as (port, pid):
        ledger = RedisLedger(f"redis://127.0.0.1:{port}/0", timeout_seconds=10)
        await ledger.open(replica_id="scale", lease_seconds=60)
        try:
            await _pairs(ledger, pairs // 10, "warm")
            began = _cpu_seconds(pid)
            await _pairs(ledger, pairs, "pair")
            middle = _cpu_seconds(pid)
            await _paid(ledger, pairs)
            return (middle - began) / pairs * 1e6, (_cpu_seconds(pid) - middle) / pairs * 1e6
        finally:
            await ledger.close()


def _where() -> BucketSet:
    members = tuple(
        Bucket(budget=f"b{n}", scope="", window="all", starts_ms=0, ends_ms=NEVER_MS, limit_nusd=2**52, hard=True) for n in range(BUDGETS)
    )
    return BucketSet(buckets=members, valid_until_ms=NEVER_MS)


def _record(attempt_id: str) -> bytes:
    # As long as the records of the service.
    return b'{"attempt_id":"%b","request_id":"r","at_ms":1,"buckets":[],"route":"%b"}' % (attempt_id.encode(), b"x" * 700)


async def _pairs(ledger: RedisLedger, count: int, prefix: str) -> None:
    where = _where()

    async def one(attempt_id: str) -> None:
        held = await ledger.reserve(attempt_id=attempt_id, amount_nusd=HOLD_NUSD, buckets=where, note=b"{}")
        if isinstance(held, Reservation):
            await ledger.settle(held, charge_nusd=CHARGE_NUSD, record=_record(attempt_id))

    for at in range(0, count, BATCH):
        await asyncio.gather(*[one(f"{prefix}-{n}") for n in range(at, min(count, at + BATCH))])


async def _paid(ledger: RedisLedger, count: int) -> None:
    where = _where()
    await ledger.reserve(attempt_id="advance", amount_nusd=CHARGE_NUSD * count, buckets=where)

    async def one(attempt_id: str) -> None:
        done = Reservation(attempt_id=attempt_id, amount_nusd=HOLD_NUSD, buckets=where)
        await ledger.lend("advance", to=done, total_nusd=CHARGE_NUSD)
        await ledger.settle(done, charge_nusd=CHARGE_NUSD, record=_record(attempt_id))

    for at in range(0, count, BATCH):
        await asyncio.gather(*[one(f"paid-{n}") for n in range(at, min(count, at + BATCH))])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
