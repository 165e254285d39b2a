"""One process's share of the service: what it needs to start, what it says of itself, what it does by itself."""

from __future__ import annotations

import contextlib
import json
import secrets
import sqlite3
from pathlib import Path

import pytest

from router.adapters.choose import outbox_path
from router.adapters.sqlite.ledger import SqliteLedger
from router.app import Service, wall_clock_ms
from router.domain.budgets import NEVER_MS, Bucket, BucketSet, Reservation
from router.errors import ConfigError, StoreUnavailable
from router.trimming import trim
from tests.conftest import RedisServer
from tests.running import chat, compiled, running
from tests.scripted_behaviours import Json, Stream
from tests.scripted_upstream import Gate, ScriptedUpstream

CONFIG = """
version: 1
server: {store: STORE, log_requests: false}
providers:
  up: {kind: openai, base_url: "UP", api_key: $PROVIDER_KEY}
models:
  m: {at: up/m, price: {input: 10, output: 10}, default_max_output: 1000}
  free: {at: up/free, price: free}
budgets:
  everyone: {limit: $1}
keys:
  tester: {secret: $TEST_KEY}
"""


def config(store: Path | str, **change: str) -> str:
    text = CONFIG.replace("STORE", str(store)).replace("UP", "http://127.0.0.1:1/v1")
    for old, new in change.items():
        text = text.replace(old, new)
    return text


async def test_a_store_that_cannot_be_used_ends_the_start(tmp_path: Path) -> None:
    """Whatever was opened before it is closed again."""
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match="cannot be used"):
        async with Service(compiled(config(tmp_path / "file" / "l.sqlite"))):
            pytest.fail("it must not start")


