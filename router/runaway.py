"""Sessions that run away: noticed per worker, slowed, led to small models, refused, or paused until somebody approves."""

from __future__ import annotations

import logging
import secrets
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, Protocol

from policies.types import Rejection
from router.call import Call
from router.domain.labels import MAX_LABEL_LENGTH
from router.domain.runaway import Run, RunawayRules, signal
from router.domain.windows import escape_scope
from router.edge.headers import SESSION
from router.errors import SESSION_PAUSED, SESSION_REFUSED, RouterError
from router.fleet import FleetView
from router.metrics import Metrics
from router.snapshot import Deployment
from router.steering import Steering

log = logging.getLogger("faregate.runaway")

PAUSED: Final = "session_paused"
KEEP_MS: Final = 30 * 86_400_000
"""How long a pause lasts if nobody approves the session."""
MOST_PAUSED: Final = 1000
"""Paused sessions of a key. Clients invent the names, and a request costs them nothing if it is refused: beyond, sessions are refused as
long as they run away, which needs no memory."""


class Marks(Protocol):
    """The part of the store that remembers pauses, over all workers and restarts. Raises `StoreUnavailable`."""

    async def mark(self, name: str, *, keep_ms: int, event: bytes) -> bool:
        """Note a name, once."""
        ...

    async def clear(self, names: Sequence[str]) -> None:
        """Forget names."""
        ...

    async def marks(self) -> Mapping[str, object]:
        """All names."""
        ...


class OnlySmall:
    """Leaves all but small models out, beside what budgets leave out."""

    def __init__(self, budgets: Steering) -> None:
        self._budgets = budgets

    def out(self, call: Call, views: Sequence[FleetView], deployments: Mapping[str, Deployment]) -> list[Rejection]:
        """See `Steering.out`."""
        found = {rejection.deployment: rejection for rejection in self._budgets.out(call, views, deployments)}
        for view in views:
            if view.traits.size != "small":
                name = view.traits.deployment
                found.setdefault(name, Rejection(name, "budget_downgrade", f"session '{call.session}' runs away: only small models"))
        return list(found.values())


