"""The words a policy speaks: facts of a request, candidates, and the decision that names its reasons."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal

import msgspec

from policies.plans import Plan

RejectionReason = Literal[
    "not_allowed",
    "missing_capability",
    "context_too_long",
    "unpriced",
    "unhealthy",
    "cooldown",
    "too_expensive",
    "excluded_by_request",
    "budget_exhausted",
    "drained",
    "frozen",
    "budget_downgrade",
    "rate_limited",
    "not_selected",
    "below_quality",
    "private",
    "too_late",
]
"""Why a candidate is out. A closed set: it becomes a metric label."""

Size = Literal["small", "medium", "large"]
Weights = Literal["open", "closed"]
Locality = Literal["cloud", "local", "edge"]
Modality = Literal["text", "image", "audio", "file", "video"]

NOTHING: Final[Mapping[str, str]] = MappingProxyType({})
NO_NUMBERS: Final[Mapping[str, float]] = MappingProxyType({})
TEXT_ONLY: Final[frozenset[str]] = frozenset({"text"})

SignalName = Literal["language", "task", "difficulty", "pii"]


class MissingSignal(LookupError):
    """A rule reads a signal that has not been worked out yet: work it out, add it to the facts and choose again."""

    def __init__(self, name: SignalName) -> None:
        super().__init__(name)
        self.name = name


class Signals(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What was found out by reading the prompt. Each is worked out only when a rule reads it; unset until then.

    None: it was tried and could not be told (no text, out of time).
    """

    language: str | msgspec.UnsetType | None = msgspec.UNSET
    """Of most of the text: a code of ISO 639-1, such as `ko`."""
    task: str | msgspec.UnsetType | None = msgspec.UNSET
    """What is asked for, such as `code`."""
    difficulty: float | msgspec.UnsetType | None = msgspec.UNSET
    """From 0 (a small model will do) to 1."""
    pii: frozenset[str] | msgspec.UnsetType | None = msgspec.UNSET
    """Classes of personal data in the text, such as `email`; empty: none was found."""


NO_SIGNALS: Final = Signals()


