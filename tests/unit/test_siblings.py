"""Workers that ask each other for metrics: everybody's counters, whoever is asked and whoever has died."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from router import siblings
from router.metrics import Metrics
from router.siblings import Siblings


class Worker:
    """A worker that has done nothing but count."""

    def __init__(self, folder: Path | None, number: int, swept: int = 0) -> None:
        self.metrics = Metrics()
        if swept:
            self.metrics.swept(swept)
        where = None if folder is None else str(folder)
        self.siblings = Siblings(where, number, dump=self.metrics.dump, render_alone=self.metrics.render)

    async def total(self) -> float:
        """The sum over all workers of a counter, and of the same one as a gauge."""
        text = (await self.siblings.render()).decode()
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith("faregate_holds_swept_total"))

    async def in_flight(self) -> float:
        text = (await self.siblings.render()).decode()
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith("faregate_requests_in_flight"))

    def crash(self) -> None:
        """End without a word, as SIGKILL does: the socket stays, nobody answers on it."""
        meeting = self.siblings._meeting
        assert meeting is not None
        assert meeting._server is not None
        meeting._server.close()


async def test_a_worker_alone_shows_its_own(tmp_path: Path) -> None:
    """No folder, no socket, no file."""
    worker = Worker(None, 0, swept=3)
    await worker.siblings.start()
    assert await worker.total() == 3
    await worker.siblings.close()


async def test_whoever_is_asked_answers_for_all(tmp_path: Path) -> None:
    """Counters and gauges of the living are added."""
    workers = [Worker(tmp_path, number, swept=number + 1) for number in range(3)]
    for worker in workers:
        worker.metrics.in_flight.value += 1
        await worker.siblings.start()
    assert [await worker.total() for worker in workers] == [6, 6, 6]
    assert [await worker.in_flight() for worker in workers] == [3, 3, 3]
    for worker in workers:
        await worker.siblings.close()


@pytest.mark.parametrize("asked", [0, 1], ids=["the-one-that-dies", "the-other"])
async def test_no_counter_goes_down_when_a_worker_dies(tmp_path: Path, asked: int) -> None:
    """Prometheus takes a counter that falls for a restart, and counts everything twice. What was under way is over."""
    workers = [Worker(tmp_path, number, swept=5) for number in range(2)]
    for worker in workers:
        worker.metrics.in_flight.value += 1
        await worker.siblings.start()
    assert await workers[asked].total() == 10
    workers[0].crash()
    replacement = Worker(tmp_path, 0, swept=2)
    await replacement.siblings.start()
    assert await workers[1].total() == 12
    assert await replacement.total() == 12
    assert await workers[1].in_flight() == 1
    await replacement.siblings.close()
    await workers[1].siblings.close()


async def test_a_worker_that_ended_cleanly_leaves_its_last_figures(tmp_path: Path) -> None:
    """Its successor takes another name, and does not overwrite them."""
    first, other = Worker(tmp_path, 0, swept=4), Worker(tmp_path, 1, swept=1)
    await first.siblings.start()
    await other.siblings.start()
    await first.siblings.close()
    assert await other.total() == 5
    second = Worker(tmp_path, 0, swept=2)
    await second.siblings.start()
    assert await other.total() == await second.total() == 7
    await second.siblings.close()
    assert await other.total() == 7
    await other.siblings.close()


async def test_a_worker_that_does_not_answer_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scrape must come back, with what is known of the one that hangs."""
    monkeypatch.setattr(siblings, "ANSWER_SECONDS", 0.05)

    left = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        left.set()

    worker = Worker(tmp_path, 1, swept=1)
    await worker.siblings.start()
    server = await asyncio.start_unix_server(hang, str(tmp_path / "worker-0-1.sock"))
    assert await worker.total() == 1
    await asyncio.wait_for(left.wait(), 10)
    server.close()
    await worker.siblings.close()


async def test_a_long_way_to_the_folder_is_no_hindrance(tmp_path: Path) -> None:
    """A socket's address is limited to about a hundred bytes, a folder's path is not."""
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    first, second = (Siblings(str(folder), worker, dump=(metrics := Metrics()).dump, render_alone=metrics.render) for worker in (0, 1))
    await first.start()
    await second.start()
    try:
        assert b"faregate_workers 2" in await first.render()
    finally:
        await second.close()
        await first.close()
