"""From names and classes of models to deployments."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from policies.ranges import read_count, read_range, read_share, read_usd
from router.domain.money import NUSD_PER_USD
from router.settings.compile_context import Context
from router.settings.findings import Path, one_of
from router.settings.model_select import ClassSettings, UseSettings
from router.snapshot import Deployment


def select(
    context: Context, path: Path, use: UseSettings, deployments: Mapping[str, Deployment], *, may_be_empty: bool = False
) -> tuple[str, ...]:
    """Deployments that names or classes select, in the order written."""
    if use.names:
        return _named(context, path, use, deployments)
    selected = tuple(name for name, each in deployments.items() if each.model not in context.guests and fits(use, each))
    if use.but is not None:
        selected = tuple(name for name in selected if not fits(use.but, deployments[name]))
    if not selected and not context.broken:
        none = f"no model has these classes: {_classes(use)}{_of_rule(context, path)}"
        if may_be_empty:
            context.doubtful(path, f"{none}; every request that comes here is refused")
        else:
            context.wrong(path, none)
    return selected


def _classes(use: UseSettings) -> str:
    """The classes as they are written."""
    given = use.model_dump(by_alias=True, exclude_none=True, exclude_defaults=True)
    return ", ".join(f"{name}: {_text(value)}" for name, value in given.items())


def _of_rule(context: Context, path: Path) -> str:
    """The rule by its name: one of a ready-made route stands nowhere in the file."""
    match path:
        case ("routes", str(route), "rules", int(index), *_):
            name = context.settings.routes[route].rules[index].name
            return f' (rule "{name}")' if name else ""
        case _:
            return ""


def _text(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_text(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        words = ", ".join(map(str, value))
        return words if len(value) == 1 else f"[{words}]"
    return str(value)


def _named(context: Context, path: Path, use: UseSettings, deployments: Mapping[str, Deployment]) -> tuple[str, ...]:
    models = context.settings.models
    selected: list[str] = []
    for index, name in enumerate(use.names):
        if name in models:
            selected += [d.name for d in deployments.values() if d.model == name]
        elif name in deployments:
            selected.append(name)
        elif not context.is_broken("models", name) and not _fails_elsewhere(context, name):
            hint = "; it is a route, and routes cannot lead to routes" if name in context.settings.routes else ""
            hint = hint or one_of(name, context.names("models", models))
            context.wrong((*path, "names", index), f'there is no model "{name}"{hint}')
    return tuple(dict.fromkeys(selected))


def _fails_elsewhere(context: Context, name: str) -> bool:
    """Whether it is a deployment that stands in the file, whose own error is reported already."""
    return any(item.deployment == name for model in context.settings.models.values() for item in model.at)


def fits(classes: ClassSettings, deployment: Deployment) -> bool:
    """Whether a deployment belongs to all classes that are given. What is not known of it fits none."""
    traits = deployment.traits
    single = (
        (classes.size, traits.size),
        (classes.weights, traits.weights),
        (classes.locality, traits.locality),
        (classes.region, traits.region),
        (classes.provider, traits.provider),
    )
    several = ((classes.domain, traits.domain), (classes.language, traits.languages), (classes.capabilities, traits.capabilities))
    numbers = (
        (classes.context, read_count, traits.context_tokens),
        (classes.quality, read_share, traits.quality),
        (classes.price, read_usd, _output_usd(deployment)),
    )
    return (
        all(not wanted or own in wanted for wanted, own in single)
        and all(not wanted or not own.isdisjoint(wanted) for wanted, own in several)
        and all(wanted is None or _lies_in(wanted, read, own) for wanted, read, own in numbers)
    )


def _lies_in(wanted: str, read: Callable[[str], float], own: float | None) -> bool:
    return own is not None and read_range(wanted, read).holds(own)


def _output_usd(deployment: Deployment) -> float | None:
    price = deployment.price
    return None if price is None else price.rates.output / NUSD_PER_USD
