"""Processes that are killed in mid-load: the books agree with the provider's bill, or say where they cannot know."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import httpx2 as httpx
import pytest

from router.domain.records import SpendRecord
from tests.books import typed
from tests.gateway import Gateway
from tests.running import chat
from tests.scripted_behaviours import Json, Stream, usage
from tests.scripted_upstream import Gate, ScriptedUpstream

CONFIG = """
version: 1
server: {lease: 2s, drain: 5s}
providers:
  up: {kind: openai, base_url: "UP", api_key: $PROVIDER_KEY}
models:
  m: {at: up/m, price: {input: 10, output: 10}, default_max_output: 100}
budgets:
  everyone: {limit: $5}
  per-key: {limit: $5, each: key}
keys:
  tester: {secret: $TEST_KEY}
"""
PRICE = 10_000
BILL = (11 + 3) * PRICE
"""Of one answered call."""


@pytest.fixture(params=["sqlite", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "ledger.sqlite")
    url: str = request.getfixturevalue("redis_url")
    return url


def config(up: ScriptedUpstream) -> str:
    return CONFIG.replace("UP", up.base_url)


def workers_of(pid: int) -> list[int]:
    """The processes that a process has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        # The second: it ended between the opening of the file and the reading.
        return False


def listening(port: int) -> int:
    """How many sockets listen on a port of loopback: a process that runs may be loading yet."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(line[1] == f"0100007F:{port:04X}" and line[3] == "0A" for line in lines)


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def swept(gateway: Gateway) -> list[SpendRecord]:
    """Wait until the leases of the dead have run out and no hold is open; the records."""
    deadline = time.monotonic() + 60
    while any(bucket.held_nusd for bucket in (await gateway.buckets()).values()):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)
    records = typed(await gateway.records())
    for bucket in (await gateway.buckets()).values():
        assert bucket.spent_nusd == sum(record.charge_nusd for record in records)
    assert await gateway.drifts() == []
    assert len({record.attempt_id for record in records}) == len(records)
    return records


def agree(records: list[SpendRecord], up: ScriptedUpstream) -> None:
    """Every call that the provider saw is in the books; what is not exact says so."""
    exact = [record for record in records if record.outcome == "ok"]
    unsure = [record for record in records if record.outcome != "ok"]
    assert all(record.charge_nusd == BILL and record.evidence == "exact" for record in exact)
    assert all((record.outcome, record.evidence) == ("swept", "estimated") for record in unsure)
    assert all(record.charge_nusd > 0 and record.deployment == "up/m" and record.key_id for record in unsure)
    answered = sum(seen.answered for seen in up.requests)
    # An answer may have been given whose settlement died with the process: then it is among the swept.
    assert len(exact) <= answered <= len(up.requests) <= len(records)


async def survives(call: asyncio.Task[httpx.Response]) -> int:
    """The status, or 0 for a connection that died."""
    with suppress(httpx.TransportError):
        return (await call).status_code
    return 0


async def test_a_killed_service_leaves_books_that_agree_or_say_so(tmp_path: Path, store: str) -> None:
    """Holds of the dead are not given back: their calls were made. The next process charges them, and names the doubt."""
    async with ScriptedUpstream() as up, Gateway(tmp_path, config(up), store=store) as gateway, gateway.client() as client:
        up.on("m", Json())
        answers = await asyncio.gather(*(client.post("/chat/completions", json=chat()) for _ in range(30)))
        assert {answer.status_code for answer in answers} == {200}
        held, pace = Gate(), Gate()
        up.on("m", Stream(tokens=50, pacer=pace, before=held))
        calls = [asyncio.create_task(client.post("/chat/completions", json=chat(stream=n % 2 == 0))) for n in range(20)]
        await up.until_seen(50)
        held.step(10)
        gateway.kill()
        assert [await survives(call) for call in calls] == [0] * 20
        held.open()
        pace.open()
        gateway.start()
        await gateway.until_ready()
        records = await swept(gateway)
        assert Counter(record.outcome for record in records) == {"ok": 30, "swept": 20}
        agree(records, up)
        verified = gateway.run("ledger", "verify", "--store", store)
        assert verified == "Counters and log agree.\n"


async def test_a_worker_that_is_killed_is_replaced_and_costs_the_others_nothing(tmp_path: Path, store: str) -> None:
    """One process of several dies in mid-load: the rest serves on, sweeps its holds, and no counter goes down."""
    async with ScriptedUpstream(default=Json()) as up, Gateway(tmp_path, config(up), store=store, workers=2) as gateway:
        await until(lambda: listening(gateway.port) == 2)
        first = workers_of(gateway.pid)
        assert len(first) == 2
        served = await storm(gateway, 40)
        assert served == {200: 40}
        await until_counted(gateway, 40)
        hold = Gate()
        up.on("m", Json(before=hold))
        calls = [asyncio.create_task(one(gateway)) for _ in range(20)]
        await up.until_seen(60)
        os.kill(first[0], signal.SIGKILL)
        await until(lambda: not alive(first[0]))
        hold.open()
        statuses = Counter([await survives(call) for call in calls])
        assert set(statuses) <= {0, 200}
        await until(lambda: len([pid for pid in workers_of(gateway.pid) if alive(pid)]) == 2)
        assert first[1] in workers_of(gateway.pid)
        before = await counted(gateway)
        assert before >= 40
        more = await storm(gateway, 20)
        records = await swept(gateway)
        agree(records, up)
        assert await counted(gateway) >= before + more[200]
        assert statuses[200] + more[200] + 40 <= sum(record.outcome == "ok" for record in records)
        assert sum(record.outcome == "swept" for record in records) >= statuses[0]


async def test_workers_end_with_their_supervisor(tmp_path: Path) -> None:
    """Nobody would end or replace them, and the port would stay taken."""
    async with ScriptedUpstream(default=Json()) as up:
        gateway = Gateway(tmp_path, config(up), workers=2, expect_exit=None)
        async with gateway, gateway.client() as client:
            while b"faregate_workers 2" not in (await client.get(f"{gateway.root}/metrics")).content:
                await asyncio.sleep(0.05)
            workers = workers_of(gateway.pid)
            assert len(workers) == 2
            gateway.kill()
            await until(lambda: not any(alive(pid) for pid in workers))
    assert await gateway.drifts() == []


async def test_calls_of_a_process_that_was_only_asleep_are_corrected(tmp_path: Path, store: str) -> None:
    """Swept while it could not renew its lease, then back with the truth: the estimate is replaced by the bill."""
    async with ScriptedUpstream() as up, Gateway(tmp_path, config(up), store=store) as gateway, gateway.client() as client:
        hold = Gate()
        up.on("m", Json(before=hold, usage=usage(completion=60)))
        call = asyncio.create_task(client.post("/chat/completions", json=chat()))
        await up.until_seen(1)
        await put_to_sleep(gateway, store)
        (tmp_path / "second").mkdir()
        async with Gateway(tmp_path / "second", config(up), store=store) as second:
            await swept(second)
        os.kill(gateway.pid, signal.SIGCONT)
        hold.open()
        assert (await call).status_code == 200
        deadline = time.monotonic() + 30
        while len(records := typed(await gateway.records())) < 2:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        assert [record.outcome for record in records] == ["swept", "corrected"]
        assert sum(record.charge_nusd for record in records) == (11 + 60) * PRICE
        assert {bucket.spent_nusd for bucket in (await gateway.buckets()).values()} == {(11 + 60) * PRICE}
        assert await gateway.drifts() == []


async def put_to_sleep(gateway: Gateway, store: str) -> None:
    """Stop the process, but not in the middle of a write to the file: nobody else could write."""
    while True:
        os.kill(gateway.pid, signal.SIGSTOP)
        if "://" in store:
            return
        with closing(sqlite3.connect(store, timeout=0.1, isolation_level=None)) as file, suppress(sqlite3.OperationalError):
            file.execute("BEGIN IMMEDIATE")
            file.execute("ROLLBACK")
            return
        os.kill(gateway.pid, signal.SIGCONT)
        await asyncio.sleep(0.01)


async def one(gateway: Gateway) -> httpx.Response:
    """A call on a connection of its own, so that the kernel deals it to any worker."""
    async with gateway.client() as client:
        return await client.post("/chat/completions", json=chat())


async def storm(gateway: Gateway, count: int) -> Counter[int]:
    return Counter([await survives(asyncio.create_task(one(gateway))) for _ in range(count)])


async def counted(gateway: Gateway) -> float:
    """Requests answered with 200 by all workers, dead or alive."""
    async with gateway.client() as client:
        text = (await client.get(f"{gateway.root}/metrics")).text
    lines = [line for line in text.splitlines() if line.startswith("faregate_requests_total{") and 'status="200"' in line]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


async def until_counted(gateway: Gateway, count: int) -> None:
    deadline = time.monotonic() + 20
    while await counted(gateway) < count:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
