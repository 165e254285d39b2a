"""Grading by a command of the operator's own: it runs the code that a model wrote, or looks at the answer in any other way."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import IO, Final, cast

from router.errors import ConfigError

SECONDS: Final = 10.0
"""How long it may take, unless the command line says otherwise."""
LONGEST_SAID: Final = 64 * 1024
_SECRET: Final = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL|^FAREGATE_|REDIS_URL|DATABASE_URL", re.IGNORECASE)
_FENCED: Final = re.compile(r"```[^\n`]*\n(.*?)```", re.DOTALL)


def code_in(answer: str) -> str:
    """The last block of code in an answer; without one, all of it."""
    blocks: list[str] = _FENCED.findall(answer)
    return blocks[-1] if blocks else answer


def run_hook(command: Sequence[str], answer: str, *, prompt: str, expect: str, task: str, seconds: float = SECONDS) -> float:
    """Start the command with the answer's code on standard input, and take its word: 0 to 1.

    Exit code 0 is 1 and any other is 0, unless the last line that it prints is a number from 0 to 1. One that takes longer than
    `seconds` is ended, with all that it started, and the answer is wrong. The variables `GRADE_ANSWER`, `GRADE_PROMPT`,
    `GRADE_EXPECT` and `GRADE_TASK` hold the whole answer and what was asked. Variables that look like credentials are left out: what runs
    is what a model wrote.

    Raises:
        ConfigError: it cannot be started.
    """
    environ = {name: value for name, value in os.environ.items() if _SECRET.search(name) is None}
    told = {"ANSWER": answer, "PROMPT": prompt, "EXPECT": expect, "TASK": task}
    environ |= {f"GRADE_{name}": value.replace("\0", "")[:LONGEST_SAID] for name, value in told.items()}
    with tempfile.TemporaryFile() as code:
        code.write(code_in(answer).encode())
        code.seek(0)
        try:
            # The command is the operator's own, from the command line; a session of its own is ended as a whole.
            process = subprocess.Popen(  # noqa: S603
                command, stdin=code, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environ, start_new_session=True
            )
        except OSError as error:
            raise ConfigError(f"--run: {command[0]} cannot be started: {error.strerror}") from None
    with process:
        try:
            said = _read(process, time.monotonic() + seconds)
        except subprocess.TimeoutExpired:
            return 0.0
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    return _number(said.decode("utf-8", "replace"), usual=float(process.returncode == 0))


def _read(process: subprocess.Popen[bytes], until: float) -> bytes:
    """The end of what it prints, once it has ended. Raises `subprocess.TimeoutExpired`."""
    pipe = cast(IO[bytes], process.stdout)
    said = b""
    while True:
        left = max(0.0, until - time.monotonic())
        if not select.select([pipe], [], [], left)[0]:
            raise subprocess.TimeoutExpired(process.args, left)
        read = os.read(pipe.fileno(), LONGEST_SAID)
        if not read:
            process.wait(max(0.0, until - time.monotonic()))
            return said
        said = (said + read)[-LONGEST_SAID:]


def _number(said: str, *, usual: float) -> float:
    last = said.strip().rpartition("\n")[2].strip()
    try:
        value = float(last)
    except ValueError:
        return usual
    return value if 0 <= value <= 1 else usual
