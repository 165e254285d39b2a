"""The stock clients, unchanged, against the real program: only the base URL and the key are ours."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
import pytest_asyncio
from openai.types.chat import ChatCompletionToolParam
from pydantic import BaseModel

from tests.gateway import KEY, Gateway
from tests.scripted_behaviours import Fail, Json, Raw, Sequence, Stream, dump, sse
from tests.scripted_upstream import ScriptedUpstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

POOR = "sk-test-poor-0123456789abcdefghijklmnop"
MODELS = ("m", "tools", "parsed", "limited", "floats", "busy", "words")

CONFIG = """
version: 1
providers:
  up: {{kind: openai, base_url: "{url}", api_key: $PROVIDER_KEY}}
models:
{models}
routes:
  auto: {{use: m, fallback: {{retries: 0}}}}
  busy-route: {{use: busy, fallback: {{retries: 0}}}}
keys:
  tester: {{secret: $TEST_KEY}}
  poor: {{secret: $POOR, budget: $0.00001}}
"""

TOOLS: list[ChatCompletionToolParam] = [
    {
        "type": "function",
        "function": {
            "name": name,
            "strict": True,
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
                "additionalProperties": False,
            },
        },
    }
    for name in ("weather", "time")
]
CALLS = [
    {"id": f"call_{index}", "type": "function", "function": {"name": name, "arguments": json.dumps({"city": "Seoul"})}}
    for index, name in enumerate(("weather", "time"))
]


class World:
    """The program, its provider and its clients."""

    def __init__(self, gateway: Gateway, up: ScriptedUpstream) -> None:
        self.gateway = gateway
        self.up = up
        self.sync = openai.OpenAI(base_url=gateway.base_url, api_key=KEY)
        self.client = openai.AsyncOpenAI(base_url=gateway.base_url, api_key=KEY)

    async def threaded(self, call: Callable[[], Any]) -> Any:
        """Run a call of the synchronous client beside the provider."""
        return await asyncio.to_thread(call)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    folder: Path = tmp_path_factory.mktemp("sdk")
    async with ScriptedUpstream() as up:
        models = "\n".join(f"  {name}: {{at: up/{name}, price: {{input: 1, output: 10}}, default_max_output: 100}}" for name in MODELS)
        config = CONFIG.format(url=up.base_url, models=models)
        async with Gateway(folder, config, environment={"POOR": POOR}) as gateway:
            made = World(gateway, up)
            yield made
            made.sync.close()
            await made.client.close()


HELLO: list[Any] = [{"role": "user", "content": "Hello"}]


async def test_chat_by_the_synchronous_client(world: World) -> None:
    """The first thing that anybody tries."""
    answer = await world.threaded(lambda: world.sync.chat.completions.create(model="m", messages=HELLO))
    assert answer.choices[0].message.content == " word word word"
    assert answer.usage.total_tokens == 14
    assert answer._request_id.startswith("fg-")


async def test_chat_streamed_to_the_synchronous_client(world: World) -> None:
    """Chunks, no usage that was not asked for, and the end of the iteration."""

    def read() -> tuple[str, list[Any]]:
        with world.sync.chat.completions.create(model="auto", messages=HELLO, stream=True) as stream:
            chunks = list(stream)
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks), [chunk.usage for chunk in chunks]

    text, usages = await world.threaded(read)
    assert text == " word word word"
    assert set(usages) == {None}


async def test_chat_by_the_asynchronous_client(world: World) -> None:
    """Many at once over one pool, each with its own answer."""
    answers = await asyncio.gather(*(world.client.chat.completions.create(model="m", messages=HELLO, n=n) for n in range(1, 9)))
    assert [len(answer.choices) for answer in answers] == list(range(1, 9))
    raw = await world.client.chat.completions.with_raw_response.create(model="m", messages=HELLO)
    assert raw.headers["x-faregate-model"] == "m"
    assert raw.parse().choices[0].finish_reason == "stop"


async def test_chat_streamed_with_usage(world: World) -> None:
    """Who asks for usage gets it, in the last chunk, without choices."""
    stream = await world.client.chat.completions.create(model="m", messages=HELLO, stream=True, stream_options={"include_usage": True})
    chunks = [chunk async for chunk in stream]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 3


async def test_tools_one_and_several_at_once(world: World) -> None:
    """Agents live from this: names, ids and arguments arrive untouched, in JSON and in pieces."""
    message = {"role": "assistant", "content": None, "tool_calls": CALLS}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
    body = {"id": "c", "object": "chat.completion", "created": 1, "model": "tools", "choices": [choice]}
    world.up.on("tools", Json(body={**body, "usage": {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18}}))
    answer = await world.client.chat.completions.create(model="tools", messages=HELLO, tools=TOOLS, parallel_tool_calls=True)
    calls = answer.choices[0].message.tool_calls
    assert calls is not None
    assert [call.model_dump() for call in calls] == CALLS
    assert world.up.requests[-1].body["tools"] == TOOLS

    frame = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "tools"}
    pieces: list[dict[str, Any]] = [{"role": "assistant", "content": None}]
    for index, call in enumerate(CALLS):
        function: Any = call["function"]
        pieces.append({"tool_calls": [{"index": index, "id": call["id"], "type": "function", "function": {**function, "arguments": ""}}]})
        for part in (function["arguments"][:5], function["arguments"][5:]):
            pieces.append({"tool_calls": [{"index": index, "function": {"arguments": part}}]})
    events = [sse({**frame, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}) for delta in pieces]
    events.append(sse({**frame, "choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}) + b"data: [DONE]\n\n")
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
    world.up.on("tools", Raw([head, *events]))
    async with world.client.chat.completions.stream(model="tools", messages=HELLO, tools=TOOLS) as stream:
        final = await stream.get_final_completion()
    streamed = final.choices[0].message.tool_calls
    assert streamed is not None
    assert [call.function.arguments for call in streamed] == ['{"city": "Seoul"}'] * 2
    assert [call.id for call in streamed] == ["call_0", "call_1"]


class City(BaseModel):
    name: str
    people: int


async def test_structured_output(world: World) -> None:
    """`parse` sends a JSON schema and reads the answer into the class."""
    world.up.on("parsed", Json(text='{"name": "Seoul", "people": 9600000}'))
    answer = await world.client.chat.completions.parse(model="parsed", messages=HELLO, response_format=City)
    assert answer.choices[0].message.parsed == City(name="Seoul", people=9_600_000)
    assert world.up.requests[-1].body["response_format"]["json_schema"]["strict"] is True


async def test_legacy_completions(world: World) -> None:
    """Older programs and evaluation tools still speak it."""
    world.up.on("words", Json(text="once upon"))
    answer = await world.client.completions.create(model="words", prompt="Tell", max_tokens=5)
    assert answer.choices[0].text == "once upon"
    events = [
        {"id": "c", "object": "text_completion", "created": 1, "model": "words", "choices": [choice]} for choice in COMPLETION_CHOICES
    ]
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
    world.up.on("words", Raw([head, *(sse(event) for event in events), b"data: [DONE]\n\n"]))
    stream = await world.client.completions.create(model="words", prompt="Tell", stream=True)
    assert "".join([chunk.choices[0].text async for chunk in stream]) == "once upon"


COMPLETION_CHOICES: list[dict[str, Any]] = [
    {"index": 0, "text": "once", "finish_reason": None, "logprobs": None},
    {"index": 0, "text": " upon", "finish_reason": "stop", "logprobs": None},
]


async def test_embeddings_as_numbers_and_as_base64(world: World) -> None:
    """The SDK asks for base64 unless told otherwise, and decodes it itself."""
    numbers = await world.client.embeddings.create(model="m", input=["a", "b"], encoding_format="float")
    assert [item.embedding for item in numbers.data] == [[0.25, -0.5]] * 2
    data = [{"object": "embedding", "index": 0, "embedding": "AACAPgAAAL8="}]
    body = {"object": "list", "data": data, "model": "floats", "usage": {"prompt_tokens": 2, "total_tokens": 2}}
    world.up.on("floats", Json(body=body))
    packed = await world.client.embeddings.create(model="floats", input="a")
    assert world.up.requests[-1].body["encoding_format"] == "base64"
    assert packed.data[0].embedding == [0.25, -0.5]


async def test_models_are_listed_and_found(world: World) -> None:
    """User interfaces fill their menus from it."""
    names = [model.id async for model in world.client.models.list()]
    assert names[:2] == ["auto", "busy-route"]
    assert {"m", "up/m"} <= set(names)
    assert (await world.client.models.retrieve("up/m")).owned_by == "up"
    with pytest.raises(openai.NotFoundError):
        await world.client.models.retrieve("nothing")


@pytest.mark.parametrize(
    ("more", "error", "code"),
    [
        ({"model": "nothing"}, openai.NotFoundError, "model_not_found"),
        ({"max_tokens": -1}, openai.BadRequestError, "invalid_request"),
        ({"extra_body": {"stream": "yes"}}, openai.BadRequestError, "invalid_request"),
    ],
)
async def test_the_client_raises_the_class_that_fits(
    world: World, more: dict[str, Any], error: type[openai.APIStatusError], code: str
) -> None:
    """Programs catch these classes; the message is what a person reads."""
    with pytest.raises(error) as caught:
        await world.client.chat.completions.create(**{"model": "m", "messages": HELLO, **more})
    assert caught.value.code == code
    assert str(code) in str(caught.value)


async def lines_of(world: World, key_id: str) -> list[dict[str, Any]]:
    """What the request log holds of a key, once everything that was asked so far stands in it."""
    marker = await world.client.chat.completions.with_raw_response.create(model="m", messages=HELLO)
    own = marker.headers["x-faregate-request-id"]
    async with asyncio.timeout(20):
        while all(line["request_id"] != own for line in world.gateway.log_lines()):
            await asyncio.sleep(0.02)
    return [line for line in world.gateway.log_lines() if line["key_id"] == key_id]


async def test_a_refusal_for_money_is_not_sent_again(world: World) -> None:
    """Three calls instead of one would not help and would fill the log; `x-should-retry: false` stops it."""
    poor = openai.AsyncOpenAI(base_url=world.gateway.base_url, api_key=POOR, max_retries=5)
    with pytest.raises(openai.APIStatusError) as caught:
        await poor.chat.completions.create(model="m", messages=HELLO)
    assert caught.value.status_code == 402
    assert [line["status"] for line in await lines_of(world, "poor")] == [402]
    await poor.close()


async def test_a_rate_limit_is_sent_again_after_the_time_it_names(world: World) -> None:
    """The SDK reads Retry-After of the provider's 429 and succeeds without the program noticing."""
    world.up.on("busy", Sequence([Fail(status=429, headers={"retry-after": "1"}), Stream()]))
    patient = openai.AsyncOpenAI(base_url=world.gateway.base_url, api_key=KEY, max_retries=4)
    answer = await patient.chat.completions.create(model="busy-route", messages=HELLO)
    assert answer.choices[0].message.content == " word word word"
    first, second = [seen for seen in world.up.requests if seen.model == "busy"]
    assert second.at - first.at >= 1
    await patient.close()


