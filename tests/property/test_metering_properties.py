"""Money rules that hold for every input: metering never raises and never forgets, pricing is bounded and monotone."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any, Final

import msgspec
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from router.domain.counting import Limits, plain_usage, resolve
from router.domain.metering import DOUBTS, Metered, StreamMeter, meter_json, split_usage
from router.domain.openai_usage import InputDetails, OutputDetails, RawUsage, to_counts
from router.domain.prices import Price, Rates, Tier
from router.domain.pricing import charge, expected, worst_case
from router.domain.sse import DONE
from router.domain.usage import Usage

# A busy machine is no finding.
UNTIMED: Final = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

NASTY: Final = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(min_value=-(10**30), max_value=10**30),
    st.integers(min_value=0, max_value=3000),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=5),
    st.lists(st.integers(), max_size=2),
)
FIELDS: Final = (
    "prompt_tokens", "completion_tokens", "total_tokens", "input_tokens", "output_tokens", "prompt_cache_hit_tokens",
    "cached_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "reasoning_tokens",
)  # fmt: skip
DETAILS: Final = ("prompt_tokens_details", "completion_tokens_details", "input_tokens_details", "output_tokens_details")
PARTS: Final = ("cached_tokens", "audio_tokens", "cache_write_tokens", "reasoning_tokens")


@st.composite
def usages(draw: st.DrawFn) -> Any:
    usage: dict[str, Any] = {name: draw(NASTY) for name in draw(st.lists(st.sampled_from(FIELDS), unique=True))}
    for name in draw(st.lists(st.sampled_from(DETAILS), unique=True, max_size=2)):
        usage[name] = draw(st.one_of(NASTY, st.dictionaries(st.sampled_from(PARTS), NASTY, max_size=3)))
    return usage


@st.composite
def events(draw: st.DrawFn) -> bytes:
    kind = draw(st.sampled_from(["text", "text", "text", "usage", "comment", "end", "error", "odd", "raw"]))
    fields: dict[str, Any] = {"id": "c", "model": "m", "choices": [{"index": 0, "delta": {}, "finish_reason": None}]}
    if kind == "text":
        fields["choices"][0]["delta"] = {draw(st.sampled_from(["content", "reasoning_content"])): draw(st.text(max_size=12))}
        if draw(st.booleans()):
            fields["usage"] = draw(st.one_of(st.none(), usages()))
    elif kind == "usage":
        fields |= {"choices": [], "usage": draw(usages())}
    elif kind == "end":
        fields["choices"][0]["finish_reason"] = "stop"
    elif kind == "error":
        fields = {"error": {"message": "x"}}
    elif kind == "odd":
        fields = {"usage": draw(NASTY), "choices": draw(NASTY)}
    end = draw(st.sampled_from(["\n\n", "\r\n\r\n", "\r\r", "\n\r\n"]))
    if kind == "comment":
        return f": ping{end}".encode()
    if kind == "raw":
        return draw(st.binary(max_size=20)).replace(b"\r", b"").replace(b"\n", b"") + end.encode()
    return f"data:{draw(st.sampled_from(['', ' ']))}{json.dumps(fields)}{end}".encode()


def cut(data: bytes, at: list[int]) -> list[bytes]:
    points = [0, *sorted(point % (len(data) + 1) for point in at), len(data)]
    return [data[start:end] for start, end in pairwise(points)]


def run(chunks: list[bytes], *, strip: bool, complete: bool = True, max_event_bytes: int = 2**20) -> tuple[bytes, Metered]:
    stream = StreamMeter(strip_usage=strip, input_likely=9, input_bound=50, output_cap_total=64, max_event_bytes=max_event_bytes)
    relayed = b"".join([stream.feed(chunk) for chunk in chunks])
    return relayed + stream.flush(), stream.finish(complete=complete)


def check(usage: Usage) -> None:
    assert usage.input_tokens >= usage.cache_read_tokens + usage.cache_write_tokens + usage.audio_input_tokens
    assert usage.output_tokens >= usage.reasoning_tokens + usage.audio_output_tokens
    assert min(usage.cache_read_tokens, usage.cache_write_tokens, usage.audio_input_tokens) >= 0
    assert min(usage.reasoning_tokens, usage.audio_output_tokens) >= 0
    assert usage.input_tokens > 0
    assert (usage.doubt is None) == (usage.evidence == "exact")
    assert usage.doubt is None or usage.doubt in DOUBTS


@UNTIMED
@given(usages(), st.text(min_size=1, max_size=50))
def test_no_usage_makes_an_answer_with_text_free(usage: Any, text: str) -> None:
    """Whatever a provider reports, tokens are booked for what was relayed, and parts fit into their whole."""
    body = {"choices": [{"message": {"content": text}}], "usage": usage}
    booked = meter_json(json.dumps(body).encode(), input_likely=9, input_bound=50, output_cap_total=64).usage
    check(booked)
    assert booked.output_tokens > 0


@UNTIMED
@given(st.binary(max_size=200))
@example(b'{"usage":{"prompt_tokens":1e400}}')
@example(b'{"usage":{"prompt_tokens":-0.0}}')
def test_no_body_raises(body: bytes) -> None:
    """Metering runs where money must be settled: it has no failure of its own."""
    check(meter_json(body, input_likely=9, input_bound=50, output_cap_total=64).usage)
    split_usage(body)


@UNTIMED
@given(st.lists(st.binary(max_size=60), max_size=8), st.booleans(), st.booleans(), st.sampled_from([10, 2**20]))
def test_no_bytes_raise_in_a_stream(chunks: list[bytes], strip: bool, complete: bool, limit: int) -> None:
    """The same for streams; and a stream that is not edited passes whole."""
    relayed, metered = run(chunks, strip=strip, complete=complete, max_event_bytes=limit)
    assert metered.usage.output_tokens >= 0
    check(metered.usage)
    if not strip:
        assert relayed == b"".join(chunks)


@UNTIMED
@given(st.lists(events(), max_size=14), st.lists(st.integers(min_value=0), max_size=12), st.booleans(), st.booleans())
def test_chunking_changes_neither_what_is_relayed_nor_what_is_booked(
    stream: list[bytes], points: list[int], strip: bool, complete: bool
) -> None:
    """One write, one byte at a time, or cut anywhere: the same answer and the same bill."""
    data = b"".join(stream)
    whole = run([data], strip=strip, complete=complete)
    assert run(cut(data, points), strip=strip, complete=complete) == whole
    assert run([data[at : at + 1] for at in range(len(data))], strip=strip, complete=complete) == whole
    assert run(stream, strip=strip, complete=complete) == whole
    check(whole[1].usage)


@UNTIMED
@given(st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=30), usages(), st.booleans())
def test_no_usage_makes_a_stream_with_text_free(words: list[str], usage: Any, strip: bool) -> None:
    """Every event with text is at least a token if the provider's count is not believed."""
    texts = [{"model": "m", "choices": [{"index": 0, "delta": {"content": word}}]} for word in words]
    chunks = [b"data: " + json.dumps(one).encode() + b"\n\n" for one in [*texts, {"choices": [], "usage": usage}]]
    _, metered = run([*chunks, DONE], strip=strip)
    check(metered.usage)
    assert metered.usage.output_tokens > 0


