"""The adapter lane against servers that speak Cohere's, Anthropic's and Bedrock's own wire, through the real litellm."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from router.adapters.upstream.litellm_lane import CHAT, EMBEDDINGS, LitellmLane, parameters
from router.errors import RouterError
from router.ports import Endpoint, Timeouts, UpstreamError, UpstreamResponse
from router.snapshot import Provider
from tests.scripted_upstream import Close, Exchange, Fail, Hang, Json, ScriptedUpstream
from tests.wire.helpers import LIMIT, TIMEOUTS, drain, fault_of

# pydantic warns about litellm's type definitions.
pytestmark = [pytest.mark.filterwarnings("ignore::UserWarning"), pytest.mark.filterwarnings("ignore::DeprecationWarning")]

SECRET = "secret-of-the-operator"
COHERE, CLAUDE, NOVA = "command-r-08-2024", "claude-sonnet-4-5", "amazon.nova-lite-v1:0"


@dataclass(slots=True, kw_only=True)
class Events:
    """A native stream: named server-sent events, or a JSON object a line, which litellm reads from Cohere."""

    events: list[dict[str, Any]]
    end: str = "clean"

    async def __call__(self, exchange: Exchange) -> None:
        await exchange.head(200, {"content-type": "text/event-stream"}, length=None)
        for event in self.events:
            line = json.dumps(event)
            await exchange.write(
                f"{line}\n".encode() if "message-start" in str(self.events[0]) else f"event: {event['type']}\ndata: {line}\n\n".encode()
            )
        await exchange.finish(self.end)


def cohere_answer() -> dict[str, Any]:
    return {
        "id": "c-1",
        "finish_reason": "COMPLETE",
        "message": {"role": "assistant", "content": [{"type": "text", "text": "Good day."}]},
        "usage": {"billed_units": {"input_tokens": 7, "output_tokens": 3}, "tokens": {"input_tokens": 7, "output_tokens": 3}},
    }


def cohere_events() -> list[dict[str, Any]]:
    usage = cohere_answer()["usage"]
    return [
        {"type": "message-start", "id": "c-1", "delta": {"message": {"role": "assistant", "content": []}}},
        {"type": "content-start", "index": 0, "delta": {"message": {"content": {"type": "text", "text": ""}}}},
        {"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": "Good"}}}},
        {"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": " day."}}}},
        {"type": "content-end", "index": 0},
        {"type": "message-end", "delta": {"finish_reason": "COMPLETE", "usage": usage}},
    ]


def claude_events() -> list[dict[str, Any]]:
    usage = {"input_tokens": 7, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 0, "output_tokens": 1}
    message = {"id": "m-1", "type": "message", "role": "assistant", "model": CLAUDE, "content": [], "stop_reason": None, "usage": usage}
    return [
        {"type": "message_start", "message": message},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Good"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": " day."}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": {"output_tokens": 3}},
        {"type": "message_stop"},
    ]


@pytest.fixture
async def up() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream() as upstream:
        yield upstream


@pytest.fixture
async def lane() -> AsyncIterator[LitellmLane]:
    lane = LitellmLane()
    await lane.warm()
    yield lane
    await lane.close()


def provider(up: ScriptedUpstream, kind: str) -> Provider:
    """A provider that only litellm speaks, at the scripted upstream."""
    base = up.base_url.removesuffix("/v1")
    options: dict[str, dict[str, str]] = {
        "cohere_chat": {"api_key": SECRET, "api_base": f"{base}/v2/chat"},
        "cohere": {"api_key": SECRET, "api_base": f"{base}/v2/embed"},
        "anthropic": {"api_key": SECRET, "api_base": base},
        "bedrock": {
            "aws_access_key_id": "AKIASCRIPTED",
            "aws_secret_access_key": SECRET,
            "aws_region_name": "us-east-1",
            "aws_bedrock_runtime_endpoint": base,
        },
    }
    endpoint = Endpoint(name=kind, scheme="http", host="127.0.0.1", port=up.port, base_path="")
    return Provider(
        name=kind, kind=f"litellm/{kind}", lane="litellm", endpoint=endpoint, litellm_provider=kind, litellm_options=options[kind]
    )


def body(**more: object) -> bytes:
    return json.dumps({"model": "asked-for", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9, **more}).encode()


async def ask(
    lane: LitellmLane, up: ScriptedUpstream, kind: str, model: str, timeouts: Timeouts = TIMEOUTS, **more: object
) -> UpstreamResponse:
    return await lane.call(provider(up, kind), model, "chat", body(**more), timeouts=timeouts)


def events_of(data: bytes) -> list[dict[str, Any]]:
    blocks = data.split(b"\n\n")
    assert blocks[-2:] == [b"data: [DONE]", b""]
    return [json.loads(block.removeprefix(b"data: ")) for block in blocks[:-2]]


def text_of(events: list[dict[str, Any]]) -> str:
    return "".join(choice["delta"].get("content") or "" for event in events for choice in event["choices"])


async def test_a_native_answer_comes_back_in_openai_s_wire(lane: LitellmLane, up: ScriptedUpstream) -> None:
    """Clients, metering and the edge know one wire only."""
    nova = {
        "output": {"message": {"role": "assistant", "content": [{"text": "Good day."}]}},
        "stopReason": "end_turn",
        "usage": {"inputTokens": 7, "outputTokens": 3, "totalTokens": 10},
        "metrics": {"latencyMs": 1},
    }
    for kind, model, answer in (("cohere_chat", COHERE, cohere_answer()), ("bedrock", NOVA, nova)):
        up.default = Json(body=answer)
        response = await ask(lane, up, kind, model)
        got = json.loads(await response.read(LIMIT))
        assert response.status == 200
        assert got["object"] == "chat.completion"
        assert got["choices"][0]["message"]["content"] == "Good day."
        assert got["choices"][0]["finish_reason"] == "stop"
        assert (got["usage"]["prompt_tokens"], got["usage"]["completion_tokens"]) == (7, 3)
        assert await response.chunk() == b""
    assert [seen.path for seen in up.requests] == ["/v2/chat", "/model/amazon.nova-lite-v1%3A0/converse"]
    assert up.requests[0].headers["authorization"] == f"Bearer {SECRET}"
    assert up.requests[0].body == {"model": COHERE, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9}
    assert up.requests[1].headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=AKIASCRIPTED")
    assert up.requests[1].body["inferenceConfig"] == {"maxTokens": 9}


async def test_embeddings_are_translated(lane: LitellmLane, up: ScriptedUpstream) -> None:
    """The second operation that budgets see."""
    up.default = Json(
        body={"id": "e", "embeddings": {"float": [[0.25, -0.5]]}, "texts": ["Hi"], "meta": {"billed_units": {"input_tokens": 2}}}
    )
    request = json.dumps({"model": "x", "input": ["Hi"]}).encode()
    response = await lane.call(provider(up, "cohere"), "embed-v4.0", "embeddings", request, timeouts=TIMEOUTS)
    got = json.loads(await response.read(LIMIT))
    assert got["data"][0]["embedding"] == [0.25, -0.5]
    assert got["usage"]["prompt_tokens"] == 2


@pytest.mark.parametrize(("kind", "model", "events"), [("cohere_chat", COHERE, cohere_events()), ("anthropic", CLAUDE, claude_events())])
async def test_a_native_stream_becomes_events_with_usage(
    lane: LitellmLane, up: ScriptedUpstream, kind: str, model: str, events: list[dict[str, Any]]
) -> None:
    """Usage at the end is what the call is charged by; cached tokens are inside the input, as at OpenAI.

    litellm 1.106 does not find Cohere's in a stream. It must then be missing, not zero: a stream is never free.
    """
    up.default = Events(events=events)
    response = await ask(lane, up, kind, model, stream=True, stream_options={"include_usage": True})
    got = events_of(await drain(response))
    assert text_of(got) == "Good day."
    assert [choice["finish_reason"] for event in got for choice in event["choices"] if choice["finish_reason"]] == ["stop"]
    usage = [event["usage"] for event in got if event.get("usage")]
    assert [(counts["prompt_tokens"], counts["completion_tokens"]) for counts in usage] == ([(12, 3)] if kind == "anthropic" else [])
    assert not any(event.get("usage") and event["choices"] for event in got)


async def test_the_provider_s_error_keeps_status_message_and_retry_after(lane: LitellmLane, up: ScriptedUpstream) -> None:
    """Fallbacks are decided by it, and it is not retried behind our back: each try must have its own hold."""
    for kind, model in (("cohere_chat", COHERE), ("anthropic", CLAUDE), ("bedrock", NOVA)):
        for status in (429, 500):
            for stream in (False, True):
                up.default = Fail(status=status, message=f"No: {SECRET}", headers={"retry-after": "7"})
                before = len(up.requests)
                response = await ask(lane, up, kind, model, stream=stream)
                error = json.loads(await response.read(LIMIT))["error"]
                assert response.status == status, (kind, stream)
                assert error["message"] == "No: ***"
                assert error["type"] == ("rate_limit_error" if status == 429 else "api_error")
                assert (b"retry-after", b"7") in response.headers, (kind, stream)
                assert len(up.requests) == before + 1


async def test_what_fails_below_http_is_an_upstream_error(lane: LitellmLane, up: ScriptedUpstream) -> None:
    """`sent` decides whether the hold is given back."""
    up.default = Close()
    error = await fault_of(ask(lane, up, "cohere_chat", COHERE))
    assert (error.fault, error.sent, len(up.requests)) == ("reset", True, 1)
    await up.stop_listening()
    error = await fault_of(ask(lane, up, "cohere_chat", COHERE))
    assert (error.fault, error.sent) == ("connect", False)


async def test_silence_is_a_first_byte_timeout(lane: LitellmLane, up: ScriptedUpstream) -> None:
    """litellm's own limit is one for the whole call."""
    up.default = Hang()
    error = await fault_of(ask(lane, up, "cohere_chat", COHERE, Timeouts(connect_seconds=0.05, first_byte_seconds=0.05)))
    assert error.fault == "first_byte_timeout"
    await up.requests[0].gone.wait()


