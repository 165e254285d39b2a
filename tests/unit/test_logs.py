"""Logs: one line per request that never waits and never tells a secret."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog

from router import logs
from router.logs import RequestLine, RequestLog, configure_logging


def line(**changes: Any) -> RequestLine:
    return RequestLine(**{"at_ms": 1, "request_id": "r1", **changes})


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in path.read_text().splitlines()]


async def test_lines_go_out_together_after_a_short_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One write for many requests: a write per request costs more than routing it."""
    writes: list[int] = []
    real = os.write

    def counted(fd: int, data: bytes) -> int:
        writes.append(len(data))
        return real(fd, data)

    monkeypatch.setattr(os, "write", counted)
    monkeypatch.setattr(logs, "FLUSH_SECONDS", 0.01)
    log = RequestLog(tmp_path / "log")
    for n in range(100):
        log.write(line(request_id=f"r{n}"))
    assert writes == []
    async with asyncio.timeout(5):
        while not writes:
            await asyncio.sleep(0)
    assert len(writes) == 1
    assert [entry["request_id"] for entry in read(tmp_path / "log")] == [f"r{n}" for n in range(100)]
    log.close()


async def test_much_output_does_not_wait_for_the_timer(tmp_path: Path) -> None:
    """At 20,000 requests a second the timer alone would keep megabytes in memory."""
    log = RequestLog(tmp_path / "log")
    for _ in range(logs.FLUSH_LINES - 1):
        log.write(line())
    assert (tmp_path / "log").stat().st_size == 0
    log.write(line())
    assert len(read(tmp_path / "log")) == logs.FLUSH_LINES
    log.close()


async def test_closing_writes_what_waits(tmp_path: Path) -> None:
    """The last requests before a restart are those one looks for."""
    log = RequestLog(tmp_path / "log")
    log.write(line())
    log.close()
    log.close()
    assert len(read(tmp_path / "log")) == 1


async def test_a_line_after_the_end_is_counted_as_dropped(tmp_path: Path) -> None:
    """A request that outlives the log must not crash for it."""
    log = RequestLog(tmp_path / "log")
    log.close()
    log.write(line())
    assert log.dropped_lines == 1


async def test_long_values_are_cut(tmp_path: Path) -> None:
    """Route and request id come from clients; a megabyte of them is not for the log."""
    log = RequestLog(tmp_path / "log")
    log.write(line(route="x" * 5_000, model="y" * 256))
    log.close()
    (entry,) = read(tmp_path / "log")
    assert (len(entry["route"]), len(entry["model"])) == (256, 256)


async def test_a_line_end_in_a_value_stays_inside_its_line(tmp_path: Path) -> None:
    """Otherwise a client writes log lines of its own."""
    log = RequestLog(tmp_path / "log")
    log.write(line(route='a\n{"request_id": "forged"}\r\x1b[31m'))
    log.close()
    assert (tmp_path / "log").read_bytes().count(b"\n") == 1
    assert b"\x1b" not in (tmp_path / "log").read_bytes()


async def test_unknown_tokens_are_null_not_zero(tmp_path: Path) -> None:
    """A refused request used no tokens that we know of."""
    log = RequestLog(tmp_path / "log")
    log.write(line())
    log.close()
    assert read(tmp_path / "log")[0]["input_tokens"] is None


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for fd in (reader, writer):
        # A test may have closed its end itself.
        with contextlib.suppress(OSError):
            os.close(fd)


