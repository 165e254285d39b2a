"""Webhooks: an event as JSON, signed, or as a message for chats that understand Slack's."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from router.alerts.config import Receiver
from router.alerts.events import Event
from router.alerts.ports import NotDelivered
from router.ports import Timeouts, Upstream, UpstreamError

MAX_ANSWER_BYTES: Final = 64 * 1024
RETRIED: Final = frozenset({408, 409, 425, 429})
"""Beside 5xx: answers after which trying again can help."""
BASE64_PREFIX: Final = "whsec_"
_SIGNS: Final = {"info": ":large_blue_circle:", "warning": ":warning:", "critical": ":rotating_light:"}
_FIELDS_SHOWN: Final = 10
"""Slack takes at most ten fields in a section. Source: docs.slack.dev, section block, read 2026-11."""


def sign(secret: str, *, message_id: str, timestamp: int, body: bytes) -> str:
    """The value of `webhook-signature`: HMAC-SHA-256 over `id.timestamp.body`, in base64.

    As the Standard Webhooks specification (standardwebhooks.com, read 2026-11) has it, so that its libraries verify it. A secret that
    begins with `whsec_` is base64; any other is taken as it is.
    """
    signed = b"%s.%d.%s" % (message_id.encode(), timestamp, body)
    return "v1," + base64.b64encode(hmac.digest(_key(secret), signed, hashlib.sha256)).decode()


def _key(secret: str) -> bytes:
    if secret.startswith(BASE64_PREFIX):
        try:
            return base64.b64decode(secret.removeprefix(BASE64_PREFIX), validate=True)
        except binascii.Error:
            return secret.encode()
    return secret.encode()


def webhook_body(event: Event) -> bytes:
    """The event as JSON."""
    return msgspec.json.encode(
        {
            "id": event.id,
            "type": f"faregate.{event.kind}",
            "timestamp": _iso(event.at_ms),
            "severity": event.severity,
            "subject": event.subject,
            "text": event.text,
            "data": event.fields,
        }
    )


def slack_body(event: Event) -> bytes:
    """The event as a message: `text` for what shows only that, blocks for the rest."""
    subject = _escaped(event.subject)
    lines = f"{_SIGNS[event.severity]} *{subject}*" + (f"\n{_escaped(event.text)}" if event.text else "")
    blocks: list[dict[str, Any]] = [{"type": "section", "text": {"type": "mrkdwn", "text": lines[:3000]}}]
    fields = [f"*{name}*\n{_escaped(str(value))[:200]}" for name, value in event.fields.items() if value not in (None, "")]
    if fields:
        blocks.append({"type": "section", "fields": [{"type": "mrkdwn", "text": text} for text in fields[:_FIELDS_SHOWN]]})
    blocks.append({"type": "context", "elements": [{"type": "mrkdwn", "text": f"faregate {event.kind} {_iso(event.at_ms)} {event.id}"}]})
    return msgspec.json.encode({"text": subject, "blocks": blocks})


def _escaped(text: str) -> str:
    """Without what Slack would take for a mention or a link: a user's name may be anything."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _iso(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class HttpSender:
    """Posts events to one address."""

    def __init__(self, receiver: Receiver, upstream: Upstream, *, clock: Callable[[], float]) -> None:
        """`clock` gives Unix seconds."""
        self._receiver = receiver
        self._upstream = upstream
        self._clock = clock

    async def send(self, event: Event) -> None:
        """See `Sender.send`. Redirects are not followed: addresses come from the configuration only."""
        receiver = self._receiver
        if receiver.endpoint is None:
            raise NotDelivered("has no address", again=False)
        body = slack_body(event) if receiver.kind == "slack" else webhook_body(event)
        seconds = receiver.timeout_seconds
        timeouts = Timeouts(connect_seconds=seconds, first_byte_seconds=seconds, idle_seconds=seconds, total_seconds=2 * seconds)
        try:
            answer = await self._upstream.post(
                receiver.endpoint, receiver.path, body, headers=self._headers(event, body), timeouts=timeouts
            )
            await answer.read(MAX_ANSWER_BYTES)
        except UpstreamError as error:
            raise NotDelivered(f"{error.fault}: {error}", again=True) from error
        if not 200 <= answer.status < 300:
            raise NotDelivered(f"answered {answer.status}", again=answer.status >= 500 or answer.status in RETRIED)

    def _headers(self, event: Event, body: bytes) -> list[tuple[bytes, bytes]]:
        if self._receiver.kind == "slack":
            return []
        timestamp = int(self._clock())
        headers = [
            (b"webhook-id", event.id.encode()),
            (b"webhook-timestamp", b"%d" % timestamp),
            (b"idempotency-key", event.id.encode()),
        ]
        if self._receiver.secret is not None:
            signature = sign(self._receiver.secret, message_id=event.id, timestamp=timestamp, body=body)
            headers.append((b"webhook-signature", signature.encode()))
        return headers