COUNT: Final = st.none() | st.integers(min_value=0, max_value=60)
IN_PARTS: Final = st.none() | st.builds(InputDetails, COUNT, COUNT, COUNT, COUNT)
OUT_PARTS: Final = st.none() | st.builds(OutputDetails, COUNT, COUNT)


@UNTIMED
@given(
    st.builds(
        RawUsage, COUNT, COUNT, COUNT, IN_PARTS, OUT_PARTS, input_tokens_details=IN_PARTS, cached_tokens=COUNT, reasoning_tokens=COUNT
    ),
    st.booleans(),
    st.booleans(),
)
def test_the_quick_reading_of_a_usage_books_what_the_careful_one_does(raw: RawUsage, adds_up: bool, beside: bool) -> None:
    """Most answers never meet the careful one: the two must not differ in a token, whatever the provider's dialect."""
    if adds_up:
        raw = msgspec.structs.replace(raw, total_tokens=(raw.prompt_tokens or 0) + (raw.completion_tokens or 0))
    usage = plain_usage(raw, input_bound=50, output_cap_total=50)
    if usage is not None:
        limits = Limits(input_likely=40, input_bound=50, output_cap_total=50)
        counts = to_counts(raw, reasoning_beside_output=beside)
        assert resolve(counts, limits, lambda: 7) == Metered(usage=usage)


