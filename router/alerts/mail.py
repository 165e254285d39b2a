"""Mail: an event as a message, handed to a server by SMTP in a thread of its own."""

from __future__ import annotations

import asyncio
import smtplib
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from email.message import EmailMessage
from email.utils import formatdate
from typing import Final

from router.alerts.config import MailServer, Receiver
from router.alerts.events import Event
from router.alerts.ports import NotDelivered

SUBJECT_CHARACTERS: Final = 150


def message_of(event: Event, server: MailServer) -> EmailMessage:
    """The event as mail. Sent again, it has the same `Message-ID`."""
    message = EmailMessage()
    # A line break in a name would begin a header of its own.
    message["Subject"] = " ".join(f"[faregate] {event.subject}".split())[:SUBJECT_CHARACTERS]
    message["From"] = server.sender
    message["To"] = ", ".join(server.to)
    message["Date"] = formatdate(event.at_ms / 1000)
    message["Message-ID"] = f"<{event.id}@{server.sender.rpartition('@')[2].rstrip('>')}>"
    # Nobody's holiday notice must answer. RFC 3834, section 5.
    message["Auto-Submitted"] = "auto-generated"
    fields = "\n".join(f"{name}: {value}" for name, value in event.fields.items() if value not in (None, ""))
    message.set_content(
        "\n\n".join(filter(None, (event.subject, event.text, fields, f"{event.kind}, {event.severity}, {event.id}"))) + "\n"
    )
    return message


class MailSender:
    """Sends events to one list of people."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver

    async def send(self, event: Event) -> None:
        """See `Sender.send`."""
        server = self._receiver.mail
        if server is None:
            raise NotDelivered("has no mail server", again=False)
        message = message_of(event, server)
        try:
            await _in_a_thread(lambda: self._deliver(server, message))
        except smtplib.SMTPResponseException as error:
            raise NotDelivered(f"answered {error.smtp_code}", again=error.smtp_code < 500) from error
        except smtplib.SMTPRecipientsRefused as error:
            codes = [code for code, _ in error.recipients.values()]
            raise NotDelivered(f"refused every recipient ({', '.join(map(str, codes))})", again=min(codes, default=500) < 500) from error
        except smtplib.SMTPNotSupportedError as error:
            raise NotDelivered(f"cannot do what is needed: {error}", again=False) from error
        except (OSError, smtplib.SMTPException, ValueError) as error:
            # A certificate that cannot be verified is a `ValueError`, too.
            raise NotDelivered(f"{type(error).__name__}: {error}", again=not isinstance(error, ValueError)) from error

    def _deliver(self, server: MailServer, message: EmailMessage) -> None:
        seconds = self._receiver.timeout_seconds
        context = ssl.create_default_context(cafile=server.ca_file)
        if server.tls == "implicit":
            client: smtplib.SMTP = smtplib.SMTP_SSL(server.host, server.port, timeout=seconds, context=context)
        else:
            client = smtplib.SMTP(server.host, server.port, timeout=seconds)
        with client:
            if server.tls == "starttls":
                # Raises if the server does not offer it: never in the clear by surprise.
                client.starttls(context=context)
            if server.username is not None and self._receiver.secret is not None:
                client.login(server.username, self._receiver.secret)
            client.send_message(message)


async def _in_a_thread(work: Callable[[], None]) -> None:
    """Run blocking work in a thread that nobody waits for at exit, unlike those of the event loop's own pool."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()

    def finish(error: BaseException | None) -> None:
        if ended.done():
            return
        if error is None:
            ended.set_result(None)
        else:
            ended.set_exception(error)

    def run() -> None:
        error: BaseException | None = None
        try:
            work()
        # Whatever it is, it is raised again where it is waited for.
        except Exception as exc:  # noqa: BLE001
            error = exc
        # The loop may have ended meanwhile.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(finish, error)

    threading.Thread(target=run, name="alert-mail", daemon=True).start()
    await ended
