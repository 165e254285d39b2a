"""Classes of private requests, put into the policy of everything that can be asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from policies.engine import PrivateClass
from router.adapters.upstream.presets import PRESETS
from router.settings.compile_conditions import condition, watch_of
from router.settings.compile_context import Context
from router.settings.findings import Path
from router.settings.select import select
from router.snapshot import Deployment, Route


def with_privacy(context: Context, routes: dict[str, Route], deployments: Mapping[str, Deployment]) -> dict[str, Route]:
    """The routes, each of which keeps private requests where they may be."""
    headers: frozenset[str] = frozenset()
    reads: frozenset[str] = frozenset()
    classes: list[PrivateClass] = []
    for name, given in context.settings.privacy.items():
        path: Path = ("privacy", name)
        allowed = select(context, (*path, "only"), given.only, deployments, may_be_empty=True)
        matcher = condition(context, (*path, "when"), given.when)
        _doubt(context, (*path, "only"), [deployments[each] for each in allowed])
        if matcher is not None:
            headers, reads = headers | matcher.headers, reads | matcher.reads
            classes.append(PrivateClass(name=name, matches=matcher.matches, allowed=frozenset(allowed), describe=matcher.describe))
    if not classes:
        return routes
    return {name: _confined(context, route, tuple(classes), headers, reads, deployments) for name, route in routes.items()}


def _doubt(context: Context, path: Path, allowed: list[Deployment]) -> None:
    """Point out what is called local by its model, and served by somebody else."""
    for deployment in allowed:
        preset = PRESETS.get(deployment.provider.kind)
        if preset is not None and preset.locality == "cloud" and deployment.traits.locality in ("local", "edge"):
            context.doubtful(
                path,
                f"{deployment.name} counts as {deployment.traits.locality}, but its provider is {deployment.provider.kind}, in the cloud",
            )


def _confined(
    context: Context,
    route: Route,
    classes: tuple[PrivateClass, ...],
    headers: frozenset[str],
    reads: frozenset[str],
    deployments: Mapping[str, Deployment],
) -> Route:
    given = context.settings.routes.get(route.name)
    for one in classes:
        if given is not None and route.deployments and one.allowed.isdisjoint(route.deployments):
            context.doubtful(("routes", route.name), f'leads to no model that may see "{one.name}" requests: they are refused', at_key=True)
    own = frozenset().union(*(rule.reads for rule in route.policy.rules))
    return replace(
        route,
        policy=replace(route.policy, privacy=classes),
        headers_read=route.headers_read | headers,
        watch=watch_of(own | reads, "UTC" if given is None else given.timezone, deployments),
    )
