"""Policy kinds with their options: what they need of the rest of the file, and what they give to a branch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from pydantic import BaseModel

from policies.plans import Live
from policies.registry import KINDS, all_inside
from policies.types import SignalName, Traits
from router.settings.compile_context import Context
from router.settings.findings import Path, did_you_mean

CALENDAR: Final = frozenset({"minute", "hour", "day", "week", "month"})
"""Windows that have an end."""


def kind_fields(context: Context, path: Path, options: BaseModel, offered: Sequence[Traits]) -> dict[str, Any]:
    """The fields of a branch that its kind decides; what is wrong with the options is noted.

    `path` is that of the branch; `offered` what it leads to.
    """
    here: Path = (*path, "by")
    live: tuple[Live, ...] = ()
    worst, reads = False, None
    _check_apart(context, here, all_inside(options))
    for number, one in enumerate(all_inside(options)):
        kind = KINDS[getattr(one, "kind", "cost")]
        _check_names(context, here, kind.names(one))
        # Of a kind inside another, only the place of the outer one is known.
        for where, message in kind.problems(one, offered) if offered else ():
            context.wrong((*here, *where) if not number else here, message)
        _check_others(context, here, one)
        live += kind.live(one)
        worst = worst or kind.reads_worst_case(one)
        if kind.name in ("quality", "pace") and any(traits.task_quality for traits in offered):
            reads = "task"
    signal: SignalName | None = "task" if reads else None
    outer = KINDS[getattr(options, "kind", "cost")]
    return {"kind": outer.name, "order": outer.bind(options), "reads_worst_case": worst, "live": live, "reads": signal}


def _check_apart(context: Context, path: Path, kinds: Sequence[BaseModel]) -> None:
    """Note two that have one name and differ: what they learn, and what is counted of them, goes by it."""
    named: dict[str, BaseModel] = {}
    for one in kinds:
        name = getattr(one, "name", None)
        # A name of an experiment of the route is refused there.
        if isinstance(name, str) and name not in context.settings.experiments and named.setdefault(name, one) != one:
            context.wrong(path, f'two different policies in it have the name "{name}"; give one of them another `name`')


def _check_names(context: Context, path: Path, names: frozenset[str]) -> None:
    settings = context.settings
    known = {*settings.models, *(item.deployment for model in settings.models.values() for item in model.at)}
    for name in sorted(names):
        if name not in known and not context.is_broken("models", name):
            context.wrong((*path, "weights", name), f'there is no model or deployment "{name}"{did_you_mean(name, known)}', at_key=True)


def _check_others(context: Context, path: Path, options: BaseModel) -> None:
    """Teams and budgets that options name."""
    settings = context.settings
    team = getattr(options, "team", None)
    if isinstance(team, str) and not context.is_broken("teams", team):
        if team not in settings.teams:
            context.wrong((*path, "team"), f'there is no team "{team}"{did_you_mean(team, settings.teams)}')
        elif settings.teams[team].budget is None:
            context.wrong((*path, "team"), f'team "{team}" has no budget; give it one, so that copies cannot cost more')
    budget = getattr(options, "budget", None)
    if isinstance(budget, str) and not context.is_broken("budgets", budget):
        if budget not in settings.budgets:
            context.wrong((*path, "budget"), f'there is no budget "{budget}"{did_you_mean(budget, settings.budgets)}')
        elif settings.budgets[budget].resolved_window not in CALENDAR:
            context.wrong((*path, "budget"), f'budget "{budget}" has no window with an end to keep pace with; give it a day, week or month')
