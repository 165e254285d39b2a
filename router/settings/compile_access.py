"""Budgets, teams and keys."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import Any, Final

from router.domain.budgets import Budget, Condition
from router.settings.compile_context import Context
from router.settings.compile_limits import guards_of
from router.settings.compile_scopes import Pairs, scope_of
from router.settings.findings import Path, one_of
from router.settings.model import ServerSection
from router.settings.model_access import KeySettings
from router.settings.model_budgets import SpendLimit
from router.settings.units import ROLLING
from router.snapshot import KeyEntry, Team

MIN_SECRET_CHARACTERS: Final = 16
"""Shorter keys can be guessed."""


def compile_teams(context: Context, askable: Collection[str]) -> dict[str, Team]:
    """All teams."""
    teams: dict[str, Team] = {}
    for name, given in context.settings.teams.items():
        models = _allowed(context, ("teams", name, "models"), given.models, askable)
        teams[name] = Team(
            name=name,
            org=given.org or "",
            models=models,
            tags=dict(given.tags),
            guards=guards_of(given, f"team '{name}'"),
            max_cost_nusd=given.max_cost,
        )
    return teams


def compile_keys(context: Context, askable: Collection[str]) -> dict[str, KeyEntry]:
    """All keys by id."""
    keys: dict[str, KeyEntry] = {}
    digests: dict[bytes, str] = {}
    teams = context.settings.teams
    for name, given in context.settings.keys.items():
        path: Path = ("keys", name)
        if given.team is not None and given.team not in teams and not context.is_broken("teams", given.team):
            context.wrong((*path, "team"), f'there is no team "{given.team}"{one_of(given.team, context.names("teams", teams))}')
        key_id = given.id or name
        if key_id in keys:
            context.wrong((*path, "id"), f'"{key_id}" is also the id of key "{keys[key_id].name}"')
        digest = _digest(context, path, given)
        hashed = None if given.secret_hash is None else given.secret_hash.reveal().lower()
        told = digest if hashed is None else bytes.fromhex(hashed)
        if told is not None and digests.setdefault(told, name) != name:
            field = "secret" if hashed is None else "secret_hash"
            context.wrong((*path, field), f'is the same secret as that of key "{digests[told]}"')
        models = _allowed(context, (*path, "models"), given.models, askable)
        keys[key_id] = _entry(name, key_id, given, digest, models)
    return keys


def _entry(name: str, key_id: str, given: KeySettings, digest: bytes | None, models: frozenset[str] | None) -> KeyEntry:
    return KeyEntry(
        key_id=key_id,
        name=name,
        team=given.team or "",
        secret_hmac=None if given.secret_hash is None else given.secret_hash.reveal().lower(),
        secret_digest=digest,
        models=models,
        tags=dict(given.tags),
        expires_ms=None if given.expires is None else int(given.expires.timestamp() * 1000),
        guards=guards_of(given, f"key '{name}'"),
        max_cost_nusd=given.max_cost,
    )


def _digest(context: Context, path: Path, given: KeySettings) -> bytes | None:
    if given.secret is None:
        return None
    secret = given.secret.reveal()
    if not secret.isascii() or not secret.isprintable() or " " in secret:
        context.wrong((*path, "secret"), "holds characters that a header cannot carry (the value is not shown)")
        return None
    if len(secret) < MIN_SECRET_CHARACTERS:
        context.doubtful((*path, "secret"), f"is shorter than {MIN_SECRET_CHARACTERS} characters and can be guessed")
    return hashlib.sha256(secret.encode()).digest()


def _allowed(context: Context, path: Path, names: tuple[str, ...] | None, askable: Collection[str]) -> frozenset[str] | None:
    if names is None:
        return None
    for index, name in enumerate(names):
        if name not in askable and not context.is_broken("routes", name) and not context.is_broken("models", name):
            known = [known for known in askable if "/" not in known]
            context.wrong((*path, index), f'there is no route or model "{name}"{one_of(name, known)}')
    return frozenset(names)


def compile_budgets(context: Context, askable: Collection[str]) -> tuple[Budget, ...]:
    """All budgets: those of their own, then those of teams and keys."""
    settings = context.settings
    server = settings.server
    budgets = []
    for name, given in settings.budgets.items():
        when, condition = scope_of(context, name, given, askable)
        budgets.append(_budget(name, given, when, server, condition))
    for name, given in settings.budgets.items():
        if given.shared and not server.shared_store:
            context.wrong(("budgets", name, "shared"), "needs server.shared_store, where ledgers agree on their shares")
    for name, team in settings.teams.items():
        if team.budget is not None:
            budgets.append(_budget(f"team/{name}", team.budget, (("team", frozenset({name})),), server))
    for name, key in settings.keys.items():
        if key.budget is not None:
            budgets.append(_budget(f"key/{name}", key.budget, (("key", frozenset({key.id or name})),), server))
    return tuple(budgets)


def _budget(name: str, given: SpendLimit, when: Pairs, server: ServerSection, condition: Condition | None = None) -> Budget:
    window: Any = given.resolved_window
    per_session = window == "session"
    rolling_ms = 0
    if per_session:
        window = "lifetime"
    elif window.startswith(ROLLING):
        window, rolling_ms = "rolling", int(window.removeprefix(ROLLING)) * 1000
    each = given.each
    return Budget(
        name=name,
        limit_nusd=given.limit.nusd,
        window=window,
        unit=given.limit.unit,
        rolling_ms=rolling_ms,
        timezone=given.timezone,
        each="session" if per_session else each[0] if each and len(each) == 1 else each,
        hard=given.mode != "soft",
        shadow=given.mode == "shadow",
        carry_ppm=round(given.carry_over * 1_000_000),
        max_scopes=given.max_scopes,
        beyond=given.over_max_scopes,
        when=when,
        condition=condition,
        strict=given.strict,
        on_short=given.on_short or server.on_short,
        when_down=given.when_store_is_down or server.when_store_is_down,
        # Of its share: that it is nearly used up says nothing, more is fetched.
        alert_at=() if getattr(given, "shared", False) else given.at,
        shared=getattr(given, "shared", False),
        steps=getattr(given.at, "steps", ()),
        owner=given.owner,
    )
