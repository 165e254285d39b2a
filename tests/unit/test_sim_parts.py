"""The pieces of the simulator without a connection: tokens, answers, cache, trouble and bill."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.sim.answers import Asked, draws, plan, read_chat, read_completion
from router.sim.app import SimApp
from router.sim.cache import LEAST_TOKENS, PromptCache
from router.sim.controls import Order, Trouble, apply
from router.sim.profiles import PROFILES
from router.sim.requests import ChatRequest, CompletionRequest, SimError
from router.sim.words import canned, count_tokens, smallest_instance, task_of, tokenize


@given(st.text())
def test_tokens_joined_are_the_text_and_never_more_than_its_bytes(text: str) -> None:
    """A router bounds tokens by bytes; a provider that counts more would break every hold."""
    tokens = tokenize(text)
    assert "".join(tokens) == text
    assert count_tokens(text) == len(tokens) <= len(text.encode("utf-8", "surrogatepass"))


def test_english_is_about_four_bytes_a_token() -> None:
    """Estimates elsewhere assume that ratio; a simulator far from it would teach wrong lessons."""
    text = canned("summary", tokens=200)
    assert 3.5 < len(text) / count_tokens(text) < 5.5


@pytest.mark.parametrize(
    ("text", "task"),
    [("안녕하세요", "korean"), ("fix this python bug", "code"), ("summarise: a, b", "summary"), ("hello", "chat")],
)
def test_the_answer_fits_the_question(text: str, task: str) -> None:
    """People who watch the demonstration read the answers."""
    assert task_of(text) == task
    assert count_tokens(canned(task, tokens=500, skip=3)) >= 500


@pytest.mark.parametrize(
    ("schema", "instance"),
    [
        ({"const": 4}, 4),
        ({"enum": ["a", "b"]}, "a"),
        ({"type": ["string", "null"]}, "text"),
        ({"type": "string", "minLength": 6}, "textxx"),
        ({"type": "null"}, None),
        ({"type": []}, None),
        ({"type": "number", "minimum": 2.5}, 2.5),
        ({"type": "integer", "minimum": "x"}, 0),
        ({"type": "array", "items": {"type": "boolean"}, "minItems": 2}, [True, True]),
        ({"type": "array"}, []),
        ({"type": "object"}, {}),
        ({"properties": {"a": {"type": "integer"}}}, {"a": 0}),
        ({"type": "object", "properties": {"a": {}, "b": {"type": "integer"}}, "required": ["b", "c"]}, {"b": 0}),
        ({"oneOf": [{"type": "integer"}]}, 0),
        ({"$ref": "#/$defs/x", "$defs": {"x": {"type": "integer"}}}, 0),
        ({"$ref": "#/$defs/none"}, None),
        ({}, None),
    ],
)
def test_the_smallest_instance_fits_its_schema(schema: dict[str, Any], instance: object) -> None:
    """Clients that ask for structured output parse it strictly."""
    assert smallest_instance(schema) == instance


def test_a_recursive_schema_ends() -> None:
    """A client's schema must not be able to hang the simulator."""
    node = {"type": "object", "properties": {"next": {"$ref": "#"}}, "required": ["next"]}
    assert isinstance(smallest_instance(node), dict)


def test_the_cache_forgets_other_beginnings_and_short_prompts() -> None:
    """A discount for what was never seen would make the bill wrong."""
    cache = PromptCache()
    prompt = "one two three four " * 400
    assert cache.lookup("m", prompt) == 0
    assert cache.lookup("m", prompt) >= LEAST_TOKENS
    assert cache.lookup("other", prompt) == 0
    assert cache.lookup("m", "different " + prompt) == 0
    assert cache.lookup("m", "short") == 0
    assert cache.lookup("m", "x" * 5000) == 0, "many characters, few tokens"


def test_a_plan_depends_on_seed_prompt_and_repetition_only() -> None:
    """Concurrency must not change what a demonstration shows."""
    asked = _asked("What now?")
    profile = PROFILES["frontier-closed"]
    assert plan(1, profile, asked, 0).answers == plan(1, profile, asked, 0).answers
    different = {plan(seed, profile, asked, turn).first_token_seconds for seed in (1, 2) for turn in (0, 1)}
    assert len(different) == 4


