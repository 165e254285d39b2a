"""Numbers that conditions read by a name: is there such a budget, provider, model or deployment, and does it have the number."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from policies.expressions.scopes import OF_CANDIDATES, compile_scope
from policies.expressions.tree import ExpressionError
from policies.figures import UNITS, Figure, figure_of
from router.settings.compile_context import Context
from router.settings.findings import Path, one_of
from router.settings.model_budgets import BudgetScope, BudgetSettings, SpendLimit
from router.snapshot import Deployment

_COUNTED: Final = {"usd": "USD", "tokens": "tokens"}


def check_read(context: Context, path: Path, read: str) -> None:
    """Note what a condition reads and there is not."""
    figure = figure_of(read)
    section, sign, name = read.partition(":") if figure is None else (figure.section, ":", figure.name)
    if not sign:
        return
    known = _known(context, section)
    broken = context.is_broken("models", name) if section == "deployment" else context.is_broken(f"{section}s", name)
    if name not in known:
        if not broken:
            names = known if section == "deployment" else context.names(f"{section}s", known)
            context.wrong(path, f'there is no {section} "{name}"{one_of(name, names)}')
    elif figure is not None and section == "budget":
        _check_budget(context, path, figure, budgets_of(context)[name])


def _known(context: Context, section: str) -> Iterable[str]:
    settings = context.settings
    if section == "budget":
        return budgets_of(context)
    if section == "deployment":
        return {item.deployment: None for model in settings.models.values() for item in model.at}
    return settings.providers if section == "provider" else settings.models


def budgets_of(context: Context) -> Mapping[str, SpendLimit]:
    """All budgets of the file by the names that they have elsewhere: those of their own, of teams and of keys."""
    settings = context.settings
    of_teams = {f"team/{name}": team.budget for name, team in settings.teams.items() if team.budget is not None}
    of_keys = {f"key/{name}": key.budget for name, key in settings.keys.items() if key.budget is not None}
    return {**settings.budgets, **of_teams, **of_keys}


def _check_budget(context: Context, path: Path, figure: Figure, given: SpendLimit) -> None:
    wanted = UNITS.get(figure.field)
    if wanted is not None and wanted != given.limit.unit:
        other = next((f"; it has {field}" for field, unit in UNITS.items() if unit == given.limit.unit), "; it has used")
        counted = _COUNTED.get(given.limit.unit, given.limit.unit)
        context.wrong(path, f'budget "{figure.name}" counts {counted} and has no {figure.field}{other}')
    elif by := _of_candidates(given):
        context.wrong(path, f'budget "{figure.name}" depends on the {by}, and none is chosen yet when rules are asked')


def _of_candidates(given: SpendLimit) -> str:
    """The dimension of a budget that is known only when somebody serves the request; empty: there is none."""
    when = given.when if isinstance(given, BudgetSettings) else BudgetScope()
    looked: set[str] = {name for name in OF_CANDIDATES if getattr(when, name) or name in (given.each or ())}
    if when.cel is not None:
        try:
            looked |= compile_scope(when.cel, {}).looks_at
        except ExpressionError:
            # It is told of where the budget stands.
            return ""
    return next((name for name in OF_CANDIDATES if name in looked), "")


def figures_of(reads: Iterable[str], deployments: Mapping[str, Deployment]) -> dict[Figure, tuple[str, ...]]:
    """The numbers that are read, and the deployments that each is of; a budget's is of none."""
    figures = (figure for read in sorted(reads) if (figure := figure_of(read)) is not None)
    return {figure: members(figure.section, figure.name, deployments) for figure in figures}


def members(section: str, name: str, deployments: Mapping[str, Deployment]) -> tuple[str, ...]:
    """The deployments of a provider, of a model, or the one of this name."""
    return tuple(one.name for one in deployments.values() if name == _NAME_IN[section](one)) if section in _NAME_IN else ()


_NAME_IN: Final[Mapping[str, Callable[[Deployment], str]]] = {
    "provider": lambda one: one.provider.name,
    "model": lambda one: one.model,
    "deployment": lambda one: one.name,
}
