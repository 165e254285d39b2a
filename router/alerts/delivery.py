"""Brings events to all receivers: a queue for each, so that a dead one holds up no other, and no request."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, Protocol

import structlog
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from router.alerts.config import Receiver
from router.alerts.events import Event
from router.alerts.ports import NotDelivered, Sender
from router.tasks import Background

log = structlog.get_logger("faregate.alerts")

QUEUE: Final = 200
"""Events that wait for one receiver; more are dropped."""
FIRST_WAIT_SECONDS: Final = 1.0
LONGEST_WAIT_SECONDS: Final = 60.0
SLOWEST_TRY: Final = 10.0
"""Times the time limit that one try may take: mail is a conversation."""


class Counter(Protocol):
    """Counts what became of events."""

    def alert(self, *, kind: str, outcome: str) -> None: ...


Done = Callable[[Event], Awaitable[None]]
SenderOf = Callable[[Receiver], Sender]


class _Tracked:
    """An event and how many receivers have not finished with it."""

    __slots__ = ("event", "left")

    def __init__(self, event: Event, left: int) -> None:
        self.event = event
        self.left = left


class Delivery:
    """Sends events until it is closed. What was not sent by then is sent by whoever comes next, if the store remembers it."""

    def __init__(
        self,
        receivers: Sequence[Receiver],
        *,
        sender_of: SenderOf,
        counter: Counter,
        done: Done,
        first_wait_seconds: float = FIRST_WAIT_SECONDS,
    ) -> None:
        """`done` is called once an event was sent or given up everywhere."""
        self._counter = counter
        self._done = done
        self._first_wait_seconds = first_wait_seconds
        self._receivers = tuple(receivers)
        self._queues = {receiver.name: asyncio.Queue[_Tracked](QUEUE) for receiver in receivers}
        self._background = Background(store_away=lambda _: None)
        for receiver in receivers:
            self._background.every(0, partial(self._serve, receiver, sender_of(receiver)), name=f"alerts to {receiver.name}", at_once=True)

    @property
    def longest_ms(self) -> int:
        """How long one event takes at most until it is given up everywhere, if none waits before it."""
        return max((_longest_ms(receiver) for receiver in self._receivers), default=0)

    def put(self, event: Event) -> bool:
        """Queue an event for everybody who wants it. Returns at once; false if nobody does."""
        wanted = [receiver for receiver in self._receivers if receiver.wants(event.kind)]
        tracked = _Tracked(event, len(wanted))
        for receiver in wanted:
            try:
                self._queues[receiver.name].put_nowait(tracked)
            except asyncio.QueueFull:
                tracked.left -= 1
                self._drop(receiver, event, "too many wait already")
        return tracked.left > 0

    async def close(self) -> None:
        """Stop sending."""
        await self._background.close()

    async def _serve(self, receiver: Receiver, sender: Sender) -> None:
        """Send the next event."""
        tracked = await self._queues[receiver.name].get()
        try:
            await self._send(receiver, sender, tracked.event)
        finally:
            tracked.left -= 1
        if not tracked.left:
            await self._done(tracked.event)

    async def _send(self, receiver: Receiver, sender: Sender, event: Event) -> None:
        trying = AsyncRetrying(
            retry=retry_if_exception(lambda error: isinstance(error, NotDelivered) and error.again),
            stop=stop_after_attempt(receiver.tries),
            wait=wait_exponential_jitter(initial=self._first_wait_seconds, max=LONGEST_WAIT_SECONDS, jitter=self._first_wait_seconds),
            reraise=True,
        )
        try:
            async for attempt in trying:
                with attempt:
                    await sender.send(event)
        except NotDelivered as error:
            self._drop(receiver, event, str(error))
        else:
            self._counter.alert(kind=event.kind, outcome="sent")

    def _drop(self, receiver: Receiver, event: Event, reason: str) -> None:
        self._counter.alert(kind=event.kind, outcome="dropped")
        log.error("alert was not delivered", receiver=receiver.name, kind=event.kind, id=event.id, subject=event.subject, reason=reason)


def _longest_ms(receiver: Receiver) -> int:
    waits = sum(min(FIRST_WAIT_SECONDS * 2.0**n, LONGEST_WAIT_SECONDS) + FIRST_WAIT_SECONDS for n in range(receiver.tries - 1))
    return round(1000 * (waits + receiver.tries * SLOWEST_TRY * receiver.timeout_seconds))
