"""The kinds of values that fields have: how each is read from YAML, shown in the schema and written back."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Final, Literal
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema

from router.domain.money import format_usd
from router.settings.findings import looks_like_secret, shown
from router.settings.references import FromEnvironment, Secret
from router.settings.units import parse_count, parse_duration, parse_share, parse_size, parse_usd


class Section(BaseModel):
    """A part of the configuration: immutable, and an unknown field is an error.

    The texts below fields are their descriptions; `router.settings.schema` reads them. pydantic would read
    and parse the source of every class whenever the program starts.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        # Once, for the whole, instead of once for every part.
        defer_build=True,
        hide_input_in_errors=True,
        coerce_numbers_to_str=True,
        arbitrary_types_allowed=True,
    )


def all_defaults() -> Any:
    """For a section that need not be written. An instance as the default would be built whenever the program starts."""
    return Field(default={}, validate_default=True)


def format_duration(seconds: float) -> str:
    """Seconds as they are written in YAML."""
    if seconds != int(seconds) or seconds == 0:
        return f"{Decimal(str(seconds)) * 1000:f}".rstrip("0").rstrip(".").ljust(1, "0") + "ms"
    whole = int(seconds)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if whole % size == 0:
            return f"{whole // size}{unit}"
    return f"{whole}s"


def format_size(size: int) -> str:
    """Bytes as they are written in YAML."""
    for factor, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if size and size % factor == 0:
            return f"{size // factor}{unit}"
    return f"{size}B"


def format_money(nusd: int) -> str:
    """Nano-USD as they are written in YAML."""
    return f"${format_usd(nusd)}"


def hide_password(address: str) -> str:
    """An address without the credentials in it, also if they have an @ or a slash that should have been encoded."""
    return re.sub(r"://.*@", "://***@", address, flags=re.DOTALL)


def _price_rate(value: object) -> int:
    return parse_usd(value, bare=True)


def _flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, FromEnvironment) and str(value).lower() in ("true", "false"):
        return str(value).lower() == "true"
    raise ValueError(f"{shown(value)} is neither true nor false")


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(getattr(value, "text", value))
    raise ValueError(f"{shown(value)} is not text")


def _words(value: object) -> object:
    """One or many: a single text stands for a list of one."""
    if isinstance(value, list):
        return value
    return [_text(value)]


def _secret(value: object) -> Secret:
    if isinstance(value, Secret):
        return value
    if isinstance(value, FromEnvironment):
        return Secret(str(value), value.reference)
    text = _text(value)
    if looks_like_secret(text):
        raise ValueError("a key must not stand in the file; put it into an environment variable and write $NAME, or write file:/path")
    return Secret(text, "***")


def _referenced_secret(value: object) -> Secret:
    if isinstance(value, FromEnvironment | Secret):
        return _secret(value)
    raise ValueError("a key must not stand in the file; put it into an environment variable and write $NAME, or write file:/path")


_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MODEL_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/+-]{0,127}")
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9-]{1,64}")
_DEPLOYMENT: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,63})/([^\s\x00-\x1f\x7f]{1,200})")


def _name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError(f"{shown(value)} is not a name: letters, digits, '.', '_' and '-', at most 64")
    return value


def _model_name(value: str) -> str:
    if not is_model_name(value):
        raise ValueError(f"{shown(value)} is not a name: letters, digits and '. _ : @ / + -', at most 128")
    return value


def is_model_name(value: str) -> bool:
    """Whether a text can be the name of a model or route."""
    return _MODEL_NAME.fullmatch(value) is not None


def is_deployment(value: str) -> bool:
    """Whether a text can be `provider/id`."""
    return _DEPLOYMENT.fullmatch(value) is not None


def _header_name(value: str) -> str:
    if not _HEADER_NAME.fullmatch(value):
        raise ValueError(f"{shown(value)} is not a header name")
    return value.lower()


def _deployment(value: str) -> str:
    if not _DEPLOYMENT.fullmatch(value):
        raise ValueError(f"{shown(value)} is not a deployment; write provider/model-id")
    return value


def _timezone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (OSError, ValueError, KeyError):
        raise ValueError(f"{shown(value)} is not an IANA time zone; write Asia/Seoul") from None
    return value


def _ways(value: tuple[str, ...]) -> tuple[str, ...]:
    twice = {way for way in value if value.count(way) > 1}
    if twice:
        raise ValueError(f"{shown(min(twice))} is given twice")
    if "refuse" in value[:-1]:
        raise ValueError("what comes after refuse is never tried; write refuse last")
    if not value:
        raise ValueError("is empty; write refuse")
    return value


