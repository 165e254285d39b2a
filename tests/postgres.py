"""A PostgreSQL of a test's own: in a folder of its own, on a socket there, for a user without rights."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg
import pytest

USERS = ("postgres", "nobody")


def _binary(name: str) -> str:
    """Debian has them outside of the path, by version."""
    newest = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4].partition(".")[0]))
    found = str(newest[-1]) if newest else shutil.which(name)
    if found is None:
        pytest.fail(f"{name} is not installed: the sink must be tested against PostgreSQL (apt-get install postgresql)")
    return found


class PostgresServer:
    """Starts one; it listens on no port."""

    def __init__(self) -> None:
        # A socket's path is short: not below the folders of tests.
        self._folder = Path(tempfile.mkdtemp(prefix="fg-pg-"))
        # It refuses to serve as root.
        self._user = next((name for name in USERS if _exists(name)), None) if os.getuid() == 0 else None
        if self._user is not None:
            shutil.chown(self._folder, self._user)
        data = self._folder / "data"
        # It writes to /dev/null, which not every container leaves open to all.
        closed = self._user is not None and not Path("/dev/null").stat().st_mode & 0o002
        made = self._start(
            "initdb", "--no-sync", "--auth=trust", "--username=faregate", "--encoding=UTF8", "--locale=C", "-D", str(data), may_write=closed
        )
        assert made.wait(timeout=60) == 0, self._log()
        fast = ["-c", "fsync=off", "-c", "listen_addresses=", "-c", "shared_buffers=16MB", "-c", "max_connections=10"]
        self._process = self._start("postgres", "-D", str(data), "-k", str(self._folder), *fast)
        self._wait()

    @property
    def url(self) -> str:
        return f"postgresql://faregate@/postgres?host={self._folder}"

    def _start(self, name: str, *args: str, may_write: bool = False) -> subprocess.Popen[bytes]:
        command, user = [_binary(name), *args], self._user
        if may_write and user is not None:
            right = [f"--{kind}-caps=+dac_override" for kind in ("inh", "ambient")]
            command, user = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", *right, *command], None
        with (self._folder / "log").open("ab") as log:
            environment = {"PATH": os.environ["PATH"], "LC_ALL": "C"}
            return subprocess.Popen(command, stdout=log, stderr=log, cwd="/", env=environment, user=user)

    def _log(self) -> str:
        return (self._folder / "log").read_text()

    def _wait(self) -> None:
        deadline = time.monotonic() + 60
        while True:
            try:
                psycopg.connect(self.url).close()
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"PostgreSQL did not start: {self._log()}")
                time.sleep(0.02)
            else:
                return

    def close(self) -> None:
        # Not waiting for sessions.
        self._process.send_signal(signal.SIGINT)
        self._process.wait(timeout=60)
        shutil.rmtree(self._folder)


def _exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True
