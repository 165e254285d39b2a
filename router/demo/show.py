"""The machinery of the demonstration: sends requests, keeps time, tells the screen."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from router.demo.client import post
from router.demo.traffic import Ask, Traffic
from router.demo.watch import Seen, Watch
from router.sim.server import Simulator

Figure = int | float | str
_REDRAW_SECONDS: Final = 0.25
_AT_ONCE: Final = 3


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What an act showed: figures for machines, sentences for people."""

    title: str
    figures: dict[str, Figure] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)


class Screen(Protocol):
    """Where the demonstration is watched."""

    def begin(self, title: str, text: str) -> None:
        """An act begins."""
        ...

    def saw(self, one: Seen) -> None:
        """A request was answered."""
        ...

    def draw(self, watch: Watch, states: Mapping[str, str]) -> None:
        """Time to show the current state; `states` is how the router judges each deployment."""
        ...

    def end(self, outcome: Outcome) -> None:
        """An act is over."""
        ...


class Show:
    """One run of the demonstration."""

    def __init__(
        self,
        *,
        base_url: str,
        sim: Simulator,
        watch: Watch,
        traffic: Traffic,
        screen: Screen,
        scale: float,
        states: Callable[[], Mapping[str, str]],
        drained: Callable[[], Awaitable[None]],
    ) -> None:
        self.sim = sim
        self.watch = watch
        self.traffic = traffic
        self.screen = screen
        self.act = ""
        self._base_url = base_url
        self._scale = scale
        self._states = states
        self._drained = drained

    async def pause(self, seconds: float) -> None:
        """Let simulated time pass."""
        await asyncio.sleep(seconds / self._scale)

    async def send(self, ask: Ask) -> Seen:
        """Send one request and wait for its whole answer."""
        one = self.watch.note(self.act, ask)
        began = time.monotonic()
        try:
            reply = await post(f"{self._base_url}/chat/completions", ask.body(), ask.headers())
        except (OSError, EOFError, ValueError) as error:
            one.error = {"code": type(error).__name__}
        else:
            one.answered(reply, time.monotonic() - began)
        self.screen.saw(one)
        return one

    async def crowd(self, seconds: float, counts: Mapping[str, int]) -> list[Seen]:
        """Ordinary traffic: so many requests per team, at random moments of the time given."""
        draw = self.traffic.draw
        arrivals = sorted((draw.uniform(0, seconds), number, team) for team, count in counts.items() for number in range(count))
        plan = [(at, self.traffic.ask(team)) for at, _, team in arrivals]
        return list(await asyncio.gather(*(self._later(at, ask) for at, ask in plan)))

    async def _later(self, seconds: float, ask: Ask) -> Seen:
        await self.pause(seconds)
        return await self.send(ask)

    async def until(
        self, team: str, enough: Callable[[list[Seen]], bool], *, most: int, slowly: Callable[[list[Seen]], bool]
    ) -> list[Seen]:
        """Requests of one team until enough was seen or `most` were sent: three at a time, one once `slowly` holds."""
        seen: list[Seen] = []
        while len(seen) < most and not enough(seen):
            seen.extend(await asyncio.gather(*(self.send(self.traffic.ask(team)) for _ in range(1 if slowly(seen) else _AT_ONCE))))
        return seen

    async def redraw_forever(self) -> None:
        """Keep the screen fresh until cancelled."""
        while True:
            await self.watch.refresh()
            self.screen.draw(self.watch, self._states())
            await asyncio.sleep(_REDRAW_SECONDS)

    async def settled(self) -> None:
        """Wait until the money of all answers is booked, then read the ledger: an answer leaves before its booking is on disk."""
        await self._drained()
        await self.watch.refresh()
