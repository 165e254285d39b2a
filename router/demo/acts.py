"""The acts of the demonstration: what happens, and what was observed, in numbers that the router gave."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from router.demo.show import Outcome, Show
from router.demo.watch import Seen, count_refused, models_of
from router.domain.money import format_usd

_MOST_TURNS: Final = 60
_RECOVERY_SECONDS: Final = 90.0


@dataclass(frozen=True, slots=True)
class Act:
    """A part of the script."""

    title: str
    text: str
    play: Callable[[Show], Awaitable[Outcome]]


async def normal(show: Show) -> Outcome:
    """Everything works."""
    seen = await show.crowd(25, {"search": 30, "support": 5, "finance": 5, "research": 6})
    await show.settled()
    totals = show.watch.totals()
    overhead = [one.overhead_ms for one in seen if one.overhead_ms is not None]
    outcome = _outcome("Normal", seen)
    outcome.figures |= {"spent_nusd": totals.charge_nusd, "avoided_nusd": totals.avoided_nusd}
    outcome.lines += [
        f"{_where(seen)}; each by the first rule that fits its team, tags and size.",
        f"Spent {format_usd(totals.charge_nusd)} USD; all on the frontier model it would have been {format_usd(totals.baseline_nusd)} USD.",
    ]
    if overhead:
        outcome.figures["overhead_p50_ms"] = round(statistics.median(overhead), 3)
        outcome.lines.append(
            f"The router itself took {statistics.median(overhead):.2f} ms a request (median), one process for everything on this screen."
        )
    return outcome


async def outage(show: Show) -> Outcome:
    """A provider answers 503 to everything."""
    show.sim.outage("frontier-closed", True)
    seen = await show.crowd(20, {"search": 22, "support": 5, "finance": 4, "research": 4})
    outcome = _outcome("A provider dies", seen)
    tried = sum(one.attempts > 1 for one in seen)
    moved = [one for one in seen if one.ask.route in ("best", "graceful")]
    outcome.figures |= {"moved": sum(one.model != "" for one in moved), "wanted_frontier": len(moved), "fell_back_after_a_call": tried}
    outcome.lines += [
        f"{len(moved)} requests wanted the frontier model: {_where(moved)}.",
        f"{tried} of them found out by a failed call; the others were sent past it while it cooled down.",
    ]
    return outcome


async def recovery(show: Show) -> Outcome:
    """The provider is back; the router notices by a probe."""
    show.sim.outage("frontier-closed", False)
    began = time.monotonic()
    crowd = asyncio.create_task(show.crowd(10, {"search": 10}))
    probes: list[Seen] = []
    while time.monotonic() - began < _RECOVERY_SECONDS and not (probes and probes[-1].model == "frontier"):
        probes.append(await show.send(show.traffic.question("best")))
        await asyncio.sleep(0.2)
    seconds = time.monotonic() - began
    seen = [*probes, *await crowd]
    outcome = _outcome("The provider comes back", seen)
    back = bool(probes) and probes[-1].model == "frontier"
    outcome.figures |= {"back": int(back), "seconds_until_back": round(seconds, 3)}
    outcome.lines.append(
        f"The frontier model answered again after {seconds:.1f} s, by a probe of a real request." if back else "It did not come back."
    )
    return outcome


async def agent(show: Show) -> Outcome:
    """An agent asks for the same tool for ever."""
    crowd = asyncio.create_task(show.crowd(15, {"search": 12}))
    turns: list[Seen] = []
    while len(turns) < _MOST_TURNS and (not turns or turns[-1].status == 200):
        turns.append(await show.send(show.traffic.turn("run-stuck", show.traffic.stuck_agent(len(turns)))))
    other = await show.send(show.traffic.ask("research"))
    seen = [*turns, other, *await crowd]
    await show.settled()
    state = show.watch.bucket("session", "session=run-stuck")
    outcome = _outcome("An agent loops", seen)
    refused = turns[-1].error or {}
    spent, limit = (0, 0) if state is None else (state.spent_nusd, state.limit_nusd or 0)
    outcome.figures |= {
        "turns_served": sum(one.status == 200 for one in turns),
        "stopped_by": str(refused.get("budget", "")),
        "code": str(refused.get("code", "")),
        "session_spent_nusd": spent,
        "session_limit_nusd": limit,
        "other_session_status": other.status,
    }
    outcome.lines += [
        f"Turn {len(turns)} was refused with {turns[-1].status} {refused.get('code')} by budget '{refused.get('budget')}'.",
        f"Its session had spent {format_usd(spent)} of {format_usd(limit)} USD; another session of the same team went on ({other.status}).",
    ]
    return outcome


async def near_the_limit(show: Show) -> Outcome:
    """A team comes close to its limit and is served by smaller models."""
    # One at a time near the limit: what calls under way hold could else leave no room even for the smallest model.
    seen = await show.until("finance", lambda got: models_of(got)["pocket"] >= 6, most=120, slowly=lambda got: models_of(got)["mid"] > 0)
    await show.settled()
    outcome = _outcome("A team nears its budget", seen)
    spent, limit = _budget_figures(show, "finance", outcome)
    outcome.figures |= {f"served_by_{model}": count for model, count in models_of(seen).items()}
    outcome.lines += [
        f"{_where(seen)}, in that order: what still fits the budget is tried next, nobody was refused."
        if not outcome.figures["refused"]
        else f"{_where(seen)}; {outcome.figures['refused']} refused.",
        f"Budget 'finance': {format_usd(spent)} of {format_usd(limit)} USD ({100 * spent / max(1, limit):.1f} %).",
    ]
    return outcome


async def dry(show: Show) -> Outcome:
    """A team without small models in its route spends all it has."""
    seen = await show.until("support", lambda got: count_refused(got) >= 5, most=200, slowly=lambda got: False)
    await show.settled()
    outcome = _outcome("Another runs dry", seen)
    spent, limit = _budget_figures(show, "support", outcome)
    last = next((one.error for one in reversed(seen) if one.status == 402 and one.error), {})
    outcome.figures["refused_by_support"] = count_refused(seen, "support")
    outcome.lines += [
        f"{_where(seen)}; then {outcome.figures['refused']} refusals, before any money was spent on them.",
        f"Budget 'support': {format_usd(spent)} of {format_usd(limit)} USD. The answer: {last.get('message', '')}",
    ]
    return outcome


ACTS: Final[Sequence[Act]] = (
    Act("Normal", "Four teams work. Watch which model each request goes to, and why.", normal),
    Act("A provider dies", "closed-cloud, home of the frontier model, answers 503 to everything.", outage),
    Act("The provider comes back", "The outage ends. The router does not know it yet.", recovery),
    Act("An agent loops", "An agent of research searches for page 12, which does not exist. Its session may spend 0.02 USD.", agent),
    Act("A team nears its budget", "finance works on. Its route names smaller models for when the money gets short.", near_the_limit),
    Act("Another runs dry", "support works on. Its route allows nothing below medium size.", dry),
)


def _outcome(title: str, seen: Sequence[Seen]) -> Outcome:
    figures = {
        "requests": len(seen),
        "served": sum(one.status == 200 and one.error is None for one in seen),
        "refused": count_refused(seen),
    }
    broken = figures["requests"] - figures["served"] - figures["refused"]
    line = f"{figures['requests']} requests: {figures['served']} served, {figures['refused']} refused for money, {broken} failed."
    return Outcome(title=title, figures={**figures, "failed": broken}, lines=[line])


def _budget_figures(show: Show, budget: str, outcome: Outcome) -> tuple[int, int]:
    state = show.watch.bucket(budget)
    spent, limit = (0, 0) if state is None else (state.spent_nusd, state.limit_nusd or 0)
    outcome.figures |= {"spent_nusd": spent, "limit_nusd": limit}
    return spent, limit


def _where(seen: Sequence[Seen]) -> str:
    counts = models_of(seen)
    return ", ".join(f"{counts[model]} by {model}" for model in ("frontier", "mid", "open", "pocket") if counts[model]) or "none served"
