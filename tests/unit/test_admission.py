"""Who may come in: keys of the configuration, minted keys, and everything that only looks like one."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from router import admission
from router.admission import KNOWN_SECONDS, UNKNOWN_SECONDS, Admission
from router.domain import keys
from router.errors import RouterError
from router.ports import StoredKey
from tests.gateway import KEY
from tests.running import compiled

PEPPER = b"pepper-for-the-test"
MINTED = keys.mint(bytes(range(64)))
HASHED = keys.mint(bytes(range(64, 128)))
NOBODY = keys.mint(bytes(range(128, 192)))

EMPTY = """
version: 1
providers:
  one: {kind: openai, base_url: "http://127.0.0.1:1/v1", api_key: $PROVIDER_KEY}
models:
  m: {at: one/m, price: {input: 1, output: 1}}
  b: {at: one/b, price: {input: 1, output: 1}}
teams:
  search: {models: [m], tags: {cost-center: "1", kind: team}}
  all: {}
"""
CONFIG = (
    EMPTY
    + """
keys:
  tester: {secret: $TEST_KEY, team: search, tags: {kind: own}, models: [m, b], expires: 2030-01-01}
  hashed: {id: HASHED_ID, secret_hash: $HASH}
""".replace("HASHED_ID", HASHED.key_id)
)


@dataclass
class Store:
    """Minted keys in memory; counts how often it is asked."""

    kept: dict[str, StoredKey] = field(default_factory=dict)
    asked: int = 0

    async def pepper(self) -> bytes:
        return PEPPER

    async def get_key(self, key_id: str) -> StoredKey | None:
        self.asked += 1
        return self.kept.get(key_id)

    async def put_key(self, key: StoredKey) -> None:
        self.kept[key.key_id] = key

    async def list_keys(self) -> Sequence[StoredKey]:
        return list(self.kept.values())


class World:
    """An admission, its store and its clock."""

    def __init__(self, config: str = CONFIG) -> None:
        self.now = 1_800_000_000.0
        self.store = Store()
        environment = {"HASH": keys.digest(PEPPER, HASHED.text)}
        snapshot = compiled(config, environment=environment)
        self.admission = Admission(snapshot, self.store, pepper=PEPPER, clock=lambda: self.now)

    async def mint(self, **more: object) -> StoredKey:
        # Any of its fields.
        stored = StoredKey(key_id=MINTED.key_id, secret_hmac=keys.digest(PEPPER, MINTED.text), **more)  # type: ignore[arg-type]
        await self.store.put_key(stored)
        return stored

    async def refused(self, headers: dict[bytes, bytes]) -> RouterError:
        with pytest.raises(RouterError) as caught:
            await self.admission.admit(headers)
        assert caught.value.spec.http_status == 401
        return caught.value


def bearer(text: str) -> dict[bytes, bytes]:
    return {b"authorization": b"Bearer " + text.encode()}


@pytest.mark.parametrize(
    "headers",
    [
        bearer(KEY),
        {b"authorization": b"bearer   " + KEY.encode()},
        {b"x-api-key": KEY.encode()},
        {b"x-goog-api-key": KEY.encode()},
    ],
)
async def test_a_key_is_read_where_clients_put_it(headers: dict[bytes, bytes]) -> None:
    """OpenAI's, Anthropic's and Google's clients differ in nothing else that matters here."""
    principal = await World().admission.admit(headers)
    assert (principal.key_id, principal.name, principal.team) == ("tester", "tester", "search")


async def test_a_team_narrows_and_its_key_wins() -> None:
    """Models are those that both allow; of tags with one name the key's counts."""
    principal = await World().admission.admit(bearer(KEY))
    assert principal.models == frozenset({"m"})
    assert dict(principal.tags) == {"cost-center": "1", "kind": "own"}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {b"authorization": b""},
        {b"authorization": b"Bearer"},
        {b"authorization": b"Bearer "},
        {b"authorization": b"Basic " + KEY.encode()},
        {b"authorization": KEY.encode()},
        {b"authorization": b"Basic eA==", b"x-api-key": KEY.encode()},
        {b"x-api-key": b""},
        bearer(KEY[:-1]),
        bearer(KEY + "x"),
        bearer(KEY.upper()),
        bearer("x" * 1000),
        bearer(NOBODY.text),
        bearer(NOBODY.text[:-1]),
        bearer(MINTED.text[:-1] + ("a" if MINTED.text[-1] != "a" else "b")),
        bearer(f"sk-fg-{HASHED.key_id}-" + NOBODY.text[15:]),
        {b"authorization": b"Bearer \xff\xfe\x00"},
        {b"authorization": b"Bearer ' OR 1=1 --"},
    ],
)
async def test_whatever_is_no_key_is_refused(headers: dict[bytes, bytes]) -> None:
    """Malformed, unknown, near, in the wrong scheme: the same answer, without the key in it."""
    error = await World().refused(headers)
    assert error.spec.code == "invalid_api_key"
    assert KEY not in error.message