class Runaway:
    """Watches the sessions of one worker. What is paused is known to all."""

    def __init__(self, rules: RunawayRules, metrics: Metrics, steering: Steering, clock_ms: Callable[[], int]) -> None:
        """`clock_ms` gives Unix milliseconds."""
        self._rules = rules
        self._metrics = metrics
        self._only_small = OnlySmall(steering)
        self._clock_ms = clock_ms
        self._runs: dict[str, OrderedDict[str, Run]] = {}
        """By key and session; those that sent something last at the end."""
        self._paused: dict[str, str] = {}
        """Tokens by session."""
        self._paused_of: Counter[str] = Counter()
        """How many are paused, by key."""
        self._unsaved: set[str] = set()
        """Paused here, and the store does not know it yet."""

    def take_over(self, before: Runaway) -> None:
        """Know what the one before knew, which calls under way go on telling: a reload lets no session go on."""
        self._runs, self._unsaved = before._runs, before._unsaved
        self._paused, self._paused_of = before._paused, before._paused_of

    def check(self, call: Call) -> None:
        """Look at a request before it is routed.

        Raises:
            RouterError: 403, if its session is paused or refused.
        """
        value = call.headers.get(SESSION)
        call.session = call.request.session if value is None else value.decode("utf-8", "replace")[:MAX_LABEL_LENGTH]
        if not call.session:
            return
        name = _name(call)
        if name in self._paused:
            raise self._refusal(call, name)
        found = signal(self._rules, self._run(name), call.request.fields.get("messages"), self._clock_ms())
        if found is not None:
            self._act(call, name, *found)

    def _run(self, name: str) -> Run:
        now, key = self._clock_ms(), _key_of(name)
        runs = self._runs.setdefault(key, OrderedDict())
        run = runs.get(name)
        is_new = run is None
        if run is None or run.seen_ms < now - self._rules.within_ms:
            run = runs[name] = Run(now)
        runs.move_to_end(name)
        if is_new and sum(map(len, self._runs.values())) > self._rules.max_sessions:
            # Of who has most of them: a key that invents sessions must not blind the worker for those of others.
            most = max(self._runs, key=lambda each: (len(self._runs[each]), each != key))
            self._forget(next(iter(self._runs[most])))
        return run

    def _forget(self, name: str) -> None:
        runs = self._runs.get(_key_of(name))
        if runs is not None:
            runs.pop(name, None)
            if not runs:
                del self._runs[_key_of(name)]

    def _act(self, call: Call, name: str, what: str, figures: str) -> None:
        action = self._rules.then
        if action == "pause" and self._paused_of[_key_of(name)] >= MOST_PAUSED:
            action = "refuse"
        self._metrics.ran_away(signal=what, action=action)
        log.warning("session '%s' runs away: %s; %s", call.session, figures, action)
        if action == "slow":
            call.delay_seconds = self._rules.delay_seconds
        elif action == "downgrade":
            call.steering = self._only_small
        elif action == "refuse":
            message = (
                f"Session '{call.session}' is refused: it runs away ({figures}). Look at what the agent does. Request {call.request_id}."
            )
            raise RouterError(SESSION_REFUSED, message, details={"session": call.session, "signal": what})
        else:
            self._paused[name] = secrets.token_hex(8)
            self._paused_of[_key_of(name)] += 1
            self._unsaved.add(name)
            raise self._refusal(call, name, figures)

    def _refusal(self, call: Call, name: str, figures: str = "") -> RouterError:
        token = self._paused[name]
        why = f" ({figures})" if figures else ""
        message = (
            f"Session '{call.session}' is paused: it runs away{why}. Look at what the agent does; "
            f"whoever runs this service lets it go on with `faregate approve {token}`. Request {call.request_id}."
        )
        return RouterError(SESSION_PAUSED, message, details={"session": call.session, "approval": token})

    def spent(self, call: Call) -> None:
        """Learn what a request has cost."""
        name = _name(call)
        run = self._runs.get(_key_of(name), OrderedDict[str, Run]()).get(name)
        if run is not None:
            run.spent(self._clock_ms(), call.charge_nusd)

    async def sync(self, store: Marks) -> None:
        """Tell the store what is paused, and learn what others have paused or somebody has approved.

        Raises:
            StoreUnavailable: nothing is forgotten; try again.
        """
        for name in sorted(self._unsaved):
            await store.mark(f"{PAUSED}|{self._paused[name]}|{name}", keep_ms=KEEP_MS, event=b"")
            self._unsaved.discard(name)
        known = dict(pauses_in(await store.marks()))
        for name in [name for name in self._paused if name not in known and name not in self._unsaved]:
            del self._paused[name]
            self._forget(name)
        self._paused.update({name: token for name, token in known.items() if name not in self._unsaved})
        self._paused_of.clear()
        self._paused_of.update(map(_key_of, self._paused))


def pauses_in(marks: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Sessions that are paused, and their tokens: one has several if several workers paused it at the same moment."""
    for mark in marks:
        kind, _, rest = mark.partition("|")
        token, _, name = rest.partition("|")
        if kind == PAUSED:
            yield name, token


async def approve(store: Marks, token: str) -> str | None:
    """Let the session with this token go on. Its name, or None if none is paused under it.

    Raises:
        StoreUnavailable: it stays paused.
    """
    pauses = list(pauses_in(await store.marks()))
    for name, known in pauses:
        if secrets.compare_digest(known.encode(), token.encode("utf-8", "replace")):
            await store.clear([f"{PAUSED}|{each}|{name}" for other, each in pauses if other == name])
            return name
    return None


def _name(call: Call) -> str:
    """A session of one key is none of another key's."""
    return f"{escape_scope(call.principal.key_id)}|{escape_scope(call.session)}"


def _key_of(name: str) -> str:
    return name.partition("|")[0]
