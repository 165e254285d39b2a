"""How prompts are read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, get_args

from policies.types import SignalName
from router.errors import ConfigError
from router.settings.compile_context import Context
from router.settings.findings import one_of
from router.settings.model_signals import DifficultySettings, PiiSettings, TargetSettings
from router.signal_port import Plugin
from router.snapshot import Deployment, DifficultyRules, SignalRules

if TYPE_CHECKING:
    from policies.learned.model import Model
    from policies.learned.thresholds import Target

_NAMES: Final[tuple[SignalName, ...]] = get_args(SignalName)
_NUSD: Final = 1_000_000_000
_BUILTIN: Final = DifficultySettings.model_fields["model"].default


def compile_signals(context: Context, deployments: Mapping[str, Deployment], folder: Path | None) -> SignalRules:
    """The rules for signals; a model of one's own is read, so that its errors are found now."""
    given = context.settings.signals
    difficulty = DifficultyRules(
        model=_model(context, given.difficulty, folder),
        target=None if given.difficulty.target is None else _target(given.difficulty.target),
        window=given.difficulty.window,
        small=_deployment(context, given.difficulty, "small", deployments),
        large=_deployment(context, given.difficulty, "large", deployments),
    )
    return SignalRules(
        timeout_seconds=given.timeout, unread_is_private=given.unread == "private", difficulty=difficulty, plugins=_plugins(context)
    )


def _plugins(context: Context) -> Mapping[SignalName, tuple[Plugin, ...]]:
    """Detectors of the operator's own, imported, so that their errors are found now."""
    given = context.settings.signals
    named = {name: plugin for name in _NAMES if (plugin := getattr(given, name).plugin) is not None}
    if not named and given.pii.engine == "builtin":
        return {}
    # Only who has a plug-in waits for what finds it.
    from router.signal_plugins import load_plugin

    plugins: dict[SignalName, tuple[Plugin, ...]] = {}
    for name, plugin in named.items():
        try:
            plugins[name] = (load_plugin(plugin),)
        except ConfigError as error:
            context.wrong(("signals", name, "plugin"), str(error))
    if given.pii.engine == "presidio" and (presidio := _presidio(context, given.pii)) is not None:
        plugins["pii"] = (presidio, *plugins.get("pii", ()))
    return plugins


def _presidio(context: Context, given: PiiSettings) -> Plugin | None:
    from router.presidio import NotThere, presidio

    try:
        return presidio(given.entities, given.score, given.language, given.model or "")
    except NotThere as error:
        context.wrong(("signals", "pii", error.field), str(error))
        return None


def _model(context: Context, given: DifficultySettings, folder: Path | None) -> Model | None:
    if given.model == _BUILTIN:
        return None
    # Only who has a model of his own waits for what reads it.
    from router.learned.files import load_model

    try:
        return load_model(given.model, folder)[0]
    except ConfigError as error:
        context.wrong(("signals", "difficulty", "model"), str(error))
        return None


def _target(given: TargetSettings) -> Target:
    from policies.learned.thresholds import Target

    if given.share is not None:
        return Target(kind="share", value=given.share)
    if given.quality is not None:
        return Target(kind="quality", value=given.quality)
    # Of three that are left, the settings see to it that one is given.
    return Target(kind="price", value=(given.price_per_1000 or 0) / 1_000 / _NUSD)


def _deployment(context: Context, given: DifficultySettings, side: str, deployments: Mapping[str, Deployment]) -> str:
    """The deployment of a name: itself, or the first of a model; empty if none is named."""
    name = "" if given.between is None else getattr(given.between, side)
    if not name or name in deployments:
        return str(name)
    for deployment in deployments.values():
        if deployment.model == name:
            return deployment.name
    models = context.settings.models
    if name not in models and not context.is_broken("models", name):
        path = ("signals", "difficulty", "between", side)
        context.wrong(path, f'there is no model or deployment "{name}"{one_of(name, context.names("models", models))}')
    return ""
