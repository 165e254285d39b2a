"""The spend record: one line of the books per attempt, with every input of the price calculation."""

from __future__ import annotations

from typing import Literal

import msgspec

Outcome = Literal[
    "ok", "cut", "client_left", "upstream_error", "upstream_lost", "hedged", "refused_upstream", "swept", "corrected", "voided"
]


class SpendRecord(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One attempt, as it is written to the ledger's log. No prompt, no answer, no secret."""

    attempt_id: str
    request_id: str
    at_ms: int
    """When it was settled, Unix milliseconds by the proxy's clock."""
    operation: str = "chat"
    """`chat`, `completions` or `embeddings`."""
    route: str = ""
    rule: str = ""
    reason: str = ""
    """Why this deployment came first: the policy kind, or `fallback:<cause>`."""
    model: str = ""
    deployment: str = ""
    provider: str = ""
    served_model: str = ""
    """The model name in the provider's answer, if it gave one."""
    team: str = ""
    org: str = ""
    """Of the team, if it belongs to one."""
    key_id: str = ""
    user: str = ""
    session: str = ""
    tags: dict[str, str] = {}
    outcome: str = "ok"
    http_status: int = 0
    attempt_number: int = 1
    sends: int = 1
    """2: a kept connection was closed before the provider had the whole request, and it was sent once more on a new one. The first
    one cannot have been served or billed."""
    stream: bool = False
    input_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    audio_input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    audio_output_tokens: int = 0
    evidence: str = "exact"
    doubt: str = ""
    images: int = 0
    """Input images; counted only where they have a fee."""
    price_source: str = ""
    price_date: str = ""
    """From when on the price holds, or when it was read, ISO date."""
    price_input: int | None = None
    """Rates used, nano-USD per million tokens; None where the price has no such class."""
    price_cache_read: int | None = None
    price_cache_write: int | None = None
    price_audio_input: int | None = None
    price_output: int | None = None
    price_reasoning: int | None = None
    price_audio_output: int | None = None
    price_above_tokens: int = 0
    """Input length above which these rates hold, where the price has tiers by length."""
    price_request: int = 0
    price_image: int | None = None
    price_hour: int | None = None
    """Nano-USD per hour of a machine, shared by `price_concurrency` calls."""
    price_concurrency: int = 1
    service_tier: str = ""
    """The provider's tier whose rates these are; empty: the usual one."""
    web_search: str = ""
    """Size of the context of the web search that was bought: `low`, `medium`, `high`, or `any`."""
    price_web_search: int = 0
    """Its fee, nano-USD."""
    charged_hold: bool = False
    """The hold was charged, because the provider reported no usage and `on_missing_usage: hold` says so."""
    hold_nusd: int = 0
    charge_nusd: int = 0
    clamped_to: int = 0
    """The cap that was forwarded because a budget had no room for a higher one."""
    overrun_nusd: int = 0
    """Charge above hold; booked as debt."""
    overrun_cause: str = ""
    baseline_nusd: int | None = None
    """What the same usage would have cost on the configured baseline model; None if there is none."""
    first_byte_ms: int | None = None
    duration_ms: int = 0
    config_version: str = ""
    buckets: list[str] = []
    """`budget|scope|window` of every bucket the charge went to."""
    private: list[str] = []
    """The classes of private requests that it is in."""
    host: str = ""
    """Where it was sent, host and port; only of private requests."""
    locality: str = ""
    """Of the deployment when it was called; only of private requests."""
    arms: dict[str, str] = {}
    """By experiment or bandit, the arm that the request was in."""
    propensity_ppm: int = 0
    """The chance with which these arms were chosen, in millionths; 0: there was no choice."""
    trace: msgspec.Raw = msgspec.Raw()
    """What the decision was made of, of the requests for which that is kept (`server.record_decisions`); see `router.replay.trace`."""
