"""Redis behind TLS, and for a user who may do no more than the page on operations says."""

from __future__ import annotations

import re
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from router.adapters.redis.address import parse_url
from router.adapters.redis.ledger import RedisLedger
from router.adapters.redis.scripts import NAMES, command, script
from router.adapters.redis.wire import Wire
from router.domain.budgets import Reservation
from router.domain.feedback import Answered, Feedback, Lesson, Taken
from router.errors import ConfigError, StoreUnavailable
from router.ports import Correction, StoredKey
from tests.conftest import RedisServer, free_port
from tests.contract.stores import bucket, buckets, held

PAGE = Path(__file__).resolve().parents[2] / "docs" / "operations.md"
RECORD = b'{"attempt_id":"a","request_id":"r","at_ms":1}'
PASSWORD = "s3cret-of-the-ledger"


def documented_rights() -> list[str]:
    """The rules of the line `ACL SETUSER faregate ...` of the page, without the password."""
    line = re.search(r"ACL SETUSER faregate (.*)", PAGE.read_text())
    assert line is not None
    return [word for word in line[1].split() if not word.startswith(">")]


async def tell(server: RedisServer, *words: str) -> object:
    """One command of the administrator."""
    wire = Wire(parse_url(server.url), timeout_seconds=10)
    await wire.open()
    try:
        return await wire.call(command(*words))
    finally:
        await wire.close()


async def everything(ledger: RedisLedger) -> None:
    """All that a service and its commands ask of the store."""
    where = buckets(bucket(limit=1_000_000))
    await ledger.publish_limits({"company": 1_000_000}, version="1")
    first = await held(ledger, 10, where)
    assert isinstance(await ledger.extend(first, by_nusd=5), Reservation)
    assert await ledger.settle(first, charge_nusd=7, record=RECORD)
    assert await ledger.void(await held(ledger, 10, where))
    await ledger.heartbeat({first.attempt_id: 1})
    await ledger.sweep()
    await ledger.bucket_states()
    assert await ledger.bucket_count() == 1
    assert [record async for record in ledger.records()]
    assert await ledger.verify() == []
    assert await ledger.audit() == []
    assert await ledger.audit() == []
    await ledger.trim(before_ms=1)
    await ledger.ping()
    await ledger.pepper()
    await ledger.put_key(StoredKey(key_id="k", secret_hmac="00"))
    assert await ledger.get_key("k") is not None
    assert len(await ledger.list_keys()) == 1
    controls, alerts = ledger.control_store(), ledger.alert_store()
    await controls.look()
    assert await controls.commit(b"{}", expected=0, version=1, entries=[b"{}"], limits={})
    await controls.load()
    await controls.append(b"{}")
    assert len([entry async for entry in controls.history()]) == 2
    await controls.forget(before_ms=1)
    corrections = ledger.corrections()
    old = Correction(attempt_id="a", by_nusd=1, at_ms=1, buckets=("company||all",), record=RECORD)
    assert await corrections.book([old], turn=await corrections.turn(), entry=b"{}")
    assert await alerts.lead("one", lease_ms=10_000) is not None
    assert await alerts.lead("one", lease_ms=10_000) is not None
    assert await alerts.mark("m", keep_ms=10_000, event=b"{}")
    await alerts.marks()
    await alerts.done("m")
    await alerts.clear(["m"])
    await alerts.page("", since_ms=0)
    await alerts.save(b"{}")
    await alerts.load()
    await alerts.lead("one", lease_ms=0)
    feedback = ledger.feedback_store()
    await feedback.put(Feedback(request_id="r", key_id="k", rating=0.5))
    assert [one.rating async for one in feedback.all()] == [0.5]
    await feedback.expect([Answered("r", "k", (Lesson(("a", "b", "c", "d"), "arm"),))])
    assert await feedback.count([Feedback(request_id="r", key_id="k", rating=0.5)]) == [Taken((Lesson(("a", "b", "c", "d"), "arm"),))]
    learned = ledger.experience_store()
    assert await learned.put("one", b"{}", instead_of={})
    assert (await learned.rows())[1] == {"one": b"{}"}
    readers = ledger.readers()
    await readers.note("sink", "5-0")
    assert await readers.read_until(["sink"]) == 5
    shelf = ledger.shelf()
    await shelf.keep("v", b"label", b"text")
    assert (await shelf.labels(), await shelf.text("v")) == ([b"label"], b"text")
    await shelf.drop("v")
    assert (await shelf.labels(), await shelf.text("v")) == ([], None)
    await ledger.release()


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[RedisLedger]:
    made = RedisLedger(url, timeout_seconds=5)
    await made.open(replica_id="one", lease_seconds=20)
    try:
        yield made
    finally:
        await made.close()


