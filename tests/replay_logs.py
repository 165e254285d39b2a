"""Logs to replay, made up: what many clients asked of two models over some days, by a seeded chance."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec

from router.domain.records import SpendRecord
from router.domain.rerate import charge_at
from router.snapshot import Snapshot

START_MS = 1_790_000_000_000
DAY_MS = 86_400_000
SPEED = {"big": 30.0, "small": 8.0}
"""Milliseconds per token."""
GOOD = {"big": 0.9, "small": 0.6}
"""Chance of a good rating."""


def made_up(snapshot: Snapshot, requests: int, *, days: float = 10, big: float = 0.5, seed: int = 7) -> list[SpendRecord]:
    """Requests of route `auto`, sent to `one/big` with this chance, else to `one/small`, each at its own price."""
    chance = random.Random(seed)
    made = []
    for number in range(requests):
        model = "big" if chance.random() < big else "small"
        output = 50 + chance.randrange(300)
        record = SpendRecord(
            attempt_id=f"req-{number}.1",
            request_id=f"req-{number}",
            at_ms=START_MS + int(days * DAY_MS * number / requests),
            route="auto",
            rule="default",
            reason="weighted",
            model=model,
            deployment=f"one/{model}",
            provider="one",
            team=("search", "ads")[number % 2],
            key_id="tester",
            session=f"s{number // 4}",
            http_status=200,
            input_tokens=200 + chance.randrange(2000),
            output_tokens=output,
            duration_ms=int(300 + output * SPEED[model]),
            first_byte_ms=250,
            config_version=snapshot.version,
        )
        price = snapshot.deployments[record.deployment].price
        assert price is not None
        record.charge_nusd = charge_at(record, price) or 0
        record.hold_nusd = 3 * record.charge_nusd
        made.append(record)
    return made


def write_log(path: Path, records: list[SpendRecord]) -> Path:
    """A record a line."""
    path.write_bytes(b"\n".join(map(msgspec.json.encode, records)) + b"\n")
    return path
