"""The fields of prices, models and routes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self, Union

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from policies.registry import KINDS
from router.settings.findings import one_of, shown
from router.settings.model_conditions import WhenEntry
from router.settings.model_limits import GuardFields, RateFields
from router.settings.model_select import AtLeastSettings, Capabilities, Quality, UseEntry
from router.settings.preset import with_preset
from router.settings.types import (
    Count,
    DeploymentName,
    Duration,
    Flag,
    Instant,
    Name,
    Rate,
    Section,
    Share,
    Text,
    Timezone,
    Words,
    all_defaults,
    as_mapping,
    one_or_many,
)

if TYPE_CHECKING:
    KindOptions = BaseModel
else:
    # UP007: the kinds are known at run time only, so the union cannot be written with |.
    KindOptions = Union[tuple(kind.options for kind in KINDS.values())]  # noqa: UP007

DEFAULT_KIND: Final = "cost"


class ServiceRateSettings(Section):
    """Rates of a service tier: a multiple of the usual ones, or its own. What it leaves out costs the usual rate times `times`."""

    times: Annotated[Share, Field(gt=0, le=100)] | None = None
    """The usual rates times this. `priority: 2` is short for it. Default: `input` by the usual `input`."""
    input: Rate | None = None
    """Input tokens. Unit: USD per million tokens."""
    output: Rate | None = None
    """Output tokens. Unit: USD per million tokens."""
    cached_input: Rate | None = None
    """Input tokens read from the provider's cache. Unit: USD per million tokens."""
    cache_write: Rate | None = None
    """Input tokens written to the provider's cache. Unit: USD per million tokens."""

    @model_validator(mode="after")
    def _complete(self) -> ServiceRateSettings:
        if self.times is None and (self.input is None or self.output is None):
            raise ValueError("needs input and output, or times, a multiple of the usual rates")
        return self


class SearchFeeSettings(Section):
    """Fee of a web search by the size of its context, `search_context_size`."""

    low: Rate
    """Unit: USD."""
    medium: Rate
    """Unit: USD."""
    high: Rate
    """Unit: USD."""


def _search_fee(value: object) -> object:
    return value if isinstance(value, dict) else {"low": value, "medium": value, "high": value}


ServiceRateEntry = Annotated[ServiceRateSettings, as_mapping("times", float | str | ServiceRateSettings)]
SearchFeeEntry = Annotated[SearchFeeSettings, BeforeValidator(_search_fee, json_schema_input_type=float | str | SearchFeeSettings)]


