"""Whose text is read next."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor, Future
from typing import Any

import pytest

from router import turns
from router.turns import MOST_WAITING, Crowded, Steps, Turns


class Here(Executor):
    """Does at once what it is given."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(fn(*args, **kwargs))
        # As a thread does it.
        except Exception as exc:  # noqa: BLE001
            done.set_exception(exc)
        return done


@pytest.fixture(autouse=True)
def short_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn is one step."""
    monkeypatch.setattr(turns, "TURN_SECONDS", 0.0)


def text(name: str, steps: int, read: list[str]) -> Steps:
    for _ in range(steps):
        read.append(name)
        yield
    return name


async def test_owners_take_turns() -> None:
    """Many long texts of one key must not make the short one of another late."""
    read: list[str] = []
    waiting = Turns(Here())
    long = [asyncio.create_task(waiting.read("long", text(f"long-{n}", 50, read))) for n in range(3)]
    await asyncio.sleep(0)
    assert await waiting.read("short", text("short", 2, read)) == "short"
    assert len(read) < 12
    assert await asyncio.gather(*long) == ["long-0", "long-1", "long-2"]
    assert waiting._waiting == {}


async def test_what_nobody_waits_for_is_not_read() -> None:
    """A signal that ran out of time must not take that of others."""
    read: list[str] = []
    waiting = Turns(Here())
    given_up = [asyncio.create_task(waiting.read("a", text(f"a-{n}", 10_000, read))) for n in range(3)]
    await asyncio.sleep(0)
    for task in given_up:
        task.cancel()
    await asyncio.gather(*given_up, return_exceptions=True)
    assert await waiting.read("a", text("last", 1, read)) == "last"
    assert len(read) < 20
    assert {"a-1", "a-2"}.isdisjoint(read)


async def test_only_so_many_texts_of_one_owner_wait() -> None:
    """They would fill the memory; others still may."""
    waiting = Turns(Here())
    tasks = [asyncio.create_task(waiting.read("a", text("a", 3, []))) for _ in range(MOST_WAITING)]
    await asyncio.sleep(0)
    with pytest.raises(Crowded):
        await waiting.read("a", text("a", 1, []))
    assert await waiting.read("b", text("b", 1, [])) == "b"
    # Whoever gives up makes room at once.
    tasks.pop().cancel()
    await asyncio.sleep(0)
    tasks.append(asyncio.create_task(waiting.read("a", text("late", 1, []))))
    assert (await asyncio.gather(*tasks))[-1] == "late"


async def test_a_text_that_cannot_be_read_fails_alone() -> None:
    """A bug in a detector is told to its own request."""

    def broken() -> Steps:
        yield
        raise ZeroDivisionError

    waiting = Turns(Here())
    with pytest.raises(ZeroDivisionError):
        await waiting.read("a", broken())
    assert await waiting.read("a", text("a", 1, [])) == "a"
