"""Who is let in to the admin API, and what its parts promise without a network."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from router.admin import guard as guards
from router.admin.guard import FREE_GUESSES, SECONDS_PER_GUESS, Guard
from router.admin.listening import Listening
from router.controls import Desk
from router.domain import keys
from router.domain.controls import Pin
from router.errors import ConfigError, RouterError
from router.keyring import Keyring
from router.peers import Peers
from router.ports import StoredKey
from router.settings.load import load_text, price_book
from router.snapshot import Administrator, ServerSettings
from router.versions import MOST_KEPT, Versions
from tests.control_fakes import MemoryControls
from tests.running import compiled

SECRET = "alice-0123456789-0123456789"
ALICE = Administrator(name="alice", role="admin", secret_digest=hashlib.sha256(SECRET.encode()).digest())
BOB = Administrator(name="bob", role="viewer", secret_digest=hashlib.sha256(b"bob").digest())


def bearer(secret: str) -> dict[bytes, bytes]:
    return {b"authorization": f"Bearer {secret}".encode()}


class Watch:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def refused(guard: Guard, secret: str, address: str = "192.0.2.1") -> tuple[str, float | None]:
    with pytest.raises(RouterError) as caught:
        guard.admit(bearer(secret), address)
    return caught.value.spec.code, caught.value.retry_after_seconds


def test_guesses_from_one_address_are_bounded_and_lock_no_administrator_out() -> None:
    """A secret cannot be guessed, and whoever tries must not keep administrators away, not even behind the same address."""
    watch = Watch()
    guard = Guard(lambda: {"alice": ALICE}, clock=watch)
    assert [refused(guard, f"wrong-{n}")[0] for n in range(FREE_GUESSES)] == ["invalid_admin_credential"] * FREE_GUESSES
    assert refused(guard, "wrong") == ("rate_limit_exceeded", SECONDS_PER_GUESS)
    assert guard.admit(bearer(SECRET), "192.0.2.1") is ALICE
    assert refused(guard, "wrong", "192.0.2.2")[0] == "invalid_admin_credential"
    watch.now += SECONDS_PER_GUESS
    assert refused(guard, "wrong")[0] == "invalid_admin_credential"
    assert refused(guard, "wrong")[0] == "rate_limit_exceeded"
    # Of a network of IPv6 everybody has as many addresses as he likes.
    for n in range(FREE_GUESSES):
        refused(guard, "wrong", f"2001:db8::{n:x}")
    assert refused(guard, "wrong", "2001:db8::ffff")[0] == "rate_limit_exceeded"
    assert refused(guard, "wrong", "2001:db8:0:1::1")[0] == "invalid_admin_credential"
    assert guard.admit(bearer(SECRET), "") is ALICE


def test_every_administrator_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """How long the answer takes must not tell who exists, or how much of a secret was right. What is remembered is bounded."""
    compared: list[bytes] = []

    def compare(left: bytes, right: bytes) -> bool:
        compared.append(left)
        return hmac.compare_digest(left, right)

    monkeypatch.setattr(guards, "hmac", type("Watched", (), {"compare_digest": staticmethod(compare)}))
    monkeypatch.setattr(guards, "MOST_ADDRESSES", 2)
    guard = Guard(lambda: {"alice": ALICE, "bob": BOB}, clock=Watch())
    assert guard.knows(bearer(SECRET)) is ALICE
    assert guard.knows({b"authorization": b"Basic " + SECRET.encode()}) is None
    assert guard.knows({}) is None
    assert len(compared) == 6
    for n in range(5):
        refused(guard, "wrong", f"192.0.2.{n}")
    assert len(guard._wrong) == 2


FILE = """
version: 1
providers: [sim]
models: {{m: sim/small-edge}}
budgets: {{everyone: {limit}}}
"""


class MemoryShelf:
    """`router.ports.Shelf`."""

    def __init__(self) -> None:
        self.kept: dict[str, tuple[bytes, bytes]] = {}

    async def keep(self, name: str, label: bytes, text: bytes) -> None:
        self.kept[name] = (label, text)

    async def labels(self) -> Sequence[bytes]:
        return [label for label, _ in self.kept.values()]

    async def text(self, name: str) -> bytes | None:
        return self.kept[name][1] if name in self.kept else None

    async def drop(self, name: str) -> None:
        del self.kept[name]


async def test_the_last_versions_are_kept_if_the_file_is_still_what_is_served(tmp_path: Path) -> None:
    """A text that is not what was served would roll back to something that never was."""
    file, shelf = tmp_path / "router.yaml", MemoryShelf()
    versions = Versions(shelf)
    for number in range(MOST_KEPT + 2):
        text = FILE.format(limit=f"${number + 1}")
        file.write_text(text)
        snapshot = load_text(text, source=str(file), environ={}, price_book=price_book()).snapshot
        await versions.keep(snapshot, now_ms=number)
    assert [kept.at_ms for kept in await versions.all()] == list(range(MOST_KEPT + 1, 1, -1))
    file.write_text(FILE.format(limit="$900"))
    await versions.keep(snapshot, now_ms=99)
    file.unlink()
    await versions.keep(snapshot, now_ms=99)
    assert (await versions.all())[0].at_ms == MOST_KEPT + 1


async def test_a_roll_back_that_cannot_be_loaded_does_not_keep_a_process_from_starting() -> None:
    """A store that lost the text must not take the service down with it."""
    served, shelf = compiled(FILE.format(limit="$1")), MemoryShelf()
    versions = Versions(shelf)
    pin = Pin(version="0123456789ab", reason="x", by="alice", at_ms=1)
    assert await versions.at_start(pin, served) is served
    assert await versions.at_start(None, served) is served
    await shelf.keep("0123456789ab", b"", FILE.format(limit="$7").encode())
    assert (await versions.at_start(pin, served)).budgets[0].limit_nusd == 7 * 10**9
    await shelf.keep("0123456789ab", b"", b"version: 2")
    assert await versions.at_start(pin, served) is served


class MemoryKeys:
    """`router.ports.KeyStore`; `raced` is what another one writes in the moment after the next write."""

    def __init__(self) -> None:
        self.kept: dict[str, StoredKey] = {}
        self.raced: StoredKey | None = None

    async def pepper(self) -> bytes:
        return b"pepper"

    async def get_key(self, key_id: str) -> StoredKey | None:
        return self.kept.get(key_id)

    async def put_key(self, key: StoredKey) -> None:
        self.kept[key.key_id] = key
        if self.raced is not None:
            self.kept[key.key_id], self.raced = self.raced, None

    async def list_keys(self) -> Sequence[StoredKey]:
        return list(self.kept.values())


async def test_a_key_that_is_revoked_stays_so_although_it_is_rotated_in_the_same_moment() -> None:
    """Of two administrators the one who stops a leak must win."""
    store, controls = MemoryKeys(), MemoryControls()
    ring = Keyring(store, Desk(controls, who="alice", via="admin"))
    key, text = await ring.mint(name="bot", tags={}, now_ms=1)
    assert key.secret_hmac == keys.digest(b"pepper", text)
    rotated, other = await ring.rotate(key.key_id, overlap_seconds=60, now_ms=1000)
    assert (rotated.previous_hmac, rotated.previous_until_ms, rotated.key_id) == (key.secret_hmac, 61_000, key.key_id)
    parsed = keys.parse(other)
    assert parsed is not None
    assert parsed[0] == key.key_id
    store.raced = rotated
    revoked = await ring.revoke(key.key_id, now_ms=2000)
    assert (revoked.revoked_ms, store.kept[key.key_id].revoked_ms, revoked.previous_hmac) == (2000, 2000, "")
    assert await ring.revoke(key.key_id, now_ms=3000) == revoked
    with pytest.raises(RouterError, match="revoked, for good"):
        await ring.rotate(key.key_id, overlap_seconds=0, now_ms=1)
    with pytest.raises(RouterError, match="no key of this id"):
        await ring.find(text)


async def test_a_rotation_does_not_bring_back_a_key_that_was_revoked_while_it_was_made() -> None:
    """The one who revoked it has looked, found it revoked, and gone, before the other writes what it read before."""

    class Slow(MemoryKeys):
        revoked: Keyring | None = None

        async def pepper(self) -> bytes:
            other, self.revoked = self.revoked, None
            if other is not None:
                await other.revoke(key.key_id, now_ms=2000)
            return await super().pepper()

    store, controls = Slow(), MemoryControls()
    ring = Keyring(store, Desk(controls, who="alice", via="admin"))
    key, _ = await ring.mint(name="bot", tags={}, now_ms=1)
    store.revoked = Keyring(store, Desk(controls, who="oscar", via="admin"))
    with pytest.raises(RouterError, match="revoked, for good"):
        await ring.rotate(key.key_id, overlap_seconds=60, now_ms=2001)
    kept = store.kept[key.key_id]
    assert (kept.revoked_ms, kept.previous_hmac) == (2001, "")


async def test_a_key_that_was_revoked_without_a_word_is_told_of_by_the_next_try() -> None:
    """Whoever revoked it was killed, or the store was busy: workers would believe in it until they look again."""
    store, controls = MemoryKeys(), MemoryControls()
    ring = Keyring(store, Desk(controls, who="alice", via="admin"))
    key, _ = await ring.mint(name="bot", tags={}, now_ms=1)
    store.kept[key.key_id] = msgspec.structs.replace(key, revoked_ms=5)
    for _ in range(2):
        assert (await ring.revoke(key.key_id, now_ms=9)).revoked_ms == 5
    assert [entry.action for entry in controls.audit] == ["key.mint", "key.revoke"]


async def test_workers_tell_each_other_what_only_they_know(tmp_path: Path) -> None:
    """One that was killed leaves its socket; one that hangs or talks nonsense is left out. Long paths are no hindrance."""
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    workers = [Peers(str(folder), number, {"what": partial(list, (number,))}) for number in range(2)]
    for worker in workers:
        await worker.start()
    assert await workers[0].ask_all("what") == [[0], [1]]
    assert await Peers(None, 0, {"what": lambda: [7]}).ask_all("what") == [[7]]
    meeting = workers[1]._meeting
    assert meeting is not None
    assert meeting._server is not None
    meeting._server.close()
    again = Peers(str(folder), 1, {"what": lambda: ["new"], "other": lambda: 1})
    await again.start()
    assert await workers[0].ask_all("what") == [[0], ["new"]]
    assert await again.ask_all("other") == [1]
    await again.close()
    assert await workers[0].ask_all("what") == [[0]]
    await workers[0].close()


async def test_one_free_port_is_no_port_for_several_workers() -> None:
    """Any free one would be another for each."""
    nothing: Any = None
    with pytest.raises(ConfigError, match="with several workers, give a number"):
        await Listening(nothing, ServerSettings(admin_port=0), shared=True).open()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{secret: $SHORT, role: admin}", "is shorter than 24 characters"),
        ("{secret: literally-0123456789-0123456789, role: admin}", "must not stand in the file"),
        ("{secret: $TEST_KEY, role: admin}", 'is the same secret as that of key "tester"'),
        ("{secret_hash: abc, role: admin}", "is not a SHA-256"),
        ("{secret: $LONG, secret_hash: abc, role: admin}", "admins.alice"),
        ("{secret: $LONG, role: root}", "admins.alice.role"),
        ("{secret: $ODD, role: admin}", "cannot carry"),
    ],
)
def test_a_mistake_in_an_administrator_is_named(entry: str, message: str) -> None:
    """An API that can mint keys must not open with a credential that is weak, shared or in the file."""
    environment = {"SHORT": "x" * 23, "LONG": "x" * 24, "ODD": "x y" * 10}
    text = FILE.format(limit="$1") + f"keys: {{tester: {{secret: $TEST_KEY}}}}\nadmins: {{alice: {entry}}}\n"
    with pytest.raises(ConfigError) as caught:
        compiled(text, environment=environment)
    assert message in str(caught.value)
    assert "literally" not in str(caught.value)


def test_a_hash_stands_for_the_secret() -> None:
    """Whoever reads the file cannot log in by it."""
    digest = hashlib.sha256(SECRET.encode()).hexdigest()
    made = compiled(FILE.format(limit="$1") + f"admins: {{alice: {{secret_hash: {digest}, role: admin}}}}\n").admins["alice"]
    assert made == ALICE
    assert digest[:8] not in repr(made)
