"""A store of controls in memory, with the contract of the real ones."""

from __future__ import annotations

import bisect
from collections.abc import AsyncIterator, Mapping, Sequence

import msgspec

from router.domain.controls import AuditEntry, BaseLimit, ControlState, Limit, encode_state


class MemoryControls:
    """`router.ports.ControlStore`."""

    def __init__(self, **base: BaseLimit) -> None:
        """`base`: budgets that a configuration has published."""
        self.now_ms = 1_000_000
        self.version = 1 if base else 0
        self.stored = encode_state(ControlState(version=1, config="c", base=dict(base))) if base else b""
        self.limits: Mapping[str, Limit] = {}
        self.log: list[tuple[int, bytes]] = []
        self.faster: list[bytes] = []
        """What others commit in the moment before the next commits."""

    @property
    def audit(self) -> list[AuditEntry]:
        return [msgspec.json.decode(entry, type=AuditEntry) for _, entry in self.log]

    async def look(self) -> tuple[int, int]:
        return self.version, self.now_ms

    async def load(self) -> bytes:
        return self.stored

    async def commit(
        self, stored: bytes, *, expected: int, version: int, entries: Sequence[bytes] = (), limits: Mapping[str, Limit] | None = None
    ) -> bool:
        if self.faster:
            self.version, self.stored = self.version + 1, self.faster.pop()
        if self.version != expected:
            return False
        self.version, self.stored = version, stored
        self.log += [(self.now_ms, entry) for entry in entries]
        self.limits = self.limits if limits is None else limits
        return True

    async def append(self, entry: bytes) -> None:
        self.log.append((self.now_ms, entry))

    async def history(self, *, since_ms: int = 0) -> AsyncIterator[tuple[int, bytes]]:
        for at_ms, entry in self.log:
            if at_ms >= since_ms:
                yield at_ms, entry

    async def forget(self, *, before_ms: int) -> None:
        del self.log[: bisect.bisect_left(self.log, (before_ms, b""))]
