"""The listening socket and the supervisor of workers."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from router import serving
from router.commands.greeting import greeting
from router.errors import ConfigError
from router.serving import RunningApp, Supervisor, listen, parent_died, worker_command
from tests.conftest import free_port
from tests.running import compiled

CONFIG = """
version: 1
server: {store: STORE, log_requests: false}
providers:
  up: {kind: openai, base_url: "http://127.0.0.1:1/v1", api_key: k}
models:
  m: {at: up/m, price: free}
"""


def test_an_address_that_is_taken_is_said_with_the_way_out() -> None:
    """The first thing that goes wrong on a developer's machine."""
    with listen("127.0.0.1", 0, shared=False) as taken:
        port = taken.getsockname()[1]
        taken.listen()
        with pytest.raises(ConfigError, match=rf"cannot listen on 127.0.0.1:{port}: .*--port or server.port"):
            listen("127.0.0.1", port, shared=False)


def test_workers_share_a_port() -> None:
    """The kernel deals connections out to all that listen."""
    with listen("127.0.0.1", 0, shared=True) as first, listen("127.0.0.1", first.getsockname()[1], shared=True) as second:
        assert first.getsockname() == second.getsockname()


def test_ipv6_addresses_are_listened_on() -> None:
    """`::1` is no less local than 127.0.0.1."""
    with listen("::1", 0, shared=False) as listener:
        assert listener.getsockname()[0] == "::1"


@pytest.mark.parametrize(("own", "shown"), [("", "below"), (", admin: {port: 0}", "apart")])
async def test_a_service_says_where_administrators_are_answered(own: str, shown: str, tmp_path: Path) -> None:
    """A port that was chosen by the system stands nowhere else."""
    text = CONFIG.replace("STORE", str(tmp_path / "ledger.sqlite")).replace("log_requests: false", f"log_requests: false{own}")
    alice = "admins: {alice: {secret: $ALICE, role: admin}}\n"
    async with RunningApp(compiled(text + alice, environment={"ALICE": "alice-0123456789-0123456789"}), port=0) as app:
        url = app.admin_url
        assert url.endswith("/admin/v1")
        assert (url.removesuffix("/admin/v1") == app.base_url.removesuffix("/v1")) == (shown == "below")
        assert f"  admin    {url}\n" in greeting(app.service.snapshot, app.base_url, store="x", keys=False, admin=url)
        if shown == "apart":
            assert url == f"http://127.0.0.1:{app.service.admin_port}/admin/v1"
    async with RunningApp(compiled(text), port=0) as app:
        assert app.admin_url == ""


def test_the_greeting_writes_each_budget_in_its_own_unit() -> None:
    """A limit of tokens that is shown in USD would be believed."""
    text = CONFIG.replace("STORE", "x") + (
        "budgets:\n  money: {limit: $5/day}\n  tokens: {limit: 5k tokens/day}\n  calls: {limit: 3 requests/hour}\n"
        "  rolling: {limit: $2/rolling 2h}\n"
    )
    shown = greeting(compiled(text), "http://x/v1", store="x", keys=False)
    assert "  budgets  money 5.00 USD/day, tokens 5,000 tokens/day, calls 3 requests/hour, rolling 2.00 USD/2h\n" in shown


def test_a_worker_is_started_as_this_program_was() -> None:
    """With the same verb and options."""
    assert worker_command()[:3] == [sys.executable, "-m", "router"]
    assert not parent_died(os.getppid())
    assert parent_died(-1)


@pytest.mark.parametrize(("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::1", "[::1]"), ("::", "[::1]")])
async def test_a_service_says_where_it_can_be_reached(tmp_path: Path, host: str, shown: str) -> None:
    """What `serve` prints must work in a browser on the same machine."""
    snapshot = compiled(CONFIG.replace("STORE", str(tmp_path / "l.sqlite")))
    async with RunningApp(snapshot, host=host, port=0) as app:
        assert app.base_url.startswith(f"http://{shown}:")
        await app.drain()
        await app.drain()


async def test_a_service_that_cannot_start_gives_its_port_back(tmp_path: Path) -> None:
    """The next try must not find it taken."""
    port = free_port()
    (tmp_path / "file").write_text("in the way")
    snapshot = compiled(CONFIG.replace("STORE", str(tmp_path / "file" / "l.sqlite")))
    with pytest.raises(ConfigError, match="cannot be used"):
        await RunningApp(snapshot, port=port).__aenter__()
    listen("127.0.0.1", port, shared=False).close()


