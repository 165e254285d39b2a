"""Agents that run away: they spend fast, say the same again and again, or call the same tool in a loop. Pure."""

from __future__ import annotations

import hashlib
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import msgspec

RunawayAction = Literal["slow", "downgrade", "pause", "refuse"]
Signal = Literal["spend", "same_prompt", "same_tool_call"]

SLOPE_MS: Final = 60_000
LONGEST_LOOP: Final = 4
"""Different calls that a loop may have: a, b, a, b is one of two."""
MOST_CHARGES: Final = 600
"""Charges of one minute that are remembered of a session; beyond, the oldest is added to the next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunawayRules:
    """What is taken for a session that runs away, and what is done about it. None: not looked for."""

    spend_nusd_per_minute: int | None = None
    same_prompt: int | None = None
    """So many requests in a row that end in the same message."""
    same_tool_call: int | None = None
    """So many calls of one tool with the same arguments in a row."""
    then: RunawayAction = "pause"
    within_ms: int = 600_000
    """A session that sent nothing for so long is forgotten."""
    delay_seconds: float = 5.0
    """How long `slow` holds a request back."""
    max_sessions: int = 10_000
    """Sessions that one worker remembers; beyond, the one that sent nothing for longest is forgotten."""


@dataclass(slots=True)
class Run:
    """What is remembered of a session."""

    seen_ms: int
    last: bytes = b""
    """Hash of the message that its last request ended in."""
    repeats: int = 0
    charges: deque[list[int]] = field(default_factory=deque)
    """(when, nano-USD) of the last minute."""

    def spent(self, now_ms: int, nusd: int) -> None:
        """Remember a charge."""
        if len(self.charges) >= MOST_CHARGES:
            self.charges[-1][1] += nusd
        else:
            self.charges.append([now_ms, nusd])

    def slope(self, now_ms: int) -> int:
        """Nano-USD charged within the last minute."""
        while self.charges and self.charges[0][0] <= now_ms - SLOPE_MS:
            self.charges.popleft()
        return sum(charge for _, charge in self.charges)


def signal(rules: RunawayRules, run: Run, messages: msgspec.Raw | None, now_ms: int) -> tuple[Signal, str] | None:
    """What says that a session runs away, and the figures behind it. Counts this request as the session's last."""
    run.seen_ms = now_ms
    most = rules.spend_nusd_per_minute
    if most is not None and (slope := run.slope(now_ms)) > most:
        return "spend", f"{slope / 10**9:g} USD within a minute, limit {most / 10**9:g} USD"
    if messages is None or (rules.same_prompt is None and rules.same_tool_call is None):
        return None
    try:
        said = _decode(messages)
        return _repeats(rules, run, said) or _loops(rules, said)
    except msgspec.MsgspecError:
        # Not a list, or it has numbers that nothing here holds: the provider's to refuse.
        return None


def _repeats(rules: RunawayRules, run: Run, said: list[msgspec.Raw]) -> tuple[Signal, str] | None:
    digest = hashlib.blake2b(said[-1], digest_size=16).digest() if said else b""
    run.repeats = run.repeats + 1 if digest == run.last else 1
    run.last = digest
    if rules.same_prompt is None or run.repeats < rules.same_prompt:
        return None
    return "same_prompt", f"the same message {run.repeats} times in a row, limit {rules.same_prompt}"


def _loops(rules: RunawayRules, said: list[msgspec.Raw]) -> tuple[Signal, str] | None:
    most = rules.same_tool_call
    if most is None:
        return None
    calls = _last_calls(said, most * LONGEST_LOOP)
    for length in range(1, LONGEST_LOOP + 1):
        turns = calls[: most * length]
        if len(turns) == most * length and all(call == turns[at % length] for at, call in enumerate(turns)):
            names = ", ".join(f"'{name[:64]}'" for name, _ in turns[:length][::-1])
            what = f"the tool {names}" if length == 1 else f"the tools {names} one after the other"
            return "same_tool_call", f"{what} {most} times in a row with the same arguments, limit {most}"
    return None


def _last_calls(said: list[msgspec.Raw], most: int) -> list[tuple[str, str]]:
    """Name and arguments of the tool calls of a conversation, the last first."""
    found: list[tuple[str, str]] = []
    for raw in reversed(said):
        if len(found) >= most:
            break
        text = bytes(raw)
        if b'"tool_calls"' in text or b'"function_call"' in text:
            found += filter(None, map(_named, _functions(msgspec.json.decode(raw))))
    return found


def _functions(message: Any) -> list[Any]:
    """What a message calls, the last first; `function_call` is the older form."""
    if not isinstance(message, dict):
        return []
    calls = message.get("tool_calls")
    if isinstance(calls, list):
        return [call.get("function") if isinstance(call, dict) else None for call in reversed(calls)]
    return [message.get("function_call")]


def _named(function: Any) -> tuple[str, str] | None:
    if not isinstance(function, dict):
        return None
    given = str(function.get("arguments"))
    # Arguments are text, whose depth nobody has looked at.
    with suppress(msgspec.MsgspecError, RecursionError):
        # Written otherwise it is the same call.
        given = msgspec.json.encode(msgspec.json.decode(given), order="sorted").decode()
    return str(function.get("name")), given


_decode: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode
