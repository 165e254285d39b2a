"""The workers of one service ask each other for what only they know: calls under way, and the configuration that each serves."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from router.siblings import LONGEST_ADDRESS

ANSWER_SECONDS: Final = 1.0
MOST_QUESTION_BYTES: Final = 64

Answers = Mapping[str, Callable[[], Any]]
"""What can be asked for -> what gives it, as plain data."""


class Peers:
    """Answers for this worker, and asks the others of this machine, over sockets in the folder where they meet."""

    def __init__(self, folder: str | None, worker: int, answers: Answers) -> None:
        """`folder` None: this worker is alone."""
        self._folder = None if folder is None else Path(folder)
        self._name = f"peer-{worker}"
        self._answers = answers
        self._server: asyncio.Server | None = None
        self._descriptor = -1

    async def start(self) -> None:
        """Listen for the others."""
        if self._folder is not None and self._server is None:
            path = self._address(self._folder, self._name)
            # Of a worker before this one that was killed.
            with suppress(FileNotFoundError):
                os.unlink(path)
            self._server = await asyncio.start_unix_server(self._answer, path)

    async def close(self) -> None:
        """Answer no more."""
        if self._server is not None and self._folder is not None:
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

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            async with asyncio.timeout(ANSWER_SECONDS):
                question = (await reader.readuntil(b"\n"))[:-1][:MOST_QUESTION_BYTES].decode("ascii", "replace")
                give = self._answers.get(question)
                writer.write(b"" if give is None else msgspec.json.encode(give()))
                await writer.drain()
        writer.close()

    async def ask_all(self, question: str) -> list[Any]:
        """What every worker of this machine says, this one first. One that does not answer in time is left out."""
        own = msgspec.to_builtins(self._answers[question]())
        if self._folder is None:
            return [own]
        names = sorted({path.stem for path in self._folder.glob("peer-*.sock")} - {self._name})
        answers = await asyncio.gather(*(self._ask(self._folder, name, question) for name in names))
        return [own, *(answer for answer in answers if answer is not None)]

    async def _ask(self, folder: Path, name: str, question: str) -> Any:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                reader, writer = await asyncio.open_unix_connection(self._address(folder, name))
                try:
                    writer.write(question.encode() + b"\n")
                    answer = await reader.read()
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return None
        return msgspec.json.decode(answer) if answer else None
