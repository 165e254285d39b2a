"""What reaches the provider is what the client sent, but for the few things that the money needs; and back."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.running import Running, chat, running
from tests.scripted_behaviours import Json, Raw, Stream, dump, sse, usage

CONFIG = """
version: 1
server: {store: "STORE"}
providers:
  up: {kind: openai, base_url: "UP", api_key: $PROVIDER_KEY}
  box: {kind: vllm, base_url: "UP", api_key: $PROVIDER_KEY}
models:
  m: {at: up/their-name, price: {input: 1, output: 10}, default_max_output: 100}
  box: {at: box/their-name, price: {input: 1, output: 10}, default_max_output: 100}
keys:
  tester: {secret: $TEST_KEY}
"""


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path, CONFIG) as served:
        yield served


async def post(app: Running, body: bytes, path: str = "/chat/completions") -> Any:
    return await app.client.post(path, content=body, headers={"content-type": "application/json"})


MESSAGES = (
    b'[ {"role":"user",  "content":"caf\\u00e9 \xed\x95\x9c\xea\xb5\xad\\n\\/", "name":"a", "x":1.0E+2, "big":12345678901234567890123} ]'
)


async def test_members_arrive_byte_for_byte_and_in_their_order(app: Running) -> None:
    """Providers cache prompts by their bytes, and a number that is written anew is another number."""
    body = (
        b'{"temperature":0.10,"model":"m","messages":%b,"logit_bias":{"1":-100},"max_completion_tokens":5,"zz":[1.50, null ,{"b":1,"a":2}]}'
        % MESSAGES
    )
    assert (await post(app, body)).status_code == 200
    raw = app.up.requests[0].raw
    assert raw == body.replace(b'"model":"m"', b'"model":"their-name"')


async def test_unknown_members_pass_in_both_directions(app: Running) -> None:
    """Tomorrow's parameter works today."""
    more: dict[str, Any] = {"new_thing": {"deep": [1, 2]}, "service_tier": "flex", "prompt_cache_key": "k", "store": False}
    app.up.on("their-name", Json(more={"system_fingerprint": "fp", "novelty": {"a": [1]}, "citations": ["u"]}))
    answer = (await app.ask(**more)).json()
    assert {name: app.up.requests[0].body[name] for name in more} == more
    assert (answer["novelty"], answer["citations"], answer["system_fingerprint"]) == ({"a": [1]}, ["u"], "fp")


async def test_the_answer_passes_byte_for_byte(app: Running) -> None:
    """Whitespace, order and odd numbers included: nothing is parsed and written anew."""
    body = b'{ "id":"x",\n"choices":[{"index":0,"message":{"role":"assistant","content":"\\ud55c"},"finish_reason":"stop"}],"z":1.0e3 }\n'
    app.up.on("their-name", Json(body=body))
    assert (await app.ask()).content == body


async def test_our_own_member_does_not_leave(app: Running) -> None:
    """Providers refuse what they do not know."""
    await app.ask(faregate={"tags": {"a": "b"}, "session": "s", "max_cost_usd": 1, "use": "m"})
    assert "faregate" not in app.up.requests[0].body


@pytest.mark.parametrize("bad", [{"unknown": 1}, {"use": 5}, {"max_cost_usd": -1}, {"max_cost_usd": "NaN"}, {"tags": {"a": 1}}, "x", 5, []])
async def test_a_mistake_in_our_own_member_is_named(app: Running, bad: object) -> None:
    """A limit with a typing error that is ignored is no limit."""
    answer = await app.ask(faregate=bad)
    assert answer.status_code == 400
    assert "faregate" in (answer.json()["error"]["param"] or "")
    assert app.up.requests == []


