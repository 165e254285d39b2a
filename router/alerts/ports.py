"""What alerts need of the store and of a network: small interfaces, beside the ledger's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from router.alerts.events import Event


class Mark(msgspec.Struct, frozen=True):
    """That something was told."""

    until_ms: int
    """Until then it is not told again, Unix milliseconds by the store's clock."""
    event: bytes | None = None
    """The event, while it is not known to have been delivered."""


class Markers(Protocol):
    """What was told, over all replicas and restarts. Raises `StoreUnavailable` from every method."""

    async def lead(self, owner: str, *, lease_ms: int) -> int | None:
        """Take or renew the right to look at what all share. The store's clock, Unix milliseconds; None if another one has it.

        A lease of 0 gives it up.
        """
        ...

    async def mark(self, name: str, *, keep_ms: int, event: bytes) -> bool:
        """Note that `name` is told now, and the event that says so. False, and nothing is noted, if it was noted before.

        One atomic step: of all replicas that call it at once, one gets true. Empty `event`: nothing is to be delivered.
        """
        ...

    async def done(self, name: str) -> None:
        """The event of a mark was delivered, or given up."""
        ...

    async def clear(self, names: Sequence[str]) -> None:
        """Forget these marks: what they stand for may be told again."""
        ...

    async def marks(self) -> Mapping[str, Mark]:
        """All that are in force, by name."""
        ...


class Logbook(Protocol):
    """The ledger's log from where one left off, and a place to keep what was made of it. Raises `StoreUnavailable`."""

    async def page(self, cursor: str, *, since_ms: int) -> tuple[str, Sequence[bytes]]:
        """Some spend records after `cursor`, as JSON, and the cursor after them; the same one at the end of the log.

        An empty cursor begins with the records of `since_ms`. Each record comes once, whoever writes meanwhile.
        Raises `LogReplaced` if the log goes on otherwise than it did up to `cursor`.
        """
        ...

    async def load(self) -> bytes:
        """What `save` kept last; empty if nothing was."""
        ...

    async def save(self, state: bytes) -> None:
        """Keep the statistics, cursor included."""
        ...


class AlertStore(Markers, Logbook, Protocol):
    """One store behind both: SQLite or Redis."""


class Sender(Protocol):
    """Brings events to one receiver."""

    async def send(self, event: Event) -> None:
        """Deliver, or raise `NotDelivered`."""
        ...


class NotDelivered(Exception):
    """A receiver did not take an event."""

    def __init__(self, message: str, *, again: bool) -> None:
        super().__init__(message)
        self.again = again
        """Whether trying again can help."""
