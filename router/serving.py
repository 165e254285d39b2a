"""Listening: the server of one process, and the supervisor of several."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import structlog
import uvicorn

from router.app import Service
from router.domain.addresses import in_url
from router.edge.gate import Gate
from router.edge.protocol import GateProtocol
from router.errors import ConfigError
from router.snapshot import Snapshot

log = structlog.get_logger("faregate.serving")

BACKLOG: Final = 2048
SWEEP_SECONDS: Final = 1.0
FASTEST_RESTART_SECONDS: Final = 1.0
PARENT_SECONDS: Final = 1.0
"""How often a worker looks whether its supervisor lives."""
SIBLINGS_SECONDS: Final = 0.2
"""How long a worker that drains waits for word that all others do, too, before it leaves the port to them."""
ENDING: Final = "ending"
"""File in the workers' folder that says that the whole service ends."""
CLOSING_SECONDS: Final = 0.01
"""Between two looks at whether all connections are closed."""
SPARE_SECONDS: Final = 5.0
"""Beyond the drain time, before a worker that does not end is killed."""


class GateServer(uvicorn.Server):
    """uvicorn's server, which leaves signals to us and tells slow connections off."""

    def __init__(self, config: uvicorn.Config) -> None:
        """`config`: from `server_config`."""
        super().__init__(config)
        self._end_asked = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        """Look after the connections once a second, until the end is asked for."""
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self._end_asked.wait()

    async def on_tick(self, counter: int) -> bool:
        now = asyncio.get_running_loop().time()
        for connection in list(self.server_state.connections):
            if isinstance(connection, GateProtocol):
                connection.sweep(now)
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the port, then each connection when its answer is out; what lasts longer than the configured grace is cancelled."""
        self.leave_port()
        for listener in sockets or []:
            listener.close()
        state = self.server_state
        for connection in list(state.connections):
            connection.shutdown()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.config.timeout_graceful_shutdown):
                # A connection that is closed tells nobody but its loop.
                while state.connections or state.tasks:  # noqa: ASYNC110
                    await asyncio.sleep(CLOSING_SECONDS)
        for task in state.tasks:
            task.cancel(msg="the drain time is over")

    def end(self) -> None:
        """Close the port and, when their answers are out, the connections."""
        self.should_exit = True
        self._end_asked.set()

    def drain(self) -> set[asyncio.Task[None]]:
        """Close each connection after its next answer. Returns what is under way."""
        for connection in list(self.server_state.connections):
            if isinstance(connection, GateProtocol):
                connection.drain()
        return set(self.server_state.tasks)

    def leave_port(self) -> None:
        """Take no new connection."""
        for server in self.servers:
            server.close()


def listen(host: str, port: int, *, shared: bool) -> socket.socket:
    """A listening socket. `shared`: several processes may listen on the port, the kernel deals out connections.

    Raises:
        ConfigError: the address is taken or not ours.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listener.bind((host, port))
    except OSError as exc:
        listener.close()
        raise ConfigError(f"server: cannot listen on {host}:{port}: {exc.strerror}. Choose another with --port or server.port.") from exc
    listener.setblocking(False)
    return listener


def _to_connect(host: str, port: int) -> str:
    # An address to connect to, not to listen on.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"http://{in_url(host)}:{port}"


