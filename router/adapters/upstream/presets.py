"""Well-known providers: where they are, how they want their key, and how their dialect differs from OpenAI's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal

from router.snapshot import Lane, Quirks

Auth = Literal["bearer", "api-key"]
"""`bearer`: `authorization: Bearer KEY`; `api-key`: `api-key: KEY`. Local servers take one too, if they were started with one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """A provider as its own documentation describes it."""

    base_url: str | None
    """Up to and without `/chat/completions`. `{region}` is filled in; None: the operator must give one, or the lane knows it."""
    key_env: str | None
    """Environment variable of the key by convention; None if it needs no key."""
    source: str
    """Where these facts stand."""
    checked: str
    """When they were read there, `YYYY-MM-DD`."""
    auth: Auth = "bearer"
    lane: Lane = "wire"
    litellm_provider: str | None = None
    """For the adapter lane: the name that litellm knows it by."""
    locality: Literal["cloud", "local"] = "cloud"
    weights: Literal["open", "closed"] | None = None
    """What all of its models have in common; None if they differ."""
    quirks: Quirks = field(default_factory=Quirks)
    region_env: str | None = None
    """Environment variable of `{region}`."""

    def url(self, region: str | None = None) -> str | None:
        """The base URL with its region filled in; None if there is none, or the region is missing."""
        if self.base_url is None or "{region}" not in self.base_url:
            return self.base_url
        return self.base_url.replace("{region}", region) if region else None

    def auth_headers(self, key: str | None) -> tuple[tuple[str, str], ...]:
        """The header fields that carry the key."""
        if not key:
            return ()
        if self.auth == "api-key":
            return (("api-key", key),)
        return (("authorization", f"Bearer {key}"),)


READ: Final = "2026-11-22"

NEW_CAP: Final = Quirks(output_cap_field="max_completion_tokens")
"""For those that deprecate or refuse `max_tokens`."""
NO_STREAM_OPTIONS: Final = Quirks(stream_usage=False)
"""For those that refuse `stream_options`, or send usage at the end of every stream unasked."""


def _local(port: int, source: str) -> Preset:
    return Preset(
        base_url=f"http://127.0.0.1:{port}/v1",
        key_env=None,
        locality="local",
        weights="open",
        source=source,
        checked=READ,
    )