async def test_a_broken_stream_raises_in_the_client(world: World) -> None:
    """Half an answer must not look like a whole one."""
    world.up.on("limited", Stream(end="reset"))
    stream = await world.client.chat.completions.create(model="limited", messages=HELLO, stream=True)
    with pytest.raises(openai.APIError, match="lost"):
        async for _ in stream:
            pass


async def test_anthropics_client_sends_its_key_in_another_header(world: World) -> None:
    """`x-api-key` opens the same doors, so that one key serves both kinds of client."""
    client = anthropic.AsyncAnthropic(base_url=world.gateway.root, api_key=KEY)
    body = {"model": "m", "messages": HELLO}
    answer: Any = await client.post("/v1/chat/completions", body=body, cast_to=object)
    assert answer["choices"][0]["finish_reason"] == "stop"
    await client.close()
    wrong = anthropic.AsyncAnthropic(base_url=world.gateway.root, api_key="sk-wrong-0123456789")
    with pytest.raises(anthropic.AuthenticationError):
        await wrong.post("/v1/chat/completions", body=body, cast_to=object)
    await wrong.close()


async def curl(*words: str, given: str = "") -> str:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec("curl", "-sS", "--max-time", "30", *words, stdin=pipe, stdout=pipe)
    out, _ = await process.communicate(given.encode())
    assert process.returncode == 0
    return out.decode()


async def test_curl(world: World) -> None:
    """What the README prints: JSON, and events as they come."""
    common = (f"{world.gateway.base_url}/chat/completions", "-H", f"Authorization: Bearer {KEY}", "-H", "Content-Type: application/json")
    answer = json.loads(await curl(*common, "-d", json.dumps({"model": "m", "messages": HELLO})))
    assert answer["choices"][0]["message"]["content"] == " word word word"
    text = await curl("-N", *common, "-d", json.dumps({"model": "m", "messages": HELLO, "stream": True}))
    assert text.count("data: ") == 6
    assert text.endswith("data: [DONE]\n\n")
    large = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x" * 200_000}]})
    assert "choices" in json.loads(await curl(*common, "-H", "Expect: 100-continue", "--data-binary", "@-", given=large))
    assert dump(world.up.requests[-1].body["messages"]) == dump(json.loads(large)["messages"])