@pytest.mark.parametrize(
    ("model", "sent", "expected"),
    [
        ("m", {}, {"max_completion_tokens": 100}),
        ("box", {}, {"max_tokens": 100}),
        ("m", {"max_tokens": 7}, {"max_completion_tokens": 7}),
        ("box", {"max_tokens": 7}, {"max_tokens": 7}),
        ("box", {"max_tokens": 0}, {"max_tokens": 0}),
        ("m", {"max_completion_tokens": 8}, {"max_completion_tokens": 8}),
        ("box", {"max_completion_tokens": 8}, {"max_tokens": 8}),
        ("m", {"max_tokens": 9, "max_completion_tokens": 8}, {"max_completion_tokens": 8}),
        ("m", {"max_tokens": 7, "max_completion_tokens": 8}, {"max_completion_tokens": 7}),
        ("box", {"max_tokens": None}, {"max_tokens": 100}),
        ("box", {"max_tokens": 500, "n_predict": 6}, {"max_tokens": 6, "n_predict": 6}),
        ("box", {"n_predict": 6}, {"max_tokens": 6, "n_predict": 6}),
    ],
)
async def test_the_cap_that_is_held_is_the_cap_that_leaves(
    app: Running, model: str, sent: dict[str, Any], expected: dict[str, int]
) -> None:
    """One cap, under the name that the provider knows; never a second one that is larger."""
    assert (await app.ask(model, **sent)).status_code == 200
    body = app.up.requests[0].body
    assert {name: body[name] for name in ("max_tokens", "max_completion_tokens", "n_predict") if name in body} == expected


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        (None, {"include_usage": True}),
        ({}, {"include_usage": True}),
        ({"include_usage": False}, {"include_usage": True}),
        ({"include_obfuscation": False}, {"include_obfuscation": False, "include_usage": True}),
    ],
)
async def test_usage_is_asked_for_and_hidden_from_who_did_not_ask(app: Running, options: Any, sent: dict[str, Any]) -> None:
    """Some clients stumble over a chunk without choices; the books need it all the same."""
    more = {} if options is None else {"stream_options": options}
    answer = await app.ask(stream=True, **more)
    assert app.up.requests[0].body["stream_options"] == sent
    assert '"usage":{' not in answer.text
    assert '"choices":[]' not in answer.text
    await app.settled()
    (record,) = await app.records()
    assert (record.get("evidence", "exact"), record["output_tokens"]) == ("exact", 3)


async def test_usage_is_shown_to_who_asked(app: Running) -> None:
    """As the provider sent it."""
    answer = await app.ask(stream=True, stream_options={"include_usage": True})
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
    assert events[-1]["usage"] == usage(completion=3)
    assert events[-1]["choices"] == []


async def test_no_usage_is_asked_for_outside_of_streams(app: Running) -> None:
    """`stream_options` without `stream` is an error at the provider."""
    await app.ask(stream=False)
    await app.client.post("/embeddings", json={"model": "m", "input": "x"})
    assert all("stream_options" not in seen.body for seen in app.up.requests)
    assert not {"max_tokens", "max_completion_tokens"} & set(app.up.requests[-1].body)


@pytest.mark.parametrize("path", ["completions", "embeddings", "chat/completions"])
async def test_each_call_goes_to_its_own_path(app: Running, path: str) -> None:
    """And the query of the client stays here."""
    body = {
        "chat/completions": chat(),
        "completions": {"model": "m", "prompt": ["a", "b"]},
        "embeddings": {"model": "m", "input": ["a", "b"]},
    }
    answer = await app.client.post(f"/{path}?api-version=1&x=y", json=body[path])
    assert answer.status_code == 200
    assert app.up.requests[0].path == f"/v1/{path}"


async def test_events_are_passed_as_they_are(app: Running) -> None:
    """Comments, names, ids and unknown events belong to the client; only the usage chunk that we asked for is ours."""
    frame = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "x"}
    word = sse({**frame, "choices": [{"index": 0, "delta": {"content": "a", "novelty": 1}, "finish_reason": None}]})
    last = sse({**frame, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    used = sse({**frame, "choices": [], "usage": usage()})
    stream = b": keep-alive\n\nevent: note\nid: 7\ndata: {}\n\n" + word + b"\r\n" + last + used + b"data: [DONE]\n\n"
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
    app.up.on("their-name", Raw([head + stream]))
    assert (await app.ask(stream=True)).content == stream.replace(used, b"")


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "raw-deflate"])
@pytest.mark.parametrize("stream", [False, True], ids=["json", "sse"])
async def test_compressed_answers_arrive_readable(app: Running, encoding: Any, stream: bool) -> None:
    """We ask for none; a provider that compresses all the same is read, metered and passed on plain."""
    app.up.on("their-name", Stream(encoding=encoding) if stream else Json(encoding=encoding))
    answer = await app.ask(stream=stream)
    assert answer.status_code == 200
    assert "content-encoding" not in answer.headers
    assert ("[DONE]" if stream else "Hello there") in answer.text
    await app.settled()
    assert (await app.records())[0]["charge_nusd"] == 11 * 1000 + 3 * 10_000


async def test_a_large_body_passes_whole(app: Running) -> None:
    """Long documents are what large models are for."""
    messages = [{"role": "user", "content": "한국어 " * 100_000}]
    assert (await post(app, dump(chat(messages=messages)))).status_code == 200
    assert app.up.requests[0].body["messages"] == messages