def test_the_usual_usage_is_read_quickly() -> None:
    """With and without parts, as OpenAI and vLLM send it."""
    assert plain_usage(RawUsage(5, 7, 12), 50, 50) == Usage(input_tokens=5, output_tokens=7, evidence="exact")
    told = RawUsage(5, 7, 12, InputDetails(cached_tokens=4, audio_tokens=0), OutputDetails(reasoning_tokens=3, audio_tokens=0))
    want = Usage(input_tokens=5, output_tokens=7, cache_read_tokens=4, reasoning_tokens=3, evidence="exact")
    assert plain_usage(told, 50, 50) == want


RATE: Final = st.integers(min_value=0, max_value=10**12)
OPTIONAL: Final = st.none() | RATE
RATES: Final = st.builds(
    Rates,
    input=RATE,
    output=RATE,
    cache_read=OPTIONAL,
    cache_write=OPTIONAL,
    reasoning=OPTIONAL,
    audio_input=OPTIONAL,
    audio_output=OPTIONAL,
)
TOKENS: Final = st.integers(min_value=0, max_value=10**7)


@st.composite
def prices(draw: st.DrawFn) -> Price:
    starts = sorted(draw(st.lists(st.integers(min_value=1, max_value=10**6), unique=True, max_size=3)))
    return Price(
        rates=draw(RATES),
        tiers=tuple(Tier(above_input_tokens=start, rates=draw(RATES)) for start in starts),
        per_request_nusd=draw(st.integers(min_value=0, max_value=10**9)),
        per_image_nusd=draw(OPTIONAL),
        per_hour_nusd=draw(OPTIONAL),
        concurrency=draw(st.integers(min_value=1, max_value=64)),
        source="test",
    )


@UNTIMED
@given(prices(), st.data())
def test_no_usage_within_the_bounds_costs_more_than_the_worst_case(price: Price, data: st.DataObject) -> None:
    """The promise of every hold: what was reserved is enough, unless the provider exceeds the bounds."""
    input_bound, output_bound = data.draw(TOKENS), data.draw(TOKENS)
    audio_bound = data.draw(st.integers(min_value=0, max_value=input_bound))
    input_tokens = data.draw(st.integers(min_value=0, max_value=input_bound))
    output_tokens = data.draw(st.integers(min_value=0, max_value=output_bound))
    usage = Usage(
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cache_read_tokens=data.draw(TOKENS),
        cache_write_tokens=data.draw(TOKENS),
        audio_input_tokens=data.draw(st.integers(min_value=0, max_value=audio_bound)),
        reasoning_tokens=data.draw(TOKENS),
        audio_output_tokens=data.draw(TOKENS),
        evidence="exact",
    )
    images = data.draw(st.integers(min_value=0, max_value=9))
    milliseconds = data.draw(st.integers(min_value=0, max_value=10**6))
    bound = worst_case(
        price,
        input_tokens=input_bound,
        output_tokens=output_bound,
        audio_input_tokens=audio_bound,
        images=images,
        seconds=milliseconds / 1000,
    )
    assert 0 <= charge(price, usage, images=images, duration_ms=milliseconds) <= bound


@UNTIMED
@given(prices(), TOKENS, TOKENS, st.integers(min_value=0, max_value=1000))
def test_more_tokens_never_cost_less(price: Price, input_tokens: int, output_tokens: int, more: int) -> None:
    """A longer bound never shrinks a hold, and a longer answer never shrinks a charge."""
    base = worst_case(price, input_tokens=input_tokens, output_tokens=output_tokens)
    assert worst_case(price, input_tokens=input_tokens + more, output_tokens=output_tokens) >= base
    assert worst_case(price, input_tokens=input_tokens, output_tokens=output_tokens + more) >= base
    short, long = (
        charge(price, Usage(input_tokens=input_tokens, output_tokens=output, evidence="exact"))
        for output in (output_tokens, output_tokens + more)
    )
    assert 0 <= short <= long


@UNTIMED
@given(prices(), TOKENS, TOKENS, TOKENS)
def test_a_likely_cost_is_never_negative_and_never_above_the_worst(
    price: Price, input_tokens: int, output_tokens: int, cached: int
) -> None:
    """Scores and holds come from the same tokens."""
    likely = expected(price, input_tokens=input_tokens, output_tokens=output_tokens, cache_read_tokens=cached)
    assert 0 <= likely <= worst_case(price, input_tokens=input_tokens, output_tokens=output_tokens)
