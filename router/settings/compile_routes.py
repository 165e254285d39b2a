"""Routes: rules, branches and what a client may ask for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

from policies.engine import Branch, RoutePolicy, Rule
from policies.narrow import at_least
from policies.registry import KINDS
from policies.types import SignalName
from router.ports import Timeouts
from router.settings.compile_conditions import condition, watch_of
from router.settings.compile_context import Context
from router.settings.compile_experiments import check_experiments, check_met, put_in
from router.settings.compile_kinds import kind_fields
from router.settings.findings import Path
from router.settings.model_routing import BranchSettings, FallbackSettings, RouteSettings, RouteTimeouts, RuleSettings
from router.settings.model_select import UseSettings
from router.settings.select import select
from router.snapshot import Deployment, Fallback, Route

DEFAULT_RULE: Final = "default"
_STATUS_CLASSES: Final = {"4xx": range(400, 500), "5xx": range(500, 600)}


def compile_routes(context: Context, deployments: Mapping[str, Deployment]) -> dict[str, Route]:
    """Every name that a client may ask for: routes, models, deployments."""
    _refuse_shared_names(context, deployments)
    check_experiments(context, deployments)
    routes = {name: _route(context, name, given, deployments) for name, given in context.settings.routes.items()}
    check_met(context, deployments)
    for model in context.settings.models:
        own = tuple(d.name for d in deployments.values() if d.model == model)
        if own:
            routes.setdefault(model, _alias(model, own))
    for name in deployments:
        routes.setdefault(name, _alias(name, (name,)))
    return routes


def _refuse_shared_names(context: Context, deployments: Mapping[str, Deployment]) -> None:
    models = context.settings.models
    for name in context.settings.routes:
        if name in models or context.is_broken("models", name):
            context.wrong(("routes", name), f'"{name}" is also the name of a model; a client could not say which it means', at_key=True)
        elif name in deployments:
            context.wrong(("routes", name), f'"{name}" is also a deployment; a client could not say which it means', at_key=True)
    for name in models:
        if name in deployments and deployments[name].model != name:
            context.wrong(("models", name), f'"{name}" is also a deployment of model "{deployments[name].model}"', at_key=True)


def _alias(name: str, deployments: tuple[str, ...]) -> Route:
    """A model or deployment as a route of its own."""
    kind = KINDS["cost" if len(deployments) > 1 else "fixed"]
    branch = Branch(rule=DEFAULT_RULE, deployments=deployments, kind=kind.name, order=kind.bind(kind.options()), reads_worst_case=False)
    return Route(name=name, policy=RoutePolicy(rules=(), default=branch), deployments=deployments, aliases_model=True)


def _route(context: Context, name: str, given: RouteSettings, deployments: Mapping[str, Deployment]) -> Route:
    path: Path = ("routes", name)
    rules = tuple(_rules(context, path, given, deployments))
    default = _default_branch(context, path, given, deployments)
    reached = tuple(dict.fromkeys(d for branch in (*(rule.branch for rule in rules), default) for d in branch.deployments))
    return Route(
        name=name,
        policy=RoutePolicy(rules=rules, default=default),
        deployments=reached,
        fallback=fallback_of(given.fallback),
        timeouts=_timeouts(given.timeout, [deployments[d].timeouts for d in reached]),
        headers_read=frozenset().union(*(rule.reads_headers for rule in rules)),
        max_cost_nusd=given.max_cost,
        watch=watch_of((read for rule in rules for read in rule.reads), given.timezone, deployments),
    )


def _default_branch(context: Context, path: Path, given: RouteSettings, deployments: Mapping[str, Deployment]) -> Branch:
    if given.default is not None and given.default.use is not None:
        return _branch(context, (*path, "default"), given.default.use, given.default, DEFAULT_RULE, deployments)
    # Of values that are valid already: pydantic would first build a validator.
    own: dict[str, Any] = {"by": given.by, "otherwise": given.otherwise, "at_least": given.at_least}
    chosen = BranchSettings.model_construct(**{name: value for name, value in own.items() if value is not None})
    # A route without a default has `use`: the settings see to it.
    return _branch(context, path, given.use or UseSettings(names=("",)), chosen, DEFAULT_RULE, deployments)


def _rules(context: Context, path: Path, given: RouteSettings, deployments: Mapping[str, Deployment]) -> Iterable[Rule]:
    seen = {DEFAULT_RULE}
    for index, rule in enumerate(given.rules):
        here: Path = (*path, "rules", index)
        name = rule.name or f"rule-{index + 1}"
        if name in seen:
            reason = "is what the rest is called" if name == DEFAULT_RULE else "is the name of an earlier rule"
            context.wrong((*here, "name"), f'"{name}" {reason}')
        seen.add(name)
        compiled = _rule(context, here, rule, name, deployments)
        if compiled is not None:
            yield compiled


def _rule(context: Context, path: Path, given: RuleSettings, name: str, deployments: Mapping[str, Deployment]) -> Rule | None:
    if given.use is None:
        context.wrong(path, "use is missing: which models serve what the rule matches")
        return None
    branch = _branch(context, path, given.use, given, name, deployments)
    matcher = condition(context, (*path, "when"), given.when)
    if matcher is None:
        return None
    return Rule(
        name=name,
        matches=matcher.matches,
        branch=branch,
        reads_headers=matcher.headers,
        reads=matcher.reads,
        describe=matcher.describe,
    )


def _branch(
    context: Context, path: Path, use: UseSettings, given: BranchSettings, rule: str, deployments: Mapping[str, Deployment]
) -> Branch:
    refuse = given.otherwise == "refuse"
    selected = select(context, (*path, "use"), use, deployments, may_be_empty=refuse)
    selected, by = put_in(context, path, use, given.by, selected, deployments)
    fields = kind_fields(context, path, by, [deployments[name].traits for name in selected])
    branch = Branch(rule=rule, deployments=selected, refuse=refuse, **fields)
    return branch if given.at_least is None else _of_quality(context, path, branch, given.at_least.quality, deployments)


def _of_quality(context: Context, path: Path, branch: Branch, least: float, deployments: Mapping[str, Deployment]) -> Branch:
    """The branch without what does not reach a quality."""
    traits = [deployments[name].traits for name in branch.deployments]
    for one in traits:
        if one.quality is None and not one.task_quality:
            context.doubtful((*path, "at_least"), f"{one.deployment} has no quality: it is never tried here; give its model one")
    if traits and all(max([one.quality or 0.0, *one.task_quality.values()]) < least for one in traits):
        context.doubtful((*path, "at_least"), f"no model reaches quality {least:g}: nothing can be served here")
    reads: SignalName | None = "task" if any(one.task_quality for one in traits) else branch.reads
    return replace(branch, order=at_least(branch.order, least), reads=reads)


def fallback_of(given: FallbackSettings) -> Fallback:
    """When another candidate is tried."""
    statuses: set[int] = set()
    for cause in given.on:
        if isinstance(cause, int):
            statuses.add(cause)
        else:
            statuses.update(_STATUS_CLASSES.get(cause, ()))
    return Fallback(
        statuses=frozenset(statuses),
        on_timeout="timeout" in given.on,
        on_context_length="context_length" in given.on,
        max_attempts=given.tries,
        retries=given.retries,
    )


def _timeouts(given: RouteTimeouts, own: list[Timeouts]) -> Timeouts | None:
    """The route's timeouts. What it does not give is the longest that one of its providers has."""
    if given.first_token is None and given.idle is None and given.total is None:
        return None
    base = own or [Timeouts()]
    return Timeouts(
        connect_seconds=max(t.connect_seconds for t in base),
        first_byte_seconds=given.first_token or max(t.first_byte_seconds for t in base),
        idle_seconds=given.idle or max(t.idle_seconds for t in base),
        total_seconds=given.total or max(t.total_seconds for t in base),
    )
