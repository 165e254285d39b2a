"""Keys of clients in the ledger: minted, rotated and revoked, each change audited and known to every worker within a second."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Final

import msgspec

from policies.types import NOTHING
from router.controls import ControlError, Desk, find_budget
from router.domain import keys
from router.errors import INVALID_REQUEST, NOT_FOUND, RouterError
from router.inputs import parse_amount
from router.known import unknown
from router.ports import KeyStore, StoredKey
from router.snapshot import Snapshot

REVOKED: Final = "key.revoke"
"""What the audit log calls it."""
MAX_OVERLAP_SECONDS: Final = 90 * 86_400
_TRIES: Final = 5
_SKEW_MS: Final = 3_600_000
"""By how much the store's clock may be behind ours."""


class Keyring:
    """Changes keys for one person."""

    def __init__(self, store: KeyStore, desk: Desk) -> None:
        self._store = store
        self._desk = desk

    async def mint(
        self,
        *,
        name: str,
        team: str = "",
        models: Sequence[str] = (),
        tags: Mapping[str, str],
        expires_ms: int | None = None,
        limits: Mapping[str, str] = NOTHING,
        now_ms: int,
        reason: str = "",
    ) -> tuple[StoredKey, str]:
        """Make a key. Returns it, and what its client sends: only a hash of that is kept.

        `limits`: amounts by the name of a budget or rate limit that is split by key: in force before the key is.

        Raises:
            RouterError: 400 for a limit that cannot be set; there is no key then.
            ControlError: there is no such budget, or there are too many changes of limits.
            StoreUnavailable: the store does not answer.
        """
        amounts = await self._amounts(limits)
        minted = keys.mint(secrets.token_bytes(keys.RANDOM_BYTES))
        try:
            for budget, amount in amounts.items():
                await self._desk.change_limit(budget, "set", amount, scope=f"key={minted.key_id}", reason=reason or f"of key {name}")
        except ControlError:
            await self._drop_limits(minted.key_id)
            raise
        key = StoredKey(
            key_id=minted.key_id,
            secret_hmac=keys.digest(await self._store.pepper(), minted.text),
            name=name,
            team=team,
            models=list(models),
            tags=dict(tags),
            created_ms=now_ms,
            expires_ms=expires_ms,
        )
        await self._store.put_key(key)
        await self._desk.keys_changed("key.mint", key.key_id, after=f"{name} of team {team}" if team else name, reason=reason)
        return key, minted.text

    async def _amounts(self, limits: Mapping[str, str]) -> dict[str, int]:
        state = await self._desk.state()
        amounts = {}
        for name, text in limits.items():
            full, base = find_budget(state, name)
            if base.each != ("key",):
                split = ", ".join(known for known, each in state.base.items() if each.each == ("key",)) or "none"
                raise RouterError(INVALID_REQUEST, f"'{name}' is not split by key; those that are: {split}.", param="limits")
            try:
                amounts[full] = parse_amount(text, base.unit)
            except (ValueError, OverflowError) as error:
                raise RouterError(INVALID_REQUEST, f"limits.{name}: {error}", param="limits") from None
        return amounts

    async def _drop_limits(self, key_id: str) -> None:
        """A key that is refused for good needs no limits: there is room for so many."""
        for budget in {control.target for control in (await self._desk.state()).of_kind("limit") if control.scope == f"key={key_id}"}:
            with suppress(ControlError):
                await self._desk.reset_limit(budget, scope=f"key={key_id}", reason=f"key {key_id} was revoked")

    async def rotate(self, key_id: str, *, overlap_seconds: float, now_ms: int, reason: str = "") -> tuple[StoredKey, str]:
        """Give a key another secret. The one before is accepted for the overlap, the one before that no more.

        Raises:
            RouterError: 404, or 400 if it is revoked.
            StoreUnavailable: the store does not answer.
        """
        key = await self.find(key_id)
        if key.revoked_ms is not None:
            raise _is_revoked(key_id)
        minted = keys.mint(secrets.token_bytes(keys.RANDOM_BYTES), key_id=key_id)
        rotated = msgspec.structs.replace(
            key,
            secret_hmac=keys.digest(await self._store.pepper(), minted.text),
            previous_hmac=key.secret_hmac if overlap_seconds else "",
            previous_until_ms=now_ms + round(overlap_seconds * 1000) if overlap_seconds else 0,
        )
        await self._store.put_key(rotated)
        await self._desk.keys_changed("key.rotate", key_id, after=f"the secret before is good for {overlap_seconds:.0f} s", reason=reason)
        # Whoever revoked it in the same moment may have found it revoked, and gone, before it was written back here.
        if await self._desk.has_noted(REVOKED, key_id, since_ms=max(0, now_ms - _SKEW_MS)):
            await self.revoke(key_id, now_ms=now_ms, reason="revoked while it was rotated")
            raise _is_revoked(key_id)
        return rotated, minted.text

    async def revoke(self, key_id: str, *, now_ms: int, reason: str = "") -> StoredKey:
        """Refuse a key from now on, for good.

        Raises:
            RouterError: 404.
            StoreUnavailable: the store does not answer, or others change the key all the time.
        """
        key = await self.find(key_id)
        if key.revoked_ms is not None and await self._desk.has_noted(REVOKED, key_id, since_ms=max(0, key.revoked_ms - _SKEW_MS)):
            return key
        # Also one that is revoked in the store, if nobody was told: whoever did it was stopped in the middle.
        for _ in range(_TRIES):
            key = msgspec.structs.replace(key, revoked_ms=key.revoked_ms or now_ms, previous_hmac="", previous_until_ms=0)
            await self._store.put_key(key)
            await self._desk.keys_changed(REVOKED, key_id, before="active", after="revoked", reason=reason)
            # Whoever rotated it in the same moment may have written it back.
            key = await self.find(key_id)
            if key.revoked_ms is not None:
                break
        await self._drop_limits(key_id)
        return key

    async def find(self, key_id: str) -> StoredKey:
        """The key.

        Raises:
            RouterError: 404.
        """
        found = await self._store.get_key(key_id) if len(key_id) == keys.ID_LENGTH else None
        if found is None:
            # What is too long for an id may be a secret: it is not repeated.
            shown = f"'{key_id}'" if len(key_id) <= keys.ID_LENGTH else "of this id"
            raise RouterError(NOT_FOUND, f"There is no key {shown} in the ledger. Those of the configuration are changed there.")
        return found


def _is_revoked(key_id: str) -> RouterError:
    return RouterError(INVALID_REQUEST, f"Key '{key_id}' is revoked, for good; mint another one.")


def check_names(snapshot: Snapshot, team: str, models: Sequence[str]) -> None:
    """Refuse a team or model that the configuration does not have: the key would never work, or escape its team's limits.

    Raises:
        RouterError: 400.
    """
    if team and team not in snapshot.teams:
        raise RouterError(INVALID_REQUEST, _none("team", team, snapshot.teams), param="team")
    for name in models:
        if name not in snapshot.routes:
            known = [route for route in snapshot.routes if "/" not in route]
            raise RouterError(INVALID_REQUEST, _none("route or model", name, known), param="models")


def _none(what: str, name: str, known: Iterable[str]) -> str:
    said = unknown(what, name, known)
    return f"{said[0].upper()}{said[1:]}{'' if said.endswith('?') else '.'}"
