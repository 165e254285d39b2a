"""The fields of alerts: who is told, of what, and at which shares of a budget."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, WithJsonSchema, model_validator

from router.domain.budgets import StepAction
from router.settings.findings import one_of, shown
from router.settings.references import FromEnvironment, Secret
from router.settings.types import Count, Duration, Flag, Name, ReferencedSecret, SecretText, Section, Share, Text, Usd, Words, as_mapping
from router.settings.units import parse_share

MAX_SHARE = 10.0
MAIL_WORDS = ("smtp", "mail", "email")


class Shares(tuple[float, ...]):
    """Shares of a limit, in rising order, and what is done at some of them beside telling people."""

    steps: tuple[tuple[float, StepAction], ...] = ()


_ACTIONS: Final[Mapping[str, StepAction | None]] = {"notify": None, "downgrade": "downgrade", "refuse": "refuse", "block": "refuse"}


def parse_at(value: object) -> Shares:
    """Shares of a limit from a list, or from a mapping to what is done there.

    Raises:
        ValueError: not a share, or something that cannot be done.
    """
    if isinstance(value, Shares):
        return value
    steps: list[tuple[float, StepAction]] = []
    if isinstance(value, Mapping):
        for share, action in value.items():
            if not isinstance(action, str) or action not in _ACTIONS:
                raise ValueError(f"{shown(action)} is not known here{one_of(str(action), _ACTIONS)}")
            step = _ACTIONS[action]
            if step is not None:
                steps.append((parse_share(share), step))
    given = list(value) if isinstance(value, list | tuple | Mapping) else [value]
    shares = {parse_share(each) for each in given}
    if any(not 0 < share <= MAX_SHARE for share in shares):
        raise ValueError(f"a share of a budget is above 0 % and at most {MAX_SHARE:.0%}; write [50%, 80%]")
    found = Shares(sorted(shares))
    found.steps = tuple(sorted(steps))
    return found


def _write_at(shares: tuple[float, ...]) -> list[str] | dict[str, str]:
    steps = dict(getattr(shares, "steps", ()))
    written = [f"{share * 100:g}%" for share in shares]
    return {text: steps.get(share, "notify") for text, share in zip(written, shares, strict=True)} if steps else written


Thresholds = Annotated[
    Any,
    BeforeValidator(parse_at),
    PlainSerializer(_write_at, when_used="json"),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": ["string", "number"]},
                {"type": "array", "items": {"type": ["string", "number"]}},
                {"type": "object", "additionalProperties": {"enum": ["notify", "downgrade", "refuse", "block"]}},
            ],
            "examples": [["50%", "80%", "95%", "100%"], {"50%": "notify", "80%": "downgrade", "95%": "refuse"}],
        }
    ),
]


def _listed(value: object) -> object:
    """Receivers as a list: each goes by its `name`, else by its kind."""
    if value is None:
        return {}
    if isinstance(value, str):
        return {"webhook": value}
    if not isinstance(value, list):
        return value
    named: dict[str, object] = {}
    for item in value:
        fields = {"url": item} if isinstance(item, str) else item
        if not isinstance(fields, dict):
            raise ValueError("a receiver is an address or a mapping")
        name = str(fields.get("name") or fields.get("kind") or "webhook")
        if name in named:
            raise ValueError(f"{shown(name)} is there twice; give each receiver a `name` of its own")
        named[name] = {key: each for key, each in fields.items() if key != "name"}
    return named


def _kinds(words: tuple[str, ...]) -> tuple[str, ...]:
    from router.alerts.events import KINDS
    from router.settings.findings import one_of

    known = [kind for kind in KINDS if kind != "test"]
    for word in words:
        if word not in known:
            raise ValueError(f"{shown(word)} is not an event{one_of(word, known)}")
    return words


def _write_address(secret: Secret) -> str:
    """As a reference; of a literal, and of the default of a reference, only what is no secret."""
    scheme, _, rest = secret.reveal().partition("://")
    if secret.reference == "***":
        return f"{scheme}://{rest.partition('/')[0].rpartition('@')[2]}/***" if rest else "***"
    return secret.reference.replace(":-...}", f":-{scheme}://***}}")


AddressText = Annotated[SecretText, PlainSerializer(_write_address, return_type=str)]


class ReceiverSettings(Section):
    """Somebody who is told."""

    kind: Literal["webhook", "slack", "smtp"] | None = None
    """`webhook` gets JSON, `slack` what Slack, Mattermost and others understand, `smtp` is mail.
    Default: by the name of the receiver (`slack`, `smtp`, `mail`) and the beginning of its address, else `webhook`."""
    url: AddressText
    """Where to: `https://...`; for mail the server, `smtp://host:587` or `smtps://host:465`. May be a reference."""
    secret: ReferencedSecret | None = None
    """Of a webhook: signs what is sent (HMAC-SHA-256). Of mail: the password. As `$NAME` or `file:/path`."""
    username: Text | None = None
    """Of mail: the name to log in with. Default: no login."""
    sender: Text | None = None
    """Of mail: whom it is from. Needed there."""
    to: Words = ()
    """Of mail: whom it is for. Needed there."""
    starttls: Flag = True
    """Of mail: never send it, nor the password, over an `smtp://` connection that cannot be encrypted. False: do not encrypt."""
    ca_file: Text | None = None
    """File with the certificates to trust instead of the system's."""
    events: Annotated[Words, AfterValidator(_kinds)] = ()
    """Which events it is told of. Default: all."""
    timeout: Annotated[Duration, Field(gt=0, le=60)] = 5.0
    """Longest wait for it, at every try."""
    tries: Annotated[Count, Field(ge=1, le=20)] = 6
    """After so many it is given up, with a log line and in `faregate_alerts_total`. Unit: count."""


def _address(value: object) -> object:
    """A reference alone is the address, too: it is text of its own kind."""
    return {"url": value} if isinstance(value, FromEnvironment) else value


Receivers = Annotated[
    dict[Name, Annotated[ReceiverSettings, as_mapping("url", str | ReceiverSettings), BeforeValidator(_address)]],
    BeforeValidator(_listed, json_schema_input_type=str | list[Any] | dict[str, str | ReceiverSettings]),
]


class AlertSettings(Section):
    """What is looked for, and how often. Nothing is, unless `notify` names somebody."""

    every: Annotated[Duration, Field(ge=0.1, le=3600)] = 5.0
    """How often to look."""
    repeat: Annotated[Duration, Field(ge=60, le=30 * 86400)] = 86400.0
    """What lasts (a refusing provider, a model without a price, drift) is told again after so long."""
    forecast: Flag = True
    """Tell of budgets that will be used up before their window ends."""
    anomaly: Flag = True
    """Tell of hours in which more is spent than is usual for that hour of the week."""
    anomaly_weeks: Annotated[Count, Field(ge=3, le=8)] = 4
    """Weeks that must be known before an hour can be unusual. Unit: count."""
    anomaly_factor: Annotated[Share, Field(ge=1, le=100)] = 6.0
    """Robust standard deviations above the median that are unusual. Unit: none."""
    anomaly_least: Usd = 1_000_000_000
    """Less than this above the median is never unusual."""
    provider_after: Annotated[Duration, Field(ge=1, le=86400)] = 300.0
    """Tell of a deployment that has not answered for so long; of one that refuses our credentials, at once."""
    store_after: Annotated[Duration, Field(ge=0, le=3600)] = 10.0
    """Tell of a budget store that has been away for so long."""

    @model_validator(mode="after")
    def _consistent(self) -> AlertSettings:
        if self.repeat < self.every:
            raise ValueError("repeat must not be shorter than every")
        return self
