"""Receivers of alerts."""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit

from router.alerts.config import AlertRules, MailServer, Receiver, ReceiverKind
from router.ports import Endpoint
from router.settings.compile_context import Context
from router.settings.findings import Path
from router.settings.model_alerts import MAIL_WORDS, AlertSettings, ReceiverSettings

_PORTS = {"http": 80, "https": 443, "smtp": 587, "smtps": 465}


def compile_alerts(context: Context) -> tuple[tuple[Receiver, ...], AlertRules]:
    """Who is told, and the rules."""
    made = (_receiver(context, name, given) for name, given in context.settings.notify.items())
    return tuple([each for each in made if each is not None]), _rules(context.settings.alerts)


def _rules(given: AlertSettings) -> AlertRules:
    return AlertRules(
        every_seconds=given.every,
        repeat_seconds=given.repeat,
        forecast=given.forecast,
        anomaly=given.anomaly,
        anomaly_weeks=given.anomaly_weeks,
        anomaly_factor=given.anomaly_factor,
        anomaly_least_nusd=given.anomaly_least,
        provider_seconds=given.provider_after,
        store_seconds=given.store_after,
    )


def _receiver(context: Context, name: str, given: ReceiverSettings) -> Receiver | None:
    path: Path = ("notify", name)
    text = given.url.reveal()
    url = _split(text)
    if url is None and not text and given.url.reference.startswith("$"):
        # A variable that is not set is reported already.
        return None
    if url is None:
        context.wrong((*path, "url"), "is not an address (it is not shown); write https://host/path or smtp://host:587")
        return None
    kind = given.kind or _kind(name, url)
    schemes = ("smtp", "smtps") if kind == "smtp" else ("http", "https")
    if url.scheme not in schemes:
        context.wrong((*path, "url"), f"begins with {url.scheme}://; a receiver of kind {kind} needs {schemes[1]}://")
        return None
    if url.username is not None:
        context.wrong((*path, "url"), "must not hold a credential; write username and secret")
        return None
    fits = _mail_fits(context, path, given) if kind == "smtp" else _hook_fits(context, path, given)
    if not fits:
        return None
    return Receiver(
        name=name,
        kind=kind,
        endpoint=None if kind == "smtp" else _endpoint(name, url, given),
        path=(url.path or "/") + (f"?{url.query}" if url.query else ""),
        mail=_mail(url, given) if kind == "smtp" else None,
        secret=None if given.secret is None else given.secret.reveal(),
        events=frozenset(given.events),
        timeout_seconds=given.timeout,
        tries=given.tries,
    )


def _split(text: str) -> SplitResult | None:
    try:
        url = urlsplit(text)
        known = url.scheme in _PORTS and bool(url.hostname) and (url.port is None or url.port > 0)
    except ValueError:
        return None
    printable = text.isascii() and text.isprintable() and " " not in text
    return url if known and printable else None


def _kind(name: str, url: SplitResult) -> ReceiverKind:
    if name in MAIL_WORDS or url.scheme in ("smtp", "smtps"):
        return "smtp"
    return "slack" if name == "slack" or url.hostname == "hooks.slack.com" else "webhook"


def _mail_fits(context: Context, path: Path, given: ReceiverSettings) -> bool:
    for field in ("sender", "to"):
        if not getattr(given, field):
            context.wrong(path, f"is mail, which needs {field}")
    for field, addresses in (("sender", (given.sender,)), ("to", given.to)):
        if any(address and ("@" not in address or not address.isprintable()) for address in addresses):
            context.wrong((*path, field), "is not an address of mail")
    if (given.username is None) != (given.secret is None):
        context.wrong(path, "give both username and secret, or neither")
    return bool(given.sender and given.to)


def _hook_fits(context: Context, path: Path, given: ReceiverSettings) -> bool:
    odd = [field for field in ("username", "sender", "to") if getattr(given, field)]
    for field in odd:
        context.wrong((*path, field), "is for mail only", at_key=True)
    return not odd


def _endpoint(name: str, url: SplitResult, given: ReceiverSettings) -> Endpoint:
    return Endpoint(
        name=f"notify.{name}",
        scheme="https" if url.scheme == "https" else "http",
        host=url.hostname or "",
        port=url.port or _PORTS[url.scheme],
        base_path="",
        max_connections=2,
        ca_file=given.ca_file,
    )


def _mail(url: SplitResult, given: ReceiverSettings) -> MailServer:
    return MailServer(
        host=url.hostname or "",
        port=url.port or _PORTS[url.scheme],
        tls="implicit" if url.scheme == "smtps" else "starttls" if given.starttls else "none",
        username=given.username,
        sender=given.sender or "",
        to=tuple(given.to),
        ca_file=given.ca_file,
    )
