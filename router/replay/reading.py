"""What the prompts of a log say, where they were kept: read when a rule asks for it, as the service would."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from policies.types import SignalName
from router.call import Call
from router.captured import NO_HEADERS
from router.domain.request import Operation, parse_request
from router.errors import ConfigError, RouterError
from router.learned.feedback import KeptPrompt
from router.replay.requests import Asked
from router.signals import PromptSignals
from router.snapshot import Snapshot


class Reading:
    """Reads kept prompts under one configuration, each signal of a request once: targets count what is read."""

    def __init__(self, snapshot: Snapshot, prompts: Mapping[str, KeptPrompt]) -> None:
        self._snapshot = snapshot
        self._prompts = prompts
        self._signals = PromptSignals(snapshot.signals)
        self._calls: dict[str, Call] = {}

    def value(self, asked: Asked, name: SignalName) -> Any:
        """What the prompt of a request says; `UNSET` if it was not kept. Raises `ConfigError`: what was kept is no prompt."""
        call = self._calls.get(asked.request_id) or self._call(asked)
        if call is None:
            return msgspec.UNSET
        if getattr(call.signals, name) is msgspec.UNSET:
            self._signals.find_now(call, name)
        return getattr(call.signals, name)

    def _call(self, asked: Asked) -> Call | None:
        kept = self._prompts.get(asked.request_id)
        if kept is None:
            return None
        operation: Operation = "chat" if kept.messages else "completions"
        call = Call(request_id=asked.request_id, operation=operation, headers=NO_HEADERS, snapshot=self._snapshot, began=0.0)
        member = {"messages": kept.messages} if kept.messages else {"prompt": kept.prompt}
        try:
            call.request = parse_request(msgspec.json.encode({"model": asked.facts.route, **member}), operation)
        except RouterError as problem:
            raise ConfigError(f"the kept prompt of {asked.request_id} is none: {problem}") from None
        self._calls[asked.request_id] = call
        return call