@pytest.mark.parametrize("own_description", [True, False])
async def test_a_reader_that_does_not_keep_up_costs_lines_not_time(
    pipe: tuple[int, int], own_description: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log shipper that hangs must not stop the traffic. In a container the pipe often cannot be opened anew."""
    monkeypatch.setattr(logs, "MAX_BACKLOG_BYTES", 200_000)
    monkeypatch.setattr(logs, "CLOSE_SECONDS", 0.01)
    if not own_description:
        monkeypatch.setattr(os, "open", _refuse)
    reader, writer = pipe
    log = RequestLog(writer)
    written = 3_000
    for n in range(written):
        log.write(line(request_id=f"r{n}"))
    assert log.dropped_lines > 0
    log.close()
    monkeypatch.undo()
    os.close(writer)
    kept = b""
    while data := os.read(reader, 1 << 20):
        kept += data
    whole = kept.count(b"\n")
    assert whole > 0
    assert whole + log.dropped_lines == written, "every line is either read or counted"


def _refuse(*_: object) -> int:
    raise PermissionError(errno.EACCES, "denied")


async def test_a_slow_reader_gets_every_line_in_order(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """A full pipe splits a line; its rest must follow before anything else."""
    monkeypatch.setattr(logs, "FLUSH_SECONDS", 0.001)
    reader, writer = pipe
    log = RequestLog(writer)
    for n in range(1_000):
        log.write(line(request_id=f"r{n}"))
    kept = b""
    async with asyncio.timeout(10):
        while kept.count(b"\n") < 1_000:
            await asyncio.sleep(0)
            log.flush()
            kept += os.read(reader, 65_536)
    assert [json.loads(text)["request_id"] for text in kept.splitlines()] == [f"r{n}" for n in range(1_000)]
    assert log.dropped_lines == 0
    log.close()


async def test_a_tick_that_cannot_finish_comes_again(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left after a full pipe goes out without another request to push it."""
    monkeypatch.setattr(logs, "FLUSH_SECONDS", 0.001)
    reader, writer = pipe
    log = RequestLog(writer)
    for n in range(600):
        log.write(line(request_id=f"r{n}"))
    kept = b""
    os.set_blocking(reader, False)
    async with asyncio.timeout(10):
        while kept.count(b"\n") < 600:
            await asyncio.sleep(0)
            try:
                kept += os.read(reader, 4_096)
            except BlockingIOError:
                continue
    log.close()


async def test_a_pipe_whose_reader_is_gone_costs_lines_only(pipe: tuple[int, int]) -> None:
    """The proxy outlives its log shipper."""
    reader, writer = pipe
    os.close(reader)
    log = RequestLog(writer)
    log.write(line())
    log.flush()
    assert log.dropped_lines == 1
    log.close()


async def test_a_file_that_is_handed_in_stays_open(tmp_path: Path) -> None:
    """Standard output belongs to the process, not to the log."""
    with (tmp_path / "log").open("wb") as file:
        log = RequestLog(file.fileno())
        log.write(line())
        log.close()
        os.fstat(file.fileno())
    assert len(read(tmp_path / "log")) == 1


def test_the_line_holds_no_field_for_content_or_credentials() -> None:
    """What cannot be written cannot leak."""
    names = set(RequestLine.__struct_fields__)
    assert not names & {"prompt", "messages", "input", "output", "content", "authorization", "api_key", "ip"}


@pytest.fixture
def events() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    configure_logging("info", stream)
    # A server that another test ran in this process may have silenced it.
    logging.getLogger("uvicorn.error").setLevel(logging.NOTSET)
    yield stream
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def parsed(stream: io.StringIO) -> list[dict[str, Any]]:
    return [msgspec.json.decode(text) for text in stream.getvalue().splitlines()]


def test_events_are_json_lines_with_time_and_level(events: io.StringIO) -> None:
    """Whatever collects the request log can read the events too."""
    structlog.get_logger("router.app").info("store_down", store="redis", waited_seconds=0.25)
    structlog.get_logger("router.app").debug("not shown")
    (event,) = parsed(events)
    assert event["event"] == "store_down"
    assert event["level"] == "info"
    assert event["waited_seconds"] == 0.25
    assert event["at"].endswith("Z")


def test_records_of_libraries_have_the_same_form(events: io.StringIO) -> None:
    """The server's own complaints must not be lines of another format in between."""
    logging.getLogger("uvicorn.error").warning("closed %s times", 3, extra={"color_message": "\x1b[36mclosed\x1b[0m"})
    (event,) = parsed(events)
    assert "color_message" not in event
    assert (event["event"], event["level"], event["logger"]) == ("closed 3 times", "warning", "uvicorn.error")


def test_an_exception_is_one_line(events: io.StringIO) -> None:
    """A traceback spread over lines is lost to whoever filters by one of them."""
    try:
        raise RuntimeError("broken")
    except RuntimeError:
        structlog.get_logger("x").exception("failed")
    (event,) = parsed(events)
    assert "RuntimeError: broken" in event["exception"]


@pytest.mark.parametrize(
    ("fields", "secret"),
    [
        ({"api_key": "s3cret-value"}, "s3cret-value"),
        ({"Authorization": "Basic abc"}, "Basic abc"),
        ({"prompt": "my diary"}, "my diary"),
        ({"error": "refused key sk-fg-abcdefgh-0123456789"}, "sk-fg-abcdefgh"),
        ({"error": "sent Bearer abcdefghij.klm"}, "abcdefghij"),
        ({"store": "redis://user:hunter22@db:6379/0"}, "hunter22"),
        ({"store": "rediss://:hunter22@db:6379/0"}, "hunter22"),
    ],
)
def test_secrets_do_not_reach_the_log(events: io.StringIO, fields: dict[str, str], secret: str) -> None:
    """Logs are read by more people than secrets are, and kept longer."""
    structlog.get_logger("x").warning("happened", **fields)
    assert secret not in events.getvalue()
    assert "[hidden]" in events.getvalue()


def test_secrets_in_tracebacks_are_hidden_too(events: io.StringIO) -> None:
    """Client libraries put addresses with passwords into their messages."""
    try:
        raise OSError("cannot reach redis://user:hunter22@db")
    except OSError:
        structlog.get_logger("x").exception("failed")
    assert "hunter22" not in events.getvalue()


def test_a_level_that_does_not_exist_is_an_error() -> None:
    """A typo must not silently mean `everything` or `nothing`."""
    with pytest.raises(ValueError, match="use debug, info, warning or error"):
        configure_logging("loud", io.StringIO())
