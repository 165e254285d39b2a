"""The fields of rate limits and of guards on single requests."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from router.settings.types import Count, Duration, Section, Usd, all_defaults

Limit = Annotated[Count, Field(ge=1)]


class RateFields(Section):
    """How fast, and how much at a time. A call to a provider counts as one request; a retry or fallback is one more."""

    rpm: Limit | None = None
    """Most requests in any 60 seconds. Default: no limit."""
    rpd: Limit | None = None
    """Most requests in a day, UTC. Default: no limit."""
    tpm: Limit | None = None
    """Most tokens, in and out, in any 60 seconds; until an answer has ended, as many as it can have. Default: no limit."""
    tpd: Limit | None = None
    """Most tokens, in and out, in a day, UTC. Default: no limit."""
    concurrent: Limit | None = None
    """Most calls under way at a time. Default: no limit."""


class RateSettings(RateFields):
    """Rate limits: `{rpm: 20, tpm: 40k, concurrent: 4}`."""


class LimitsSection(Section):
    """Rate limits that everybody has for himself, whatever the key."""

    each_key: RateSettings = all_defaults()
    """Of every key, those that `faregate keys new` made too."""
    each_team: RateSettings = all_defaults()
    """Of every team."""
    each_user: RateSettings = all_defaults()
    """Of every user that requests name (`user`, `safety_identifier`)."""
    each_session: RateSettings = all_defaults()
    """Of every session (an agent's run) that requests name; `concurrent` bounds how far it fans out."""


class OwnLimits(RateFields):
    """Rate limits of a group or a key as a whole, and of each of its users."""

    users: RateSettings = all_defaults()
    """Limits that each of its users (`user`, `safety_identifier`) has for himself: `{rpm: 20}`."""


class GuardFields(Section):
    """What one request may ask for. Of several that apply, each holds."""

    max_cost: Usd | None = None
    """Most that one request may cost. Default: no limit."""
    max_tokens: Limit | None = None
    """Largest cap on output tokens that a request may ask for; one that sets none gets at most this. Default: no limit."""
    over_max_tokens: Literal["refuse", "clamp"] | None = None
    """A request that asks for more: `refuse` it (400), or `clamp` its cap to `max_tokens`. Default: `refuse`."""
    max_n: Limit | None = None
    """Most answers that a request may ask for at once (`n`, `best_of`). Default: no limit."""
    max_images: Annotated[Count, Field(ge=0)] | None = None
    """Most images in a request. Default: no limit."""
    max_audio_seconds: Annotated[Count, Field(ge=0)] | None = None
    """Longest audio in a request; WAV by its header, other formats counted at 32 kbit/s. Unit: seconds. Default: no limit."""
    max_input_tokens: Limit | None = None
    """Most input tokens, by the likely count. Default: no limit."""
    max_tools: Annotated[Count, Field(ge=0)] | None = None
    """Most tools that a request may offer. Default: no limit."""
    max_attempts: Limit | None = None
    """Most calls to providers for one request, retries and fallbacks included. Default: as the route's `fallback` says."""


class RunawaySettings(Section):
    """Which sessions (agents' runs) are taken to run away, and what is done about them. A request that names none is never looked at."""

    spend_per_minute: Usd | None = None
    """More than this within a minute. Default: not looked at."""
    same_prompt: Annotated[Count, Field(ge=2)] | None = None
    """So many requests in a row that end in the same message. Default: not looked at."""
    same_tool_call: Annotated[Count, Field(ge=2)] | None = None
    """So many calls of a tool in a row with the same arguments, as the conversation shows them; also so many turns of a loop of up to
    four different calls. Default: not looked at."""
    then: Literal["slow", "downgrade", "pause", "refuse"] = "pause"
    """`slow` holds each request back for `delay`; `downgrade` lets only models with `size: small` through; `pause` refuses the
    session until `faregate approve` lets it go on; `refuse` refuses as long as it lasts."""
    delay: Annotated[Duration, Field(gt=0, le=300)] = 5.0
    """How long `slow` holds a request back."""
    within: Annotated[Duration, Field(ge=60, le=86400)] = 600.0
    """A session that sent nothing for so long begins anew."""
    max_sessions: Annotated[Count, Field(ge=1, le=1_000_000)] = 10_000
    """Sessions that a worker remembers; beyond, the one that sent nothing for longest begins anew."""

    @model_validator(mode="after")
    def _something(self) -> RunawaySettings:
        if self.spend_per_minute is None and self.same_prompt is None and self.same_tool_call is None:
            raise ValueError("looks for nothing; give spend_per_minute, same_prompt or same_tool_call")
        return self


class GuardsSection(GuardFields):
    """What any request may ask for, whatever its key and route."""

    runaway: RunawaySettings | None = None
    """Sessions that spend too fast or run in circles. Default: not looked for."""
