"""Logs: rare events through structlog, and one line per request through a buffered writer that never waits."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import re
import select
import stat
import time
from collections.abc import MutableMapping
from typing import IO, Any, Final

import msgspec

FLUSH_LINES: Final = 128
"""So many lines go out without waiting for the timer: about as much as a pipe takes."""
FLUSH_SECONDS: Final = 0.2
MAX_BACKLOG_BYTES: Final = 4 * 1024 * 1024
"""What may wait for a reader that is too slow. Lines beyond it are dropped and counted."""
MAX_VALUE_CHARS: Final = 256
CLOSE_SECONDS: Final = 1.0
"""How long `close` waits for a full pipe to drain."""
_ATOMIC_PIPE_BYTES: Final = 4096

_SECRET_FIELDS: Final = frozenset(
    {"api_key", "authorization", "cookie", "headers", "key", "messages", "password", "pepper", "prompt", "secret", "token", "x-api-key"}
)
# Keys of the common providers, bearer tokens, and passwords in addresses (`redis://user:password@host`).
_SECRET_TEXT: Final = re.compile(
    r"\b(?:sk|pk|gsk|xai|up|nvapi|hf)[-_][\w-]{8,}|(?i:bearer)\s+[\w.~+/=-]{8,}|(?<=://)[^\s/@:]*:[^\s/@]+(?=@)"
)


class RequestLine(msgspec.Struct, kw_only=True):
    """One request, as the log shows it. No prompt, no answer, no secret, no address of a client."""

    at_ms: int
    """When the answer ended, Unix milliseconds."""
    request_id: str
    route: str = ""
    rule: str = ""
    model: str = ""
    deployment: str = ""
    team: str = ""
    key_id: str = ""
    operation: str = ""
    stream: bool = False
    status: int = 0
    outcome: str = ""
    error: str = ""
    """Code of `router.errors`; empty if none."""
    refused_by: str = ""
    """Budget, limit or guard that had no room."""
    attempts: int = 0
    tried: list[str] = []
    """Deployments that were called without success, in order, each time. Written if there was one."""
    input_tokens: int | None = None
    """None: unknown, or nothing was sent upstream."""
    output_tokens: int | None = None
    cost_nusd: int = 0
    overhead_ms: float = 0.0
    total_ms: float = 0.0


_ENCODER: Final = msgspec.json.Encoder()
_EMPTY_LINE_BYTES: Final = len(_ENCODER.encode(RequestLine(at_ms=0, request_id="")))


def _capped(line: RequestLine) -> bytes:
    changes: dict[str, Any] = {}
    for name in RequestLine.__struct_fields__:
        value = getattr(line, name)
        if isinstance(value, str) and len(value) > MAX_VALUE_CHARS:
            changes[name] = value[:MAX_VALUE_CHARS]
    return _ENCODER.encode(msgspec.structs.replace(line, **changes) if changes else line)


class RequestLog:
    """Writes one JSON line per request; lines wait in memory and go out in one write.

    Used from the event loop's thread only. A reader that does not keep up costs lines, never time: they are
    counted in `dropped_lines`.
    """

    def __init__(self, target: int | str | os.PathLike[str]) -> None:
        self.dropped_lines = 0
        self._lines: list[bytes] = []
        self._rest = b""
        """What the reader did not take, with its line ends; it comes before the lines."""
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._fd, self._owned, self._nonblocking = _open(target)

    def write(self, line: RequestLine) -> None:
        """Add a line. Returns at once."""
        encoded = _ENCODER.encode(line)
        # A value can only be too long if the line is longer than an empty one by more than the cap.
        if len(encoded) > _EMPTY_LINE_BYTES + MAX_VALUE_CHARS:
            encoded = _capped(line)
        self.append(encoded)

    def append(self, encoded: bytes) -> None:
        """Add a line that is JSON already, without its line end. Returns at once."""
        lines = self._lines
        lines.append(encoded)
        # A log that is closed has no timer either: what is out of the ordinary is found without being looked for.
        if self._timer is None or len(lines) >= FLUSH_LINES:
            self._look_after()

    def _look_after(self) -> None:
        """See to it that the lines go out: they are the first for a while, or many, or come after the end."""
        if self._closed:
            self.dropped_lines += len(self._lines)
            self._lines.clear()
            return
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self._tick)
        if len(self._lines) >= FLUSH_LINES:
            self.flush()

    def flush(self) -> None:
        """Hand over what waits, as far as the reader takes it."""
        if self._rest:
            self._rest = self._send(self._rest)
        lines = self._lines
        if not lines:
            return
        lines.append(b"")
        whole = b"\n".join(lines)
        lines.clear()
        if not self._rest:
            self._rest = self._send(whole)
        elif len(self._rest) + len(whole) <= MAX_BACKLOG_BYTES:
            self._rest += whole
        else:
            self.dropped_lines += whole.count(b"\n")

    def close(self) -> None:
        """Write what waits, wait for a slow reader at most `CLOSE_SECONDS`, and drop the rest. Harmless twice."""
        if self._closed:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.flush()
        deadline = time.monotonic() + CLOSE_SECONDS
        while self._rest and (left := deadline - time.monotonic()) > 0:
            _poll(self._fd, left)
            self.flush()
        self.dropped_lines += self._rest.count(b"\n")
        self._closed = True
        if self._owned:
            os.close(self._fd)

    def _tick(self) -> None:
        self._timer = None
        self.flush()
        if self._rest:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self._tick)

    def _send(self, data: bytes) -> bytes:
        """Write what can be written without waiting; return what is left."""
        try:
            if self._nonblocking:
                return data[os.write(self._fd, data) :]
            return self._send_by_parts(data)
        except OSError as error:
            if error.errno == errno.EAGAIN:
                return data
            # A closed pipe or a full disk: the requests go on, their lines are gone.
            self.dropped_lines += data.count(b"\n")
            return b""

    def _send_by_parts(self, data: bytes) -> bytes:
        # POSIX: a pipe that polls writable takes PIPE_BUF bytes without blocking. We leave the mode of a
        # descriptor that we share with others alone.
        sent = 0
        while sent < len(data) and _poll(self._fd, 0):
            sent += os.write(self._fd, data[sent : sent + _ATOMIC_PIPE_BYTES])
        return data[sent:]


def _poll(fd: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return bool(poll.poll(seconds * 1000))


def _open(target: int | str | os.PathLike[str]) -> tuple[int, bool, bool]:
    """(descriptor, whether we close it, whether a write to it never waits)."""
    if not isinstance(target, int):
        return os.open(target, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK, 0o640), True, True
    mode = os.fstat(target).st_mode
    if stat.S_ISREG(mode):
        return target, False, True
    if stat.S_ISFIFO(mode):
        # A description of our own: making the shared one non-blocking would surprise whoever else writes to it.
        try:
            return os.open(f"/proc/self/fd/{target}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC), True, True
        except OSError:
            return target, False, False
    return target, False, False


def redact(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A structlog processor: hides secrets, and prompts passed by mistake; caps long values."""
    for name, value in event.items():
        if name.lower() in _SECRET_FIELDS:
            event[name] = "[hidden]"
        elif isinstance(value, str):
            # Tracebacks are long and worth it.
            limit = 16 * 1024 if name == "exception" else 4 * MAX_VALUE_CHARS
            event[name] = _SECRET_TEXT.sub("[hidden]", value)[:limit]
    return event


def _plain(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    # uvicorn repeats its messages with colours for terminals.
    event.pop("color_message", None)
    return event


def _event_json(event: object, **_options: object) -> str:
    return msgspec.json.encode(event, enc_hook=str).decode()


def configure_logging(level: str, stream: IO[str]) -> None:
    """Send structlog's events and the standard library's log records to `stream`, one JSON object a line.

    `level` is a name of the standard library, such as `info`, in any case.

    Raises:
        ValueError: no such level.
    """
    import structlog

    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ValueError(f"no log level {level!r}: use debug, info, warning or error")
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
    ]
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            _plain,
            structlog.processors.format_exc_info,
            redact,
            structlog.processors.JSONRenderer(serializer=_event_json),
        ],
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(number)
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
