"""Hot reload: a good file replaces the configuration as a whole, a bad one nothing."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from router.app import Service
from router.errors import ConfigError, StoreUnavailable
from router.metrics import Metrics
from router.reload import Reloader, is_open_door, keep_fixed, needs_restart
from router.settings import load_snapshot
from router.snapshot import Snapshot
from tests.running import compiled

CONFIG = """
version: 1
server: {store: STORE, log_requests: false}
providers:
  up: {kind: openai, base_url: "http://127.0.0.1:1/v1", api_key: $PROVIDER_KEY}
models:
  m: {at: up/m, price: {input: 10, output: 10}}
budgets:
  everyone: {limit: $1}
keys:
  tester: {secret: $TEST_KEY}
"""
ENVIRON = {"PROVIDER_KEY": "sk-provider-0123456789abcdef", "TEST_KEY": "sk-test-0123456789abcdefghijklmnopqrstuv"}


class Target:
    """A service that notes what it is given."""

    worker = 0
    host = "127.0.0.1"

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.metrics = Metrics()
        self.fault: Exception | None = None

    async def swap(self, snapshot: Snapshot) -> None:
        if self.fault is not None:
            raise self.fault
        self.snapshot = snapshot

    def counted(self) -> dict[str, float]:
        return {labels[0]: count for labels, count in self.metrics.counted("faregate_config_reloads_total").items()}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "router.yaml"
    path.write_text(CONFIG.replace("STORE", str(tmp_path / "l.sqlite")))
    return path


@pytest.fixture
def load(file: Path) -> Callable[[], Snapshot]:
    return lambda: load_snapshot(str(file), environ=ENVIRON)


async def test_a_file_is_read_again_only_when_it_changed_or_somebody_asks(
    file: Path, load: Callable[[], Snapshot], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what was wrong with it is kept until it is mended."""
    monkeypatch.setattr("router.reload.RELOAD_SECONDS", 0.01)
    monkeypatch.setattr("router.reload.SETTLED_SECONDS", 0.01)
    target = Target(load())
    reloader = Reloader(target, load)
    good = file.read_text()
    await reloader.look()
    assert target.counted() == {}
    file.write_text(good.replace("$1}", "$x}"))
    await reloader.look()
    await reloader.look()
    assert target.counted() == {"refused": 1}
    assert "budgets.everyone.limit" in reloader.findings
    assert target.snapshot.budgets[0].limit_nusd == 10**9
    file.write_text(good.replace("$1}", "$2}"))
    await reloader.look()
    assert (target.counted(), reloader.findings) == ({"refused": 1, "ok": 1}, "")
    assert target.snapshot.budgets[0].limit_nusd == 2 * 10**9
    reloader.soon()
    await reloader.look()
    assert target.counted() == {"refused": 1, "ok": 2}
    file.unlink()
    await reloader.look()
    assert target.counted() == {"refused": 1, "ok": 2}


