"""What tests of several folders share: a real Redis, and one that is faked."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import io
import os
import resource
import select
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
import redis
import structlog
import trustme
from fakeredis import TcpFakeServer
from fakeredis._clients._tcp_server import TCPFakeRequestHandler
from hypothesis import HealthCheck, settings

from router.adapters.redis.scripts import NAMES, script

# How long a busy machine takes to make up or run an example is no result of a test.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


def free_port() -> int:
    """A port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(autouse=True, scope="session")
def _state_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Without a store of its own, a service keeps its books in the user's state folder, where a developer may have some.

    One authority is trusted, which nobody has a certificate of: to load all of this machine's costs each client more than its test.
    """
    authority = tmp_path_factory.mktemp("authorities") / "none.pem"
    trustme.CA().cert_pem.write_to_path(authority)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        patch.setenv("SSL_CERT_FILE", str(authority))
        patch.delenv("SSL_CERT_DIR", raising=False)
        yield


@pytest.fixture(autouse=True, scope="session")
def _plain_tracebacks() -> None:
    """What is logged of a failure is formatted as the program does it: with colours and the source around, it takes a second each."""
    structlog.dev.ConsoleRenderer.get_active().exception_formatter = structlog.dev.plain_traceback


TOGETHER = (
    "tests/e2e/test_demo.py",
    "tests/e2e/test_real_model.py",
    "tests/e2e/test_sdk.py",
    "tests/house/test_wheel.py",
    "tests/unit/test_sink.py",
    "tests/wire/test_litellm_lane.py",
)
"""Files whose tests share what takes seconds to make: with several processes, one makes it, not each."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """How tests are dealt to processes, if nothing else is asked for: one by one, those of some files together."""
    if config.getoption("dist") != "load":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return file if file in TOGETHER else nodeid

    return Scheduling(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, None, None]:
    """A test that runs out of time says what each task was waiting for."""
    try:
        yield
    except pytest.fail.Exception as failure:
        if "Timeout" in str(failure):
            for task in [found for found in gc.get_objects() if isinstance(found, asyncio.Task) and not found.done()]:
                told = io.StringIO()
                task.print_stack(file=told)
                failure.add_note(told.getvalue())
        raise


class RedisServer:
    """A redis-server of a test's own, which it may stop, kill and start again."""

    def __init__(self, folder: Path, *options: str, config: Path | None = None) -> None:
        binary = os.environ.get("FAREGATE_TEST_REDIS") or shutil.which("redis-server") or shutil.which("valkey-server")
        if binary is None:
            pytest.fail("redis-server is not installed: the ledger must be tested against it (apt-get install redis-server)")
        self.port = free_port()
        self._folder = folder
        given = [] if config is None else [str(config)]
        common = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder)]
        # A Sentinel saves nothing.
        saving = ["--save", ""] if config is None else []
        self._command = [binary, *given, *common, *saving, *options]
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it and wait until it listens."""
        with (self._folder / "redis.log").open("ab") as log:
            # SIGXFSZ stays ignored: a file that may not grow is an error of the write, as on a full disk.
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, restore_signals=False)
        deadline = time.monotonic() + 20
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=0.2) as peer:
                peer.settimeout(1)
                peer.sendall(b"PING\r\n")
                if peer.recv(16).startswith((b"+PONG", b"-NOAUTH")):
                    return
            if self._process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"redis-server did not start: {(self._folder / 'redis.log').read_text()}")
            time.sleep(0.01)

    @contextlib.contextmanager
    def full_disk(self) -> Iterator[None]:
        """No file of it grows meanwhile."""
        assert self._process is not None
        # With `always` a server that cannot write ends itself.
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as peer:
            peer.sendall(b"CONFIG SET appendfsync everysec\r\n")
            assert peer.recv(16) == b"+OK\r\n"
        before = resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        try:
            yield
        finally:
            resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE, before)

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it as a crash would."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.signal(signal.SIGCONT)
            self.kill()


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One Redis for all tests that only use it; they take prefixes or flush it."""
    server = RedisServer(tmp_path_factory.mktemp("redis"), "--appendonly", "yes")
    yield server
    server.close()


@pytest.fixture
def redis_url(shared_redis: RedisServer) -> str:
    """The address of a real, empty Redis."""
    with socket.create_connection(("127.0.0.1", shared_redis.port), timeout=5) as peer:
        peer.sendall(b"FLUSHALL\r\n")
        assert peer.recv(16) == b"+OK\r\n"
    return shared_redis.url


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that the test may break. What it acknowledged is on disk: with `everysec` a busy disk may hold it back for two seconds."""
    server = RedisServer(tmp_path, "--appendonly", "yes", "--appendfsync", "always")
    yield server
    server.close()


_RENAMED = {
    script(name).sha + b"\r\n": hashlib.sha1(script(name).text.replace(b"#!lua", b"--lua")).hexdigest().encode() + b"\r\n" for name in NAMES
}


class _Handler(TCPFakeRequestHandler):
    """Like its parent, but an error of a command is a reply, not the end of the connection."""

    def handle(self) -> None:
        while not self.server._shutdown_event.is_set():
            if self.current_client.can_read():
                try:
                    reply = self.current_client.read_response()
                except redis.ResponseError as error:
                    reply = error
                self.writer.dump(reply)
                continue
            try:
                data = self.rfile.readline()
                if not data:
                    if not select.select([self.connection], [], [], 0.01)[0]:
                        continue
                    data = self.rfile.readline()
            except ConnectionError:
                return
            if not data:
                return
            # It knows no shebangs: they become comments, and the scripts so changed go by other names.
            self.current_client.get_socket().sendall(_RENAMED.get(data) or data.replace(b"#!lua", b"--lua"))


class FakeRedis:
    """A Redis in pure Python, which speaks the real protocol over a socket."""

    def __init__(self) -> None:
        self._server = TcpFakeServer(("127.0.0.1", 0), server_type="redis", server_version=(7,))
        self._server.RequestHandlerClass = _Handler
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._server.server_address[1]}/0"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def fake_redis_url() -> Iterator[str]:
    """The address of a faked, empty Redis."""
    server = FakeRedis()
    yield server.url
    server.close()