class Moment(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What rules may know of the time, the budgets and the providers. Filled in only as far as rules of the route read it."""

    hour: int = 0
    """Of the day, 0 to 23, in the time zone of the route."""
    weekday: str = ""
    """`mon` to `sun`."""
    month: int = 0
    """1 to 12."""
    budget_used: float | None = None
    """Largest used share of the budgets that the request falls under whatever model serves it; 0 if there is none."""
    budget_left_nusd: int | None = None
    """Least that is left in such a budget in USD, nano-USD; None if there is none."""
    up: Mapping[str, bool] = msgspec.field(default_factory=dict)
    """Whether any deployment can be called, by `provider:<name>` or `model:<name>`."""
    error_rate: Mapping[str, float | None] = msgspec.field(default_factory=dict)
    """Share of calls of the last 30 s that failed, by `provider:<name>`; None: there was none."""
    numbers: Mapping[str, int | float | None] = msgspec.field(default_factory=dict)
    """Numbers of single budgets, providers, models and deployments, by `Figure.key`; None: nobody knows."""


NO_MOMENT: Final = Moment()


class RequestFacts(msgspec.Struct, frozen=True, gc=False):
    """What a policy may know of a request."""

    operation: str
    """`chat`, `completions` or `embeddings`."""
    route: str
    """The name the client asked for."""
    team: str = ""
    key_id: str = ""
    user: str = ""
    session: str = ""
    tags: Mapping[str, str] = NOTHING
    headers: Mapping[str, str] = NOTHING
    """Only those a rule of the route reads; names in lower case."""
    input_tokens: int = 0
    """Likely number of input tokens."""
    input_tokens_bound: int = 0
    """No tokenizer can count more than this."""
    output_cap: int | None = None
    """Most output tokens per choice that the client allows; None if it set no cap."""
    choices: int = 1
    stream: bool = False
    tools: bool = False
    json_schema: bool = False
    modalities: frozenset[str] = TEXT_ONLY
    """Of the input: text, image, audio, file, video."""
    signals: Signals = NO_SIGNALS
    org: str = ""
    """Organisation of the team."""
    deadline_ms: float | None = None
    """Within which the whole answer must be there, as the request says; None: it says nothing."""
    live: Mapping[str, float] = NO_NUMBERS
    """What the rule's kind reads of the moment, such as `age/canary`: only what `Branch.live` asks for."""
    moment: Moment = NO_MOMENT


class Traits(msgspec.Struct, frozen=True, kw_only=True):
    """What does not change about a deployment while a configuration is in force."""

    deployment: str
    """`provider/id`, unique in the configuration."""
    model: str
    provider: str
    size: str | None = None
    weights: str | None = None
    locality: str | None = None
    domain: frozenset[str] = frozenset()
    languages: frozenset[str] = frozenset()
    """Those it is strong in, codes of ISO 639-1 such as `ko`."""
    region: str | None = None
    """Where it runs, in the operator's own words such as `eu`."""
    quality: float | None = None
    """How good its answers are, from 0 to 1; None: unknown. `quality_of` looks at the task, too."""
    task_quality: Mapping[str, float] = msgspec.field(default_factory=dict)
    """The same for some tasks."""
    capabilities: frozenset[str] = frozenset(
        {"chat", "completions", "embeddings", "tools", "json_schema", "stream", "image", "audio", "file"}
    )
    """Operations, features and input modalities that it serves."""
    context_tokens: int | None = None
    """Input plus output limit; None if unknown."""
    weight: float = 1.0


def quality_of(traits: Traits, facts: RequestFacts) -> float | None:
    """How good a deployment's answer to the request will be, from 0 to 1: for its task, if that is known and given; None: unknown."""
    task = facts.signals.task
    return traits.task_quality.get(task, traits.quality) if isinstance(task, str) else traits.quality


class Candidate(msgspec.Struct, gc=False):
    """A deployment as a policy sees it at this moment. A policy reads it and neither changes nor keeps it."""

    traits: Traits
    allowed: bool = True
    """Whether the key may use this model."""
    health: Literal["up", "probe", "cooldown", "busy", "drained", "frozen"] = "up"
    """`probe`: half-open, this call may try it; `busy`: its connection limit is reached; `drained`: people took it out;
    `frozen`: they froze its model."""
    in_flight: int = 0
    worst_case_nusd: int | None = None
    """Highest possible charge for this request; None if no price is known, or nothing looks at it."""
    expected_nusd: int | None = None
    """Likely charge for this request; None if no price is known."""
    first_token_ms: float | None = None
    """Seen quantile of the time to the first token; None if never seen."""
    total_ms: float | None = None
    """Seen quantile of the whole call; None if never seen."""
    available_in_seconds: float | None = None
    """How long the cooldown still lasts; None if there is none."""
    closed_for: str = ""
    """Why it is drained or frozen."""


class Restriction(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What one request asks of its own routing. It can only make the choice smaller or reorder it.

    Names are those of deployments, models or providers.
    """

    only: frozenset[str] | None = None
    """Nothing but these; None: no limit."""
    ignore: frozenset[str] = frozenset()
    """None of these."""
    dear: frozenset[str] = frozenset()
    """Deployments whose price is above what the request allows."""
    sort: Literal["", "price", "latency", "throughput"] = ""
    """Of what is left, first what is expected to cost least; to begin soonest; to have written the whole answer soonest."""
    order: tuple[str, ...] = ()
    """Of what is left, these first, in this order."""
    max_cost_nusd: int | None = None
    """Nothing whose worst case is dearer, nano-USD; None: no limit."""
    deadline_ms: float | None = None
    """Those that usually take longer come last; None: no deadline."""


class Rejection(msgspec.Struct, frozen=True, gc=False):
    """A candidate that is out, and why."""

    deployment: str
    reason: RejectionReason
    detail: str = ""
    """The numbers behind the reason, for people: `needs 9,120 tokens, limit 8,192`."""


class Ranked(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A candidate in the order to try, with its score."""

    deployment: str
    score: float | None = None
    """What the kind ordered by, in the unit of the ranking's `measure`; None if it had nothing to go by."""
    parts: Mapping[str, float] | None = None
    """What the score is made of, where that is more than one thing: `charge_nusd`, `cached_nusd`, `quality`, `price`; and `late_ms`, by
    which it usually takes longer than the request has time."""


class Ranking(msgspec.Struct, frozen=True, gc=False):
    """What a kind makes of the candidates that passed the filters."""

    order: tuple[Ranked, ...]
    rejected: tuple[Rejection, ...] = ()
    """Those that the kind's own options exclude."""
    measure: str = ""
    """What the scores are, with the unit: `expected_nusd`, `total_ms`; empty if there are none."""
    plan: Plan | None = None
    """What is to be done beside trying one after the other; None: nothing, as nearly always."""


class Decision(msgspec.Struct, frozen=True, gc=False):
    """What to try in which order, what not and why."""

    order: tuple[Ranked, ...]
    rejected: tuple[Rejection, ...]
    rule: str
    """Name of the rule that matched; `default` if none did."""
    kind: str
    """The policy kind that ordered the candidates."""
    measure: str = ""
    """What the scores of `order` are."""
    plan: Plan | None = None
    """What is to be done beside trying one after the other; None: nothing."""