async def test_a_service_whose_server_cannot_start_gives_its_port_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The failure is raised, not waited for."""

    async def broken(self: object, sockets: object) -> None:
        raise OSError("no more files")

    monkeypatch.setattr(serving.GateServer, "serve", broken)
    app = RunningApp(compiled(CONFIG.replace("STORE", str(tmp_path / "l.sqlite"))), port=0)
    with pytest.raises(OSError, match="no more files"):
        await app.__aenter__()
    await app.service.stop()


async def test_a_caught_signal_ends_the_wait(tmp_path: Path) -> None:
    """Also one that came before anybody waited."""
    app = RunningApp(compiled(CONFIG.replace("STORE", str(tmp_path / "l.sqlite"))), port=0)
    app.catch_signals()
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(app.until_signal(), 10)
    finally:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


async def test_a_worker_without_its_supervisor_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looked at again and again: nobody tells it."""
    monkeypatch.setattr(serving, "PARENT_SECONDS", 0.01)
    answers = iter([False, False, True])
    monkeypatch.setattr(serving, "parent_died", lambda parent: next(answers))
    app = RunningApp(compiled(CONFIG.replace("STORE", str(tmp_path / "l.sqlite"))), port=0, shared=True)
    app.catch_signals()
    await asyncio.wait_for(app.until_signal(), 10)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().remove_signal_handler(number)


async def wait_for_lines(path: Path, count: int) -> list[str]:
    """What the workers have written so far, once it is so much."""
    deadline = time.monotonic() + 30
    while True:
        lines = path.read_text().splitlines() if path.exists() else []
        if len(lines) >= count:
            return lines
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def program(note: Path, then: str) -> list[str]:
    """A worker: it notes its number and does something."""
    text = f"import os, signal, sys, time\nopen({str(note)!r}, 'a').write(sys.argv[2] + '\\n')\n{then}"
    return [sys.executable, "-c", text]


async def test_workers_that_die_are_replaced_and_all_end_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash costs what was under way in one process, not the service."""
    monkeypatch.setattr(serving, "FASTEST_RESTART_SECONDS", 0.0)
    note = tmp_path / "started"
    die_once = f"mark = {str(tmp_path / 'died')!r}\nif sys.argv[2] == '1' and not os.path.exists(mark):\n    open(mark, 'w'); os._exit(9)\n"
    quiet_end = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\ntime.sleep(60)"
    supervisor = Supervisor(program(note, die_once + quiet_end), workers=2, drain_seconds=20)
    running = asyncio.create_task(supervisor.supervise())
    assert sorted(await wait_for_lines(note, 3)) == ["0", "1", "1"]
    os.kill(os.getpid(), signal.SIGTERM)
    assert await running == 0


async def test_a_worker_that_cannot_start_ends_the_service_with_its_status(tmp_path: Path) -> None:
    """Its message is on standard error; trying again would not help."""
    supervisor = Supervisor(
        program(tmp_path / "started", "sys.exit(1 if sys.argv[2] == '0' else time.sleep(60))"), workers=2, drain_seconds=20
    )
    assert await supervisor.supervise() == 1


async def test_a_replacement_that_cannot_start_does_not_end_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker may die while the store is away: those that live go on, and it is tried again."""
    monkeypatch.setattr(serving, "FASTEST_RESTART_SECONDS", 0.0)
    note = tmp_path / "started"
    count = f"tries = open({str(note)!r}).read().splitlines().count('1')\n"
    fate = "if sys.argv[2] == '1' and tries < 4: os._exit(9 if tries == 1 else 1)\n"
    supervisor = Supervisor(program(note, count + fate + "time.sleep(60)"), workers=2, drain_seconds=20)
    running = asyncio.create_task(supervisor.supervise())
    assert (await wait_for_lines(note, 5)).count("1") == 4
    os.kill(os.getpid(), signal.SIGINT)
    assert await running == 0


async def test_a_worker_that_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service ends in the time it promised."""
    monkeypatch.setattr(serving, "SPARE_SECONDS", 0.2)
    note = tmp_path / "started"
    stubborn = f"signal.signal(signal.SIGTERM, signal.SIG_IGN)\nopen({str(note)!r}, 'a').write('deaf\\n')\ntime.sleep(60)"
    supervisor = Supervisor(program(note, stubborn), workers=1, drain_seconds=0)
    running = asyncio.create_task(supervisor.supervise())
    await wait_for_lines(note, 2)
    os.kill(os.getpid(), signal.SIGTERM)
    assert await running == signal.SIGKILL