PRESETS: Final[Mapping[str, Preset]] = MappingProxyType(
    {
        "openai": Preset(
            base_url="https://api.openai.com/v1",
            key_env="OPENAI_API_KEY",
            weights="closed",
            # o-series and later models refuse max_tokens. Source: chat completions reference.
            quirks=NEW_CAP,
            source="https://platform.openai.com/docs/api-reference/chat",
            checked=READ,
        ),
        "azure": Preset(
            # https://RESOURCE.openai.azure.com/openai/v1: the version-less API, so no api-version in the query.
            base_url=None,
            key_env="AZURE_OPENAI_API_KEY",
            auth="api-key",
            quirks=NEW_CAP,
            source="https://learn.microsoft.com/azure/ai-foundry/openai/api-version-lifecycle",
            checked=READ,
        ),
        "bedrock": Preset(
            base_url="https://bedrock-runtime.{region}.amazonaws.com/openai/v1",
            key_env="AWS_BEARER_TOKEN_BEDROCK",
            region_env="AWS_REGION",
            quirks=NEW_CAP,
            source="https://docs.aws.amazon.com/bedrock/latest/userguide/inference-chat-completions.html",
            checked=READ,
        ),
        "mistral": Preset(
            base_url="https://api.mistral.ai/v1",
            key_env="MISTRAL_API_KEY",
            # Its reference has no stream_options; the last event of every stream carries usage.
            quirks=NO_STREAM_OPTIONS,
            source="https://docs.mistral.ai/api/",
            checked=READ,
        ),
        "groq": Preset(
            base_url="https://api.groq.com/openai/v1",
            key_env="GROQ_API_KEY",
            weights="open",
            quirks=NEW_CAP,
            source="https://console.groq.com/docs/api-reference",
            checked=READ,
        ),
        "together": Preset(
            base_url="https://api.together.xyz/v1",
            key_env="TOGETHER_API_KEY",
            weights="open",
            source="https://docs.together.ai/docs/openai-api-compatibility",
            checked=READ,
        ),
        "fireworks": Preset(
            base_url="https://api.fireworks.ai/inference/v1",
            key_env="FIREWORKS_API_KEY",
            weights="open",
            source="https://docs.fireworks.ai/tools-sdks/openai-compatibility",
            checked=READ,
        ),
        "deepseek": Preset(
            base_url="https://api.deepseek.com/v1",
            key_env="DEEPSEEK_API_KEY",
            weights="open",
            source="https://api-docs.deepseek.com/",
            checked=READ,
        ),
        "xai": Preset(
            base_url="https://api.x.ai/v1",
            key_env="XAI_API_KEY",
            weights="closed",
            # completion_tokens leaves reasoning_tokens out; total_tokens has both. Whether the cap bounds them is
            # not said for all of its models, so the hold covers both.
            quirks=Quirks(output_cap_field="max_completion_tokens", reasoning_beside_output=True, cap_includes_reasoning=False),
            source="https://docs.x.ai/docs/api-reference",
            checked=READ,
        ),
        "gemini": Preset(
            base_url="https://generativelanguage.googleapis.com/v1beta/openai",
            key_env="GEMINI_API_KEY",
            weights="closed",
            # Thinking is inside maxOutputTokens, but not inside completion_tokens: total_tokens is larger than the sum.
            quirks=Quirks(reasoning_beside_output=True),
            source="https://ai.google.dev/gemini-api/docs/openai",
            checked=READ,
        ),
        "upstage": Preset(
            base_url="https://api.upstage.ai/v1",
            key_env="UPSTAGE_API_KEY",
            source="https://console.upstage.ai/api/chat",
            checked=READ,
        ),
        "hyperclova": Preset(
            base_url="https://clovastudio.stream.ntruss.com/v1/openai",
            key_env="CLOVA_STUDIO_API_KEY",
            weights="closed",
            # stream_options is not among the documented fields; without it a stream is metered by our own count.
            quirks=NO_STREAM_OPTIONS,
            source="https://api.ncloud-docs.com/docs/en/clovastudio-openaicompatibility",
            checked=READ,
        ),
        "friendli": Preset(
            base_url="https://api.friendli.ai/serverless/v1",
            key_env="FRIENDLI_TOKEN",
            weights="open",
            source="https://friendli.ai/docs/guides/openai-compatibility",
            checked=READ,
        ),
        "openrouter": Preset(
            base_url="https://openrouter.ai/api/v1",
            key_env="OPENROUTER_API_KEY",
            source="https://openrouter.ai/docs/api-reference/overview",
            checked=READ,
        ),
        "nvidia": Preset(
            base_url="https://integrate.api.nvidia.com/v1",
            key_env="NVIDIA_API_KEY",
            weights="open",
            source="https://docs.api.nvidia.com/nim/reference/llm-apis",
            checked=READ,
        ),
        "deepinfra": Preset(
            base_url="https://api.deepinfra.com/v1/openai",
            key_env="DEEPINFRA_API_KEY",
            weights="open",
            source="https://deepinfra.com/docs/openai_api",
            checked=READ,
        ),
        "moonshot": Preset(
            base_url="https://api.moonshot.ai/v1",
            key_env="MOONSHOT_API_KEY",
            weights="open",
            source="https://platform.moonshot.ai/docs",
            checked=READ,
        ),
        "dashscope": Preset(
            # Outside mainland China; inside it the host is dashscope.aliyuncs.com.
            base_url="https://dashscope-intl.aliyuncs.com/compatible-mode/v1",
            key_env="DASHSCOPE_API_KEY",
            source="https://www.alibabacloud.com/help/en/model-studio/compatibility-of-openai-with-dashscope",
            checked=READ,
        ),
        "cohere": Preset(
            base_url="https://api.cohere.ai/compatibility/v1",
            key_env="COHERE_API_KEY",
            # stream_options is refused with 400; the last event of a stream carries usage.
            quirks=NO_STREAM_OPTIONS,
            source="https://docs.cohere.com/docs/compatibility-api",
            checked=READ,
        ),
        "perplexity": Preset(
            base_url="https://api.perplexity.ai",
            key_env="PERPLEXITY_API_KEY",
            weights="closed",
            # Every event of a stream carries usage; stream_options is not among the documented fields.
            quirks=NO_STREAM_OPTIONS,
            source="https://docs.perplexity.ai/api-reference/chat-completions-post",
            checked=READ,
        ),
        "cerebras": Preset(
            base_url="https://api.cerebras.ai/v1",
            key_env="CEREBRAS_API_KEY",
            weights="open",
            quirks=NEW_CAP,
            source="https://inference-docs.cerebras.ai/api-reference/chat-completions",
            checked=READ,
        ),
        "sambanova": Preset(
            base_url="https://api.sambanova.ai/v1",
            key_env="SAMBANOVA_API_KEY",
            weights="open",
            source="https://docs.sambanova.ai/cloud/api-reference/endpoints/chat",
            checked=READ,
        ),
        "nebius": Preset(
            base_url="https://api.tokenfactory.nebius.com/v1",
            key_env="NEBIUS_API_KEY",
            weights="open",
            source="https://docs.tokenfactory.nebius.com/api-reference/introduction",
            checked=READ,
        ),
        "anthropic": Preset(
            # Its OpenAI-compatible endpoint ignores fields silently and is not meant for production, so litellm translates.
            base_url=None,
            key_env="ANTHROPIC_API_KEY",
            lane="litellm",
            litellm_provider="anthropic",
            weights="closed",
            source="https://docs.anthropic.com/en/api/openai-sdk",
            checked=READ,
        ),
        "vllm": _local(8000, "https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html"),
        "sglang": _local(30000, "https://docs.sglang.ai/basic_usage/openai_api_completions.html"),
        "ollama": _local(11434, "https://docs.ollama.com/api/openai-compatibility"),
        "llamacpp": _local(8080, "https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md"),
        "lmstudio": _local(1234, "https://lmstudio.ai/docs/developer/openai-compat"),
        "sim": Preset(
            # The simulator that comes with Faregate; it listens where it is told to.
            base_url=None,
            key_env=None,
            locality="local",
            source="docs/providers.md",
            checked=READ,
        ),
    }
)
"""By the name that a configuration uses as `kind`."""
