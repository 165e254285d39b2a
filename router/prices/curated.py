"""The models whose price must be right: both sources agree on them, or a person has decided and says why."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

CURATED: Final[dict[str, frozenset[str]]] = {
    "openai": frozenset(
        {
            "gpt-6-astra", "gpt-6-sol", "gpt-6-luna", "gpt-6.1-sol", "gpt-5.6-sol", "gpt-5.6-terra", "gpt-5.6-luna",
            "gpt-5.5", "gpt-5.4", "gpt-5.4-mini", "gpt-5.4-nano", "gpt-5.2", "gpt-5.1", "gpt-5", "gpt-5-mini", "gpt-5-nano",
            "gpt-4.1", "gpt-4.1-mini", "gpt-4.1-nano", "gpt-4o", "gpt-4o-mini", "o3", "o4-mini",
            "text-embedding-3-small", "text-embedding-3-large",
        }
    ),
    "anthropic": frozenset(
        {
            "claude-fable-5-1", "claude-opus-5-5", "claude-opus-5", "claude-opus-4-8", "claude-sonnet-5-5", "claude-sonnet-5",
            "claude-sonnet-4-6", "claude-sonnet-4-5", "claude-haiku-5-5", "claude-haiku-4-5",
        }
    ),
    "gemini": frozenset(
        {
            "gemini-4-argon", "gemini-3.8-flash", "gemini-3.5-flash", "gemini-3.1-pro-preview", "gemini-2.5-pro",
            "gemini-2.5-flash", "gemini-2.5-flash-lite", "gemini-embedding-001",
        }
    ),
    "xai": frozenset({"grok-4.7", "grok-4.6", "grok-4.3"}),
    "mistral": frozenset({"mistral-large-4", "mistral-large-2512", "mistral-medium-latest", "mistral-small-latest"}),
    "deepseek": frozenset({"deepseek-v4-pro", "deepseek-v4-flash", "deepseek-chat", "deepseek-reasoner"}),
    "groq": frozenset({"openai/gpt-oss-120b"}),
    "moonshot": frozenset({"kimi-k3"}),
}  # fmt: skip


class Decision(NamedTuple):
    """What holds where the sources differ."""

    take: Literal["genai-prices", "litellm", "dearer"]
    reason: str
    date: str


_MOVING: Final = "an alias that points to a newer model from time to time; the sources name the price of different ones"

REVIEWED: Final[dict[tuple[str, str], Decision]] = {
    ("deepseek", "deepseek-chat"): Decision("dearer", _MOVING, "2026-11-22"),
    ("deepseek", "deepseek-reasoner"): Decision("dearer", _MOVING, "2026-11-22"),
    ("mistral", "mistral-large-4"): Decision("dearer", "litellm is 3 % below the round figure of genai-prices", "2026-11-22"),
}
