"""What a provider says it consumed, split into classes that do not overlap."""

from __future__ import annotations

from typing import Literal

import msgspec

Evidence = Literal["exact", "estimated", "partial"]
"""The provider's count; our own count; a lower bound (the answer was cut off)."""


class Usage(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Token counts of one attempt. Inclusive: a part is contained in its whole."""

    input_tokens: int
    """All input tokens, cached and audio ones included."""
    cache_read_tokens: int = 0
    """The part of `input_tokens` served from the provider's cache."""
    cache_write_tokens: int = 0
    """The part of `input_tokens` written to the provider's cache."""
    audio_input_tokens: int = 0
    """The part of `input_tokens` that was audio."""
    output_tokens: int
    """All output tokens, reasoning and audio ones included."""
    reasoning_tokens: int = 0
    """The part of `output_tokens` spent on reasoning."""
    audio_output_tokens: int = 0
    """The part of `output_tokens` that was audio."""
    evidence: Evidence
    doubt: str | None = None
    """Why the count is not `exact`: a member of `router.domain.metering.DOUBTS`."""
