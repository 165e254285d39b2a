"""The folder in which the workers of one service meet: each listens at a socket of its own there."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

LONGEST_ADDRESS: Final = 100
"""Bytes of a socket's path: 108 on Linux, 104 on macOS."""

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Meeting:
    """One worker's place in the folder."""

    def __init__(self, folder: Path) -> None:
        """The folder must exist as long as this is used."""
        self.folder = folder
        self._server: asyncio.Server | None = None
        self._path = folder
        self._descriptor = -1

    async def listen(self, name: str, answer: Answer) -> None:
        """Answer those who ask this name, from now on. A socket that a killed worker left there is replaced."""
        if self._server is not None:
            return
        self._path = self.folder / f"{name}.sock"
        self._path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(answer, self._address(self._path))

    async def ask(self, name: str) -> Streams:
        """Connect to the one who listens under a name. Raises `OSError`."""
        return await asyncio.open_unix_connection(self._address(self.folder / f"{name}.sock"))

    def close(self) -> None:
        """Answer no more."""
        if self._server is not None:
            self._server.close()
            self._server = None
            with suppress(FileNotFoundError):
                self._path.unlink()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _address(self, path: Path) -> str:
        """Where a name listens. A path that is longer than a socket's address may be goes by the folder's descriptor."""
        if len(os.fsencode(path)) < LONGEST_ADDRESS or not Path("/proc/self/fd").exists():
            return str(path)
        if self._descriptor < 0:
            self._descriptor = os.open(self.folder, os.O_RDONLY | os.O_CLOEXEC)
        return f"/proc/self/fd/{self._descriptor}/{path.name}"