class FlatPriceSettings(Section):
    """What a deployment costs at one time. Rates are USD per million tokens."""

    free: Flag = False
    """It costs nothing. `price: free` is short for it."""
    input: Rate | None = None
    """Input tokens. Unit: USD per million tokens."""
    output: Rate | None = None
    """Output tokens. Unit: USD per million tokens."""
    cached_input: Rate | None = None
    """Input tokens read from the provider's cache. Unit: USD per million tokens. Default: as `input`."""
    cache_write: Rate | None = None
    """Input tokens written to the provider's cache. Unit: USD per million tokens. Default: as `input`."""
    reasoning: Rate | None = None
    """Reasoning tokens. Unit: USD per million tokens. Default: as `output`."""
    audio_input: Rate | None = None
    """Audio input tokens. Unit: USD per million tokens. Default: as `input`."""
    audio_output: Rate | None = None
    """Audio output tokens. Unit: USD per million tokens. Default: as `output`."""
    per_request: Rate = 0
    """Fee of every call. Unit: USD."""
    per_image: Rate | None = None
    """Fee of every input image. Unit: USD. Default: images are counted in tokens."""
    per_hour: Rate | None = None
    """Cost of an hour of a machine of one's own, shared by `concurrency` calls. Unit: USD."""
    concurrency: Annotated[Count, Field(ge=1, le=100_000)] = 1
    """Calls that share an hour of the machine."""
    priority: ServiceRateEntry | None = None
    """Rates of `service_tier: priority`: a multiple of the usual ones, or its own. Default: unknown, such requests are refused."""
    flex: ServiceRateEntry | None = None
    """Rates of `service_tier: flex`, charged if the answer says that it was served so. Default: the usual rates."""
    web_search: SearchFeeEntry | None = None
    """Fee of a request that names `web_search_options` or `search_parameters`: one for all sizes of context, or by size. Unit: USD.
    Default: unknown, such requests are refused."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        rates = [self.input, self.output, self.cached_input, self.cache_write, self.reasoning, self.audio_input, self.audio_output]
        given = any(rate is not None for rate in rates)
        fees = self.per_hour is not None or self.per_image is not None or self.per_request > 0
        extras = self.priority is not None or self.flex is not None or self.web_search is not None
        if self.free and (given or fees or extras):
            raise ValueError("a free price has no other field")
        if given and (self.input is None or self.output is None):
            missing = "input" if self.input is None else "output"
            raise ValueError(f"{missing} is missing; write {missing}: 0 if such tokens cost nothing")
        if not (self.free or given or fees):
            raise ValueError("says nothing; write input and output, per_hour, or free")
        return self


class PriceChangeSettings(FlatPriceSettings):
    """A price that holds from a date on, in place of the one before. Rates are USD per million tokens."""

    model_config = ConfigDict(serialize_by_alias=True)

    begins: Instant = Field(alias="from")
    """When it begins; a date is midnight UTC."""


class PriceSettings(FlatPriceSettings):
    """What a deployment costs. Rates are USD per million tokens."""

    changes: tuple[PriceChangeSettings, ...] = ()
    """Prices that have followed it, or will: a call is charged at the price that is in force when it begins. Default: none."""

    @field_validator("changes")
    @classmethod
    def _in_order(cls, changes: tuple[PriceChangeSettings, ...]) -> tuple[PriceChangeSettings, ...]:
        begins = [change.begins for change in changes]
        if begins != sorted(set(begins)):
            raise ValueError("each must begin after the one before")
        return changes


def _price(value: object) -> object:
    if value == "free":
        return {"free": True}
    if isinstance(value, str | int | float) or value is None:
        raise ValueError(f"{shown(value)} is not a price; write free, or {{input: 1.25, output: 10}} in USD per million tokens")
    return value


PriceEntry = Annotated[PriceSettings, BeforeValidator(_price, json_schema_input_type=Literal["free"] | PriceSettings)]


class CallSettings(RateFields):
    """What is said of a deployment, or of a model for all of its deployments."""

    price: PriceEntry | None = None
    """`free`, or rates. Default: the price book's; local servers are free."""
    context: Annotated[Count, Field(ge=1)] | None = None
    """Most input and output tokens together. Default: the price book's, else unknown."""
    max_output: Annotated[Count, Field(ge=1)] | None = None
    """Most output tokens that the model accepts as a cap. Default: the price book's, else unknown."""
    default_max_output: Annotated[Count, Field(ge=1)] | None = None
    """Cap on output tokens that is written into a call whose client set none. Default: 4096, or `max_output` if that is less."""
    capabilities: Capabilities | None = None
    """Operations, features and input modalities that it serves. `reasoning`: it may bill output that a stream does not
    show, so that its streams hold their whole cap. Default: the price book's, else all but reasoning."""
    weight: Annotated[Share, Field(ge=0, le=1_000_000)] | None = None
    """Share of traffic relative to others, for `by: weighted` and `by: least_busy`. Default: 1."""
    max_in_flight: Annotated[Count, Field(ge=1)] | None = None
    """Most calls at a time, per worker. Default: no limit."""
    locality: Literal["cloud", "local", "edge"] | None = None
    """Class by where it runs, that is, who sees the prompt. Default: the preset's."""
    region: Text | None = None
    """Class by where it runs, in words of your own, such as `eu`. Default: none."""


class DeploymentSettings(CallSettings):
    """One place where a model is served."""

    deployment: DeploymentName
    """`provider/id`: a provider of this file, and the model's name there."""


class ModelSettings(CallSettings):
    """A model: where it is served and to which classes it belongs. What is said here holds for all its deployments."""

    at: Annotated[
        tuple[Annotated[DeploymentSettings, as_mapping("deployment", str | DeploymentSettings)], ...],
        BeforeValidator(one_or_many, json_schema_input_type=str | DeploymentSettings | list[str | DeploymentSettings]),
        Field(min_length=1),
    ]
    """Where it is served: `provider/id`, or a list; equal in everything but price and speed."""
    size: Literal["small", "medium", "large"] | None = None
    """Class by size."""
    weights: Literal["open", "closed"] | None = None
    """Class by licence of the weights. Default: the preset's, if it is certain."""
    domain: Words = ()
    """What it is good at: free words, such as `code` or `finance`."""
    languages: Words = ()
    """Languages that it is strong in, codes of ISO 639-1 such as `ko`."""
    quality: Quality | None = None
    """How good its answers are: a score, or scores by task such as `{code: 0.8, default: 0.6}`. Unit: 0 to 1. Default: unknown."""


def _by(value: object) -> object:
    if isinstance(value, BaseModel):
        return value
    if isinstance(value, str):
        value = {"kind": value}
    if not isinstance(value, dict):
        raise ValueError(f"{shown(value)} is not a policy kind{one_of('', KINDS)}")
    kind = value.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(f"{shown(kind)} is not a policy kind{one_of(kind, KINDS)}" if "kind" in value else "kind is missing")
    return value


if TYPE_CHECKING:
    ByInput = object
else:
    # UP007: as above.
    # A string may be the name of a policy of one's own.
    ByInput = Union[Literal[tuple(KINDS)], str, KindOptions]  # noqa: UP007

ByEntry = Annotated[KindOptions, Field(discriminator="kind"), BeforeValidator(_by, json_schema_input_type=ByInput)]


