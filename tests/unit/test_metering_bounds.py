"""Streams that are shaped to be undercounted: the bound that money is held by, and a usage that is hard to find."""

from __future__ import annotations

import json
from typing import Any

import pytest

from router.domain.metering import StreamMeter
from router.domain.sse import DONE
from router.domain.usage import Usage

USAGE = {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15}


def event(**fields: Any) -> bytes:
    return b"data: " + json.dumps({"id": "c", "object": "chat.completion.chunk", **fields}, separators=(",", ":")).encode() + b"\n\n"


def delta(*, finish: str | None = None, **fields: Any) -> bytes:
    return event(choices=[{"index": 0, "delta": fields, "finish_reason": finish}])


ROLE = delta(role="assistant", content="")
WORDS = [delta(content=word) for word in ("one", " two", " three")]
STOP = delta(finish="stop")


def meter() -> StreamMeter:
    return StreamMeter(strip_usage=False, input_likely=20, input_bound=100, output_cap_total=1000)


def booked(*chunks: bytes) -> Usage:
    stream = meter()
    for chunk in chunks:
        stream.feed(chunk)
    stream.flush()
    return stream.finish(complete=True).usage


def test_much_around_the_first_text_hides_none_of_the_next() -> None:
    """The bound holds money for the stream: what only the first event has must not be taken off all others."""
    for fat in (1, 2):
        stream = meter()
        for _ in range(fat):
            stream.feed(event(choices=[{"index": 0, "delta": {"content": "h"}}], system_fingerprint="f" * 9000))
        lean = delta(content="word " * 1000)
        assert stream.output_tokens_bound_with(lean) > 5000
        stream.feed(lean)
        assert stream.output_tokens_bound > 5000
        assert fat > 1 or stream.output_tokens_likely > 1000


@pytest.mark.parametrize("size", [10, 3000])
def test_a_usage_with_many_events_after_it_is_found(size: int) -> None:
    """Gateways send events of their own to the end; the provider's count is not lost behind them."""
    noise = event(status="x" * size)
    told = event(choices=[], usage=USAGE)
    assert booked(ROLE, *WORDS, STOP, told, *[noise] * 100, DONE) == Usage(input_tokens=12, output_tokens=3, evidence="exact")


def test_a_usage_long_before_the_end_is_old() -> None:
    """Text came after it: our own count holds if it is larger."""
    usage = booked(ROLE, event(choices=[], usage=USAGE), *WORDS * 50, STOP, DONE)
    assert (usage.evidence, usage.doubt, usage.input_tokens) == ("estimated", "stale", 12)
    assert usage.output_tokens > 100


def test_an_answer_that_is_no_stream_after_all_says_its_tier_too() -> None:
    """Some servers ignore `stream`; what they answer is charged at the rates of its tier all the same."""
    usual, cheaper = meter(), meter()
    answer = {"choices": [{"index": 0, "message": {"content": 'say "service_tier": "priority"'}}], "usage": USAGE}
    usual.feed(json.dumps(answer).encode())
    raw = json.dumps({**answer, "service_tier": "flex"}).encode()
    cheaper.feed(raw[:40])
    cheaper.feed(raw[40:])
    assert (usual.is_json, usual.service_tier, cheaper.service_tier) == (True, "", "flex")


def test_counts_outside_a_usage_are_none() -> None:
    """A server that echoes the cap of a request in each event has not said what it used."""
    words = [event(choices=[{"index": 0, "delta": {"content": "a"}}], max_tokens=9) for _ in range(5)]
    usage = booked(ROLE, *words, STOP, DONE)
    assert (usage.output_tokens, usage.evidence, usage.doubt) == (5, "estimated", "missing")
