"""The compiled configuration: immutable, looked up by the hot path, swapped as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal
from zoneinfo import ZoneInfo

import msgspec

from policies.engine import RoutePolicy
from policies.figures import Figure
from policies.types import SignalName, Traits
from router.alerts.config import AlertRules, Receiver
from router.domain.advances import WhenDown
from router.domain.budgets import Budget
from router.domain.prices import Price, price_at
from router.domain.pricing import Tariff, tariff_of
from router.domain.runaway import RunawayRules
from router.ports import Endpoint, Timeouts
from router.signal_port import Plugin

if TYPE_CHECKING:
    from policies.learned.model import Model
    from policies.learned.thresholds import Target

Lane = Literal["wire", "litellm"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quirks:
    """How a provider's dialect differs from OpenAI's where we must know it."""

    output_cap_field: Literal["max_completion_tokens", "max_tokens"] = "max_tokens"
    """The field that limits output when the client sent none."""
    stream_usage: bool = True
    """Whether `stream_options.include_usage` is understood."""
    cap_includes_reasoning: bool = True
    """Whether the output cap bounds reasoning tokens too. False: reasoning may come on top (hold doubles)."""
    reasoning_beside_output: bool = False
    """Whether reasoning tokens are reported beside, not inside, the output tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulation:
    """How a provider that is simulated in this process behaves."""

    seed: int = 0
    speed: float = 1.0
    """All latencies are divided by this."""
    faults: bool = False
    """Whether its models fail at the rates of their profiles."""
    down: frozenset[str] = frozenset()
    """Models that answer 503."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """Who serves models, and in which dialect."""

    name: str
    kind: str
    """Preset: `openai`, `vllm`, `ollama`, `sim`, ..., `litellm/<its provider>`."""
    lane: Lane
    endpoint: Endpoint
    quirks: Quirks = field(default_factory=Quirks)
    litellm_provider: str | None = None
    litellm_options: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Keyword arguments for the adapter lane: api_key, api_base, region, ... Secrets: never log."""
    simulation: Simulation = Simulation()
    """Of kind `sim` without an address."""

    @property
    def resells(self) -> bool:
        """Whether it sells what several hosts serve, each at its own price."""
        return self.kind.endswith("openrouter") or self.endpoint.host.endswith("openrouter.ai")


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """One callable upstream of a model."""

    name: str
    """`provider/id`."""
    model: str
    upstream_id: str
    """What goes into the body's `model`."""
    provider: Provider
    traits: Traits
    price: Price | None
    """The price that is in force. None: unpriced."""
    prices: tuple[Price, ...] = ()
    """All prices that have been or will be, in the order of time; empty if there is only one."""
    default_max_output_tokens: int = 4096
    """Cap written into a call whose client set none."""
    max_output_tokens: int | None = None
    """Largest cap that the model accepts; None if unknown."""
    timeouts: Timeouts = field(default_factory=Timeouts)
    max_in_flight: int | None = None
    has_services: bool = field(init=False, repr=False, compare=False)
    """Whether some service tiers have rates of their own."""
    tariff: Tariff | None = field(init=False, repr=False, compare=False)
    """The price as plain numbers; None if it has tiers, fees by the hour, or is unknown."""
    may_reason_beyond_cap: bool = field(init=False, repr=False, compare=False)
    """Whether reasoning may come on top of the output cap."""
    model_json: msgspec.Raw = field(init=False, repr=False, compare=False)
    """`upstream_id` as it goes into the body."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "tariff", None if self.price is None else tariff_of(self.price))
        object.__setattr__(self, "has_services", self.price is not None and bool(self.price.services))
        beyond = not self.provider.quirks.cap_includes_reasoning and "reasoning" in self.traits.capabilities
        object.__setattr__(self, "may_reason_beyond_cap", beyond)
        object.__setattr__(self, "model_json", msgspec.Raw(msgspec.json.encode(self.upstream_id)))

    def reprice(self, now_ms: int) -> bool:
        """Take the price into use that is in force now. True if it is another one than before.

        The one thing of a snapshot that time changes. What has begun keeps its price: each attempt has its own reference to it.
        """
        price = price_at(self.prices, now_ms) if self.prices else self.price
        if price is self.price:
            return False
        object.__setattr__(self, "price", price)
        self.__post_init__()
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Guards:
    """What one request may ask for. None: no limit."""

    whose: str
    """Who sets them, for messages: `team 'search'`."""
    max_tokens: int | None = None
    """Largest cap on output tokens."""
    clamp: bool = False
    """A larger cap is made `max_tokens`; else the request is refused."""
    max_n: int | None = None
    max_images: int | None = None
    max_audio_seconds: int | None = None
    max_input_tokens: int | None = None
    max_tools: int | None = None
    max_attempts: int | None = None
    """Calls to providers, retries and fallbacks included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fallback:
    """When and how often another candidate is tried, before the first byte reached the client."""

    statuses: frozenset[int] = frozenset({408, 409, 429, 500, 502, 503, 504, 529})
    on_timeout: bool = True
    on_context_length: bool = True
    """400 with code `context_length_exceeded`."""
    max_attempts: int = 4
    """All calls of one request, retries included."""
    retries: int = 1
    """Calls of the same deployment again, after a retryable failure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """What the rules of a route read of the moment."""

    timezone: ZoneInfo | None
    """Of the time that they read; None: none does."""
    budgets: bool
    states: Mapping[str, tuple[str, ...]]
    """Deployments of `provider:<name>`, `model:<name>` and `deployment:<name>`, of those whose state is read."""
    figures: Mapping[Figure, tuple[str, ...]] = field(default_factory=dict)
    """Single numbers that are read, and the deployments that each is of; a budget's is of none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A name that clients send in `model`."""

    name: str
    policy: RoutePolicy
    deployments: tuple[str, ...]
    """Every deployment that a rule of this route can reach."""
    fallback: Fallback = field(default_factory=Fallback)
    timeouts: Timeouts | None = None
    """Overrides the deployments' own."""
    aliases_model: bool = False
    """True for a route that is simply the name of a model or deployment."""
    headers_read: frozenset[str] = frozenset()
    """Lower-case request headers that its rules look at."""
    watch: Watch | None = None
    """None: its rules read nothing of the moment."""
    max_cost_nusd: int | None = None
    """Most that one request may cost."""
    guards: tuple[Guards, ...] = ()
    """What requests for it may ask for: all of them, each from another place of the configuration."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Team:
    """A group of keys."""

    name: str
    org: str = ""
    """Organisation that it belongs to; empty: none."""
    models: frozenset[str] | None = None
    """Routes and models its keys may ask for; None: all."""
    tags: Mapping[str, str] = field(default_factory=dict)
    guards: Guards | None = None
    """What one request of its keys may ask for."""
    max_cost_nusd: int | None = None
    """Most that one request of its keys may cost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyEntry:
    """A virtual key from the configuration."""

    key_id: str
    """Public; for keys with a literal secret, the name in the configuration."""
    name: str
    team: str
    secret_hmac: str | None = field(repr=False)
    """HMAC-SHA-256 under the pepper, in hex (`secret_hash`)."""
    secret_digest: bytes | None = field(repr=False)
    """SHA-256 of a secret given through the environment (`secret: $ENV`); the secret itself is not kept."""
    models: frozenset[str] | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    expires_ms: int | None = None
    guards: Guards | None = None
    """What one request may ask for, beside what its team says."""
    max_cost_nusd: int | None = None
    """Most that one request may cost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Administrator:
    """Somebody who may use the admin API."""

    name: str
    role: Literal["viewer", "operator", "admin"]
    """Each may what those before it may."""
    secret_digest: bytes = field(repr=False)
    """SHA-256 of what is sent to authenticate; the secret itself is not kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepPrompts:
    """Which prompts are kept, and where."""

    file: str
    share: float
    """Of the requests, 0 to 1."""
    most_bytes: int
    """The file grows no further."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """What is fixed for the life of a process."""

    host: str = "127.0.0.1"
    port: int = 4000
    workers: int = 1
    store: str = field(default="", repr=False)
    """`redis://...`, `rediss://...`, `unix://...` or a file path for SQLite."""
    shared_store: str = field(default="", repr=False)
    """Where ledgers agree on their shares of budgets that span several; empty: nowhere."""
    ledger: str = ""
    """Name of this one among them."""
    lease_seconds: float = 20.0
    store_timeout_seconds: float = 0.25
    when_store_is_down: WhenDown = "closed"
    """For budgets that say nothing themselves."""
    lease_ppm: int = 20_000
    """Most of what is left of a budget that is held as advances, in millionths."""
    open_up_to_nusd: int = 1_000_000_000
    keep_log_seconds: float = 400 * 86_400.0
    """Age at which entries leave the ledger's log."""
    keep_log_for: tuple[str, ...] = ()
    """Programs that must have read them before."""
    drain_seconds: float = 30.0
    drain_delay_seconds: float = 0.0
    max_body_bytes: int = 20 * 1024 * 1024
    max_header_bytes: int = 32 * 1024
    max_connections: int = 8192
    unpriced: Literal["refuse", "assume", "free"] = "refuse"
    assumed_price: Price | None = None
    slice_tokens: int = 2048
    """Output tokens that a stream holds at a time."""
    strict: bool = False
    """Inputs are held at their certain bound, never at a lower one that was learned."""
    learn_lengths: bool = True
    """Caps of answers that are not streamed, and first slices of streams, go by the lengths of earlier answers."""
    least_output_tokens: int = 256
    """Smallest cap that a call is clamped to near the end of a budget."""
    short_wait_seconds: float = 2.0
    """Longest wait for room in a budget."""
    on_missing_usage: Literal["estimate", "hold"] = "estimate"
    allow_anonymous: bool = False
    """Serve without keys on an address that others can reach."""
    log_requests: bool = True
    baseline: str | None = None
    """Deployment whose price avoided cost is measured against."""
    admin_host: str = "127.0.0.1"
    admin_port: int | None = None
    """Where the admin API listens; None: below `/admin` on `port`."""
    record_decisions: float = 0.01
    """Share of requests whose records keep what the decision was made of."""
    keep_prompts: KeepPrompts | None = None
    """Where prompts are kept; None: nowhere."""
    budget_status: int = 402
    """Status of a refusal for money; 402 unless a migrating client needs another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DifficultyRules:
    """How difficult a prompt is."""

    model: Model | None = field(default=None, repr=False, compare=False)
    """Learned router; None: the built-in one, read when a rule first asks."""
    target: Target | None = None
    """What 0.5 is to hold; None: difficulty is what the learned router says."""
    window: int = 500
    """Requests of a language that the target is held by."""
    small: str = ""
    large: str = ""
    """Deployments whose prices count for a target in money; empty: none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalRules:
    """How signals are worked out, where a rule reads one."""

    timeout_seconds: float = 0.02
    """For one signal of one request; after that it is unknown."""
    unread_is_private: bool = True
    """Whether a text that was not read through counts as holding personal data."""
    difficulty: DifficultyRules = field(default_factory=DifficultyRules)
    plugins: Mapping[SignalName, tuple[Plugin, ...]] = field(default_factory=dict, repr=False, compare=False)
    """Detectors of the operator's own. Those of personal data join the built-in ones; any other takes the place of one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Everything the hot path looks up."""

    version: str
    """Hash of the configuration as compiled, 12 hex digits."""
    source: str
    """File name, or a word such as `discovered`."""
    server: ServerSettings
    providers: Mapping[str, Provider]
    deployments: Mapping[str, Deployment]
    routes: Mapping[str, Route]
    """By every name a client may ask for: routes, models, deployments."""
    budgets: tuple[Budget, ...] = ()
    limits: tuple[Budget, ...] = ()
    """Rate limits: budgets in requests, tokens or calls under way. Their names have colons: `team:search:rpm`."""
    runaway: RunawayRules | None = None
    """What is taken for a session that runs away; None: nothing is looked for."""
    teams: Mapping[str, Team] = field(default_factory=dict)
    keys: Mapping[str, KeyEntry] = field(default_factory=dict)
    """By key id."""
    admins: Mapping[str, Administrator] = field(default_factory=dict)
    """Who may use the admin API, by name. Without any, there is none."""
    signals: SignalRules = field(default_factory=SignalRules)
    receivers: tuple[Receiver, ...] = ()
    """Who is told of alerts. Without any, nothing is looked for."""
    alerts: AlertRules = field(default_factory=AlertRules)
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """What was found or assumed without a file; printed at the start."""

    @property
    def is_simulated(self) -> bool:
        """Whether no model but simulated ones is served, so that no real money is spent."""
        return bool(self.providers) and all(provider.kind == "sim" for provider in self.providers.values())