async def allowed_only(server: RedisServer, rights: list[str]) -> str:
    """The address for a user who has these rights and no others."""
    await tell(server, "ACL", "SETUSER", "faregate", "reset", f">{PASSWORD}", *rights)
    return server.url.replace("redis://", f"redis://faregate:{PASSWORD}@")


async def test_the_documented_rights_are_enough(own_redis: RedisServer) -> None:
    """A user with the line of the page can do all that is done, and none of it is met by a warning."""
    async with opened(await allowed_only(own_redis, documented_rights())) as ledger:
        assert ledger.warnings == ()
        await everything(ledger)
    denied = await tell(own_redis, "ACL", "LOG")
    assert denied == []


async def test_the_documented_rights_are_the_least(own_redis: RedisServer) -> None:
    """Every command that the line allows is one that is sent, or called by a script; and every one of a script is allowed."""
    rights = documented_rights()
    assert rights[:5] == ["on", "resetkeys", "~{fg}:*", "resetchannels", "-@all"]
    allowed = {word[1:] for word in rights[5:]}
    assert all(word.startswith("+") and "@" not in word for word in rights[5:])
    url = await allowed_only(own_redis, rights)
    await tell(own_redis, "CONFIG", "RESETSTAT")
    async with opened(url) as ledger:
        await everything(ledger)
    # A bulk answer.
    stats = bytes(await tell(own_redis, "INFO", "commandstats")).decode()  # type: ignore[call-overload]
    sent = set(re.findall(r"^cmdstat_([a-z|]+):", stats, re.MULTILINE))
    in_scripts = {found.lower() for name in NAMES for found in re.findall(r"redis\.call\('([A-Z]+)'", script(name).text.decode())}
    # AUTH needs no right; the reset is the test's own.
    assert allowed == (sent | in_scripts) - {"auth", "config|resetstat"}


async def test_keys_of_others_are_out_of_reach(own_redis: RedisServer) -> None:
    """The rights end at the prefix: another program on the same server is safe from us."""
    url = await allowed_only(own_redis, documented_rights())
    wire = Wire(parse_url(url), timeout_seconds=5)
    await wire.open()
    for words in (("GET", "other"), ("HSET", "other", "f", "v"), ("DEL", "other"), ("FLUSHALL",), ("CONFIG", "GET", "*")):
        with pytest.raises(Exception, match="NOPERM"):
            await wire.call(command(*words))
    await wire.close()


async def test_a_right_that_is_missing_is_an_outage_that_names_it(own_redis: RedisServer) -> None:
    """Not a traceback, and no call that is served unguarded."""
    url = await allowed_only(own_redis, [word for word in documented_rights() if word != "+evalsha"])
    with pytest.raises((StoreUnavailable, ConfigError), match="evalsha"):
        async with opened(url):
            pass


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """A folder with a CA made now, and a certificate of it for 127.0.0.1; both say what strict clients (Python 3.13) ask for."""
    folder = tmp_path / "tls"
    folder.mkdir()
    (folder / "ext").write_text("subjectAltName=IP:127.0.0.1\nauthorityKeyIdentifier=keyid\n")
    usage = ["-addext", "keyUsage=critical,keyCertSign,cRLSign"]
    new = ["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    sign = ["openssl", "x509", "-req", "-days", "2"]
    for words in (
        [*new, "-x509", *usage, "-days", "2", "-subj", "/CN=test CA", "-keyout", "ca.key", "-out", "ca.crt"],
        [*new, "-subj", "/CN=127.0.0.1", "-keyout", "server.key", "-out", "server.csr"],
        [*sign, "-in", "server.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "ext", "-out", "server.crt"],
    ):
        subprocess.run(words, cwd=folder, check=True, capture_output=True)
    return folder


async def test_a_redis_behind_tls_serves_whoever_trusts_its_ca(tmp_path: Path, certificates: Path) -> None:
    """`rediss://` with the CA in a file: everything works; without it the server is not trusted, and nothing is sent."""
    port = free_port()
    files = [word for name in ("cert-file server.crt", "key-file server.key", "ca-cert-file ca.crt") for word in name.split()]
    options = [str(certificates / word) if "." in word else f"--tls-{word}" for word in files]
    server = RedisServer(tmp_path, "--appendonly", "yes", "--tls-port", str(port), "--tls-auth-clients", "no", *options)
    try:
        async with opened(f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={certificates / 'ca.crt'}") as ledger:
            await everything(ledger)
        with pytest.raises((StoreUnavailable, ConfigError), match=r"(?i)certificate"):
            async with opened(f"rediss://127.0.0.1:{port}/0"):
                pass
    finally:
        server.close()
