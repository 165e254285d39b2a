"""Prompts that the operator wants to keep, of a sample of requests: for evaluations and for a learned router of his own."""

from __future__ import annotations

import os
import zlib
from contextlib import AsyncExitStack
from typing import Final

import msgspec
import structlog

from router.call import Call
from router.errors import ConfigError
from router.logs import RequestLog
from router.snapshot import KeepPrompts, ServerSettings

log = structlog.get_logger("faregate.prompts")

_SPAN: Final = 2**32
_LINE: Final = b'{"request_id":"%b","model":%b,"route":%b,"%b":%b}'
_MEMBERS: Final = {"chat": "messages", "completions": "prompt"}


class KeptPrompts:
    """Appends a line per sampled request that was answered to one file, which all workers share.

    Requests in a class of private ones are never kept, nor what cannot be told to be in none.
    """

    def __init__(self, settings: KeepPrompts) -> None:
        """Raises `ConfigError`: the file cannot be written."""
        self._most = settings.most_bytes
        self._bound = settings.share * _SPAN
        self._path = settings.file
        self._full = False
        try:
            self._lines = RequestLog(settings.file)
        except OSError as error:
            raise ConfigError(f"server.keep_prompts.file: {settings.file} cannot be written: {error.strerror}") from None

    def keep(self, call: Call) -> None:
        """Keep the prompt of a call that was answered, if it is one of the sample and nobody's secret."""
        member = _MEMBERS.get(call.operation)
        if member is None or zlib.crc32(call.id_bytes) >= self._bound or call.branch.private or self._is_full():
            return
        # Whitespace between members may hold line ends; within a string there is none.
        raw = bytes(call.request.fields[member]).replace(b"\n", b" ").replace(b"\r", b" ")
        named = (msgspec.json.encode("" if call.winner is None else call.winner.deployment.model), msgspec.json.encode(call.route.name))
        self._lines.append(_LINE % (call.id_bytes, *named, member.encode(), raw))

    def _is_full(self) -> bool:
        try:
            full = os.stat(self._path).st_size >= self._most
        except OSError:
            # Taken away, to be read: what follows goes into the file that is open still.
            full = False
        if full and not self._full:
            log.warning("no more prompts are kept: the file is full", file=self._path, bytes=self._most)
        self._full = full
        return full

    def close(self) -> None:
        """Write what waits."""
        self._lines.close()


def open_logs(server: ServerSettings, target: int | str, stack: AsyncExitStack) -> tuple[RequestLog | None, KeptPrompts | None]:
    """The log of requests, written to `target`, and the prompts that are kept, as far as they are wanted; `stack` closes them.

    Raises `ConfigError`: the file for prompts cannot be written.
    """
    requests = RequestLog(target) if server.log_requests else None
    prompts = None if server.keep_prompts is None else KeptPrompts(server.keep_prompts)
    for each in (requests, prompts):
        if each is not None:
            stack.callback(each.close)
    return requests, prompts
