"""A copy of a request to another model, after its client has the answer: discarded, compared, and paid by a team of its own."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable

import msgspec

from policies.answers import Said, compared
from policies.plans import Shadow
from policies.types import NOTHING, Ranked
from router.call import Call, Principal
from router.captured import Captured, Tee
from router.dispatch import Failure
from router.doors import Doors
from router.edge.exchange import Exchange
from router.errors import RouterError, StoreUnavailable
from router.scopes import COPIES_KEY


async def serve_and_copy(
    doors: Doors, call: Call, client: Exchange, shadow: Shadow, serve: Callable[[Exchange], Awaitable[Failure | None]]
) -> Failure | None:
    """Serve the client, keeping what it is sent, and begin a copy once it has its answer."""
    kept = Tee(client)
    failure = await serve(kept)
    if failure is None and call.outcome == "ok":
        _send_copy(doors, call, shadow, kept.said())
    return failure


def _send_copy(doors: Doors, call: Call, shadow: Shadow, said: Said) -> None:
    """Begin a copy, unless too many are under way."""
    running = doors.fleet.memory.copies
    mine = [task for task in running if task.get_name() == shadow.name]
    if len(mine) >= shadow.at_most:
        doors.metrics.shadowed(shadow=shadow.name, outcome="busy")
        return
    task = asyncio.create_task(_compare(doors, _copy(call, shadow), shadow.name, _Answer(said, call)), name=shadow.name)
    running.add(task)
    task.add_done_callback(running.discard)


def _copy(call: Call, shadow: Shadow) -> Call:
    """The same request, asked by the shadow's team: no budget of the client's own is touched."""
    part = copy.copy(call)
    decision = call.decision
    # Set by routing, or routing has raised.
    assert decision is not None  # noqa: S101
    team = call.snapshot.teams.get(shadow.team)
    part.principal = Principal(key_id=COPIES_KEY, team=shadow.team, org="" if team is None else team.org)
    part.user = part.session = ""
    part.tags = NOTHING
    part.charge_nusd, part.upstream_seconds, part.winner, part.usage, part.outcome = 0, 0.0, None, None, ""
    order = tuple([Ranked(name) for name in shadow.deployments])
    part.decision = msgspec.structs.replace(decision, order=order, kind=f"shadow:{shadow.name}")
    part.max_attempts = call.attempts + 1
    # What bounds the client's request says nothing of what the shadow's team may spend.
    part.guard_attempts, part.restrict = None, None
    part.plan, part.results = None, []
    return part


class _Answer:
    """What the client has, as far as it is compared."""

    __slots__ = ("charge_nusd", "said", "seconds", "usage")

    def __init__(self, said: Said, call: Call) -> None:
        self.said = said
        self.usage, self.charge_nusd, self.seconds = call.usage, call.charge_nusd, call.upstream_seconds


async def _compare(doors: Doors, part: Call, name: str, answer: _Answer) -> None:
    """Make the copy's call and count how it differs from the answer."""
    captured = Captured(None)
    try:
        failure = await doors.try_in_order(part, captured)
    except (RouterError, StoreUnavailable):
        doors.metrics.shadowed(shadow=name, outcome="refused")
        return
    finally:
        # Attempts point back at their call: see `Pipeline.serve`.
        part.winner = None
    if failure is not None or part.usage is None or answer.usage is None:
        doors.metrics.shadowed(shadow=name, outcome="failed")
        return
    said = captured.said()
    same = compared(said.text, answer.said.text, "auto")
    doors.metrics.shadowed(
        shadow=name,
        outcome="same_finish" if said.finish == answer.said.finish else "other_finish",
        verdict="unclear" if same is None else "same" if same else "other",
        cost_ratio=part.charge_nusd / answer.charge_nusd if answer.charge_nusd else None,
        length_ratio=part.usage.output_tokens / answer.usage.output_tokens if answer.usage.output_tokens else None,
        time_ratio=part.upstream_seconds / answer.seconds if answer.seconds > 0 else None,
    )
