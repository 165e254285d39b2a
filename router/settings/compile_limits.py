"""Rate limits as budgets in other units, and the guards on single requests."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Final

from router.domain.budgets import Budget, Unit
from router.domain.runaway import RunawayRules
from router.settings.compile_context import Context
from router.settings.model_limits import GuardFields, RateFields
from router.snapshot import Deployment, Guards, Route

MINUTE_MS: Final = 60_000
_WINDOWS: Final[Mapping[str, tuple[Unit, dict[str, Any]]]] = {
    "rpm": ("requests", {"window": "rolling", "rolling_ms": MINUTE_MS}),
    "rpd": ("requests", {"window": "day"}),
    "tpm": ("tokens", {"window": "rolling", "rolling_ms": MINUTE_MS}),
    "tpd": ("tokens", {"window": "day"}),
    "concurrent": ("concurrent", {"window": "lifetime"}),
}
_When = tuple[tuple[str, frozenset[str]], ...]


def compile_limits(context: Context, deployments: Mapping[str, Deployment]) -> tuple[Budget, ...]:
    """All rate limits, the widest first."""
    return tuple(_limits(context, deployments))


def _limits(context: Context, deployments: Mapping[str, Deployment]) -> Iterator[Budget]:
    settings = context.settings
    for dimension in ("team", "key", "user", "session"):
        yield from _of(getattr(settings.limits, f"each_{dimension}"), f"each_{dimension}", each=dimension)
    for name, team in settings.teams.items():
        own: _When = (("team", frozenset({name})),)
        yield from _of(team, f"team:{name}", when=own)
        yield from _of(team.users, f"team:{name}:users", when=own, each="user")
    for name, key in settings.keys.items():
        own = (("key", frozenset({key.id or name})),)
        yield from _of(key, f"key:{name}", when=own)
        yield from _of(key.users, f"key:{name}:users", when=own, each="user")
    for model, given in settings.models.items():
        for item in given.at:
            if item.deployment in deployments and deployments[item.deployment].model == model:
                yield from _of(item, f"deployment:{item.deployment}", when=(("deployment", frozenset({item.deployment})),), other=given)


def _of(given: RateFields, name: str, *, when: _When = (), each: str | None = None, other: RateFields | None = None) -> Iterator[Budget]:
    """A budget for each limit that is given; `other` holds where nothing is."""
    for word, (unit, window) in _WINDOWS.items():
        limit = getattr(given, word)
        if limit is None and other is not None:
            limit = getattr(other, word)
        if limit is not None:
            yield Budget(name=f"{name}:{word}", limit_nusd=limit, unit=unit, each=each, when=when, alert_at=(), **window)


def guards_of(given: GuardFields, whose: str) -> Guards | None:
    """What a part of the configuration allows a request; None if it says nothing."""
    made = Guards(
        whose=whose,
        max_tokens=given.max_tokens,
        clamp=given.max_tokens is not None and given.over_max_tokens == "clamp",
        max_n=given.max_n,
        max_images=given.max_images,
        max_audio_seconds=given.max_audio_seconds,
        max_input_tokens=given.max_input_tokens,
        max_tools=given.max_tools,
        max_attempts=given.max_attempts,
    )
    return None if made == Guards(whose=whose) else made


def compile_runaway(context: Context) -> RunawayRules | None:
    """What is taken for a session that runs away."""
    given = context.settings.guards.runaway
    if given is None:
        return None
    return RunawayRules(
        spend_nusd_per_minute=given.spend_per_minute,
        same_prompt=given.same_prompt,
        same_tool_call=given.same_tool_call,
        then=given.then,
        within_ms=round(given.within * 1000),
        delay_seconds=given.delay,
        max_sessions=given.max_sessions,
    )


def with_guards(context: Context, routes: Mapping[str, Route]) -> dict[str, Route]:
    """The routes with what holds for all requests, and with what each says itself."""
    settings = context.settings
    for_all = guards_of(settings.guards, "this service")
    most = settings.guards.max_cost
    found: dict[str, Route] = {}
    for name, route in routes.items():
        given = None if route.aliases_model else settings.routes.get(name)
        own = None if given is None else guards_of(given, f"route '{name}'")
        guards = tuple(each for each in (for_all, own) if each is not None)
        cost = min((limit for limit in (most, route.max_cost_nusd) if limit is not None), default=None)
        unchanged = not guards and cost == route.max_cost_nusd
        found[name] = route if unchanged else dataclasses.replace(route, guards=guards, max_cost_nusd=cost)
    return found