def _instant(value: object) -> datetime:
    expected = f"{shown(value)} is not a date; write 2027-01-31 or 2027-01-31T18:00:00+09:00"
    if isinstance(value, datetime):
        return value
    try:
        when = datetime.fromisoformat(str(value))
        # Years that far away overflow once a zone is applied.
        if not 1971 <= when.year <= 9000:
            raise ValueError(expected)
        return when if when.tzinfo is not None else when.replace(tzinfo=UTC)
    except ValueError:
        raise ValueError(expected) from None


def _schema(unit: str, *types: str) -> WithJsonSchema:
    return WithJsonSchema({"type": list(types) if len(types) > 1 else types[0], "x-unit": unit})


Duration = Annotated[
    float, BeforeValidator(parse_duration), PlainSerializer(format_duration, when_used="json"), _schema("seconds", "string")
]
ByteSize = Annotated[int, BeforeValidator(parse_size), PlainSerializer(format_size, when_used="json"), _schema("bytes", "string")]
Count = Annotated[int, BeforeValidator(parse_count), _schema("count", "integer", "string")]
Share = Annotated[float, BeforeValidator(parse_share), _schema("share", "number", "string")]
Usd = Annotated[int, BeforeValidator(parse_usd), PlainSerializer(format_money, when_used="json"), _schema("USD", "string")]
Rate = Annotated[int, BeforeValidator(_price_rate), PlainSerializer(format_money, when_used="json"), _schema("USD", "number", "string")]
Flag = Annotated[bool, BeforeValidator(_flag)]
Text = Annotated[str, BeforeValidator(_text)]
Timezone = Annotated[Text, AfterValidator(_timezone)]
Address = Annotated[str, BeforeValidator(_text), PlainSerializer(hide_password, when_used="json")]
Name = Annotated[str, BeforeValidator(_text), AfterValidator(_name)]
ModelName = Annotated[str, BeforeValidator(_text), AfterValidator(_model_name)]
HeaderName = Annotated[str, BeforeValidator(_text), AfterValidator(_header_name)]
DeploymentName = Annotated[str, BeforeValidator(_text), AfterValidator(_deployment)]
Instant = Annotated[
    datetime, BeforeValidator(_instant), WithJsonSchema({"type": "string", "x-unit": "ISO 8601 date", "examples": ["2027-01-31"]})
]
SecretText = Annotated[
    Secret,
    BeforeValidator(_secret),
    PlainSerializer(lambda secret: secret.reference, return_type=str),
    WithJsonSchema({"type": "string", "x-unit": "reference", "examples": ["$OPENAI_API_KEY", "file:/run/secrets/openai"]}),
]
ReferencedSecret = Annotated[
    Secret,
    BeforeValidator(_referenced_secret),
    PlainSerializer(lambda secret: secret.reference, return_type=str),
    WithJsonSchema({"type": "string", "x-unit": "reference", "examples": ["$CI_BOT_KEY"]}),
]
OnShortWays = Annotated[
    tuple[Literal["cheaper", "wait", "clamp", "refuse"], ...],
    BeforeValidator(_words, json_schema_input_type=str | list[str]),
    AfterValidator(_ways),
]
Words = Annotated[tuple[Text, ...], BeforeValidator(_words, json_schema_input_type=str | list[str])]
"""One text or a list of texts."""


def one_or_many(value: object) -> object:
    """For lists of a closed set: a single word stands for a list of one."""
    return value if isinstance(value, list) else [value]


Sizes = Annotated[
    tuple[Literal["small", "medium", "large"], ...],
    BeforeValidator(one_or_many, json_schema_input_type=Literal["small", "medium", "large"] | list[Literal["small", "medium", "large"]]),
]
WeightsClasses = Annotated[
    tuple[Literal["open", "closed"], ...],
    BeforeValidator(one_or_many, json_schema_input_type=Literal["open", "closed"] | list[Literal["open", "closed"]]),
]
Localities = Annotated[
    tuple[Literal["cloud", "local", "edge"], ...],
    BeforeValidator(one_or_many, json_schema_input_type=Literal["cloud", "local", "edge"] | list[Literal["cloud", "local", "edge"]]),
]


def as_mapping(field: str, accepted: Any) -> Any:
    """A validator that takes a text or list as shorthand for `{field: value}`, and nothing as an empty mapping.

    `accepted` is the type of all that may be written, for the schema.
    """

    def expand(value: object) -> object:
        if value is None:
            return {}
        return {field: value} if isinstance(value, str | list | int | float) and not isinstance(value, bool) else value

    return BeforeValidator(expand, json_schema_input_type=accepted)