class BranchSettings(Section):
    """Where a request goes."""

    use: UseEntry | None = None
    """Models to choose from: a name, a list of names, or classes such as `{size: small, weights: open}`."""
    by: ByEntry = Field(default_factory=lambda: KINDS[DEFAULT_KIND].options())
    """How they are ordered: a policy kind, an object with `kind` and its options, or a name in `policies`. Default: `cost`."""
    otherwise: Literal["refuse", "fail"] = "fail"
    """If none of them can serve the request: `refuse` it (403: policy), or `fail` (503: none available). Others are never tried."""
    at_least: AtLeastSettings | None = None
    """What each of them must reach to be tried: `{quality: 0.7}`. Default: nothing."""


class RuleSettings(BranchSettings):
    """A condition, and where a request goes for which it holds. The first rule that holds wins."""

    name: Name | None = None
    """Name in logs, metrics and headers. Default: `rule-1`, `rule-2`, ..."""
    when: WhenEntry = all_defaults()
    """Conditions, or an expression in CEL; none: the rule always holds."""
    policy: Text | None = None
    """A ready-made policy by name, such as `local-private`, for the requests of this rule: its rules, and where the rest goes. `use`, `by`,
    `otherwise` and `at_least` beside it win over the latter. Default: none."""


StatusWord = Literal["timeout", "context_length", "4xx", "5xx"]


def _status(value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool) and 400 <= value <= 599:
        return value
    words = ("timeout", "context_length", "4xx", "5xx")
    if isinstance(value, str) and value in words:
        return value
    raise ValueError(f"{shown(value)} is not a cause of fallback: a status from 400 to 599{one_of(value, words)}")


class FallbackSettings(Section):
    """When another model is tried, before the first byte reached the client."""

    on: tuple[Annotated[Any, BeforeValidator(_status, json_schema_input_type=int | StatusWord)], ...] = (
        408, 409, 429, "5xx", "timeout", "context_length",
    )  # fmt: skip
    """Causes: HTTP statuses of the provider, `4xx`, `5xx`, `timeout`, `context_length`. A call that could not be sent is always one."""
    tries: Annotated[Count, Field(ge=1, le=20)] = 4
    """Most calls for one request, retries included."""
    retries: Annotated[Count, Field(ge=0, le=10)] = 1
    """Most calls of the same deployment again after a failure that may pass."""


class RouteTimeouts(Section):
    """How long calls of a route may take. What is not given stays as the provider has it."""

    first_token: Annotated[Duration, Field(gt=0, le=86400)] | None = None
    """To the first byte of the answer; then the next model is tried."""
    idle: Annotated[Duration, Field(gt=0, le=86400)] | None = None
    """Longest silence inside an answer."""
    total: Annotated[Duration, Field(gt=0, le=86400)] | None = None
    """The whole call."""


class RouteSettings(GuardFields):
    """A name that clients may ask for, and the rules that choose a model for it."""

    policy: Text | None = None
    """A ready-made route by name, such as `cheapest-capable`; the other fields here win over its own. Default: none."""
    use: UseEntry | None = None
    """Models to choose from if no rule holds. A name or a list in place of the whole object is short for it."""
    by: ByEntry | None = None
    """How they are ordered. Default: `cost`, the cheapest that can serve the request first."""
    otherwise: Literal["refuse", "fail"] | None = None
    """If none of them can serve the request: `refuse` it (403), or `fail` (503). Default: `fail`."""
    at_least: AtLeastSettings | None = None
    """What each of them must reach to be tried: `{quality: 0.7}`. Default: nothing."""
    rules: tuple[RuleSettings, ...] = ()
    """Conditions, first match wins."""
    timezone: Timezone = "UTC"
    """IANA time zone of conditions on the time: `Asia/Seoul`."""
    default: Annotated[BranchSettings, as_mapping("use", str | list[str] | BranchSettings)] | None = None
    """Where requests go for which no rule holds; the long form of `use`, `by`, `otherwise` and `at_least`."""
    fallback: FallbackSettings = all_defaults()
    """When another model is tried."""
    timeout: RouteTimeouts = all_defaults()
    """How long calls may take."""

    @model_validator(mode="before")
    @classmethod
    def _ready_made(cls, route: Any) -> Any:
        return with_preset(route)

    @model_validator(mode="after")
    def _one_default(self) -> RouteSettings:
        if self.default is not None and any(x is not None for x in (self.use, self.by, self.otherwise, self.at_least)):
            raise ValueError("give either default, or use and by")
        if self.use is None and (self.default is None or self.default.use is None):
            raise ValueError("use is missing: which models serve it if no rule holds")
        return self


ModelEntry = Annotated[ModelSettings, as_mapping("at", str | list[str | DeploymentSettings] | ModelSettings)]
RouteEntry = Annotated[RouteSettings, as_mapping("use", str | list[str] | RouteSettings)]
