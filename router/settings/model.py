"""Every field of the configuration file: server, providers and what is in the file as a whole.

Models and routes are in `model_routing.py`, budgets, teams and keys in `model_access.py`.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer

from router.domain.advances import WhenDown
from router.domain.shortage import DEFAULT as DEFAULT_ON_SHORT
from router.settings.findings import shown
from router.settings.model_access import KeySettings, TeamSettings
from router.settings.model_admin import AdminListenSettings, AdminSettings
from router.settings.model_alerts import AlertSettings, Receivers
from router.settings.model_budgets import BudgetEntry
from router.settings.model_experiments import ExperimentSettings
from router.settings.model_limits import GuardsSection, LimitsSection
from router.settings.model_privacy import Privacy
from router.settings.model_routing import ByEntry, ModelEntry, PriceEntry, RouteEntry
from router.settings.model_signals import SignalsSection
from router.settings.types import (
    Address,
    ByteSize,
    Count,
    Duration,
    Flag,
    HeaderName,
    ModelName,
    Name,
    OnShortWays,
    SecretText,
    Section,
    Share,
    Text,
    Usd,
    Words,
    all_defaults,
    as_mapping,
    hide_password,
)

BUDGET_STATUSES = (402, 429, 403, 422)


def _listed(value: object) -> object:
    """Providers as a list of names: each with what its preset says."""
    if value is None:
        return {}
    if isinstance(value, str):
        return {value: {}}
    if not isinstance(value, list):
        return value
    names = [item for item in value if isinstance(item, str)]
    if len(names) != len(value):
        raise ValueError("a list of providers holds names only; write a mapping to give options")
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(f"{shown(min(twice))} is given twice")
    return {name: {} for name in names}


def _names_a_host(value: str, parts: SplitResult) -> bool:
    try:
        return bool(parts.hostname) and parts.port != 0 and re.search(r"[\s\x00-\x1f\x7f]", value) is None
    except ValueError:
        # The port is none.
        return False


def _url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not _names_a_host(value, parts):
        raise ValueError(f"{shown(value)} is not a URL; write https://host/v1")
    if parts.username is not None:
        raise ValueError("a URL must not hold a credential; write it into api_key or headers")
    if parts.query or parts.fragment:
        raise ValueError(f"{shown(hide_password(value))} must end before ? and #")
    return value.rstrip("/")


def _proxy_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https", "socks5", "socks5h") or not _names_a_host(value, parts):
        raise ValueError(f"{shown(hide_password(value))} is not the URL of a proxy; write http://host:3128")
    return value


def _budget_status(value: int) -> int:
    if value not in BUDGET_STATUSES:
        raise ValueError(f"{value} is not one of {', '.join(map(str, BUDGET_STATUSES))}")
    return value


Url = Annotated[Text, AfterValidator(_url)]
ProxyUrl = Annotated[Text, AfterValidator(_proxy_url), PlainSerializer(hide_password, when_used="json")]


class CompatSettings(Section):
    """Behaviour for clients that come from another gateway."""

    budget_status: Annotated[Count, AfterValidator(_budget_status)] = 402
    """HTTP status of a refusal for money: 402, 429, 403 or 422. 402 is the one that no client library sends again."""


class KeepPromptsSettings(Section):
    """Prompts that are kept in a file, a JSON object a line: for `faregate evaluate` and `faregate router train`. Never those of private
    requests. Nothing else that Faregate writes has prompts in it."""

    file: Text
    """Where. It is made readable for the user and the group of the service."""
    share: Annotated[Share, Field(le=1)] = 0.01
    """Share of the answered chats and completions: `1%`, `100%` for all. Default: 1%."""
    most: ByteSize = 1_000_000_000
    """The file grows no further. Default: 1GB."""


class ServerSection(Section):
    """How the process serves. Addresses, the store, sizes and times of it, and `log_requests`, are fixed until it is started again;
    the rest follows the file."""

    host: Text = "127.0.0.1"
    """Address to listen on. Without keys, only loopback addresses are served unless `allow_anonymous` is set."""
    port: Annotated[Count, Field(le=65535)] = 4000
    """TCP port to listen on; 0 takes a free one. `--port` wins over it."""
    workers: Annotated[Count, Field(ge=1, le=256)] = 1
    """Processes that share the port, one per core at most."""
    store: Address | None = Field(default=None, repr=False)
    """Where budgets are kept: `redis://...`, `rediss://...`, `redis+sentinel://...`, `unix://...` or the path of an SQLite file.
    Default: `REDIS_URL`, else `FAREGATE_STORE`, else a file in the user's state folder."""
    shared_store: Address | None = Field(default=None, repr=False)
    """Where several ledgers agree on their shares of budgets that are `shared`: an address like that of `store`, the same for all.
    Default: none."""
    ledger: Text | None = None
    """Name of this ledger among those that share budgets: the same for all processes that use `store`, and no other's. Default: none."""
    lease: Annotated[Duration, Field(ge=2, le=3600)] = 20.0
    """How long the holds of a process that died stay open before they are charged."""
    store_timeout: Annotated[Duration, Field(ge=0.01, le=10)] = 0.25
    """Longest wait for an answer of the store."""
    keep_log: Annotated[Duration, Field(ge=86_400, le=3_660 * 86_400)] = 400 * 86_400.0
    """How long the ledger keeps a spend record. What older ones add up to is kept as long as their budget's counter."""
    keep_log_for: tuple[Text, ...] = ()
    """Names of exports and sinks (`faregate spend export | sink --name`) that must have read a record before it leaves the log,
    even after `keep_log`. One that never ran keeps the whole log. Default: none."""
    when_store_is_down: WhenDown = "closed"
    """What happens to requests while the store does not answer, for hard budgets that say nothing themselves: `closed` refuses them,
    `lease` pays for them from an advance that was held before, `open` lets them through up to `open_up_to`."""
    lease_share: Annotated[Share, Field(gt=0, le=0.5)] = 0.02
    """Most of what is left of a budget that a process holds as advances, with `when_store_is_down: lease`."""
    open_up_to: Annotated[Usd, Field(ge=0)] = 1_000_000_000
    """Most that a process lets through for a budget while the store is away, with `when_store_is_down: open`: so much, times the
    number of processes, a limit can be exceeded by. Default: $1."""
    drain: Annotated[Duration, Field(ge=0, le=3600)] = 30.0
    """How long live requests may go on after SIGTERM. New ones are answered 503 meanwhile."""
    drain_delay: Annotated[Duration, Field(ge=0, le=3600)] = 0.0
    """Least time from SIGTERM to the end, even if no request is live: until then `/readyz` answers 503, so that a load balancer
    notices. Default: 0 s, the service ends as soon as nothing is live. Not longer than `drain`."""
    max_body: Annotated[ByteSize, Field(ge=1024, le=2**31 - 1)] = 20 * 1024 * 1024
    """Largest request body."""
    max_header: Annotated[ByteSize, Field(ge=1024, le=2**24)] = 32 * 1024
    """Largest request head."""
    max_connections: Annotated[Count, Field(ge=1, le=1_000_000)] = 8192
    """Client connections at a time, per worker."""
    unpriced: Literal["refuse", "assume", "free"] = "refuse"
    """What to do with a deployment whose price is unknown: never call it, count it at `assumed_price`, or count nothing."""
    assumed_price: PriceEntry | None = None
    """Price of deployments without one, if `unpriced: assume`."""
    slice_tokens: Annotated[Count, Field(ge=16, le=1_000_000)] = 2048
    """Output tokens that a stream holds money for at a time."""
    on_short: OnShortWays = DEFAULT_ON_SHORT
    """What is done, in this order, if a hard budget has too little room for a call: `cheaper` (the next candidate that fits),
    `wait` (for room that calls under way leave), `clamp` (a smaller cap on output), `refuse` (402). For budgets that say nothing.
    Default: `[cheaper, refuse]`."""
    short_wait: Annotated[Duration, Field(ge=0.01, le=30)] = 2.0
    """Longest wait for room in a budget, with `on_short: wait`."""
    least_output: Annotated[Count, Field(ge=1, le=1_000_000)] = 256
    """Output tokens that a call is clamped to at least, with `on_short: clamp`."""
    strict: Flag = False
    """Hold every input at its certain bound (a token per byte), never at a lower one learned from what was billed."""
    learn_lengths: Flag = True
    """Without a cap of the client, go by the lengths of earlier answers to such requests: one that is not streamed gets a cap
    that hardly any reaches, never above `default_max_output`; a stream holds what most need, and more as it grows."""
    on_missing_usage: Literal["estimate", "hold"] = "estimate"
    """What is charged if a provider reports no usage: our own count, or the whole hold."""
    allow_anonymous: Flag = False
    """Serve requests without a key on an address that others can reach."""
    log_requests: Flag = True
    """Write one line per request, without prompts or answers."""
    record_decisions: Annotated[Share, Field(le=1)] = 0.01
    """Share of requests whose spend record keeps what the decision was made of (facts and candidates, no prompt; about 0.6 kB), so
    that it can be explained and replayed exactly: `1%`, `100%` for all, `0%` for none."""
    keep_prompts: KeepPromptsSettings | None = None
    """Keep the prompts of some requests. Default: none are kept."""
    baseline: Text | None = None
    """Model or deployment whose price avoided cost is measured against. Default: none, avoided cost is not counted."""
    admin: AdminListenSettings = all_defaults()
    """Where the admin API listens, if `admins` names somebody."""
    compat: CompatSettings = all_defaults()
    """What differs for clients that were written for another gateway."""


