"""What the simulator reads of a request, and the errors it answers with."""

from __future__ import annotations

from typing import Any

import msgspec


class SimError(Exception):
    """An answer that is an error, in OpenAI's shape."""

    def __init__(self, status: int, kind: str, code: str | None, message: str, *, retry_after_seconds: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.code = code
        self.retry_after_seconds = retry_after_seconds

    def body(self) -> bytes:
        """The JSON that goes out."""
        return msgspec.json.encode({"error": {"message": str(self), "type": self.kind, "param": None, "code": self.code}})


def bad_request(message: str, *, code: str | None = None) -> SimError:
    """A 400."""
    return SimError(400, "invalid_request_error", code, message)


class Message(msgspec.Struct):
    role: str
    content: str | list[dict[str, Any]] | None = None
    tool_calls: list[Any] | None = None


class StreamOptions(msgspec.Struct):
    include_usage: bool = False


class Function(msgspec.Struct, omit_defaults=True):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(msgspec.Struct, omit_defaults=True):
    function: Function
    type: str = "function"


class JsonSchema(msgspec.Struct):
    name: str = "answer"
    schema: dict[str, Any] = {}


class ResponseFormat(msgspec.Struct):
    type: str
    json_schema: JsonSchema | None = None


class ChatRequest(msgspec.Struct):
    """`POST /v1/chat/completions`; unknown fields are ignored."""

    model: str
    messages: list[Message]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = None
    stop: str | list[str] | None = None
    tools: list[Tool] | None = None
    tool_choice: str | dict[str, Any] | None = None
    response_format: ResponseFormat | None = None


class CompletionRequest(msgspec.Struct):
    """`POST /v1/completions`; one prompt, as text or as tokens."""

    model: str
    prompt: str | list[str | int]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    n: int | None = None
    stop: str | list[str] | None = None


class EmbeddingRequest(msgspec.Struct):
    """`POST /v1/embeddings`."""

    model: str
    input: str | list[str | int | list[int]]
    dimensions: int | None = None
    encoding_format: str | None = None


def text_of(message: Message) -> str:
    """The text parts of a message, joined."""
    if message.content is None:
        return ""
    if isinstance(message.content, str):
        return message.content
    return " ".join(str(part.get("text", "")) for part in message.content if part.get("type") == "text")


def images_of(message: Message) -> int:
    """How many images a message carries."""
    if not isinstance(message.content, list):
        return 0
    return sum(part.get("type") == "image_url" for part in message.content)
