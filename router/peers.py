"""The workers of one service ask each other for what only they know: calls under way, and the configuration that each serves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from router.meeting import Meeting

ANSWER_SECONDS: Final = 1.0
MOST_QUESTION_BYTES: Final = 64

Answers = Mapping[str, Callable[[], Any]]
"""What can be asked for -> what gives it, as plain data."""


class Peers:
    """Answers for this worker, and asks the others of this machine, over sockets in the folder where they meet."""

    def __init__(self, folder: str | None, worker: int, answers: Answers) -> None:
        """`folder` None: this worker is alone."""
        self._meeting = None if folder is None else Meeting(Path(folder))
        self._name = f"peer-{worker}"
        self._answers = answers

    async def start(self) -> None:
        """Listen for the others."""
        if self._meeting is not None:
            await self._meeting.listen(self._name, self._answer)

    async def close(self) -> None:
        """Answer no more."""
        if self._meeting is not None:
            self._meeting.close()

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
        if self._meeting is None:
            return [own]
        names = sorted({path.stem for path in self._meeting.folder.glob("peer-*.sock")} - {self._name})
        answers = await asyncio.gather(*(_ask(self._meeting, name, question) for name in names))
        return [own, *(answer for answer in answers if answer is not None)]


async def _ask(meeting: Meeting, name: str, question: str) -> Any:
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            reader, writer = await meeting.ask(name)
            try:
                writer.write(question.encode() + b"\n")
                answer = await reader.read()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return None
    return msgspec.json.decode(answer) if answer else None