class TimeoutSettings(Section):
    """How long a call to a provider may take."""

    connect: Annotated[Duration, Field(gt=0, le=600)] = 5.0
    """To connect, TLS included."""
    first_byte: Annotated[Duration, Field(gt=0, le=86400)] = 120.0
    """From the request sent to the first byte of the answer."""
    idle: Annotated[Duration, Field(gt=0, le=86400)] = 60.0
    """Longest silence inside an answer."""
    total: Annotated[Duration, Field(gt=0, le=86400)] = 600.0
    """The whole call."""


class SimulationSettings(Section):
    """How a simulated provider behaves, for trying out fallbacks, deadlines and budgets."""

    seed: Annotated[Count, Field(ge=0)] = 0
    """The same seed, model and prompt give the same answer, latency and fault."""
    speed: Annotated[float, Field(gt=0, le=1000)] = 1.0
    """All latencies are divided by this."""
    faults: Flag = False
    """Its models fail at the rates of their profiles."""
    down: Words = ()
    """Models that answer 503, such as `mid-closed`."""


class ProviderSettings(Section):
    """Who serves models. Well-known names need nothing else: the key comes from their usual environment variable."""

    kind: Text | None = None
    """Preset to follow, or `litellm/<its provider>` for the adapter lane. Default: the provider's own name."""
    base_url: Url | None = None
    """Where its API begins, with the version: `http://gpu-room:8000/v1`. Default: the preset's."""
    api_key: SecretText | None = None
    """Credential, as `$NAME` or `file:/path`. Default: the preset's environment variable."""
    headers: dict[HeaderName, SecretText] = Field(default_factory=dict)
    """Headers sent with every call. Values may be references."""
    http2: Flag = False
    """Speak HTTP/2. Needs https."""
    proxy: ProxyUrl | None = Field(default=None, repr=False)
    """HTTP or SOCKS proxy to go through. The usual proxy variables of the environment are not read."""
    max_connections: Annotated[Count, Field(ge=1, le=100_000)] = 512
    """Connections to it at a time, per worker; further calls wait."""
    timeouts: TimeoutSettings = all_defaults()
    """How long a call may take."""
    ca_file: Text | None = None
    """File with the certificates to trust instead of the system's."""
    verify: Flag = True
    """Check its certificate."""
    simulate: SimulationSettings | None = None
    """Only for `kind: sim` without `base_url`. Default: nothing fails, at the pace of the profiles."""
    options: dict[str, SecretText] = Field(default_factory=dict)
    """Only for `kind: litellm/...`: what the adapter needs, such as `aws_region_name`. Values may be references."""


