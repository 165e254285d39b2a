"""From validated settings to the snapshot that the hot path looks things up in."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from router.domain.budgets import Budget
from router.domain.prices import Price
from router.domain.store_address import read_store, redis_problem
from router.settings import env
from router.settings.compile_access import compile_budgets, compile_keys, compile_teams
from router.settings.compile_admin import compile_admins
from router.settings.compile_alerts import compile_alerts
from router.settings.compile_context import Context, PriceLookup
from router.settings.compile_experiments import guests_of
from router.settings.compile_limits import compile_limits, compile_runaway, with_guards
from router.settings.compile_models import compile_models, price_of
from router.settings.compile_privacy import with_privacy
from router.settings.compile_providers import compile_providers
from router.settings.compile_routes import compile_routes
from router.settings.compile_signals import compile_signals
from router.settings.findings import Finding, InvalidSettings, described, one_of
from router.settings.lint import lint
from router.settings.model import Settings
from router.snapshot import Deployment, KeepPrompts, Route, ServerSettings, Snapshot

VERSION_DIGITS: Final = 12


def compile_settings(
    settings: Settings,
    *,
    price_book: PriceLookup,
    source: str,
    environ: Mapping[str, str] = os.environ,
    broken: Mapping[str, frozenset[str]] | None = None,
    show: Callable[[Finding], str] = described,
    folder: Path | None = None,
) -> Snapshot:
    """Resolve names, presets, prices and classes.

    Args:
        settings: validated.
        price_book: (provider kind, model id) -> what is known of the model, or None.
        source: file name, or a word such as `discovered`.
        environ: where keys of presets and the address of the store come from.
        broken: section -> names of entries that stand in the file but could not be validated.
        show: writes a warning; the default has no line numbers.
        folder: of the file; a relative path of the store begins there. None: where the process was started.

    Raises:
        InvalidSettings: names that do not exist, keys that are missing, contradictions; all at once.
    """
    context = Context(settings=settings, environ=environ, price_book=price_book, broken=broken or {}, guests=guests_of(settings))
    providers = compile_providers(context)
    deployments = compile_models(context, providers)
    routes = with_guards(context, with_privacy(context, compile_routes(context, deployments), deployments))
    # A deployment whose provider has an error is no route, but the names of models and deployments stay known.
    askable = {*routes, *settings.routes, *settings.models, *(item.deployment for model in settings.models.values() for item in model.at)}
    teams = compile_teams(context, askable)
    keys = compile_keys(context, askable)
    budgets = compile_budgets(context, askable)
    store = _store(context, folder)
    server = _server(context, deployments, store, _shared_store(context, folder, store))
    admins = compile_admins(context, keys.values())
    receivers, alerts = compile_alerts(context)
    signals = compile_signals(context, deployments, folder)
    if context.findings:
        raise InvalidSettings(context.findings)
    snapshot = Snapshot(
        version=_version(settings, deployments),
        source=source,
        server=server,
        providers=providers,
        deployments=deployments,
        routes=routes,
        budgets=_watched(budgets, routes),
        limits=compile_limits(context, deployments),
        runaway=compile_runaway(context),
        teams=teams,
        keys=keys,
        admins=admins,
        signals=signals,
        receivers=receivers,
        alerts=alerts,
    )
    warnings = (*context.warnings, *lint(settings, snapshot))
    return _with_warnings(snapshot, tuple(show(finding) for finding in warnings))


def _watched(budgets: tuple[Budget, ...], routes: Mapping[str, Route]) -> tuple[Budget, ...]:
    """The budgets, with a mark if rules read how full they are."""
    watches = [route.watch for route in routes.values() if route.watch is not None]
    if not any(watch.budgets or any(figure.section == "budget" for figure in watch.figures) for watch in watches):
        return budgets
    return tuple(dataclasses.replace(budget, watched=True) for budget in budgets)


def _with_warnings(snapshot: Snapshot, warnings: tuple[str, ...]) -> Snapshot:
    return dataclasses.replace(snapshot, warnings=warnings)


def _version(settings: Settings, deployments: Mapping[str, Deployment]) -> str:
    """A hash that changes with anything that decides or charges; secrets are in it by reference only."""
    digest = hashlib.sha256(settings.model_dump_json().encode())
    for deployment in deployments.values():
        digest.update(
            b"\n" + msgspec.json.encode((deployment.name, deployment.prices or deployment.price, deployment.traits), order="deterministic")
        )
    return digest.hexdigest()[:VERSION_DIGITS]


def _store(context: Context, folder: Path | None) -> str:
    """The address of the ledger: the file's own, else the environment's; empty: the default."""
    given, redis, path = context.settings.server.store, context.environ.get(env.REDIS_URL), context.environ.get(env.STORE)
    try:
        if given:
            file = read_store(given)
            return given if file is None or folder is None else os.path.abspath(folder / file)
        if redis:
            if problem := redis_problem(redis):
                context.wrong(("server", "store"), f"{env.REDIS_URL}: {problem}")
            return redis
        if path:
            read_store(path)
    except ValueError as exc:
        context.wrong(("server", "store"), f"{'' if given else f'{env.STORE}: '}{exc}")
    return given or path or ""


def _shared_store(context: Context, folder: Path | None, store: str) -> str:
    """The address where ledgers agree on their shares; empty: nowhere."""
    given = context.settings.server
    if bool(given.shared_store) != bool(given.ledger):
        there, missing = ("ledger", "shared_store") if given.ledger else ("shared_store", "ledger")
        context.wrong(("server", there), f"needs server.{missing}, too", at_key=True)
    if not given.shared_store:
        return ""
    try:
        file = read_store(given.shared_store)
    except ValueError as exc:
        context.wrong(("server", "shared_store"), str(exc))
        return ""
    if file is None:
        return given.shared_store
    path = os.path.abspath(file if folder is None else folder / file)
    if path == store:
        context.wrong(("server", "shared_store"), "is the file of server.store; shares need a file of their own")
    return path


def _server(context: Context, deployments: Mapping[str, Deployment], store: str, shared_store: str) -> ServerSettings:
    given = context.settings.server
    assumed: Price | None = None
    if given.assumed_price is not None:
        assumed = _renamed(price_of(given.assumed_price))
    if given.unpriced == "assume" and assumed is None:
        context.wrong(("server", "unpriced"), "needs assumed_price, the price to count such deployments at")
    if given.drain_delay > given.drain:
        context.wrong(("server", "drain_delay"), "must not be longer than drain, which ends the service")
    if given.unpriced != "assume" and assumed is not None:
        context.wrong(("server", "assumed_price"), "is used with unpriced: assume only", at_key=True)
    return ServerSettings(
        host=given.host,
        port=given.port,
        workers=given.workers,
        store=store,
        shared_store=shared_store,
        ledger=given.ledger or "",
        lease_seconds=given.lease,
        store_timeout_seconds=given.store_timeout,
        when_store_is_down=given.when_store_is_down,
        lease_ppm=round(given.lease_share * 1_000_000),
        open_up_to_nusd=given.open_up_to,
        keep_log_seconds=given.keep_log,
        keep_log_for=given.keep_log_for,
        drain_seconds=given.drain,
        drain_delay_seconds=given.drain_delay,
        max_body_bytes=given.max_body,
        max_header_bytes=given.max_header,
        max_connections=given.max_connections,
        unpriced=given.unpriced,
        assumed_price=assumed,
        slice_tokens=given.slice_tokens,
        strict=given.strict,
        learn_lengths=given.learn_lengths,
        least_output_tokens=given.least_output,
        short_wait_seconds=given.short_wait,
        on_missing_usage=given.on_missing_usage,
        allow_anonymous=given.allow_anonymous,
        log_requests=given.log_requests,
        record_decisions=given.record_decisions,
        keep_prompts=None if (kept := given.keep_prompts) is None else KeepPrompts(file=kept.file, share=kept.share, most_bytes=kept.most),
        baseline=_baseline(context, deployments),
        admin_host=given.admin.host,
        admin_port=given.admin.port,
        budget_status=given.compat.budget_status,
    )


def _renamed(price: Price) -> Price:
    changes: dict[str, Any] = {"source": "assumed"}
    return msgspec.structs.replace(price, **changes)


def _baseline(context: Context, deployments: Mapping[str, Deployment]) -> str | None:
    """The deployment of the baseline: itself, or the first of a model."""
    name = context.settings.server.baseline
    if name is None or name in deployments:
        return name
    for deployment in deployments.values():
        if deployment.model == name:
            return deployment.name
    models = context.settings.models
    if name not in models and not context.is_broken("models", name):
        context.wrong(("server", "baseline"), f'there is no model or deployment "{name}"{one_of(name, context.names("models", models))}')
    return None
