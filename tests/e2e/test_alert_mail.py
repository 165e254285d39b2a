"""Mail, chats and the command: real servers on loopback."""

from __future__ import annotations

import asyncio
import ssl
import sys
from pathlib import Path

import pytest
import trustme

from router.adapters.upstream.http1 import Http1Upstream
from router.alerts.config import Receiver
from router.alerts.events import Event
from router.alerts.ports import NotDelivered
from router.alerts.receivers import sender_of
from tests.alert_receivers import hook, mailbox
from tests.running import compiled

EVENT = Event(
    kind="budget_threshold",
    subject="Budget 'a'\r\nBcc: everybody@example.com has reached 80 %",
    text="Grüße, <!channel> & friends",
    fields={"budget": "a", "limit_nusd": 5, "scope": ""},
    at_ms=1_800_000_000_000,
    id="alert_1",
)
BASE = "version: 1\nproviders: {p: {kind: vllm, base_url: http://h/v1}}\nmodels: {m: {at: p/m, price: free}}\n"


@pytest.fixture
def authority(tmp_path: Path) -> tuple[str, ssl.SSLContext]:
    """A file with a certificate authority, and a server's context with a certificate of it."""
    made = trustme.CA()
    made.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    made.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    return str(tmp_path / "ca.pem"), context


def receiver(notify: str, **environment: str) -> Receiver:
    (made,) = compiled(BASE + f"notify: {{it: {notify}}}", environment=environment).receivers
    return made


async def send(to: Receiver, event: Event = EVENT) -> None:
    http = Http1Upstream()
    try:
        await sender_of(to, http, clock=lambda: 1_800_000_000.0).send(event)
    finally:
        await http.close()


async def test_mail_goes_encrypted_and_with_a_login(authority: tuple[str, ssl.SSLContext]) -> None:
    """The password of the mail server and the names of budgets stay between the two; a name cannot add a header."""
    ca, context = authority
    async with mailbox(context, password="mail-pass-1") as box:
        url = f"smtp://127.0.0.1:{box.port}"
        await send(
            receiver(
                f"{{url: {url}, ca_file: {ca}, username: faregate, secret: $PASS, sender: a@b.example, to: [x@y.example, z@y.example]}}",
                PASS="mail-pass-1",
            )
        )
        ((envelope, message),) = box.mails
        assert box.encrypted == [True]
        assert envelope.rcpt_tos == ["x@y.example", "z@y.example"]
        assert message["Bcc"] is None
        assert message["Message-ID"] == "<alert_1@b.example>"
        assert message["Subject"] == "[faregate] Budget 'a' Bcc: everybody@example.com has reached 80 %"
        body = message.get_payload(decode=True)
        assert isinstance(body, bytes)
        assert "Grüße" in body.decode()
        assert "limit_nusd: 5" in body.decode()


async def test_mail_is_not_sent_in_the_clear_nor_to_a_stranger(authority: tuple[str, ssl.SSLContext]) -> None:
    """A server without STARTTLS, or with a certificate of somebody else, gets nothing; trying again would not help."""
    async with mailbox() as box:
        with pytest.raises(NotDelivered) as clear:
            await send(receiver(f"{{url: smtp://127.0.0.1:{box.port}, sender: a@b.example, to: x@y.example}}"))
        assert not clear.value.again
        await send(receiver(f"{{url: smtp://127.0.0.1:{box.port}, starttls: false, sender: a@b.example, to: x@y.example}}"))
        assert box.encrypted == [False]
    async with mailbox(authority[1]) as box:
        with pytest.raises(NotDelivered, match="CERTIFICATE_VERIFY_FAILED") as stranger:
            await send(receiver(f"{{url: smtp://127.0.0.1:{box.port}, sender: a@b.example, to: x@y.example}}"))
        assert not stranger.value.again
        assert box.mails == []


@pytest.mark.parametrize(("answer", "again"), [("550 no such user", False), ("451 later", True)])
async def test_mail_that_is_refused_is_tried_again_if_that_can_help(answer: str, again: bool) -> None:
    """4xx of a mail server means later, 5xx means never."""
    async with mailbox() as box:
        box.refuse = answer
        with pytest.raises(NotDelivered) as refused:
            await send(receiver(f"{{url: smtp://127.0.0.1:{box.port}, starttls: false, sender: a@b.example, to: x@y.example}}"))
        assert refused.value.again is again


async def test_a_chat_gets_text_and_blocks_and_cannot_be_made_to_shout() -> None:
    """`<!channel>` in the name of a user would wake everybody."""
    async with hook() as chat:
        await send(receiver("{kind: slack, url: $HOOK}", HOOK=chat.url))
        (posted,) = chat.posted
        message = posted.json
        assert message["text"].startswith("Budget 'a'")
        assert "&lt;!channel&gt; &amp; friends" in message["blocks"][0]["text"]["text"]
        assert [field["text"] for field in message["blocks"][1]["fields"]] == ["*budget*\na", "*limit_nusd*\n5"]
        assert "webhook-signature" not in posted.headers


@pytest.mark.parametrize(("status", "again"), [(500, True), (429, True), (0, True), (404, False), (302, False)])
async def test_a_hook_is_tried_again_if_that_can_help(status: int, again: bool) -> None:
    """A wrong address stays wrong; a redirect is not followed, for addresses come from the configuration only."""
    async with hook() as hooked:
        hooked.answers = [status] * 3
        with pytest.raises(NotDelivered) as refused:
            await send(receiver("{url: $HOOK}", HOOK=hooked.url))
        assert refused.value.again is again


async def command(config: Path, *words: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "router", "alerts", *words, "--config", str(config),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, out.decode()


async def test_the_command_lists_receivers_and_sends_a_test(tmp_path: Path) -> None:
    """Whoever sets it up wants to see it work; what is listed must not hold what may be a secret."""
    config = tmp_path / "router.yaml"
    async with hook() as ops:
        secret = ops.url.replace("/alerts", "/T0/very-secret")
        config.write_text(f"{BASE}notify: {{ops: {{url: '{secret}', events: [ledger_drift]}}, gone: 'http://127.0.0.1:9/x'}}\n")
        status, shown = await command(config, "list")
        assert status == 0
        assert "ledger_drift" in shown
        assert "very-secret" not in shown
        status, said = await command(config, "test", "ops")
        assert (status, [posted.json["type"] for posted in ops.posted]) == (0, ["faregate.test"])
        assert "ops took it" in said
        assert (await command(config, "test", "gone"))[0] == 1
        status, said = await command(config, "test", "opps")
        assert status == 1
        assert 'there is no receiver "opps"; did you mean "ops"?' in said