Providers = Annotated[
    dict[Name, Annotated[ProviderSettings, as_mapping("kind", ProviderSettings | None)]],
    BeforeValidator(_listed, json_schema_input_type=list[str] | dict[str, ProviderSettings | None]),
]


class Settings(Section):
    """The configuration file of faregate."""

    version: Literal[1]
    """Version of this language. Always 1."""
    server: ServerSection = all_defaults()
    """How the process serves."""
    providers: Providers = Field(default_factory=dict)
    """Who serves models: a list of well-known names, or a mapping from names to options."""
    models: dict[ModelName, ModelEntry] = Field(default_factory=dict)
    """Names for models, and where each is served: `provider/id`, a list of them, or an object."""
    policies: dict[Name, ByEntry] = Field(default_factory=dict)
    """Policy kinds with their options under names of your own, for `by` of routes, rules and other policies."""
    routes: dict[ModelName, RouteEntry] = Field(default_factory=dict)
    """Names that clients may ask for, beside those of models: a model, a list of models, or an object with rules."""
    experiments: dict[Name, ExperimentSettings] = Field(default_factory=dict)
    """New models in the place of others, for a share of a route's requests, by name:
    `{solar-5: {route: auto, swap: {solar: upstage/solar-pro5}, share: 5%}}`."""
    privacy: Privacy = Field(default_factory=dict)
    """Requests that only some models may see: `{when: {pii: true}, only: {locality: local}}`, or several such classes by name."""
    budgets: dict[Name, BudgetEntry] = Field(default_factory=dict)
    """Limits on spending: `$50/month`, or an object."""
    teams: dict[Name, TeamSettings] = Field(default_factory=dict)
    """Groups of keys."""
    keys: dict[Name, KeySettings] = Field(default_factory=dict)
    """Virtual keys. Without any, and without minted ones, requests need no key."""
    admins: dict[Name, AdminSettings] = Field(default_factory=dict)
    """Who may use the admin API. Without any, there is none."""
    signals: SignalsSection = all_defaults()
    """How prompts are read, where a rule asks for it."""
    limits: LimitsSection = all_defaults()
    """Rate limits that every key, team, user or session has for itself."""
    guards: GuardsSection = all_defaults()
    """What any request may ask for."""
    notify: Receivers = Field(default_factory=dict)
    """Who is told of alerts: `{slack: $SLACK_WEBHOOK}`, addresses or objects by name, or a list of them."""
    alerts: AlertSettings = all_defaults()
    """What is looked for, if `notify` names somebody."""
