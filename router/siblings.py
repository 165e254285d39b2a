"""The workers of one service find each other's metrics through sockets in a folder of their own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from router.metrics import merge, render

ANSWER_SECONDS: Final = 1.0
LONGEST_ADDRESS: Final = 100
"""Bytes of a socket's path: 108 on Linux, 104 on macOS."""


class Siblings:
    """Merges this worker's metrics with those of the others.

    What a worker last said is kept in a file, so that its counters stay in the sum after it died and was replaced.
    """

    def __init__(self, folder: str | None, worker: int, *, dump: Callable[[], bytes], render_alone: Callable[[], bytes]) -> None:
        """`folder` None: this worker is alone, and `render_alone` is all there is."""
        self._render_alone = render_alone
        self._folder = None if folder is None else Path(folder)
        self._worker = worker
        self._dump = dump
        self._server: asyncio.Server | None = None
        self._name = ""
        self._descriptor = -1

    async def start(self) -> None:
        """Listen for siblings that collect metrics."""
        if self._folder is None:
            return
        generation = 1 + max((int(path.stem.split("-")[2]) for path in self._folder.glob(f"worker-{self._worker}-*")), default=0)
        self._name = f"worker-{self._worker}-{generation}"
        self._server = await asyncio.start_unix_server(self._answer, self._address(self._folder, self._name))

    async def close(self) -> None:
        """Leave the last figures behind for the siblings."""
        if self._server is None or self._folder is None:
            return
        (self._folder / f"{self._name}.dump").write_bytes(self._dump())
        self._server.close()
        with suppress(FileNotFoundError):
            (self._folder / f"{self._name}.sock").unlink()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _address(self, folder: Path, name: str) -> str:
        """Where a worker listens. A path that is longer than a socket's address may be goes by the folder's descriptor."""
        path = str(folder / f"{name}.sock")
        if len(path.encode()) < LONGEST_ADDRESS or not Path("/proc/self/fd").exists():
            return path
        if self._descriptor < 0:
            self._descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        return f"/proc/self/fd/{self._descriptor}/{name}.sock"

    async def _answer(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(self._dump())
        await writer.drain()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    async def render(self) -> bytes:
        """The metrics of all workers, in Prometheus' text format."""
        if self._folder is None:
            return self._render_alone()
        own = self._dump()
        names = {path.stem for path in self._folder.glob("worker-*")} - {self._name}
        # What a scrape has shown is kept, our own part too: no counter may go down when a worker dies.
        self._keep(self._folder, self._name, own)
        answers = await asyncio.gather(*(self._ask(self._folder, name) for name in sorted(names)))
        alive = [dump for dump, answered in answers if answered]
        return render(merge([own, *alive], ended=[dump for dump, answered in answers if dump and not answered]))

    async def _ask(self, folder: Path, name: str) -> tuple[bytes, bool]:
        """What a worker says, else what it last said; and whether it answered."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                reader, writer = await asyncio.open_unix_connection(self._address(folder, name))
                try:
                    dump = await reader.read()
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            dump = b""
        if dump:
            self._keep(folder, name, dump)
            return dump, True
        kept = folder / f"{name}.dump"
        return (kept.read_bytes() if kept.exists() else b""), False

    def _keep(self, folder: Path, name: str, dump: bytes) -> None:
        """Replace what is kept of a worker, in one step: others may read it at this moment."""
        temporary = folder / f"{name}.{self._name}"
        temporary.write_bytes(dump)
        temporary.replace(folder / f"{name}.dump")