async def test_a_hashed_key_needs_its_secret() -> None:
    """The id is public; whoever knows it and no more is nobody."""
    world = World()
    assert (await world.admission.admit(bearer(HASHED.text))).name == "hashed"
    head = f"sk-fg-{HASHED.key_id}-{'a' * 32}"
    near = head + keys._checksum(head)
    assert keys.parse(near) is not None
    assert (await world.refused(bearer(near))).spec.code == "invalid_api_key"
    assert world.store.asked == 0


async def test_an_expired_key_says_so() -> None:
    """Its owner must ask for a new one instead of looking for a typing error; also if it was good a moment ago."""
    world = World()
    await world.admission.admit(bearer(KEY))
    await world.admission.admit(bearer(KEY))
    world.now = 1_893_456_000.0
    assert (await world.refused(bearer(KEY))).spec.code == "key_expired"
    assert (await world.refused({b"x-api-key": KEY.encode()})).spec.code == "key_expired"


async def test_a_minted_key_is_believed_for_a_while() -> None:
    """The store is not asked for every call, and a revocation holds everywhere soon."""
    world = World()
    stored = await world.mint(name="app", team="search", tags={"a": "b"})
    for _ in range(5):
        principal = await world.admission.admit(bearer(MINTED.text))
    assert (principal.key_id, principal.name, principal.models) == (MINTED.key_id, "app", frozenset({"m"}))
    assert world.store.asked == 1
    stored.revoked_ms = 1
    world.now += KNOWN_SECONDS - 1
    await world.admission.admit(bearer(MINTED.text))
    world.now += 2
    await world.refused(bearer(MINTED.text))


async def test_a_minted_key_without_a_name_goes_by_its_id() -> None:
    """And without a team or a list it may use everything."""
    world = World()
    await world.mint()
    principal = await world.admission.admit(bearer(MINTED.text))
    assert (principal.name, principal.models, dict(principal.tags)) == (MINTED.key_id, None, {})


async def test_an_unknown_key_is_not_looked_up_again_at_once() -> None:
    """A client in a loop with a wrong key must not load the store; a key minted meanwhile works soon."""
    world = World()
    for _ in range(5):
        await world.refused(bearer(MINTED.text))
    assert world.store.asked == 1
    await world.mint()
    world.now += UNKNOWN_SECONDS + 1
    await world.admission.admit(bearer(MINTED.text))


async def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory must not follow the number of keys that somebody tries."""
    monkeypatch.setattr(admission, "MOST_KNOWN", 1)
    monkeypatch.setattr(admission, "MOST_UNKNOWN", 2)
    monkeypatch.setattr(admission, "MOST_SEEN", 1)
    world = World()
    await world.mint()
    for text in (KEY, MINTED.text, HASHED.text, KEY, MINTED.text):
        await world.admission.admit(bearer(text))
        await world.admission.admit(bearer(text))
    for number in range(10):
        await world.refused(bearer(keys.mint(bytes([number]) * 64).text))
    assert len(world.admission._known) == 1
    assert len(world.admission._unknown) == 2
    assert len(world.admission._seen) == 1


async def test_secrets_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """How long the answer takes must not tell how much of a key was right; an unknown id is compared too."""
    compared: list[tuple[object, object]] = []

    def compare(left: str, right: str) -> bool:
        compared.append((left, right))
        return hmac.compare_digest(left, right)

    world = World()
    await world.mint()
    monkeypatch.setattr("router.admission.hmac", type("Watched", (), {"compare_digest": staticmethod(compare)}))
    await world.admission.admit(bearer(MINTED.text))
    await world.refused(bearer(NOBODY.text))
    assert len(compared) == 2


async def test_without_any_key_everybody_is_let_in() -> None:
    """On one's own machine. The first key that is made closes the door, and revoking the last does not open it again."""
    world = World(EMPTY)
    await world.admission.refresh()
    assert not world.admission.required
    for headers in ({}, bearer("anything"), {b"authorization": b"Basic x"}):
        principal = await world.admission.admit(headers)
        assert (principal.name, principal.key_id) == ("anonymous", "")
    stored = await world.mint()
    await world.admission.refresh()
    assert world.admission.required
    await world.refused({})
    await world.admission.admit(bearer(MINTED.text))
    stored.revoked_ms = 1
    await world.admission.refresh()
    await world.refused({})


async def test_keys_of_the_configuration_are_always_required() -> None:
    """The store is not even asked."""
    world = World()
    await world.admission.refresh()
    assert world.admission.required