class RunningApp:
    """A service that listens: for `serve`, the demo and tests.

    async with RunningApp(snapshot, port=0) as app: ...  # app.base_url
    """

    def __init__(
        self,
        snapshot: Snapshot,
        *,
        host: str | None = None,
        port: int | None = None,
        worker: int = 0,
        shared: bool = False,
        run_folder: str | None = None,
        log_target: int | str | None = None,
        load: Callable[[], Snapshot] | None = None,
    ) -> None:
        """`host` and `port` override the configuration's; port 0 is any free one. `load` reads the configuration anew."""
        self.service = Service(snapshot, worker=worker, run_folder=run_folder, log_target=log_target, load=load)
        self._host = snapshot.server.host if host is None else host
        self.service.host = self._host
        self._port = snapshot.server.port if port is None else port
        self._shared = shared
        self._run_folder = run_folder
        self._serving: asyncio.Task[None] | None = None
        self._asked = asyncio.Event()
        self._supervisor: int | None = None

    @property
    def base_url(self) -> str:
        """Where OpenAI's clients point: ends in `/v1`."""
        return f"{_to_connect(self._host, self._port)}/v1"

    @property
    def admin_url(self) -> str:
        """Where administrators are answered; empty: the configuration names none."""
        snapshot, port = self.service.snapshot, self.service.admin_port
        host = self._host if port is None else snapshot.server.admin_host
        return f"{_to_connect(host, port or self._port)}/admin/v1" if snapshot.admins else ""

    async def __aenter__(self) -> Self:
        listener = listen(self._host, self._port, shared=self._shared)
        try:
            self._port = listener.getsockname()[1]
            await self.service.__aenter__()
            self._server = GateServer(server_config(self.service.gate))
            self._serving = asyncio.create_task(self._server.serve(sockets=[listener]), name="server")
            while not self._server.started:
                if self._serving.done():
                    self._serving.result()
                await asyncio.sleep(0.001)
        except BaseException:
            listener.close()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.drain()
        await self.service.stop()

    async def drain(self) -> None:
        """Begin nothing more, let what is under way end within the drain time, then cancel it; its money is settled.

        The port stays open meanwhile, so that probes and clients are told: unless siblings go on to serve it.
        """
        if self._serving is None:
            return
        loop, settings = asyncio.get_running_loop(), self.service.snapshot.server
        began = loop.time()
        self.service.drain()
        under_way = self._server.drain()
        log.info("draining", calls=len(under_way), at_most_seconds=settings.drain_seconds)
        leaving = asyncio.create_task(self._leave_port_to_siblings(), name="leave-port")
        if under_way:
            await asyncio.wait(under_way, timeout=settings.drain_seconds)
        await asyncio.sleep(max(0.0, began + settings.drain_delay_seconds - loop.time()))
        leaving.cancel()
        left = max(0.0, began + settings.drain_seconds - loop.time())
        self._server.config.timeout_graceful_shutdown = math.ceil(left)
        self._server.end()
        await self._serving
        self._serving = None
        open_tasks = list(self._server.server_state.tasks)
        if open_tasks:
            await asyncio.wait(open_tasks, timeout=SPARE_SECONDS)

    async def _leave_port_to_siblings(self) -> None:
        """Take no new connection from the other workers, unless all of them end."""
        if self._run_folder is None:
            return
        await asyncio.sleep(SIBLINGS_SECONDS)
        if not (Path(self._run_folder) / ENDING).exists():
            self._server.leave_port()
            log.info("left the port to the other workers")

    def catch_signals(self) -> None:
        """Take SIGTERM and SIGINT for `until_signal`: to be called before the first request can come."""
        self._supervisor = _PARENT if self._shared else None
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked.set)
        # Ignored where the configuration is fixed: the signal would end the process.
        loop.add_signal_handler(signal.SIGHUP, self.service.reload_soon)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})

    async def until_signal(self) -> None:
        """Wait for a signal that was caught; a worker whose supervisor was killed ends, too."""
        while not self._asked.is_set() and (self._supervisor is None or not parent_died(self._supervisor)):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PARENT_SECONDS if self._supervisor else None):
                    await self._asked.wait()


def server_config(gate: Gate, *, grace_seconds: int | None = None) -> uvicorn.Config:
    """How uvicorn serves a gate. `grace_seconds`: how long requests may go on after the end was asked for."""
    return uvicorn.Config(
        gate,
        http=GateProtocol,
        ws="none",
        lifespan="off",
        interface="asgi3",
        access_log=False,
        log_config=None,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=grace_seconds,
    )


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine on uvloop."""
    import uvloop

    uvloop.run(main)


_PARENT: Final = os.getppid()
"""Read at once: a supervisor that is killed while we start must be missed, too."""


class Supervisor:
    """Starts workers as processes of their own, replaces those that die, and ends them together."""

    def __init__(self, command: Sequence[str], *, workers: int, drain_seconds: float) -> None:
        """`command` starts a worker; ` --worker N --run-folder F` is added to it."""
        self._command = list(command)
        self._workers = workers
        self._drain_seconds = drain_seconds
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._ending = asyncio.Event()

    async def supervise(self) -> int:
        """Run until a signal comes. Returns the exit status: 0 if all workers ended cleanly."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._ending.set)
        loop.add_signal_handler(signal.SIGHUP, self._pass_on, signal.SIGHUP)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
        with tempfile.TemporaryDirectory(prefix="faregate-") as folder:
            results = await asyncio.gather(*(self._keep(number, folder) for number in range(self._workers)))
        return max(results)

    def _pass_on(self, number: signal.Signals) -> None:
        """Send a signal to all workers."""
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)

    async def _keep(self, number: int, folder: str) -> int:
        replaced = False
        while True:
            started = time.monotonic()
            process = await asyncio.create_subprocess_exec(*self._command, "--worker", str(number), "--run-folder", folder)
            self._processes[number] = process
            waiting = asyncio.ensure_future(process.wait())
            ending = asyncio.ensure_future(self._ending.wait())
            await asyncio.wait((waiting, ending), return_when=asyncio.FIRST_COMPLETED)
            ending.cancel()
            if self._ending.is_set():
                (Path(folder) / ENDING).touch()
                return await self._end(process, waiting)
            status = waiting.result()
            if status == EXIT_CONFIG and not replaced:
                self._ending.set()
                return status
            # From now on the service lives, whatever keeps this worker from starting: the others serve.
            replaced = True
            log.error("worker died; starting another", worker=number, status=status)
            await asyncio.sleep(max(0.0, FASTEST_RESTART_SECONDS - (time.monotonic() - started)))

    async def _end(self, process: asyncio.subprocess.Process, waiting: asyncio.Future[int]) -> int:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        done, _ = await asyncio.wait((waiting,), timeout=self._drain_seconds + SPARE_SECONDS)
        if not done:
            log.error("worker did not end in time and is killed", pid=process.pid)
            process.kill()
        status = await waiting
        # Ended before it could catch the signal: it had not begun to serve.
        return 0 if status == -signal.SIGTERM else abs(status)


EXIT_CONFIG: Final = 1


def worker_command() -> list[str]:
    """How this program starts itself again."""
    return [sys.executable, "-m", "router", *sys.argv[1:]]


def parent_died(parent: int) -> bool:
    """Whether the process that started us is gone."""
    return os.getppid() != parent
