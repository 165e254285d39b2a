"""Background work goes on whatever happens to one turn of it, and ends when it is told to."""

from __future__ import annotations

import asyncio
import logging

import pytest
from structlog.testing import capture_logs

from router.errors import StoreUnavailable
from router.memory import Memory
from router.tasks import Background, end


async def test_work_is_repeated_although_one_turn_fails() -> None:
    """A heartbeat that dies silently would have its holds swept from under live calls."""
    turns: list[int] = []
    enough = asyncio.Event()

    async def work() -> None:
        turns.append(len(turns))
        if len(turns) == 1:
            raise ValueError("a bug")
        if len(turns) == 2:
            raise StoreUnavailable("it is away")
        if len(turns) == 4:
            enough.set()

    away: list[str] = []
    background = Background(store_away=away.append)
    with capture_logs() as logs:
        background.every(0, work, name="beat", at_once=True)
        await asyncio.wait_for(enough.wait(), 10)
        await background.close()
    assert [(entry["event"], entry["task"]) for entry in logs] == [("task failed", "beat")]
    assert away == ["it is away"]


async def test_work_begins_after_its_first_pause_unless_told_otherwise() -> None:
    """Sweeping before the first heartbeats of others had time to arrive would be too early."""
    ran = asyncio.Event()

    async def work() -> None:
        ran.set()

    background = Background(store_away=str)
    background.every(3600, work, name="later")
    await asyncio.sleep(0)
    assert not ran.is_set()
    background.every(3600, work, name="now", at_once=True)
    await asyncio.wait_for(ran.wait(), 10)
    await background.close()


async def test_closing_waits_for_what_runs() -> None:
    """The store is closed next: nothing may still use it."""
    cleaned = asyncio.Event()
    started = asyncio.Event()

    async def work() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.set()

    background = Background(store_away=str)
    background.every(1, work, name="long", at_once=True)
    await started.wait()
    await background.close()
    assert cleaned.is_set()
    await background.close()


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)


@pytest.mark.parametrize("what", ["task", "copy of a request"])
async def test_a_task_that_lost_a_cancellation_is_cancelled_again(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """A library may take the first one for the end of its own time limit; the service would never end."""
    monkeypatch.setattr("router.tasks.INSIST_SECONDS", 0.01)
    lost = 0

    async def stubborn() -> None:
        nonlocal lost
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                lost += 1
                if lost == 2:
                    raise

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    memory = Memory(lambda: 0.0)
    memory.copies.add(task)
    await (end([task]) if what == "task" else memory.close())
    assert (task.cancelled(), lost) == (True, 2)
