"""The simulated provider, spoken to with the stock OpenAI SDK over a real connection."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import openai
import pytest
from pydantic import BaseModel

from router.sim.bill import bill_nusd
from router.sim.profiles import PROFILES, Profile
from router.sim.server import Simulator

SPEED = 10_000.0
HELLO: Any = [{"role": "user", "content": "When does the notice period begin?"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "strict": True,
        "parameters": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1}, "unit": {"enum": ["C", "F"]}},
            "required": ["city", "days", "unit"],
        },
    },
}


@pytest.fixture
async def sim() -> AsyncIterator[Simulator]:
    async with Simulator(seed=7, speed=SPEED, control=True) as running:
        yield running


@pytest.fixture
async def client(sim: Simulator) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=sim.base_url, api_key="none", max_retries=0) as made:
        yield made


async def test_the_same_seed_gives_the_same_answers() -> None:
    """A demonstration and a failed test can only be repeated if the provider repeats itself."""
    answers = []
    for seed in (7, 7, 8):
        async with Simulator(seed=seed, speed=SPEED) as sim, openai.AsyncOpenAI(base_url=sim.base_url, api_key="none") as client:
            got = [await client.chat.completions.create(model="mid-closed", messages=HELLO) for _ in range(2)]
            answers.append([one.choices[0].message.content for one in got])
    assert answers[0] == answers[1] != answers[2]
    assert answers[0][0] != answers[0][1], "the same question asked twice gets two answers"


async def test_usage_is_what_is_billed(sim: Simulator, client: openai.AsyncOpenAI) -> None:
    """The bill is the truth that books are compared with, so the wire must tell the same."""
    answer = await client.chat.completions.create(model="frontier-closed", messages=HELLO, n=3)
    assert answer.usage is not None
    call = sim.billed.calls[-1]
    assert (call.input_tokens, call.output_tokens) == (answer.usage.prompt_tokens, answer.usage.completion_tokens)
    assert call.nusd == call.input_tokens * 5_000 + call.output_tokens * 30_000
    assert sim.billed.nusd == call.nusd
    assert len(answer.choices) == 3


async def test_a_stream_says_the_same_as_a_json_answer(client: openai.AsyncOpenAI) -> None:
    """Both forms of one call must be the same call, or metering cannot be compared."""
    async with Simulator(seed=7, speed=SPEED) as other, openai.AsyncOpenAI(base_url=other.base_url, api_key="none") as second:
        whole = await second.chat.completions.create(model="mid-closed", messages=HELLO)
    stream = await client.chat.completions.create(model="mid-closed", messages=HELLO, stream=True, stream_options={"include_usage": True})
    chunks = [chunk async for chunk in stream]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage
    assert chunks[-1].choices == []
    # The SDK types usage as optional.
    assert sum(bool(chunk.choices and chunk.choices[0].delta.content) for chunk in chunks) == whole.usage.completion_tokens  # type: ignore[union-attr]


async def test_a_stream_without_include_usage_has_no_usage_chunk(client: openai.AsyncOpenAI) -> None:
    """OpenAI sends usage on request only; a proxy must ask for it."""
    stream = await client.chat.completions.create(model="mid-closed", messages=HELLO, stream=True)
    async for chunk in stream:
        assert chunk.usage is None
        assert chunk.choices


@pytest.mark.parametrize("cap", [{"max_tokens": 5}, {"max_completion_tokens": 5}])
async def test_the_output_cap_binds(client: openai.AsyncOpenAI, cap: dict[str, int]) -> None:
    """Holds rest on the cap that is forwarded, so the provider must honour it."""
    # The SDK has overloads per streaming mode; a mapping fits none.
    answer = await client.chat.completions.create(model="frontier-closed", messages=HELLO, n=2, **cap)  # type: ignore[call-overload]
    assert answer.usage.completion_tokens == 10
    assert {choice.finish_reason for choice in answer.choices} == {"length"}


async def test_a_stop_sequence_ends_the_answer(client: openai.AsyncOpenAI) -> None:
    """The text ends before the sequence, and what was not written is not billed."""
    full = await client.chat.completions.create(model="frontier-closed", messages=HELLO)
    async with Simulator(seed=7, speed=SPEED) as other, openai.AsyncOpenAI(base_url=other.base_url, api_key="none") as second:
        cut = await second.chat.completions.create(model="frontier-closed", messages=HELLO, stop=[".", "zzz"])
    assert cut.choices[0].message.content == (full.choices[0].message.content or "").partition(".")[0]
    assert cut.choices[0].finish_reason == "stop"


async def test_tools_are_called_when_the_text_asks(client: openai.AsyncOpenAI) -> None:
    """Agents need a first call, and an answer in words once the tool has spoken."""
    ask: Any = [{"role": "user", "content": "Use get_weather for Seoul"}]
    first = await client.chat.completions.create(model="large-open-local", messages=ask, tools=[WEATHER])
    assert first.choices[0].finish_reason == "tool_calls"
    # The SDK types tool calls as optional.
    call: Any = first.choices[0].message.tool_calls[0]  # type: ignore[index]
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == {"city": "text", "days": 1, "unit": "C"}
    then: Any = [*ask, first.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "12 degrees"}]
    second = await client.chat.completions.create(model="large-open-local", messages=then, tools=[WEATHER])
    assert second.choices[0].message.content
    assert second.choices[0].finish_reason == "stop"


async def test_a_tool_call_is_streamed_in_parts(client: openai.AsyncOpenAI) -> None:
    """The SDK assembles the arguments from the parts."""
    ask: Any = [{"role": "user", "content": "hello"}]
    async with client.chat.completions.stream(model="mid-closed", messages=ask, tools=[WEATHER], tool_choice="required") as stream:
        final = await stream.get_final_completion()
    # The SDK types tool calls as optional.
    call: Any = final.choices[0].message.tool_calls[0]  # type: ignore[index]
    assert json.loads(call.function.arguments)["days"] == 1


@pytest.mark.parametrize(
    ("choice", "called"),
    [("none", False), ("auto", False), ({"type": "function", "function": {"name": "get_weather"}}, True)],
)
async def test_tool_choice_is_honoured(client: openai.AsyncOpenAI, choice: Any, called: bool) -> None:
    """`none` forbids, a name forces, `auto` leaves it to the text."""
    ask: Any = [{"role": "user", "content": "hello"}]
    answer = await client.chat.completions.create(model="mid-closed", messages=ask, tools=[WEATHER], tool_choice=choice)
    assert bool(answer.choices[0].message.tool_calls) is called


async def test_structured_output_fits_its_schema(client: openai.AsyncOpenAI) -> None:
    """The SDK validates the answer against the model class, nested parts and references included."""

    class Line(BaseModel):
        name: str
        amount: float

    class Invoice(BaseModel):
        number: int
        paid: bool
        lines: list[Line]
        note: str | None

    answer = await client.chat.completions.parse(model="mid-closed", messages=HELLO, response_format=Invoice)
    assert answer.choices[0].message.parsed == Invoice(number=0, paid=True, lines=[Line(name="text", amount=0)], note="text")


async def test_korean_is_answered_in_korean(client: openai.AsyncOpenAI) -> None:
    """Counting bytes or blanks goes wrong first where text is not English."""
    ask: Any = [{"role": "user", "content": "3분기 실적을 요약해 주세요."}]
    answer = await client.chat.completions.create(model="small-edge", messages=ask)
    assert "습니다" in (answer.choices[0].message.content or "")


async def test_completions_and_embeddings_speak_openai(sim: Simulator, client: openai.AsyncOpenAI) -> None:
    """Vectors are the same for the same text, of length one, in both encodings."""
    text = await client.completions.create(model="mid-closed", prompt="Once upon", max_tokens=4)
    assert text.choices[0].text
    assert text.usage is not None
    assert text.usage.completion_tokens == 4
    streamed = await client.completions.create(model="mid-closed", prompt="Once upon", max_tokens=4, stream=True)
    assert "".join([chunk.choices[0].text async for chunk in streamed])
    packed = await client.embeddings.create(model="small-edge", input=["a", "b", "a"], dimensions=8)
    plain = await client.embeddings.create(model="small-edge", input="a", dimensions=8, encoding_format="float")
    assert packed.data[0].embedding == packed.data[2].embedding != packed.data[1].embedding
    assert packed.data[0].embedding == pytest.approx(plain.data[0].embedding, abs=1e-6)
    assert sum(x * x for x in plain.data[0].embedding) == pytest.approx(1.0)
    assert packed.usage.prompt_tokens == 3
    assert sim.billed.models["small-edge"].nusd == 4 * 100


async def test_models_are_listed(client: openai.AsyncOpenAI) -> None:
    """Clients look for names there."""
    assert [model.id async for model in await client.models.list()] == list(PROFILES)


async def test_a_repeated_beginning_is_cached(sim: Simulator, client: openai.AsyncOpenAI) -> None:
    """Cached tokens cost less; a router that ignores them books too much."""
    long = "The lease ends in spring. " * 300
    for question in ("one", "two"):
        ask: Any = [{"role": "system", "content": long}, {"role": "user", "content": question}]
        answer = await client.chat.completions.create(model="frontier-closed", messages=ask, max_tokens=1)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens_details is not None
    cached = answer.usage.prompt_tokens_details.cached_tokens
    assert cached is not None
    assert cached >= 1024
    assert cached % 128 == 0
    assert sim.billed.calls[-1].nusd == (answer.usage.prompt_tokens - cached) * 5_000 + cached * 500 + 30_000


async def test_an_outage_is_a_503_that_costs_nothing(sim: Simulator, client: openai.AsyncOpenAI) -> None:
    """Fallback is tested against this."""
    sim.outage("frontier-closed", True)
    with pytest.raises(openai.InternalServerError) as caught:
        await client.chat.completions.create(model="frontier-closed", messages=HELLO)
    assert caught.value.status_code == 503
    assert sim.billed.nusd == 0
    sim.outage("frontier-closed", False)
    assert await client.chat.completions.create(model="frontier-closed", messages=HELLO)


async def test_injected_errors_come_in_order_and_stop(sim: Simulator, client: openai.AsyncOpenAI) -> None:
    """Retries are tested against this; Retry-After is whole seconds."""
    sim.fail("mid-closed", status=429, retry_after_seconds=2)
    sim.fail("mid-closed", status=500)
    with pytest.raises(openai.RateLimitError) as caught:
        await client.chat.completions.create(model="mid-closed", messages=HELLO)
    assert caught.value.response.headers["retry-after"] == "2"
    with pytest.raises(openai.InternalServerError):
        await client.chat.completions.create(model="mid-closed", messages=HELLO)
    assert await client.chat.completions.create(model="mid-closed", messages=HELLO)


async def test_a_cut_stream_breaks_off_and_bills_what_was_sent(sim: Simulator, client: openai.AsyncOpenAI) -> None:
    """An upstream that dies half-way must look like one: no clean end of the body."""
    sim.cut("mid-closed", 3)
    stream = await client.chat.completions.create(model="mid-closed", messages=HELLO, stream=True)
    # Which of the two depends on the release of the SDK: before 3.0 it let its HTTP client's error through.
    with pytest.raises((openai.APIConnectionError, httpx.RemoteProtocolError)):
        await _drain(stream)
    assert sim.billed.calls[-1].output_tokens == 3
    assert sim.billed.calls[-1].complete is False


async def test_a_client_that_leaves_pays_for_what_was_made() -> None:
    """Providers stop at the disconnect and bill what they produced."""
    async with Simulator(seed=7, speed=1.0) as sim, openai.AsyncOpenAI(base_url=sim.base_url, api_key="none") as client:
        sim.slow("small-edge", 0.2)
        stream = await client.chat.completions.create(model="small-edge", messages=HELLO, stream=True)
        async for chunk in stream:
            if chunk.choices[0].delta.content:
                break
        await stream.close()
        async with asyncio.timeout(5):
            while not sim.billed.calls:
                await asyncio.sleep(0)
    assert 1 <= sim.billed.calls[-1].output_tokens < 40
    assert sim.billed.calls[-1].complete is False


async def test_trouble_is_made_over_http_only_if_allowed(sim: Simulator, client: openai.AsyncOpenAI) -> None:
    """The control plane is for tests and for trying things out, never open by default."""
    root = client.with_options(base_url=sim.base_url.removesuffix("/v1"))
    await root.post("/sim/control", body={"model": "mid-closed", "down": True, "slow": 2, "cut_after": 9, "errors": 1}, cast_to=object)
    trouble = sim.app.troubles["mid-closed"]
    assert (trouble.down, trouble.slow, trouble.cut_after, list(trouble.errors)) == (True, 2.0, 9, [(500, None)])
    assert await root.get("/sim/billed", cast_to=object) == {"nusd": 0, "models": {}}
    async with Simulator() as closed:
        shut = client.with_options(base_url=closed.base_url.removesuffix("/v1"))
        with pytest.raises(openai.NotFoundError):
            await shut.post("/sim/control", body={"model": "mid-closed"}, cast_to=object)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "invalid_json"),
        (b'{"model": "mid-closed"}', 400, None),
        (b'{"model": "mid-closed", "messages": []}', 400, None),
        (b'{"model": "mid-closed", "messages": [{"role": "user"}], "max_tokens": 0}', 400, None),
        (b'{"model": "mid-closed", "messages": [{"role": "user"}], "n": 1000}', 400, None),
        (b'{"model": "none", "messages": [{"role": "user"}]}', 404, "model_not_found"),
        (b'{"model": "small-edge", "messages": [{"role": "user"}], "max_tokens": 999999}', 400, "context_length_exceeded"),
    ],
)
async def test_what_a_provider_would_refuse_is_refused(client: openai.AsyncOpenAI, body: bytes, status: int, code: str | None) -> None:
    """Errors of providers pass through a router, so they need their real shape."""
    with pytest.raises(openai.APIStatusError) as caught:
        await client.post("/chat/completions", content=body, cast_to=object)
    assert caught.value.status_code == status
    assert caught.value.code == code


async def test_profiles_fail_at_their_rates_only_when_asked() -> None:
    """Tests need quiet providers, the demonstration needs honest ones."""
    sick = {"mid-closed": _with(PROFILES["mid-closed"], error_rate=0.5, rate_limit_rate=0.5)}
    for faults in (True, False):
        async with (
            Simulator(profiles=sick, speed=SPEED, faults=faults) as sim,
            openai.AsyncOpenAI(base_url=sim.base_url, api_key="none", max_retries=0) as client,
        ):
            seen = [await _status(client) for _ in range(10)]
        assert set(seen) == ({500, 429} if faults else {200})


def test_long_prompts_are_billed_at_the_higher_tier() -> None:
    """The tier holds for the whole request, not only for the part above it."""
    price = PROFILES["frontier-closed"].price
    assert bill_nusd(price, input_tokens=272_000, cached_tokens=0, output_tokens=0) == 272_000 * 5_000
    assert bill_nusd(price, input_tokens=272_001, cached_tokens=1, output_tokens=2) == 272_000 * 10_000 + 1_000 + 90_000


def test_prices_are_the_list_prices_of_the_models_they_copy() -> None:
    """The demonstration states savings in dollars, so its prices must be real."""
    for profile, listed in _listed_prices():
        assert (profile.price.rates.input, profile.price.rates.output, profile.price.rates.cache_read) == listed, profile.id


def _listed_prices() -> Iterator[tuple[Profile, tuple[int, int, int]]]:
    from genai_prices.data import providers

    for profile in PROFILES.values():
        provider_id, _, model_id = profile.copies.partition("/")
        model = next(m for p in providers if p.id == provider_id for m in p.models if m.id == model_id)
        rates: Any = model.prices
        usd = [getattr(mtok, "base", mtok) for mtok in (rates.input_mtok, rates.output_mtok, rates.cache_read_mtok)]
        yield profile, (int(usd[0] * 10**9), int(usd[1] * 10**9), int(usd[2] * 10**9))


def _with(profile: Profile, **changes: Any) -> Profile:
    from dataclasses import replace

    return replace(profile, **changes)


async def _status(client: openai.AsyncOpenAI) -> int:
    try:
        await client.chat.completions.create(model="mid-closed", messages=HELLO)
    except openai.APIStatusError as error:
        return error.status_code
    return 200


async def _drain(stream: openai.AsyncStream[Any]) -> None:
    async for _ in stream:
        pass


async def test_a_simulator_silences_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    """It shares the process with the real server, whose events go to the same logger of uvicorn."""
    caplog.set_level(logging.INFO)
    async with Simulator() as sim:
        logging.getLogger("uvicorn.error").error("of the real server")
        sim.cut("small-edge", 3)
        async with httpx.AsyncClient(base_url=sim.base_url) as client:
            with pytest.raises(httpx.RemoteProtocolError):
                await client.post(
                    "/chat/completions",
                    json={"model": "small-edge", "stream": True, "messages": [{"role": "user", "content": "x"}]},
                    headers={"authorization": "Bearer x"},
                )
    said = [record.getMessage() for record in caplog.records if record.name.startswith(("uvicorn", "faregate.sim"))]
    assert said == ["of the real server"]
