"""`faregate drill --live`: a vendor is out for a while, and comes back whatever happens."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from router.cli import load
from router.commands import drill_live
from router.commands.drill_live import live, report, targets_of
from router.controls import Desk
from router.settings import load_snapshot
from tests.running import Running, running
from tests.scripted_upstream import Fail, Json, usage

CONFIG = """
version: 1
server: {store: "STORE", log_requests: false, unpriced: refuse}
providers:
  one: {kind: openai, base_url: "UP", api_key: $PROVIDER_KEY}
  two: {kind: openai, base_url: "UP", api_key: $PROVIDER_KEY}
models:
  m: {at: [one/m, one/n], price: {input: 1, output: 1}}
  other: {at: [two/o, one/p], price: {input: 2, output: 2}}
routes:
  auto: {use: [m, other], by: fixed, fallback: {tries: 2, retries: 0}}
"""


async def drained(app: Running, name: str) -> None:
    """Wait until this deployment takes no call any more."""
    service = app.app.service
    while service.fleet.view(name).health != "drained":
        await asyncio.sleep(0.01)
        await service.controls.poll()


@pytest.fixture
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first failed request ends a drill."""
    monkeypatch.setattr(drill_live, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(drill_live, "FEWEST", 1)


def written(tmp_path: Path, app: Running, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PROVIDER_KEY", "p")
    path = tmp_path / "router.yaml"
    path.write_text(CONFIG.replace("UP", app.up.base_url).replace("STORE", app.store))
    return path


@pytest.mark.usefixtures("looks_often")
async def test_a_drill_that_breaks_requests_is_ended_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others fail: it does not go on for its ten minutes, and the vendor is back."""
    async with running(tmp_path, CONFIG) as app:
        app.up.on("m", Json(usage=usage(10, 10)))
        app.up.on("n", Json(usage=usage(10, 10)))
        for model in ("o", "p"):
            app.up.on(model, Fail())
        snapshot = load_snapshot(str(written(tmp_path, app, monkeypatch)))
        assert (await app.ask("auto")).status_code == 200
        await app.settled()
        drill = asyncio.create_task(asyncio.to_thread(live, snapshot, ["one/m", "one/n"], seconds=600, reason="test", least=0.9))
        await drained(app, "one/n")
        assert (await app.ask("auto")).status_code >= 500
        await app.settled()
        told = await drill
        assert (told.given_up, told.drained) == (True, ["one/m", "one/n"])
        assert (told.during.requests, told.during.answered) == (1, 0)
        assert "Ended early" in report(told)
        service = app.app.service
        await service.controls.poll()
        assert {service.fleet.view(name).health for name in ("one/m", "one/n")} == {"up"}
        assert not service.controls.state.controls


async def test_a_drill_is_compared_with_the_time_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the command line, with the drill on the log in front of it; what is drained already is left alone."""
    async with running(tmp_path, CONFIG) as app:
        for model in ("m", "n", "o", "p"):
            app.up.on(model, Json(usage=usage(10, 10)))
        path = written(tmp_path, app, monkeypatch)
        words = ["--without", "two", "--config", str(path)]

        def run(*more: str) -> tuple[int, str]:
            done = CliRunner().invoke(load("drill"), [*words, *more])
            return done.exit_code, done.output

        assert (await asyncio.to_thread(run, "--live", "1s"))[0] == 2
        assert "a share from 0 to 100%" in (await asyncio.to_thread(run, "--live", "3d", "--reason", "x"))[1]
        assert (await asyncio.to_thread(run, "--live", "soon", "--reason", "x"))[0] == 2
        assert (await asyncio.to_thread(run, "--live", "1s", "--reason", "x", "--json"))[0] == 2
        words[1] = "one"
        code, said = await asyncio.to_thread(run, "--live", "1s", "--reason", "x")
        assert (code, "not done live: rules have nothing left" in said) == (1, True)
        words[1] = "two"
        code, said = await asyncio.to_thread(run, "--live", "1s", "--reason", "spring")
        assert code == 0, said
        assert "Live, without two for 1 s" in said
        desk = Desk(app.app.service.ledger.control_store(), who="bob", via="command")
        await desk.drain("two", reason="ours")
        snapshot = load_snapshot(str(path))
        with pytest.raises(typer.BadParameter, match=r"two is drained already \(ours\)"):
            await asyncio.to_thread(live, snapshot, ["two/o"], seconds=1, reason="x", least=0.9)
        assert [(each.target, each.reason) for each in (await desk.state()).of_kind("drain")] == [("two", "ours")]


def test_a_provider_is_drained_as_a_whole_if_all_of_it_is_gone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Else its deployments one by one."""
    monkeypatch.setenv("PROVIDER_KEY", "p")
    path = tmp_path / "router.yaml"
    path.write_text(CONFIG.replace("UP", "http://127.0.0.1:1/v1").replace("STORE", str(tmp_path / "l.sqlite")))
    snapshot = load_snapshot(str(path))
    assert targets_of(snapshot, ["one/m", "one/n", "two/o"]) == ["one/m", "one/n", "two"]
    assert targets_of(snapshot, ["one/m", "one/n", "one/p"]) == ["one"]
