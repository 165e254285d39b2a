"""The service, counting what it does. `python -m tests.house.counted CONFIG` prints its base URL; then, line by line on
standard input, `count` starts counting from nothing and `tell` prints the counts as JSON and stops.

The interpreter reports every function of Python and C that the thread of the event loop calls. That makes the service
slow; it does not change what it calls.
"""

from __future__ import annotations

import asyncio
import json
import sys
import types
from collections import Counter
from pathlib import Path
from typing import Any, Final

from router.serving import RunningApp, run
from router.settings import load_snapshot

_SLOW_JSON: Final = frozenset(str(module.__file__) for module in (json, json.decoder, json.encoder))


def write_calls() -> int:
    """System calls that wrote something since the process began, sockets included (proc(5), io: syscw)."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("syscw"))


class Counts:
    """What happened since `start`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._counts: Counter[str] = Counter()
        self._writes = 0
        loop.set_task_factory(self._make_task)

    def _make_task(self, loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        self._counts["tasks"] += 1
        return asyncio.Task(coroutine, loop=loop, **options)

    def start(self) -> None:
        self._counts.clear()
        # The line that confirms it is one write more.
        self._writes = write_calls() + 1
        sys.setprofile(self._saw)

    def stop(self) -> dict[str, int]:
        sys.setprofile(None)
        return {**self._counts, "writes": write_calls() - self._writes}

    def _saw(self, frame: types.FrameType, event: str, called: Any) -> None:
        if event == "call":
            # The first call of a function, and each time a coroutine goes on.
            self._counts["calls"] += 1
            if frame.f_code.co_filename in _SLOW_JSON:
                self._counts["json"] += 1
        elif event == "c_call" and called.__name__ in ("decode", "json_decode"):
            home = called.__module__ or type(called.__self__).__module__
            if home.startswith("msgspec"):
                self._counts["decodes"] += 1


async def main(config: str) -> None:
    """Serve until standard input ends."""
    loop = asyncio.get_running_loop()
    counts = Counts(loop)
    async with RunningApp(load_snapshot(config), port=0, log_target="/dev/null") as app:
        print(app.base_url, flush=True)
        reader = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            if line == b"count\n":
                counts.start()
                print("counting", flush=True)
            else:
                print(json.dumps(counts.stop()), flush=True)


if __name__ == "__main__":
    run(main(sys.argv[1]))
