"""To which requests budgets apply."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from policies.expressions.scopes import TAG, ScopeExpression, compile_scope
from policies.expressions.tree import ExpressionError
from router.domain.budgets import Condition
from router.settings.compile_context import Context
from router.settings.findings import Finding, Path, did_you_mean, one_of
from router.settings.model_access import is_minted_id
from router.settings.model_budgets import DIMENSIONS, BudgetScope, BudgetSettings

Pairs = tuple[tuple[str, frozenset[str]], ...]
"""(dimension or `tag:<name>`, accepted values), all of which must hold."""


def scope_of(context: Context, name: str, given: BudgetSettings, askable: Collection[str]) -> tuple[Pairs, Condition | None]:
    """What must hold of a call for a budget to apply: as lists of values, as far as these can say it, and what they cannot."""
    path: Path = ("budgets", name, "when")
    names = _Names(context, askable)
    pairs = tuple(_pairs(names, path, given.when))
    if given.when.cel is None:
        return pairs, None
    made = _expression(names, (*path, "cel"), given.when.cel)
    if made is None:
        return pairs, None
    if made.pairs is not None and not {each for each, _ in made.pairs} & {each for each, _ in pairs}:
        return pairs + made.pairs, None
    return pairs, Condition(text=given.when.cel, looks_at=made.looks_at, holds=made.holds)


class _Names:
    """What values of dimensions there can be."""

    def __init__(self, context: Context, askable: Collection[str]) -> None:
        settings = context.settings
        self.context = context
        self.ids = {key_name: key.id or key_name for key_name, key in settings.keys.items()}
        self._known: dict[str, Collection[str]] = {
            "route": askable,
            "model": {*settings.models, *context.guests},
            "provider": settings.providers,
        }

    def look(self, dimension: str, value: str, path: Path, before: str = "") -> None:
        """Note a value that there is not, or hardly is. `before`: the text of an expression before it."""
        wrong, doubtful = self.context.findings, self.context.warnings
        known, teams, ids = self._known, self.context.settings.teams, self.ids
        if dimension in known and value not in known[dimension] and not self.context.is_broken(f"{dimension}s", value):
            wrong.append(Finding(path, f'there is no {dimension} "{value}"{one_of(value, known[dimension])}', before=before))
        if dimension == "team" and teams and value not in teams:
            doubtful.append(Finding(path, f'there is no team "{value}" in this file{one_of(value, teams)}', before=before))
        if dimension == "key" and _unknown_key(value, {*ids, *ids.values()}):
            doubtful.append(Finding(path, f'there is no key "{value}" in this file{one_of(value, ids)}', before=before))


def _unknown_key(value: str, known: Collection[str]) -> bool:
    """Whether a key can be nobody's: not one of the file, and neither an id that `faregate keys new` could have made."""
    return bool(known) and value not in known and (not is_minted_id(value) or bool(did_you_mean(value, known)))


def _pairs(names: _Names, path: Path, when: BudgetScope) -> Iterable[tuple[str, frozenset[str]]]:
    for dimension in DIMENSIONS:
        values: tuple[str, ...] = getattr(when, dimension)
        if not values:
            continue
        for index, value in enumerate(values):
            names.look(dimension, value, (*path, dimension, index))
        yield dimension, frozenset(names.ids.get(value, value) if dimension == "key" else value for value in values)
    for tag, values in when.tags.items():
        yield f"{TAG}{tag}", frozenset(values)


def _expression(names: _Names, path: Path, text: str) -> ScopeExpression | None:
    """The expression; None: it has an error, which is noted."""
    context = names.context
    try:
        made = compile_scope(text, names.ids)
    except ExpressionError as exc:
        context.findings.append(Finding(path, str(exc).replace("'", '"'), before=text[: exc.at]))
        return None
    for name, value, at in made.compared:
        names.look(name, value, path, text[:at])
    if made.constant is not None:
        context.doubtful(path, "always holds: leave it out" if made.constant else "never holds: nothing falls under this budget")
    return made
