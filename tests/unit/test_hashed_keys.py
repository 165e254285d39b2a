"""Keys that stand in the configuration by nothing but the hash of all that a client sends."""

from __future__ import annotations

import pytest

from router.admission import Admission
from router.domain import keys
from router.errors import RouterError
from router.ports import StoredKey
from router.settings.load import load_text, price_book
from router.snapshot import Snapshot
from tests.settings_help import BASE, wrong

PEPPER = b"pepper-for-the-test"
HASHED = keys.mint(bytes(range(64)))
OTHER = keys.mint(bytes(range(64, 128)))
SIMULATED = """
version: 1
providers: {one: {kind: openai, base_url: "http://127.0.0.1:1/v1", api_key: none}}
models: {m: {at: one/m, price: free}}
teams: {search: {models: [m]}}
"""


def snapshot(entries: str) -> Snapshot:
    environ = {"HASH": keys.digest(PEPPER, HASHED.text).upper(), "OTHER": keys.digest(PEPPER, OTHER.text)}
    return load_text(SIMULATED + f"keys: {entries}\n", source="r.yaml", environ=environ, price_book=price_book()).snapshot


class Store:
    """Has no keys, and counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    async def get_key(self, key_id: str) -> StoredKey | None:
        self.asked += 1
        return None


def admission(entries: str) -> tuple[Admission, Store]:
    store = Store()
    # Nothing else of a key store is asked for here.
    return Admission(snapshot(entries), store, pepper=PEPPER, clock=lambda: 1_800_000_000.0), store  # type: ignore[arg-type]


def bearer(text: str) -> dict[bytes, bytes]:
    return {b"authorization": b"Bearer " + text.encode()}


async def test_a_hash_alone_finds_its_key() -> None:
    """The file need not say which id is in the key; the entry is called by its name, as one with `secret` is."""
    door, store = admission("{ci-bot: {team: search, secret_hash: $HASH, expires: 2030-01-01, tags: {kind: agent}}}")
    principal = await door.admit(bearer(HASHED.text))
    assert (principal.key_id, principal.name, principal.team, principal.tags) == ("ci-bot", "ci-bot", "search", {"kind": "agent"})
    assert principal.expires_ms == 1_893_456_000_000
    assert store.asked == 0


async def test_with_an_id_it_is_found_and_called_by_it() -> None:
    """What budgets have counted under the id stays there."""
    door, _ = admission(f"{{ci-bot: {{secret_hash: $HASH, id: {HASHED.key_id}}}}}")
    assert (await door.admit(bearer(HASHED.text))).key_id == HASHED.key_id


async def test_a_key_without_its_hash_in_the_file_is_looked_for_among_minted_ones() -> None:
    """It may be in the ledger; if it is not, it is refused."""
    door, store = admission("{ci-bot: {secret_hash: $HASH}}")
    with pytest.raises(RouterError) as caught:
        await door.admit(bearer(OTHER.text))
    assert (caught.value.spec.http_status, store.asked) == (401, 1)


async def test_another_secret_for_an_id_of_the_file_is_refused_without_asking() -> None:
    """The file says what the key with this id is."""
    door, store = admission(f"{{ci-bot: {{secret_hash: $OTHER, id: {HASHED.key_id}}}}}")
    with pytest.raises(RouterError) as caught:
        await door.admit(bearer(HASHED.text))
    assert (caught.value.spec.http_status, store.asked) == (401, 0)


def test_one_secret_is_one_key() -> None:
    """Of two entries with one hash, nobody could say who acts."""
    digest = "ab" * 32
    text = BASE + f"keys:\n  a: {{secret_hash: '{digest}'}}\n  b: {{secret_hash: '{digest.upper()}'}}\n"
    assert wrong(text) == ['9:20: keys.b.secret_hash: is the same secret as that of key "a"']


def test_an_id_that_no_key_has_is_refused() -> None:
    """A client could never send it."""
    text = BASE + f"keys:\n  a: {{id: bot, secret_hash: {'0' * 64}}}\n"
    assert wrong(text) == ["8:6: keys.a: id with secret_hash is the 8 characters after sk-fg- in the key; or leave it out"]
