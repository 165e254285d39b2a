"""The programs of a run: the provider, the proxies, the store; each started, asked, and stopped again."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.overhead import machine

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parent.parent
KEY: Final = "sk-bench-0123456789abcdefghijklmnop"
START_SECONDS: Final = 120.0
LONG_PAIRS: Final = 355
EVENTS: Final = 54
PROMPT: Final = (
    "Our nightly export stopped last Tuesday with a time-out after about forty minutes. Nothing was changed on our side. The log says "
    "'canceling statement due to lock timeout'. Where do we start to look, and is any data lost?",
    "Nothing is lost: the export only reads. Start with the last table that the log names; a lock on the table after it is the usual "
    "cause. Which version of the database do you run, and is there a report at that hour?",
    "Version fifteen. The last table is 'orders', and a long report runs on it every night since Monday. How do we let the export go "
    "first without stopping the report for good? There is one hour before the shops open.",
)
_MODULES: Final = ("ndk_http_module.so", "ngx_http_lua_module.so")
_MODULE_FOLDERS: Final = ("/usr/lib/nginx/modules", "/usr/lib64/nginx/modules", "/usr/local/lib/nginx/modules")


class Missing(Exception):
    """Something that the benchmark needs is not installed."""


def check_installed() -> None:
    """Raises `Missing` with the Debian packages to install."""
    missing = [package for command, package in (("nginx", "nginx"), ("gcc", "gcc libc6-dev")) if shutil.which(command) is None]
    if _redis() is None:
        missing.append("redis-server")
    if _module_folder() is None:
        missing.append("libnginx-mod-http-lua")
    if missing:
        raise Missing(f"Not installed: what brings it on Debian and Ubuntu is: apt-get install {' '.join(missing)}")


def _redis() -> str | None:
    return shutil.which("redis-server") or shutil.which("valkey-server")


def _module_folder() -> Path | None:
    return next((Path(folder) for folder in _MODULE_FOLDERS if (Path(folder) / _MODULES[1]).exists()), None)


def free_port() -> int:
    """A port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def body(model: str, *, stream: bool, gap_ms: int = 0, long: bool = False) -> bytes:
    """A request: about 1.5 KB, or 180 KB if `long`."""
    roles = ("user", "assistant", "user")
    system = "You are the support assistant of a small software company. Answer in plain words. Say so if you are not sure. " * 4
    turns = [{"role": role, "content": text} for role, text in zip(roles, PROMPT, strict=True)]
    if long:
        turns = [*turns[:2] * LONG_PAIRS, turns[2]]
    fields: dict[str, object] = {"model": model, "stream": stream, "seed": gap_ms, "max_tokens": 256, "temperature": 0.2}
    if stream:
        fields["stream_options"] = {"include_usage": True}
    return json.dumps({**fields, "messages": [{"role": "system", "content": system}, *turns]}).encode()