def test_latencies_are_log_normal_around_their_median() -> None:
    """Half of the calls are faster than the figure in the profile, half slower, and the tail is long."""
    profile = PROFILES["mid-closed"]
    seen = sorted(plan(3, profile, _asked("x"), turn).first_token_seconds * 1000 for turn in range(400))
    assert seen[200] == pytest.approx(profile.first_token_ms, rel=0.1)
    assert seen[380] > 1.5 * profile.first_token_ms


def test_an_answer_fills_what_is_left_of_the_context_at_most() -> None:
    """Without a cap the context is the limit."""
    profile = PROFILES["small-edge"]
    room = 7
    asked = Asked(prompt="", question="", input_tokens=profile.context_tokens - room, output_cap=None, choices=1, stop=())
    answer = plan(1, profile, asked, 0).answers[0]
    assert (len(answer.tokens), answer.finish_reason) == (room, "length")
    with pytest.raises(SimError, match="context"):
        plan(1, profile, Asked(prompt="", question="", input_tokens=profile.context_tokens, output_cap=None, choices=1, stop=()), 0)


def test_a_tool_call_counts_the_name_of_the_function() -> None:
    """Providers bill the whole call, not only its arguments."""
    tool = {"type": "function", "function": {"name": "look_it_up"}}
    request = msgspec.convert(
        {"model": "m", "messages": [{"role": "user", "content": "hi"}], "tools": [tool], "tool_choice": "required", "max_tokens": 1},
        ChatRequest,
    )
    answer = plan(1, PROFILES["mid-closed"], read_chat(request), 0).answers[0]
    assert answer.tool == "look_it_up"
    assert answer.output_tokens == len(answer.tokens) + count_tokens("look_it_up")
    assert answer.finish_reason == "length"


def test_what_the_client_sends_is_counted() -> None:
    """Parts, images, tool calls and tools all cost input tokens."""
    parts = [{"type": "text", "text": "one two"}, {"type": "image_url", "image_url": {"url": "data:"}}]
    bare = _chat([{"role": "user", "content": "one two"}])
    assert _chat([{"role": "user", "content": parts}]) == bare + 765
    assert _chat([{"role": "user", "content": "one two"}, {"role": "assistant", "tool_calls": [{"id": "x"}]}]) > bare + 4


@pytest.mark.parametrize("prompt", [[], ["a", "b"], ["a", 1]])
def test_completions_take_one_prompt(prompt: list[Any]) -> None:
    """Several prompts in one call are refused, never half answered."""
    with pytest.raises(SimError, match="one text or one list"):
        read_completion(CompletionRequest(model="m", prompt=prompt))


def test_completions_take_tokens() -> None:
    """A list of token numbers is billed by its length."""
    assert read_completion(CompletionRequest(model="m", prompt=[1, 2, 3])).input_tokens == 3


def test_orders_change_only_what_they_name() -> None:
    """Scripts send one change at a time."""
    trouble = Trouble(down=True, cut_after=4)
    apply(Order(model="m", errors=2, status=400), trouble)
    assert trouble.down
    assert trouble.cut_after == 4
    apply(Order(model="m", down=False, cut_after=0, slow=-1), trouble)
    assert (trouble.down, trouble.cut_after, trouble.slow) == (False, None, 0.0)
    error = trouble.next_error("m")
    assert error is not None
    assert (error.status, error.kind) == (400, "invalid_request_error")


def test_draws_are_repeatable_and_separate() -> None:
    """`ab`+`c` must not be `a`+`bc`."""
    assert draws(1, "a", "b").random() == draws(1, "a", "b").random()
    assert draws(1, "ab", "c").random() != draws(1, "a", "bc").random()


