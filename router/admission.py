"""Admission: from a credential to a principal. 401 before anything else is looked at."""

from __future__ import annotations

import hashlib
import hmac
from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final

from policies.types import NOTHING
from router.call import Principal
from router.domain import keys
from router.edge.headers import API_KEY, AUTHORIZATION, GOOGLE_API_KEY, Headers
from router.errors import DRAINING, INVALID_API_KEY, KEY_EXPIRED, RouterError
from router.ports import KeyStore, StoredKey
from router.snapshot import KeyEntry, Snapshot, Team

KNOWN_SECONDS: Final = 10.0
"""How long a minted key is believed without asking the store: a revocation holds everywhere after that."""
UNKNOWN_SECONDS: Final = 5.0
MOST_KNOWN: Final = 100_000
MOST_SEEN: Final = 10_000
MOST_UNKNOWN: Final = 10_000
MAX_KEY_BYTES: Final = 512


class Admission:
    """Knows the keys of the configuration and asks the store for minted ones."""

    def __init__(self, snapshot: Snapshot, store: KeyStore, *, pepper: bytes, clock: Callable[[], float]) -> None:
        """`clock` gives Unix seconds."""
        self._store = store
        self._pepper = pepper
        self._clock = clock
        self._snapshot = snapshot
        self._by_digest = {entry.secret_digest: entry for entry in snapshot.keys.values() if entry.secret_digest is not None}
        self._by_hmac = {entry.secret_hmac: entry for entry in snapshot.keys.values() if entry.secret_hmac is not None}
        self._known: OrderedDict[bytes, tuple[Principal, float]] = OrderedDict()
        self._unknown: OrderedDict[bytes, float] = OrderedDict()
        self._heard = 0
        """How often what was heard of minted keys was forgotten: an answer from before is not to be believed any longer."""
        self._required = bool(snapshot.keys)
        self._seen: dict[bytes, tuple[Principal, float]] = {}
        """Principals by the whole header, as long as `_known` believes them and they have not expired. In memory only."""

    @property
    def required(self) -> bool:
        """Whether a key is needed: as soon as one exists, in the configuration or minted."""
        return self._required

    async def refresh(self) -> None:
        """Look whether keys were minted. To be called at start and every few seconds."""
        if not self._required:
            # A revoked key counts: the door must not open because the last key was taken away, or the store emptied.
            self._required = bool(await self._store.list_keys())

    def forget(self) -> None:
        """Believe nothing that was heard of minted keys: one was made, changed or revoked. From now on, a key is needed."""
        self._heard += 1
        self._required = True
        self._known.clear()
        self._seen.clear()
        self._unknown.clear()

    def identify(self, headers: Headers) -> Principal | None:
        """The principal if it is known without asking the store, else None.

        Raises:
            RouterError: 401, if that much is certain already.
        """
        seen = self._seen.get(headers.get(AUTHORIZATION, b""))
        if seen is not None and seen[1] > self._clock():
            return seen[0]
        if not self._required:
            return _ANYONE
        credential = _credential(headers)
        if credential is None:
            raise _refused("No API key was sent. Send 'Authorization: Bearer <key>'.")
        digest = hashlib.sha256(credential).digest()
        now = self._clock()
        known = self._known.get(digest)
        if known is not None and known[1] > now:
            self._see(headers, known)
            return fresh(known[0], now)
        return self._look_up(credential, digest, now)

    def _look_up(self, credential: bytes, digest: bytes, now: float) -> Principal | None:
        """Among the keys of the configuration; None if only the store can know."""
        entry = self._by_digest.get(digest)
        if entry is not None and entry.secret_digest is not None and hmac.compare_digest(entry.secret_digest, digest):
            return self._remember(digest, principal_of_entry(entry, self._snapshot.teams), float("inf"), now)
        if len(credential) > MAX_KEY_BYTES or self._unknown.get(digest, 0.0) > now:
            raise _refused(_UNKNOWN_KEY)
        text = credential.decode("latin-1")
        parsed = keys.parse(text)
        if parsed is None:
            raise _refused(_UNKNOWN_KEY)
        given = keys.digest(self._pepper, text) if self._by_hmac else ""
        # Under a pepper that nobody outside has: how long the look-up takes says nothing of any hash.
        entry = self._by_hmac.get(given)
        if entry is not None and entry.secret_hmac is not None and hmac.compare_digest(entry.secret_hmac, given):
            return self._remember(digest, principal_of_entry(entry, self._snapshot.teams), float("inf"), now)
        entry = self._snapshot.keys.get(parsed[0])
        if entry is not None and entry.secret_hmac is not None:
            raise self._unknown_key(digest, now)
        return None

    async def admit(self, headers: Headers) -> Principal:
        """The principal.

        Raises:
            RouterError: 401 for a missing, unknown, revoked or expired key.
            StoreUnavailable: the key is minted and the store does not answer.
        """
        principal = self.identify(headers)
        if principal is not None:
            return principal
        credential = _credential(headers) or b""
        text = credential.decode("latin-1")
        parsed = keys.parse(text)
        heard = self._heard
        stored = None if parsed is None else await self._store.get_key(parsed[0])
        digest = hashlib.sha256(credential).digest()
        now = self._clock()
        given = keys.digest(self._pepper, text)
        # An unknown id is compared too, so that it takes as long as a wrong secret.
        matches = hmac.compare_digest(_NO_SECRET if stored is None else stored.secret_hmac, given)
        until = now + KNOWN_SECONDS if heard == self._heard else now
        if stored is not None and not matches and stored.previous_until_ms > now * 1000:
            # Rotated, and the secret before is still good.
            matches = hmac.compare_digest(stored.previous_hmac, given)
            until = min(until, stored.previous_until_ms / 1000)
        if stored is None or not matches or stored.revoked_ms is not None:
            raise self._unknown_key(digest, now)
        return self._remember(digest, _principal_of_stored(stored, self._snapshot.teams), until, now)

    def _see(self, headers: Headers, known: tuple[Principal, float]) -> None:
        """Spare the next request with the same header the hash. Only a key that proved good gets here."""
        value = headers.get(AUTHORIZATION)
        if value is not None:
            if len(self._seen) >= MOST_SEEN:
                self._seen.clear()
            principal, until = known
            expires_ms = principal.expires_ms
            self._seen[value] = (principal, until if expires_ms is None else min(until, expires_ms / 1000))

    def _remember(self, digest: bytes, principal: Principal, until: float, now: float) -> Principal:
        self._known[digest] = (principal, until)
        if len(self._known) > MOST_KNOWN:
            self._known.popitem(last=False)
        return fresh(principal, now)

    def _unknown_key(self, digest: bytes, now: float) -> RouterError:
        self._unknown[digest] = now + UNKNOWN_SECONDS
        if len(self._unknown) > MOST_UNKNOWN:
            self._unknown.popitem(last=False)
        return _refused(_UNKNOWN_KEY)


