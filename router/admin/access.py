"""Keys of clients: list, mint, rotate, revoke."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Final, Literal

from fastapi import Query, Request

from router.admin.roles import ADMIN, VIEWER, Endpoint
from router.admin.shapes import KeyCard, KeyGiven, Keys, MintedKey, ReasonGiven, RotateGiven
from router.admin.words import amount, moment_or_none, wrong
from router.domain.controls import ControlState, limit_in_force
from router.errors import NOT_FOUND, RouterError
from router.inputs import parse_expiry
from router.keyring import MAX_OVERLAP_SECONDS, Keyring, check_names
from router.ports import StoredKey
from router.settings.units import parse_duration
from router.snapshot import KeyEntry

MOST_LISTED: Final = 1000
_KEY: Final = "key="

Most = Annotated[int, Query(ge=1, le=MOST_LISTED, description="Most keys to show.")]
Cursor = Annotated[str, Query(max_length=64, description="`next` of the answer before.")]


def add(endpoint: Endpoint) -> None:
    """Add the endpoints."""
    _add_reads(endpoint)
    _add_changes(endpoint)


def _add_reads(endpoint: Endpoint) -> None:
    service = endpoint.office.service

    def card(key: StoredKey) -> KeyCard:
        return _of_stored(key, own_limits(service.controls.state), _now_ms())

    @endpoint.get("/keys", VIEWER)
    async def keys(limit: Most = 100, cursor: Cursor = "", team: Annotated[str | None, Query(max_length=64)] = None) -> Keys:
        """Keys of the configuration and minted ones, by id. Secrets are not there."""
        now_ms = _now_ms()
        configured = {entry.key_id: entry for entry in service.snapshot.keys.values()}
        limits = own_limits(service.controls.state)
        cards = [_of_entry(entry, limits, now_ms) for entry in configured.values()]
        cards += [_of_stored(key, limits, now_ms) for key in await service.ledger.list_keys() if key.key_id not in configured]
        found = sorted((card for card in cards if card.id > cursor and team in (None, card.team)), key=lambda card: card.id)
        return Keys(data=found[:limit], next=found[limit - 1].id if len(found) > limit else None)

    @endpoint.get("/keys/{key_id}", VIEWER)
    async def key(key_id: str) -> KeyCard:
        """One key, by its id."""
        entry = service.snapshot.keys.get(key_id)
        if entry is not None:
            return _of_entry(entry, own_limits(service.controls.state), _now_ms())
        return card(await Keyring(service.ledger, endpoint.office.desk("")).find(key_id))


def _add_changes(endpoint: Endpoint) -> None:
    service = endpoint.office.service

    def keyring(request: Request) -> Keyring:
        return Keyring(service.ledger, endpoint.desk(request))

    def card(key: StoredKey) -> KeyCard:
        return _of_stored(key, own_limits(service.controls.state), _now_ms())

    @endpoint.post("/keys", ADMIN, status_code=201)
    async def mint(request: Request, given: KeyGiven) -> MintedKey:
        """Make a key. It is shown this once; every worker knows it within a second."""
        check_names(service.snapshot, given.team, given.models)
        made, text = await keyring(request).mint(
            name=given.name,
            team=given.team,
            models=given.models,
            tags=given.tags,
            expires_ms=_expiry(given.expires),
            limits=given.limits,
            now_ms=_now_ms(),
            reason=given.reason,
        )
        await service.controls.poll()
        return MintedKey(key=text, card=card(made))

    @endpoint.post("/keys/{key_id}/rotate", ADMIN)
    async def rotate(request: Request, key_id: str, given: RotateGiven) -> MintedKey:
        """Give a minted key another secret: id, limits and what was spent stay. The secret before is good for the overlap."""
        _only_minted(service.snapshot.keys.get(key_id))
        made, text = await keyring(request).rotate(key_id, overlap_seconds=_overlap(given.overlap), now_ms=_now_ms(), reason=given.reason)
        await service.controls.poll()
        return MintedKey(key=text, card=card(made))

    @endpoint.post("/keys/{key_id}/revoke", ADMIN)
    async def revoke(request: Request, key_id: str, given: ReasonGiven) -> KeyCard:
        """Refuse a minted key, for good: all workers of all replicas know within a second."""
        _only_minted(service.snapshot.keys.get(key_id))
        revoked = await keyring(request).revoke(key_id, now_ms=_now_ms(), reason=given.reason)
        await service.controls.poll()
        return card(revoked)


def _only_minted(entry: KeyEntry | None) -> None:
    if entry is not None:
        raise RouterError(NOT_FOUND, f"Key '{entry.name}' stands in the configuration: change it there, or freeze `key={entry.name}`.")


def _expiry(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return parse_expiry(text, now=datetime.now(UTC))
    except (ValueError, OverflowError) as error:
        raise wrong("expires", error) from None


def _overlap(text: str) -> float:
    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise wrong("overlap", error) from None
    if not 0 <= seconds <= MAX_OVERLAP_SECONDS:
        raise wrong("overlap", ValueError(f"must be from 0s to {MAX_OVERLAP_SECONDS // 86_400}d"))
    return seconds


def _state(revoked_ms: int | None, expires_ms: int | None, now_ms: int) -> Literal["active", "expired", "revoked"]:
    if revoked_ms is not None:
        return "revoked"
    return "expired" if expires_ms is not None and expires_ms <= now_ms else "active"


Limits = Mapping[str, dict[str, str]]


def own_limits(state: ControlState) -> Limits:
    """What people set for single keys: by key id, then by budget, in the budget's unit."""
    found: dict[str, dict[str, str]] = {}
    for control in state.of_kind("limit"):
        if control.scope.startswith(_KEY) and "&" not in control.scope and control.target in state.base:
            limit = limit_in_force(state, control.target, control.scope)
            found.setdefault(control.scope[len(_KEY) :], {})[control.target] = amount(limit, state.base[control.target].unit)
    return found


def _of_stored(key: StoredKey, limits: Limits, now_ms: int) -> KeyCard:
    return KeyCard(
        id=key.key_id,
        name=key.name,
        team=key.team,
        models=list(key.models) or None,
        tags=key.tags,
        state=_state(key.revoked_ms, key.expires_ms, now_ms),
        source="minted",
        created_at=moment_or_none(key.created_ms or None),
        expires_at=moment_or_none(key.expires_ms),
        revoked_at=moment_or_none(key.revoked_ms),
        limits=limits.get(key.key_id, {}),
        previous_secret_until=moment_or_none(key.previous_until_ms) if key.previous_until_ms > now_ms else None,
    )


def _of_entry(entry: KeyEntry, limits: Limits, now_ms: int) -> KeyCard:
    return KeyCard(
        id=entry.key_id,
        name=entry.name,
        team=entry.team,
        models=None if entry.models is None else sorted(entry.models),
        tags=dict(entry.tags),
        state=_state(None, entry.expires_ms, now_ms),
        source="configuration",
        created_at=None,
        expires_at=moment_or_none(entry.expires_ms),
        revoked_at=None,
        limits=limits.get(entry.key_id, {}),
        previous_secret_until=None,
    )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