async def test_a_redis_is_waited_for_as_long_as_the_configuration_says(
    own_redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file waits for other processes, a server for the network: two limits."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    text = config(own_redis.url, **{"log_requests: false": "log_requests: false, store_timeout: 123ms"})
    async with Service(compiled(text)) as service:
        # A RedisLedger.
        assert service.ledger._timeout_seconds == 0.123  # type: ignore[attr-defined]
    assert len(list((tmp_path / "state" / "faregate").glob("outbox-*-0.log"))) == 1
    async with Service(compiled(config(tmp_path / "l.sqlite"))) as service:
        assert isinstance(service.ledger, SqliteLedger)
        assert service.ledger._timeout_seconds == 2.0


async def test_a_simulated_provider_is_started_with_the_service(tmp_path: Path) -> None:
    """Without a key and without a network there is still something to call."""
    text = """
version: 1
server: {store: STORE, log_requests: false}
providers: {sim: {kind: sim}}
models: {m: sim/small-edge}
""".replace("STORE", str(tmp_path / "l.sqlite"))
    async with Service(compiled(text)) as service:
        assert service.snapshot.providers["sim"].endpoint.port > 0
        assert len(service._lanes._simulators) == 1


async def test_other_wires_are_loaded_only_where_they_are_needed(tmp_path: Path) -> None:
    """The second client for HTTP/2, and proxies that take TLS or SOCKS."""
    for proxy, second in (("http://127.0.0.1:9", False), ("socks5://127.0.0.1:9", True)):
        text = config(tmp_path / "l.sqlite", **{"api_key: $PROVIDER_KEY": f"api_key: $PROVIDER_KEY, proxy: '{proxy}'"})
        async with Service(compiled(text)) as service:
            dispatcher = service.pipeline._dispatcher
            assert (dispatcher._second_wire is not None, dispatcher._adapter) == (second, None)


async def test_what_answers_taught_outlives_the_process(tmp_path: Path) -> None:
    """Holds after a restart are as near to what is billed as before it."""
    for wanted in (0, 1, 2):
        async with Service(compiled(config(tmp_path / "l.sqlite"))) as service:
            share = service.fleet.learned.habits(route="auto", model="m", deployment="up/m", strict=False).written()
            assert share.seen == wanted
            share.add(1, 2)


async def test_readiness_follows_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked at most once a second, so that probes cost nothing."""
    async with Service(compiled(config(tmp_path / "l.sqlite"))) as service:
        assert await service.missing() == ""

        async def away() -> None:
            raise StoreUnavailable("made up")

        ping = service.ledger.ping
        monkeypatch.setattr(service.ledger, "ping", away)
        assert await service.missing() == ""
        service._ready_until = 0.0
        assert "made up" in await service.missing()
        assert b"faregate_store_up 0" in await service.scrape()
        monkeypatch.setattr(service.ledger, "ping", ping)
        assert await service.missing() == ""
        assert b"faregate_store_up 1" in await service.scrape()


async def test_holds_of_the_dead_are_swept_and_counted(tmp_path: Path) -> None:
    """By any process that lives."""
    async with Service(compiled(config(tmp_path / "l.sqlite"))) as service:
        dead = SqliteLedger(str(tmp_path / "l.sqlite"))
        await dead.open(replica_id="dead", lease_seconds=20)
        bucket = Bucket(budget="everyone", scope="", window="all", starts_ms=0, ends_ms=NEVER_MS, limit_nusd=10**9, hard=True)
        await dead.reserve(attempt_id="lost", amount_nusd=5, buckets=BucketSet(buckets=(bucket,), valid_until_ms=NEVER_MS))
        await dead.release()
        await dead.close()
        await service._sweep()
        await service._sweep()
        assert b"faregate_holds_swept_total 1" in await service.scrape()
        (record,) = [json.loads(line) async for line in service.ledger.records()]
    assert (record["outcome"], record["charge_nusd"]) == ("swept", 5)


async def test_records_stay_until_they_are_kept_elsewhere(tmp_path: Path) -> None:
    """However old they are: by a sink that is away for a year, nothing may be lost. The newest one always stays."""
    store = tmp_path / "l.sqlite"
    text = config(store, **{"log_requests: false": "log_requests: false, keep_log: 1d, keep_log_for: [sink]"})
    async with Service(compiled(text)) as service:
        for _ in range(3):
            held = await service.ledger.reserve(attempt_id=secrets.token_hex(4), amount_nusd=1, buckets=BucketSet((), NEVER_MS))
            assert isinstance(held, Reservation)
            await service.ledger.settle(held, charge_nusd=1, record=b"{}")
        with contextlib.closing(sqlite3.connect(store)) as connection, connection:
            connection.execute("UPDATE log SET at_ms=seq")

        async def left() -> int:
            await trim(service.ledger, service.ledger.control_store(), service.snapshot.server, now_ms=wall_clock_ms())
            return len([line async for line in service.ledger.records()])

        assert await left() == 3
        await service.ledger.readers().note("sink", "2")
        assert await left() == 2
        await service.ledger.readers().note("sink", "3")
        assert await left() == 1


async def test_budgets_are_read_for_metrics_only_if_there_are_any(tmp_path: Path) -> None:
    """A service without budgets does not ask the store for them."""
    without = config(tmp_path / "l.sqlite", **{"budgets:\n  everyone: {limit: $1}\n": ""})
    async with Service(compiled(without)) as service:
        await service._read_budgets()
        assert service.budget_watch.states == ()


async def test_drift_of_the_ledger_is_a_metric(tmp_path: Path) -> None:
    """Counters that are not what the log adds up to are money that nobody can explain: an alert must see them."""
    async with running(tmp_path, CONFIG) as run:
        service = run.app.service
        assert (await run.client.post("/chat/completions", json=chat("m"))).status_code == 200
        assert b"faregate_ledger_drift_usd{" not in await service.scrape()
        await service._audit()
        assert b'faregate_ledger_drift_usd{budget="everyone"} 0.0\n' in await service.scrape()
        with contextlib.closing(sqlite3.connect(service.store.removeprefix("sqlite://"), timeout=5)) as books, books:
            books.execute("UPDATE bucket SET spent=spent+2000000000")
        await service._audit()
        assert b'faregate_ledger_drift_usd{budget="everyone"} 2.0\n' in await service.scrape()


async def test_a_heartbeat_tells_what_each_stream_has_burnt(tmp_path: Path) -> None:
    """If this process dies, that is what its calls are charged; never more than is held."""
    up, pace = ScriptedUpstream(), Gate()
    up.on("m", Stream(tokens=100, pacer=pace)).on("free", Stream(tokens=100, pacer=pace))
    async with running(tmp_path, CONFIG, up=up) as run:
        told: list[dict[str, int]] = []
        service = run.app.service

        async def heartbeat(progress: dict[str, int]) -> None:
            told.append(dict(progress))

        # To read what is said.
        service.ledger.heartbeat = heartbeat  # type: ignore[method-assign, assignment]
        for model in ("m", "free"):
            async with run.client.stream("POST", "/chat/completions", json=chat(model, stream=True)) as answer:
                pace.step(50)
                seen, parts = b"", answer.aiter_raw()
                while seen.count(b" word") < 50:
                    seen += await anext(parts)
                await service._beat()
        del service.ledger.heartbeat  # the class's own again
    (paid,), (free,) = [list(progress.values()) for progress in told]
    assert 50 * 10_000 <= paid <= 200 * 10_000
    assert free == 0


async def test_large_bodies_are_not_read_for_wrong_keys(tmp_path: Path) -> None:
    """Known from the headers alone."""
    async with running(tmp_path, CONFIG, up=ScriptedUpstream(default=Json())) as run:
        service = run.app.service
        assert service.refuses_early({b"authorization": b"Bearer nonsense"})
        assert not service.refuses_early({b"authorization": run.client.headers["authorization"].encode()})


def test_the_outbox_is_beside_the_books(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """For a server: in the user's state folder, a file for each, so that no charge gets into another one's books."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert outbox_path("sqlite:///data/l.sqlite", 0) == outbox_path("/data/l.sqlite", 0) == "/data/l.sqlite.outbox-0.log"
    assert Path(outbox_path("redis://one:6379/0", 2)).parent == tmp_path / "faregate"
    assert outbox_path("redis://one:6379/0", 2).endswith("-2.log")
    assert outbox_path("redis://one:6379/0", 0) != outbox_path("redis://two:6379/0", 0)
    assert outbox_path("redis://:old@one:6379/0", 0) == outbox_path("redis://:new@one:6379/0", 0) == outbox_path("redis://one:6379/0", 0)