async def test_a_client_that_leaves_before_the_answer_pays_for_the_prompt() -> None:
    """What was not produced is not billed, what was read is."""
    app = SimApp(speed=0.01)
    await _call(app, "/v1/chat/completions", _BODY, then_leave=True)
    call = app.billed.calls[-1]
    assert (call.complete, call.output_tokens) == (False, 0)
    assert call.nusd == call.input_tokens * 750


async def test_a_body_above_the_limit_is_refused() -> None:
    """The simulator listens on loopback, but even there memory is bounded."""
    sent = await _call(SimApp(), "/v1/chat/completions", b"x" * (65 * 1024 * 1024))
    assert sent[0]["status"] == 400


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/v1/chat/completions", 405), ("POST", "/v1/none", 404)])
async def test_other_paths_and_methods_get_openais_errors(method: str, path: str, status: int) -> None:
    """A wrong base URL should be told as such."""
    sent = await _call(SimApp(), path, b"{}", method=method)
    assert sent[0]["status"] == status


@pytest.mark.parametrize(
    "body",
    [{"input": []}, {"input": "a", "dimensions": 0}, {"input": 3}, {"input": "a", "model": "none"}],
)
async def test_bad_embedding_requests_are_refused(body: dict[str, Any]) -> None:
    """They cost nothing and say why."""
    app = SimApp()
    sent = await _call(app, "/v1/embeddings", msgspec.json.encode({"model": "small-edge"} | body))
    assert sent[0]["status"] in (400, 404)
    assert app.billed.nusd == 0


@pytest.mark.parametrize(("given_input", "tokens"), [([1, 2, 3], 3), ([[1, 2], [3]], 3), (["a b", "c"], 3)])
async def test_embeddings_take_texts_and_tokens(given_input: list[Any], tokens: int) -> None:
    """All four shapes of OpenAI's input field."""
    app = SimApp(speed=1000)
    sent = await _call(app, "/v1/embeddings", msgspec.json.encode({"model": "small-edge", "input": given_input}))
    assert msgspec.json.decode(sent[1]["body"])["usage"]["prompt_tokens"] == tokens


async def test_an_outage_reaches_embeddings() -> None:
    """A provider that is down is down for everything."""
    app = SimApp()
    app.troubles["small-edge"].down = True
    sent = await _call(app, "/v1/embeddings", b'{"model": "small-edge", "input": "a"}')
    assert sent[0]["status"] == 503


async def test_what_is_not_http_is_left_alone() -> None:
    """Servers ask for a lifespan; there is none."""
    sent: list[MutableMapping[str, Any]] = []
    await SimApp()({"type": "lifespan"}, _never, _collect(sent))
    assert sent == []


def test_speed_must_be_positive() -> None:
    """A speed of zero would wait for ever."""
    with pytest.raises(ValueError, match="above 0"):
        SimApp(speed=0)


_BODY = b'{"model": "mid-closed", "messages": [{"role": "user", "content": "hello"}]}'


def _asked(text: str) -> Asked:
    return read_chat(msgspec.convert({"model": "m", "messages": [{"role": "user", "content": text}]}, ChatRequest))


def _chat(messages: list[dict[str, Any]]) -> int:
    return read_chat(msgspec.convert({"model": "m", "messages": messages}, ChatRequest)).input_tokens


async def _never() -> MutableMapping[str, Any]:
    # A future that never gets a result has none to type.
    return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]


def _collect(into: list[MutableMapping[str, Any]]) -> Any:
    async def send(message: MutableMapping[str, Any]) -> None:
        into.append(message)

    return send


async def _call(app: SimApp, path: str, body: bytes, *, method: str = "POST", then_leave: bool = False) -> list[MutableMapping[str, Any]]:
    """One request without a server; `then_leave` disconnects as soon as the body is read."""
    pending: list[MutableMapping[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]
    if then_leave:
        pending.append({"type": "http.disconnect"})

    async def receive() -> MutableMapping[str, Any]:
        return pending.pop(0) if pending else await _never()

    sent: list[MutableMapping[str, Any]] = []
    await app({"type": "http", "method": method, "path": path}, receive, _collect(sent))
    return sent
