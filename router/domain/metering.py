"""From a provider's answer to a count of tokens: JSON bodies and event streams of the OpenAI wire.

The one door to metering. Nothing behind it raises on what a provider sends: where the provider's count cannot
be believed, ours is used and the doubt is named; see `docs/metering.md`.
"""

from __future__ import annotations

from router.domain.counting import Dialect, Metered, estimate_tokens
from router.domain.json_metering import meter_json, split_usage
from router.domain.openai_usage import DOUBTS, Doubt
from router.domain.stream_metering import MAX_EVENT_BYTES, StreamMeter

__all__ = [
    "DOUBTS",
    "MAX_EVENT_BYTES",
    "Dialect",
    "Doubt",
    "Metered",
    "StreamMeter",
    "estimate_tokens",
    "meter_json",
    "split_usage",
]
