"""The simulator as a running HTTP server, in this process."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import socket
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Final, Self

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from router.sim.app import SimApp
from router.sim.bill import Bill
from router.sim.profiles import PROFILES, Profile, without_faults

_simulating: contextvars.ContextVar[bool] = contextvars.ContextVar("simulating", default=False)
# A stream that is cut on request is an error to uvicorn, and no news to us.
_SILENT: Final = logging.getLogger("faregate.sim.http")
_SILENT.setLevel(logging.CRITICAL + 1)


def _not_simulated(record: logging.LogRecord) -> bool:
    """uvicorn has one logger for all servers of a process: only what a simulator says there is left out."""
    return not _simulating.get()


logging.getLogger("uvicorn.error").addFilter(_not_simulated)


class _Protocol(HttpToolsProtocol):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.logger = _SILENT


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.stop = asyncio.Event()

    async def main_loop(self) -> None:
        """Wait for the end instead of looking for it ten times a second."""
        await self.stop.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave SIGINT and SIGTERM to whoever owns the process."""
        yield


class Simulator:
    """`async with Simulator(seed=7) as sim:` serves on loopback until the block ends.

    By default the models never fail by themselves; `faults=True` gives them the error rates of their profiles.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        profiles: Mapping[str, Profile] = PROFILES,
        speed: float = 1.0,
        faults: bool = False,
        control: bool = False,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        chosen = profiles if faults else without_faults(profiles.values())
        self.app = SimApp(seed=seed, profiles=chosen, speed=speed, control=control)
        self._host = host
        self._port = port
        config = uvicorn.Config(
            self.app,
            http=_Protocol,
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            ws="none",
            timeout_keep_alive=75,
            timeout_graceful_shutdown=1,
        )
        self._server = _Server(config)
        self._serving: asyncio.Task[None] | None = None

    @property
    def base_url(self) -> str:
        """What an OpenAI client takes as base URL."""
        return f"http://{self._host}:{self._port}/v1"

    @property
    def billed(self) -> Bill:
        """What the provider billed so far."""
        return self.app.billed

    async def __aenter__(self) -> Self:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((self._host, self._port))
        except OSError:
            listener.close()
            raise
        self._port = listener.getsockname()[1]
        self._serving = asyncio.create_task(self._serve(listener))
        while not self._server.started:
            if self._serving.done():
                self._serving.result()
            await asyncio.sleep(0.001)
        return self

    async def _serve(self, listener: socket.socket) -> None:
        _simulating.set(True)
        await self._server.serve(sockets=[listener])

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.stop.set()
        if self._serving is not None:
            await self._serving

    def outage(self, model: str, down: bool) -> None:
        """Begin or end an outage: every call is answered 503."""
        self.app.troubles[model].down = down

    def fail(self, model: str, *, times: int = 1, status: int = 500, retry_after_seconds: float | None = None) -> None:
        """Let the next calls fail."""
        self.app.troubles[model].errors.extend([(status, retry_after_seconds)] * times)

    def slow(self, model: str, factor: float) -> None:
        """Multiply the model's latencies; 1 is normal."""
        self.app.troubles[model].slow = factor

    def cut(self, model: str, after_tokens: int | None) -> None:
        """Break streams off after so many tokens; None ends that."""
        self.app.troubles[model].cut_after = after_tokens
