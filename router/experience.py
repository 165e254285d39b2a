"""Keeps what was learned in the ledger's store: all processes know what each learned, and a restart forgets nothing.

Of what policy kinds learn each process has one row, of what it has learned itself and of what it has taken over from processes that are
gone. Every few seconds it reads the rows of all others and writes its own, if that has changed. What answers teach of inputs and lengths
is one row, which all add to, now and then. Nothing of it is on the path of a request; while the store is away a process goes by what it
knew, and by what it learns.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

import msgspec
import structlog

from router.domain.experience import Experience, together
from router.domain.learning import Taught
from router.errors import StoreUnavailable
from router.experience_port import ExperienceStore
from router.fleet import Fleet
from router.sightings import Sightings

log = structlog.get_logger("faregate.experience")

EXPERIENCE_SECONDS: Final = 1.0
"""How often it is looked whether there is something that others should know at once: that a deployment is cooling down."""
EXPERIENCE_EVERY: Final = 5
"""Every so many times processes tell each other the rest, and listen."""
TELL_MS: Final = 60_000
"""So often a process writes its row if nothing changed: who lives is told by that."""
GONE_MS: Final = 600_000
"""Who wrote nothing for so long is gone, and what it learned is taken over by another."""
MOST_AT_ONCE: Final = 20
"""So many rows are taken over in one step."""
HABITS: Final = "habits"
"""The row of what answers taught of inputs and lengths, which all write together: it is long, and its sums may count an answer twice
after a write that was done and not answered."""
HABITS_ROUNDS: Final = 12
"""It is written every so many times."""
MOST_NAMES: Final = 200
"""So many of the processes that were taken over last are named in a row. One that only slept learns from it that it was."""


def read_row(row: bytes) -> Experience:
    """What `Exchange` wrote; nothing of a row that another version of this program wrote in another form, or of impossible figures."""
    try:
        return msgspec.json.decode(row, type=Experience)
    except msgspec.MsgspecError:
        return Experience()


async def read_all(store: ExperienceStore) -> Experience:
    """What all processes have learned. Raises `StoreUnavailable`."""
    _, rows = await store.rows()
    known = _of_processes(rows)
    gone = {name for each in known.values() for name in each.taken_over}
    return together(each for name, each in known.items() if name not in gone)


def _of_processes(rows: Mapping[str, bytes]) -> dict[str, Experience]:
    return {name: read_row(row) for name, row in rows.items() if name != HABITS}


class Exchange:
    """One process's part in it."""

    def __init__(self, store: ExperienceStore, fleet: Fleet) -> None:
        """`fleet` has what this process has seen, and what its policy kinds and holds have learned."""
        self._store = store
        self._memory = fleet.memory
        self._learned = fleet.learned
        self._sightings = Sightings(fleet)
        self._rounds = 0
        self._quiet = 0
        self._name = secrets.token_hex(6)
        self._inherited = Experience()
        """What was taken over."""
        self._written = b""
        """The own row as it was written last; empty: never."""
        self._trying: tuple[bytes, Experience] | None = None
        """A row that may have been written, and what is inherited then."""
        self._told = (b"", 0)
        """What was written last, without the time, and when."""

    async def beat(self) -> None:
        """Look every few times, or at once if that is urgent. Raises `StoreUnavailable`, as `look` does."""
        self._quiet += 1
        if self._quiet >= EXPERIENCE_EVERY or self._sightings.are_urgent:
            self._quiet = 0
            await self.look()

    async def look(self, *, at_end: bool = False) -> None:
        """Learn what others know, and tell them what is known here. `at_end`: this process ends, and others may take over at once.

        Raises:
            StoreUnavailable: the store does not answer; the next time goes on from here.
        """
        now_ms, rows = await self._store.rows()
        if at_end or self._rounds % HABITS_ROUNDS == 0:
            await self._tell_habits(rows.get(HABITS, b""), now_ms)
        self._rounds += 1
        known = _of_processes(rows)
        self._find_own(rows.get(self._name, b""), known)
        # A store that lost its last second may have rows again that were taken over.
        taken_over = {*self._inherited.taken_over, *(name for each in known.values() for name in each.taken_over)}
        others = {name: each for name, each in known.items() if name != self._name and name not in taken_over}
        gone = [name for name, each in others.items() if each.at_ms < now_ms - GONE_MS][:MOST_AT_ONCE]
        self._memory.go_by(together([self._inherited, *others.values()]))
        self._sightings.hear([each.seen for each in others.values()], now_ms)
        inherited = together([self._inherited, *(others[name] for name in gone)])
        inherited.taken_over = [*self._inherited.taken_over, *gone][-MOST_NAMES:]
        dropped = {name: rows[name] for name in (*gone, *(name for name in known if name in taken_over and name != self._name))}
        await self._tell(inherited, dropped, 0 if at_end else now_ms, now_ms)

    async def _tell_habits(self, row: bytes, now_ms: int) -> None:
        """Put what is new of inputs and answers to what all know, and go by that. If it cannot be written, the next time does it."""
        news = self._learned.news()
        try:
            whole = msgspec.json.decode(row, type=Taught) if row else Taught()
        except msgspec.MsgspecError:
            whole = Taught()
        if not news.shares and not news.lengths:
            self._learned.know(whole)
            return
        whole = whole.with_news(news, now_ms)
        written = False
        try:
            written = await self._store.put(HABITS, msgspec.json.encode(whole), instead_of={HABITS: row} if row else {})
        finally:
            if not written:
                self._learned.give_back(news)
        if written:
            self._learned.know(whole)

    def _find_own(self, row: bytes, known: Mapping[str, Experience]) -> None:
        """See what became of the own row."""
        if self._trying is not None and row == self._trying[0]:
            self._inherited = self._trying[1]
        elif not row and any(self._name in each.taken_over for each in known.values()):
            log.warning("another process has taken over what was learned here: this one was taken for gone")
            self._memory.forget_own()
            self._name, self._inherited = secrets.token_hex(6), Experience()
        self._written, self._trying = row, None

    async def _tell(self, inherited: Experience, dropped: dict[str, bytes], at_ms: int, now_ms: int) -> None:
        own = together([inherited, self._memory.own()]).kept(now_ms)
        own.taken_over, own.seen = inherited.taken_over, self._sightings.tell(now_ms)
        content = msgspec.json.encode(own)
        if not self._written and not own.used_ms and not own.seen and not dropped:
            return
        if self._written and content == self._told[0] and at_ms and at_ms - self._told[1] < TELL_MS and not dropped:
            return
        own.at_ms = at_ms
        row = msgspec.json.encode(own)
        self._trying = row, inherited
        if await self._store.put(self._name, row, instead_of=dropped | ({self._name: self._written} if self._written else {})):
            self._written, self._inherited, self._told = row, inherited, (content, at_ms)
        self._trying = None

    async def close(self) -> None:
        """Tell what is known here for the last time, if the store answers."""
        with suppress(StoreUnavailable):
            await self.look(at_end=True)
