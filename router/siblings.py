"""The workers of one service find each other's metrics through sockets in a folder of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from router.meeting import Meeting
from router.metrics import merge, render

ANSWER_SECONDS: Final = 1.0


class Siblings:
    """Merges this worker's metrics with those of the others.

    What a worker last said is kept in a file, so that its counters stay in the sum after it died and was replaced.
    """

    def __init__(self, folder: str | None, worker: int, *, dump: Callable[[], bytes], render_alone: Callable[[], bytes]) -> None:
        """`folder` None: this worker is alone, and `render_alone` is all there is."""
        self._render_alone = render_alone
        self._meeting = None if folder is None else Meeting(Path(folder))
        self._worker = worker
        self._dump = dump
        self._name = ""

    async def start(self) -> None:
        """Listen for siblings that collect metrics."""
        if self._meeting is None:
            return
        before = self._meeting.folder.glob(f"worker-{self._worker}-*")
        self._name = f"worker-{self._worker}-{1 + max((int(path.stem.split('-')[2]) for path in before), default=0)}"
        await self._meeting.listen(self._name, self._answer)

    async def close(self) -> None:
        """Leave the last figures behind for the siblings."""
        if self._meeting is not None and self._name:
            (self._meeting.folder / f"{self._name}.dump").write_bytes(self._dump())
            self._meeting.close()

    async def _answer(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(self._dump())
        await writer.drain()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    async def render(self) -> bytes:
        """The metrics of all workers, in Prometheus' text format."""
        if self._meeting is None:
            return self._render_alone()
        own, folder = self._dump(), self._meeting.folder
        names = {path.stem for path in folder.glob("worker-*")} - {self._name}
        # What a scrape has shown is kept, our own part too: no counter may go down when a worker dies.
        self._keep(folder, self._name, own)
        answers = await asyncio.gather(*(self._ask(self._meeting, name) for name in sorted(names)))
        alive = [dump for dump, answered in answers if answered]
        return render(merge([own, *alive], ended=[dump for dump, answered in answers if dump and not answered]))

    async def _ask(self, meeting: Meeting, name: str) -> tuple[bytes, bool]:
        """What a worker says, else what it last said; and whether it answered."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                reader, writer = await meeting.ask(name)
                try:
                    dump = await reader.read()
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            dump = b""
        if dump:
            self._keep(meeting.folder, name, dump)
            return dump, True
        kept = meeting.folder / f"{name}.dump"
        return (kept.read_bytes() if kept.exists() else b""), False

    def _keep(self, folder: Path, name: str, dump: bytes) -> None:
        """Replace what is kept of a worker, in one step: others may read it at this moment."""
        temporary = folder / f"{name}.{self._name}"
        temporary.write_bytes(dump)
        temporary.replace(folder / f"{name}.dump")