async def test_a_file_that_is_being_written_is_not_read(file: Path, load: Callable[[], Snapshot], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first half may be a whole configuration, without the budgets."""
    monkeypatch.setattr("router.reload.RELOAD_SECONDS", 0.01)
    monkeypatch.setattr("router.reload.SETTLED_SECONDS", 0.2)
    target = Target(load())
    reloader = Reloader(target, load)
    good = file.read_text()
    file.write_text(good.partition("budgets:")[0])
    looking = asyncio.create_task(reloader.look())
    await asyncio.sleep(0.05)
    file.write_text(good.replace("$1}", "$2}"))
    await looking
    assert target.counted() == {"ok": 1}
    assert target.snapshot.budgets[0].limit_nusd == 2 * 10**9


async def test_while_the_store_is_away_a_file_waits(file: Path, load: Callable[[], Snapshot], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its limits could not be published; it is tried again by itself."""
    monkeypatch.setattr("router.reload.RELOAD_SECONDS", 0.01)
    monkeypatch.setattr("router.reload.SETTLED_SECONDS", 0.01)
    target = Target(load())
    reloader = Reloader(target, load)
    target.fault = StoreUnavailable("away")
    file.write_text(file.read_text() + "\n# changed\n")
    await reloader.look()
    target.fault = None
    await reloader.look()
    assert target.counted() == {"store_away": 1, "ok": 1}


async def test_the_door_is_not_opened_by_a_file(file: Path, load: Callable[[], Snapshot]) -> None:
    """Without keys everybody could spend, at the start and later."""
    target = Target(load())
    target.host = "0.0.0.0"
    file.write_text(file.read_text().partition("keys:")[0])
    reloader = Reloader(target, load)
    await reloader.reload()
    assert "could spend your money" in reloader.findings
    assert target.snapshot.keys
    assert not is_open_door(load(), "127.0.0.1")


def test_what_is_fixed_for_a_process_is_named_and_kept(tmp_path: Path) -> None:
    """A port cannot be changed under those who are connected to it."""
    old = compiled(CONFIG.replace("STORE", str(tmp_path / "a")))
    new = compiled(CONFIG.replace("STORE", str(tmp_path / "b")).replace("log_requests: false", "port: 1, slice_tokens: 99"))
    assert needs_restart(new.server, old.server) == ["port", "store", "log_requests"]
    kept = keep_fixed(new, old)
    assert dataclasses.replace(old.server, slice_tokens=99) == kept.server
    assert kept.providers["up"].endpoint is old.providers["up"].endpoint
    moved = compiled(CONFIG.replace("127.0.0.1:1", "127.0.0.1:2"))
    assert keep_fixed(moved, old).providers["up"].endpoint.port == 2


async def test_a_configuration_is_swapped_as_a_whole(file: Path, load: Callable[[], Snapshot]) -> None:
    """Keys, routes, limits and pages; what fails changes nothing."""
    async with Service(load(), load=load) as service:
        before = service.pipeline
        file.write_text(file.read_text().replace("$1}", "$3}").replace("m: {at", "renamed: {at").replace("tester", "other"))
        assert service.reloader is not None
        assert await service.reloader.reload()
        assert service.pipeline is not before
        assert before.snapshot.budgets[0].limit_nusd == 10**9
        assert service.controls.state.base["everyone"].limit == 3 * 10**9
        assert "renamed" in service.snapshot.routes
        assert [entry.name for entry in service.admission._snapshot.keys.values()] == ["other"]
        assert b"faregate_config_last_reload_successful 1" in await service.scrape()
        service.reload_soon()

        async def fails(snapshot: Snapshot) -> None:
            raise ConfigError("made up")

        # Fails where the store would.
        service.controls.publish = fails  # type: ignore[method-assign]
        now = service.pipeline
        await service.reloader.reload()
        assert service.pipeline is now
        assert b"faregate_config_last_reload_successful 0" in await service.scrape()
    async with Service(dataclasses.replace(load(), source=os.devnull)) as service:
        # Without a way to read it anew, the signal does nothing.
        service.reload_soon()


@pytest.mark.parametrize("where", ["server: {when_store_is_down: lease, ", "budgets:\n  team: {limit: $1, when_store_is_down: open}\n"])
async def test_to_go_on_without_the_store_needs_a_restart(file: Path, load: Callable[[], Snapshot], where: str) -> None:
    """Whoever asked for it must not learn at the next outage that he did not get it. It is told until it is so."""
    target = Target(load())
    reloader = Reloader(target, load)
    file.write_text(file.read_text().replace(where.split()[0] + (" {" if "server" in where else "\n"), where))
    for _ in range(2):
        await reloader.reload()
        assert not reloader.findings
        assert reloader.waiting == ("when_store_is_down",)
    started = Reloader(Target(load()), load)
    await started.reload()
    assert started.waiting == ()
