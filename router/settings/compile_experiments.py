"""Experiments: in every branch of a route that leads to a model, another one comes in its place for a share of the requests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from pydantic import BaseModel

from policies.kinds.split import CanaryOptions
from policies.registry import all_inside
from router.settings.compile_context import Context, Guest
from router.settings.findings import Path, field_name, one_of
from router.settings.model import Settings
from router.settings.model_experiments import ExperimentSettings
from router.settings.model_routing import DeploymentSettings, ModelSettings
from router.settings.model_select import UseSettings
from router.settings.select import fits
from router.settings.types import is_deployment, is_model_name
from router.snapshot import Deployment

SECTION: Final = "experiments"
_ALIKE: Final = ("size", "domain", "languages", "quality")
"""What a model that stands in the file for an experiment alone is taken for, as the one whose place it takes."""


def guests_of(settings: Settings) -> dict[str, Guest]:
    """Deployments that only experiments name, as models of the same name.

    Each is taken for as large and as good as the model whose place it takes: who swaps them says so. Where it runs and what it costs is its
    own: who may see a prompt, and what is held for it, follows no assumption.
    """
    guests: dict[str, Guest] = {}
    for name, given in settings.experiments.items():
        for old, new in given.swap.items():
            if new in _known(settings) or not is_deployment(new) or not is_model_name(new):
                continue
            model = _model_of(settings, old)
            alike: dict[str, Any] = {} if model is None else {field: getattr(model, field) for field in _ALIKE}
            # Of values that are valid already: pydantic would first build a validator.
            at = (DeploymentSettings.model_construct(deployment=new),)
            guests.setdefault(new, Guest((SECTION, name, "swap", old), ModelSettings.model_construct(at=at, **alike)))
    return guests


def _known(settings: Settings) -> set[str]:
    return {*settings.models, *(item.deployment for model in settings.models.values() for item in model.at)}


def _model_of(settings: Settings, name: str) -> ModelSettings | None:
    return settings.models.get(name) or next(
        (model for model in settings.models.values() if any(item.deployment == name for item in model.at)), None
    )


def check_experiments(context: Context, deployments: Mapping[str, Deployment]) -> None:
    """Note names that do not exist, and experiments that are in each other's way."""
    settings = context.settings
    swapped: dict[tuple[str, str], str] = {}
    for name, given in settings.experiments.items():
        if given.route not in settings.routes and not context.is_broken("routes", given.route):
            hint = "; it is a model, and always itself" if given.route in settings.models else one_of(given.route, settings.routes)
            context.wrong((SECTION, name, "route"), f'there is no route "{given.route}"{hint}')
        for old, new in given.swap.items():
            path: Path = (SECTION, name, "swap", old)
            _check_names(context, path, old, new)
            places = _named(old, deployments)
            if places & _named(new, deployments):
                context.wrong(path, f'"{new}" is no other model than "{old}"')
            for word, each in ((old, places), (new, _named(new, deployments))):
                others = {other for place in each if (other := swapped.setdefault((given.route, place), name)) != name}
                for other in sorted(others):
                    context.wrong(path, f'experiment "{other}" has "{word}" of route "{given.route}" already', at_key=word == old)


def _check_names(context: Context, path: Path, old: str, new: str) -> None:
    settings = context.settings
    known = _known(settings)
    names = context.names("models", settings.models)
    if old not in known and not context.is_broken("models", old):
        context.wrong(path, f'there is no model "{old}"{one_of(old, names)}', at_key=True)
    if new not in known and new not in context.guests and not context.is_broken("models", new):
        is_route = new in settings.routes
        hint = "; it is a route, and experiments are between models" if is_route else f"{one_of(new, names)}; or write provider/id"
        context.wrong(path, f'there is no model "{new}"{hint}')


def _named(name: str, deployments: Mapping[str, Deployment]) -> frozenset[str]:
    """The deployments that a model or deployment is."""
    return frozenset(each.name for each in deployments.values() if name in (each.name, each.model))


def put_in(
    context: Context, path: Path, use: UseSettings, by: BaseModel, selected: tuple[str, ...], deployments: Mapping[str, Deployment]
) -> tuple[tuple[str, ...], BaseModel]:
    """What a branch leads to and how it is ordered, with the experiments of its route in it."""
    for name, given in context.settings.experiments.items():
        if path[:2] != ("routes", given.route):
            continue
        swap = dict(_swapped(context, name, given, use, selected, deployments))
        if not swap:
            continue
        if any(getattr(one, "name", None) == name for one in all_inside(by)):
            context.wrong((SECTION, name), f'"{name}" is the name of a policy in route "{given.route}", too; give it another', at_key=True)
        for old, new in swap.items():
            if not _named(new, deployments).isdisjoint(selected):
                _say_it_is_there(context, path, name, old, new)
        selected = tuple(dict.fromkeys((*selected, *(each for new in swap.values() for each in _in_order(new, deployments)))))
        by = CanaryOptions(
            name=name,
            # The same in all rules, or they would not be one experiment.
            swap=given.swap,
            across_rules=True,
            share=given.share,
            ramp=given.ramp,
            begins=given.begins,
            sticky=given.sticky,
            stop_if=given.stop_if,
            by=by,
        )
    return selected, by


def _say_it_is_there(context: Context, path: Path, name: str, old: str, new: str) -> None:
    where = field_name(path)
    context.doubtful((SECTION, name, "swap", old), f'{where} leads to "{new}" anyway: but for the share, it comes behind all others there')


def _swapped(
    context: Context,
    name: str,
    given: ExperimentSettings,
    use: UseSettings,
    selected: tuple[str, ...],
    deployments: Mapping[str, Deployment],
) -> Iterator[tuple[str, str]]:
    """What an experiment replaces in a branch: a rule by classes leads to nothing that lacks them, whatever it replaces."""
    for old, new in given.swap.items():
        if _named(old, deployments).isdisjoint(selected):
            continue
        comers = [deployments[each] for each in _in_order(new, deployments)]
        if comers and (use.names or all(_selects(use, each) for each in comers)):
            context.met.add((name, old))
            yield old, new


def _in_order(name: str, deployments: Mapping[str, Deployment]) -> list[str]:
    return [each.name for each in deployments.values() if name in (each.name, each.model)]


def _selects(use: UseSettings, deployment: Deployment) -> bool:
    return fits(use, deployment) and (use.but is None or not fits(use.but, deployment))


def check_met(context: Context, deployments: Mapping[str, Deployment]) -> None:
    """Note what an experiment replaces nowhere."""
    for name, given in context.settings.experiments.items():
        if given.route not in context.settings.routes:
            continue
        for old, new in given.swap.items():
            names = (_named(old, deployments), _named(new, deployments))
            if (name, old) in context.met or not all(names):
                continue
            context.wrong(
                (SECTION, name, "swap", old),
                f'route "{given.route}" never uses "{old}", or only in rules with classes that "{new}" lacks',
                at_key=True,
            )
