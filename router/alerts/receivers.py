"""What sends to a receiver, by its kind."""

from __future__ import annotations

from collections.abc import Callable

from router.alerts.config import Receiver
from router.alerts.ports import Sender
from router.alerts.senders import HttpSender
from router.ports import Upstream


def sender_of(receiver: Receiver, upstream: Upstream, *, clock: Callable[[], float]) -> Sender:
    """The sender for one receiver; `clock` gives Unix seconds."""
    if receiver.kind == "smtp":
        from router.alerts.mail import MailSender

        return MailSender(receiver)
    return HttpSender(receiver, upstream, clock=clock)