@dataclass(slots=True)
class Program:
    """A process with a log of its own."""

    command: Sequence[str]
    folder: Path
    name: str
    cpus: Sequence[int] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        wanted = self.cpus
        with (self.folder / f"{self.name}.out").open("ab") as out, (self.folder / f"{self.name}.err").open("ab") as err:
            self.process = subprocess.Popen(
                self.command,
                env={**os.environ, **self.environment},
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                preexec_fn=(lambda: os.sched_setaffinity(0, wanted)) if wanted else None,
            )

    @property
    def pids(self) -> list[int]:
        """Of the process and its descendants."""
        return machine.tree(self.process.pid) if self.process is not None else []

    def said(self) -> str:
        """The end of what it wrote to standard error, for messages."""
        return (self.folder / f"{self.name}.err").read_text(errors="replace")[-2000:]

    def stop(self) -> None:
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@dataclass(slots=True)
class Target:
    """Something that answers chat completions: a proxy, or the provider itself."""

    name: str
    port: int
    program: Program | None = None
    """None: it costs nothing that is counted here."""
    service: Program | None = None
    """What works for it beside the proxy; not part of the proxy's CPU."""
    streams: bool = True
    model: str = "auto"
    key: str = KEY
    path: str = "/v1/chat/completions"
    headers: Mapping[str, str] = field(default_factory=dict)
    note: str = ""
    phases: frozenset[str] | None = None
    """Those that it can carry; None: all."""
    patience: int = 1
    """It is measured so many times as long, because it answers little."""
    port_file: Path | None = None
    """Written by a program that chooses its port itself."""
    start_seconds: float | None = None
    memory: list[float] = field(default_factory=list)

    def carries(self, phase: str, *, stream: bool) -> bool:
        """Whether it is measured in this phase."""
        return (self.streams or not stream) and (self.phases is None or phase in self.phases)

    def request(self, *, stream: bool, gap_ms: int = 0, long: bool = False) -> bytes:
        """The bytes of a whole HTTP request, with headers as OpenAI's client sends them."""
        content = body(self.model, stream=stream, gap_ms=gap_ms, long=long)
        headers = {
            "Host": f"127.0.0.1:{self.port}",
            "Accept-Encoding": "identity",
            "Connection": "keep-alive",
            "Accept": "application/json",
            "Content-Type": "application/json",
            "User-Agent": "OpenAI/Python 2.20.0",
            "X-Stainless-Lang": "python",
            "X-Stainless-Package-Version": "2.20.0",
            "X-Stainless-OS": "Linux",
            "X-Stainless-Runtime": "CPython",
            "X-Stainless-Retry-Count": "0",
            "Authorization": f"Bearer {self.key}",
            "Content-Length": str(len(content)),
            **self.headers,
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"POST {self.path} HTTP/1.1\r\n{lines}\r\n".encode() + content

    def ask(self, *, stream: bool) -> tuple[int, bytes]:
        """One request; status and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            raw = self.request(stream=stream)
            connection.connect()
            connection.sock.sendall(raw)
            answer = http.client.HTTPResponse(connection.sock, method="POST")
            answer.begin()
            return answer.status, answer.read()

    def start(self) -> None:
        """Start it and wait for its first 200.

        Raises:
            SystemExit: it does not answer.
        """
        began = time.monotonic()
        if self.program is not None:
            self.program.start()
        while True:
            if self.port_file is not None and self.port_file.exists():
                self.port = int(self.port_file.read_text() or 0)
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self.ask(stream=False)[0] == 200:
                    break
            ended = self.program is not None and self.program.process is not None and self.program.process.poll() is not None
            if ended or time.monotonic() - began > START_SECONDS:
                raise SystemExit(f"{self.name} does not answer: {self.program.said() if self.program is not None else ''}")
            time.sleep(0.005)
        self.start_seconds = time.monotonic() - began if self.program is not None else None

    def remember_memory(self) -> None:
        """Take its memory down."""
        if self.program is not None:
            self.memory.append(machine.resident_mib(self.program.pids))

    def changed(self) -> str:
        """What of the provider's answer gets lost on the way; empty: nothing."""
        if not self.streams:
            return ""
        lost = []
        status, answer = self.ask(stream=False)
        if status != 200 or json.loads(answer).get("usage", {}).get("total_tokens") != 416:
            lost.append("usage")
        status, answer = self.ask(stream=True)
        count = answer.count(b"data:")
        if status != 200 or count != EVENTS:
            lost.append(f"{count} of {EVENTS} events")
        return ", ".join(lost)


def nginx(folder: Path, name: str, port: int, cpus: Sequence[int], *, provider: int | None) -> Program:
    """The mock provider, or with `provider` the proxy in front of that port."""
    listen = f"listen 127.0.0.1:{port} backlog=4096;"
    if provider is None:
        modules = "".join(f"load_module {_module_folder()}/{module};\n" for module in _MODULES)
        part = (
            f'lua_package_path "{HERE}/?.lua;;"; init_by_lua_block {{ chat = require "mock" }} '
            f"server {{ {listen} location = /v1/chat/completions {{ content_by_lua_block {{ chat() }} }} }}"
        )
    else:
        modules = ""
        part = (
            f"upstream provider {{ server 127.0.0.1:{provider}; keepalive 512; keepalive_requests 1000000000; }} "
            f"server {{ {listen} location / {{ proxy_pass http://provider; proxy_http_version 1.1; "
            'proxy_set_header Connection ""; proxy_buffering off; } }'
        )
    place = folder / name
    place.mkdir()
    text = (HERE / "nginx.conf").read_text().replace("@MODULES@", modules).replace("@FOLDER@", str(place)).replace("@PART@", part)
    (place / "nginx.conf").write_text(text)
    return Program(["nginx", "-e", "stderr", "-p", str(place), "-c", str(place / "nginx.conf")], folder, name, cpus)


def redis(folder: Path, port: int, cpus: Sequence[int]) -> Program:
    """A store that forgets: writing to disk is no part of what is measured."""
    command = [_redis() or "redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    return Program([*command, "--dir", str(folder)], folder, "redis", cpus)


def hello(folder: Path, port: int, cpus: Sequence[int]) -> Program:
    """uvicorn with everything that makes it fast."""
    options = ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--no-proxy-headers", "--lifespan", "off"]
    command = [sys.executable, "-m", "uvicorn", "benchmarks.overhead.hello:app", "--port", str(port), *options, "--log-level", "warning"]
    return Program(command, folder, "hello", cpus)


def configuration() -> str:
    """What is measured; PROVIDER stands for its address."""
    return (HERE / "router.yaml").read_text()


def faregate(
    folder: Path, name: str, port: int, cpus: Sequence[int], *, provider: int, store: str, workers: int = 1, text: str = ""
) -> Program:
    """The proxy, everything on, its request log in a file. `text`: another configuration than the usual one."""
    config = folder / f"{name}.yaml"
    config.write_text((text or configuration()).replace("PROVIDER", f"http://127.0.0.1:{provider}/v1"))
    command = [sys.executable, "-m", "router", "serve", "--config", str(config), "--port", str(port), "--workers", str(workers)]
    environment = {
        "BENCH_KEY": KEY,
        "BENCH_PROVIDER_KEY": "sk-provider",
        "XDG_STATE_HOME": str(folder / name),
        "REDIS_URL": store if "://" in store else "",
        "FAREGATE_STORE": "" if "://" in store else store,
        # What is started is measured, not what is compiled: byte code may be kept.
        "PYTHONDONTWRITEBYTECODE": "",
    }
    return Program(command, folder, name, cpus, environment)