async def test_a_stream_that_breaks_off_is_not_a_clean_end(lane: LitellmLane, up: ScriptedUpstream) -> None:
    """Half an answer must not be taken for a whole one."""
    for kind, model, events in (("cohere_chat", COHERE, cohere_events()), ("anthropic", CLAUDE, claude_events())):
        for end in ("reset", "truncate"):
            up.default = Events(events=events[:4], end=end)
            response = await ask(lane, up, kind, model, stream=True)
            error = await fault_of(drain(response))
            assert (error.fault, error.sent) == ("reset", True)
            assert "Traceback" not in str(error)
            assert (await fault_of(response.chunk())) is error


async def test_what_litellm_cannot_read_is_told_without_its_stack(lane: LitellmLane, up: ScriptedUpstream) -> None:
    """Its messages hold file names of this machine and pieces of the answer."""
    up.default = Events(events=[{"type": "message-start", "delta": None}, {"type": "content-delta", "delta": "a secret answer"}])
    response = await ask(lane, up, "cohere_chat", COHERE, stream=True)
    body = await response.read(LIMIT)
    assert response.status >= 500
    assert b"Traceback" not in body
    assert b"secret answer" not in body


async def test_a_client_that_leaves_closes_the_provider_s_connection(lane: LitellmLane, up: ScriptedUpstream) -> None:
    """Before the answer, and in the middle of it."""
    up.default = Hang()
    call = asyncio.create_task(ask(lane, up, "cohere_chat", COHERE))
    seen = await up.until_seen(1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await seen.gone.wait()
    for kind, model, events in (("cohere_chat", COHERE, cohere_events()), ("anthropic", CLAUDE, claude_events())):
        up.default = Events(events=events[:4], end="hang")
        response = await ask(lane, up, kind, model, stream=True)
        await response.chunk()
        response.abort()
        await up.requests[-1].gone.wait()
        with pytest.raises(UpstreamError):
            await response.chunk()


STEERING = """
api_base base_url api_key extra_headers headers custom_llm_provider mock_response num_retries max_retries fallbacks timeout model_list
deployment_id api_version aws_region_name shared_session guardrails prompt_id litellm_metadata extra_body
"""


@pytest.mark.parametrize("name", STEERING.split())
async def test_a_request_cannot_steer_the_adapter(lane: LitellmLane, up: ScriptedUpstream, name: str) -> None:
    """litellm takes addresses, keys and fake answers by keyword."""
    with pytest.raises(RouterError) as caught:
        await ask(lane, up, "cohere_chat", COHERE, **{name: "x"})
    assert (caught.value.spec.http_status, caught.value.param) == (400, name)
    assert not up.requests


def test_what_may_pass_names_nothing_that_litellm_acts_on() -> None:
    """The list is the guard: a new name in it must be a parameter of the answer."""
    words = (
        "api_",
        "base",
        "key",
        "header",
        "retr",
        "timeout",
        "callback",
        "client",
        "session",
        "metadata",
        "mock",
        "cache",
        "aws",
        "proxy",
    )
    assert not [name for name in CHAT | EMBEDDINGS for word in words if word in name]


async def test_nothing_is_fetched_and_no_tool_is_run(up: ScriptedUpstream) -> None:
    """litellm downloads images for providers that take none by address, and talks to MCP servers."""
    given = provider(up, "bedrock")
    for part in (
        {"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/a.png"}},
        {"type": "file", "file": {"file_id": "s3://b/c"}},
    ):
        with pytest.raises(RouterError, match="data: URLs only"):
            parameters(given, "chat", body(messages=[{"role": "user", "content": [part]}]))
    with pytest.raises(RouterError, match="'function' only"):
        parameters(given, "chat", body(tools=[{"type": "mcp", "server_url": "http://127.0.0.1:1"}]))
    with pytest.raises(RouterError, match="not a JSON object"):
        parameters(given, "chat", b"[]")
    data = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    text = {"type": "text", "text": "see http://example.com"}
    passed = parameters(
        given, "chat", body(messages=[{"role": "user", "content": [data, text]}], metadata={"a": "b"}, store=True, seed=None)
    )
    assert set(passed) == {"messages", "max_tokens"}


async def test_a_parameter_that_the_provider_lacks_is_refused(lane: LitellmLane, up: ScriptedUpstream) -> None:
    """Leaving it out would answer another question than was asked. The end user's name alone is left out."""
    response = await ask(lane, up, "cohere_chat", COHERE, logit_bias={"1": 2})
    assert response.status == 400
    assert "logit_bias" in msgspec.json.decode(await response.read(LIMIT))["error"]["message"]
    assert not up.requests
    up.default = Json(body=cohere_answer())
    assert (await ask(lane, up, "cohere_chat", COHERE, user="someone")).status == 200
    assert "user" not in up.requests[0].body


async def test_everything_but_translation_is_off(lane: LitellmLane) -> None:
    """Retries would spend without a hold; callbacks and logs would carry prompts."""
    import litellm

    assert litellm.callbacks == litellm.success_callback == litellm.failure_callback == []
    assert not litellm.num_retries
    assert not litellm.telemetry
    assert not litellm.drop_params
    assert litellm.cache is None