class Closed(Admission):
    """Lets nobody in any more: the service ends."""

    def __init__(self) -> None:
        """Needs neither keys nor a store."""

    def identify(self, headers: Headers) -> Principal | None:
        """Raises `RouterError`, 503."""
        raise RouterError(DRAINING, "The service is shutting down, it begins nothing more; send the request again.", retry_after_seconds=1)

    async def admit(self, headers: Headers) -> Principal:
        """Raises `RouterError`, 503."""
        return self.identify(headers) or _ANYONE


_ANYONE: Final = Principal()
_NO_SECRET: Final = "0" * 64
_UNKNOWN_KEY: Final = "The API key is not known here, or was revoked. Ask whoever runs this router for a key."


def _credential(headers: Headers) -> bytes | None:
    value = headers.get(AUTHORIZATION)
    if value is None:
        return headers.get(API_KEY) or headers.get(GOOGLE_API_KEY)
    scheme, _, credential = value.partition(b" ")
    credential = credential.strip()
    if scheme.lower() != b"bearer" or not credential:
        raise _refused("The Authorization header must be 'Bearer <key>'.")
    return credential


def _refused(message: str) -> RouterError:
    return RouterError(INVALID_API_KEY, message)


def fresh(principal: Principal, now: float) -> Principal:
    """The principal, if the key has not run out by `now`, Unix seconds.

    Raises:
        RouterError: 401, with the date.
    """
    if principal.expires_ms is not None and principal.expires_ms <= now * 1000:
        ended = f"{datetime.fromtimestamp(principal.expires_ms / 1000, UTC):%Y-%m-%d %H:%M} UTC"
        raise RouterError(KEY_EXPIRED, f"The API key '{principal.name}' expired on {ended}. Ask whoever runs this router for a new one.")
    return principal


def _allowed(own: frozenset[str] | None, team: Team | None) -> frozenset[str] | None:
    teams = None if team is None else team.models
    if own is None or teams is None:
        return own if teams is None else teams
    return own & teams


def _tags(team: Team | None, own: Mapping[str, str]) -> Mapping[str, str]:
    if team is None or not team.tags:
        return own or NOTHING
    return {**team.tags, **own}


def _least(*limits: int | None) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)


def principal_of_entry(entry: KeyEntry, teams: Mapping[str, Team]) -> Principal:
    """Who acts with a key of the configuration."""
    team = teams.get(entry.team)
    return Principal(
        key_id=entry.key_id,
        name=entry.name,
        team=entry.team,
        org="" if team is None else team.org,
        models=_allowed(entry.models, team),
        tags=_tags(team, entry.tags),
        expires_ms=entry.expires_ms,
        guards=tuple(guards for guards in (None if team is None else team.guards, entry.guards) if guards is not None),
        max_cost_nusd=_least(None if team is None else team.max_cost_nusd, entry.max_cost_nusd),
    )


def _principal_of_stored(stored: StoredKey, teams: Mapping[str, Team]) -> Principal:
    team = teams.get(stored.team)
    return Principal(
        key_id=stored.key_id,
        name=stored.name or stored.key_id,
        team=stored.team,
        org="" if team is None else team.org,
        models=_allowed(frozenset(stored.models) or None, team),
        tags=_tags(team, stored.tags),
        expires_ms=stored.expires_ms,
        guards=() if team is None or team.guards is None else (team.guards,),
        max_cost_nusd=None if team is None else team.max_cost_nusd,
    )
