"""A second call beside the first, if that takes unusually long to begin: who begins first answers, the other one is given up."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from policies.plans import Hedge
from router.call import Call
from router.dispatch import Failure
from router.domain.budgets import Refusal
from router.edge.exchange import Exchange
from router.edge.headers import Headers

Outcome = Failure | Refusal | None
Leg = Callable[[Call, Exchange], Awaitable[Outcome]]
HEDGED = "hedged"
"""Outcome of an attempt that was given up because another one began earlier."""


class Race:
    """One client, and several calls that may answer it."""

    def __init__(self, client: Exchange) -> None:
        self.client = client
        self.winner: int | None = None
        self.parts: list[Call] = []
        self.tasks: list[asyncio.Task[Outcome]] = []

    def start(self, call: Call, leg: Leg) -> None:
        """One more call. Its attempt has a number of its own."""
        part = copy.copy(call)
        part.attempts = call.attempts + len(self.tasks)
        index = len(self.tasks)
        self.parts.append(part)
        self.tasks.append(asyncio.ensure_future(leg(part, _Lane(self, index))))

    def won(self, index: int) -> None:
        """This call begins to answer: all others are given up."""
        if self.winner is None:
            self.winner = index
            for other, task in enumerate(self.tasks):
                if other != index and not task.done():
                    self.parts[other].left_as = HEDGED
                    task.cancel()

    async def run(self, seconds: float | None = None) -> None:
        """Until all are over, or the first is slower than this to begin. If we are cancelled, all of them are, and settled first."""
        try:
            waiting = set(self.tasks)
            if seconds is not None:
                await asyncio.wait(waiting, timeout=seconds)
                return
            await asyncio.wait(waiting)
            self._forget_errors()
        except asyncio.CancelledError:
            for task in self.tasks:
                task.cancel()
            while pending := [task for task in self.tasks if not task.done()]:
                with suppress(asyncio.CancelledError):
                    await asyncio.wait(pending)
            self._forget_errors()
            raise

    def _forget_errors(self) -> None:
        """What went wrong besides is no longer anybody's business; asking for it keeps the loop from reporting it."""
        for task in self.tasks:
            _ = task.cancelled() or task.exception()

    def result(self, index: int) -> Outcome:
        """What came of a call that is over. Raises what it raised."""
        return self.tasks[index].result()


class _Lane:
    """The client as one of the calls sees it. See `router.edge.exchange.Exchange`."""

    def __init__(self, race: Race, index: int) -> None:
        self._race = race
        self._client = race.client
        self._index = index
        self.started = False

    @property
    def gone(self) -> bool:
        """Whether the client has left."""
        return self._client.gone

    @property
    def method(self) -> str:
        return self._client.method

    @property
    def headers(self) -> Headers:
        return self._client.headers

    @property
    def path(self) -> str:
        return self._client.path

    async def body(self) -> bytes:
        """The request's body."""
        return await self._client.body()

    async def respond(self, status: int, headers: bytes, body: bytes) -> None:
        """Send the whole answer, if no other call has begun to."""
        if await self._may_answer():
            await self._client.respond(status, headers, body)

    async def start(self, status: int, headers: bytes) -> None:
        """Begin a stream, if no other call has begun to answer."""
        if await self._may_answer():
            await self._client.start(status, headers)

    async def _may_answer(self) -> bool:
        self._race.won(self._index)
        if self._race.winner != self._index:
            # The cancellation is under way; here it arrives.
            await asyncio.sleep(0)
            return False
        self.started = True
        return True

    def write(self, data: bytes) -> Awaitable[None] | None:
        """Send a part of the stream."""
        return self._client.write(data) if self.started else None

    async def finish(self) -> None:
        """End the stream."""
        if self.started:
            await self._client.finish()

    def abort(self) -> None:
        """Close the client's connection."""
        if self.started:
            self._client.abort()


async def race(run: Race, call: Call, plan: Hedge, legs: Sequence[Leg]) -> None:
    """Run the first leg, and the second beside it if the first has not begun in its time. All are over when this returns or raises."""
    run.start(call, legs[0])
    await run.run(plan.after_ms / 1000)
    if not run.tasks[0].done() and run.winner is None:
        run.start(call, legs[1])
    await run.run()


def account(call: Call, run: Race) -> None:
    """Take over what all calls have cost and how long they took, also of a race that was ended from outside."""
    tried = len(call.tried)
    for part in run.parts:
        call.attempts = max(call.attempts, part.attempts)
        call.charge_nusd += part.charge_nusd
        call.upstream_seconds = max(call.upstream_seconds, part.upstream_seconds)
        if run.winner is None:
            call.tried += part.tried[tried:]
            if part.winner is not None:
                call.tried += ((part.winner.deployment, part.winner.way),)


def merge(call: Call, part: Call) -> None:
    """Take over what the winning call has found out."""
    call.winner, call.usage, call.outcome, call.status = part.winner, part.usage, part.outcome, part.status
    call.error_code, call.first_byte_at, call.refused_by = part.error_code, part.first_byte_at, part.refused_by
    call.budget_left_nusd, call.rate_lines, call.upstream_seconds = part.budget_left_nusd, part.rate_lines, part.upstream_seconds
