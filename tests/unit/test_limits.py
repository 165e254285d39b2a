"""Guards on single requests, and what rate limits say."""

from __future__ import annotations

import base64
import struct
from typing import Any

import msgspec
import pytest

from router.domain.budgets import NEVER_MS, Bucket, Refusal
from router.domain.limits import audio_seconds, breach, clamped_cap, limit_kind, limit_word, rate_headers, rate_message, reset_text
from router.domain.request import Operation, ParsedRequest, parse_request
from router.snapshot import Guards
from tests.running import compiled

DEPLOYMENTS = compiled(
    """
version: 1
providers: {up: {kind: openai, base_url: "http://127.0.0.1:1/v1", api_key: $PROVIDER_KEY}}
models:
  long: {at: up/long, price: free, default_max_output: 4000}
  short: {at: up/short, price: free, default_max_output: 500}
"""
).deployments


def wav(seconds: int, rate: int = 16_000) -> str:
    """Silence as inline data."""
    data = bytes(seconds * rate)
    head = b"RIFF" + struct.pack("<I", 36 + len(data)) + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, rate, rate, 1, 8)
    return base64.b64encode(head + b"data" + struct.pack("<I", len(data)) + data).decode()


def chat(content: Any = "Hello", **more: object) -> ParsedRequest:
    return request("chat", messages=[{"role": "user", "content": content}], **more)


def request(operation: Operation, **members: object) -> ParsedRequest:
    return parse_request(msgspec.json.encode({"model": "m", **members}), operation)


def audio(data: str, kind: str = "wav") -> dict[str, object]:
    return {"type": "input_audio", "input_audio": {"data": data, "format": kind}}


def image() -> dict[str, object]:
    return {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}


@pytest.mark.parametrize(
    ("asked", "guards", "guard"),
    [
        (chat(max_tokens=101), {"max_tokens": 100}, "max_tokens"),
        (chat(n=3), {"max_n": 2}, "max_n"),
        (request("completions", prompt=["a", "b"], n=3), {"max_n": 2}, "max_n"),
        (chat("word " * 1000), {"max_input_tokens": 500}, "max_input_tokens"),
        (request("embeddings", input="word " * 1000), {"max_input_tokens": 500}, "max_input_tokens"),
        (chat([image(), image()]), {"max_images": 1}, "max_images"),
        (chat(tools=[{"type": "function"}] * 2, functions=[{}]), {"max_tools": 2}, "max_tools"),
        (chat([audio(wav(3))]), {"max_audio_seconds": 2}, "max_audio_seconds"),
        (chat([{"type": "audio_url", "audio_url": {"url": "https://example.com/a"}}]), {"max_audio_seconds": 99}, "max_audio_seconds"),
    ],
)
def test_a_request_that_asks_for_too_much_is_told_of_what_and_by_whom(asked: ParsedRequest, guards: Any, guard: str) -> None:
    """Whoever reads the message can change the request, or knows whom to ask."""
    found = breach(asked, Guards(whose="team 'search'", **guards))
    assert found is not None
    assert found.guard == guard
    assert "team 'search' allows at most" in found.message
    assert f"({guard})" in found.message


@pytest.mark.parametrize(
    ("asked", "guards"),
    [
        (chat(max_tokens=100), {"max_tokens": 100}),
        (chat(), {"max_tokens": 100}),
        (chat(max_tokens=101), {"max_tokens": 100, "clamp": True}),
        (chat(n=2), {"max_n": 2}),
        (request("completions", prompt=["a", "b"], n=2), {"max_n": 2}),
        (chat("word"), {"max_input_tokens": 500, "max_tools": 0, "max_images": 0, "max_audio_seconds": 0}),
        (chat([image()]), {"max_images": 1}),
        (chat(tools=[{"type": "function"}]), {"max_tools": 1}),
        (chat(tools="all"), {"max_tools": 1}),
        (chat([audio(wav(2))]), {"max_audio_seconds": 3}),
    ],
)
def test_what_is_within_the_limits_passes(asked: ParsedRequest, guards: Any) -> None:
    """A limit is the largest value that is allowed."""
    assert breach(asked, Guards(whose="this service", **guards)) is None


def test_audio_is_as_long_as_its_header_says_or_as_a_low_bitrate_makes_it() -> None:
    """A length must not be guessed too short: that is what the limit is for."""
    messages = [
        {"role": "user", "content": [audio(wav(5, rate=8_000)), {"type": "text", "text": "?"}, "odd"]},
        {"role": "assistant", "content": None},
    ]
    assert audio_seconds(msgspec.Raw(msgspec.json.encode(messages))) == pytest.approx(5, abs=0.1)
    other = [{"role": "user", "content": [audio(base64.b64encode(bytes(40_000)).decode(), "mp3"), audio("?" * 16)]}]
    assert audio_seconds(msgspec.Raw(msgspec.json.encode(other))) == pytest.approx(10, abs=0.1)


def test_a_cap_is_clamped_to_what_all_candidates_accept() -> None:
    """What is forwarded must neither exceed the limit nor what a model is usually given."""
    both = list(DEPLOYMENTS.values())
    assert clamped_cap(chat(max_tokens=900), 800, both) == 800
    assert clamped_cap(chat(max_tokens=700), 800, both) is None
    assert clamped_cap(chat(), 800, both) == 500
    assert clamped_cap(chat(), 4000, both) is None
    assert clamped_cap(chat(), 800, []) is None
    assert clamped_cap(request("embeddings", input="a"), 1, both) is None


def bucket(name: str = "team:search:rpm", **more: Any) -> Bucket:
    fields = {"scope": "", "window": "last-60s", "starts_ms": 0, "ends_ms": NEVER_MS, "limit_nusd": 10, "hard": True, "unit": "requests"}
    return Bucket(budget=name, **(fields | {"rolling_ms": 60_000} | more))


DAY = {"window": "2026-11-22", "ends_ms": 7_200_000, "rolling_ms": 0}


def test_the_limit_with_the_smallest_share_left_is_shown() -> None:
    """It is the one that a client meets first; what providers allow us, and money, is not shown there."""
    left = [
        (bucket(limit_nusd=10), 5),
        (bucket("key:ci:rpd", limit_nusd=1000, **DAY), 100),
        (bucket("key:ci:tpm", unit="tokens", limit_nusd=0), -3),
        (bucket("deployment:up/m:rpm"), 0),
        (bucket("everyone"), 0),
        (bucket("key:ci:concurrent", unit="concurrent"), 0),
    ]
    assert rate_headers(left, 0).decode().splitlines() == [
        "x-ratelimit-limit-requests: 1000",
        "x-ratelimit-remaining-requests: 100",
        "x-ratelimit-reset-requests: 2h0m0s",
        "x-ratelimit-limit-tokens: 0",
        "x-ratelimit-remaining-tokens: 0",
        "x-ratelimit-reset-tokens: 1m0s",
    ]


@pytest.mark.parametrize(
    ("ms", "text"), [(-5, "0ms"), (120, "120ms"), (1000, "1s"), (1001, "2s"), (360_000, "6m0s"), (3_661_000, "1h1m1s")]
)
def test_a_time_to_wait_is_written_as_openai_writes_it(ms: int, text: str) -> None:
    """Client libraries parse it."""
    assert reset_text(ms) == text


def refusal(of: Bucket, **more: Any) -> Refusal:
    return Refusal(**({"bucket": of, "limit_nusd": 10, "spent_nusd": 8, "held_nusd": 2, "needed_nusd": 1, "retry_after_ms": 12_000} | more))


@pytest.mark.parametrize(
    ("told", "text"),
    [
        (refusal(bucket()), "limit 10 requests per minute, used 10, needed 1. Try again in 12s."),
        (refusal(bucket("each_user:rpd", scope="user=ann", **DAY)), "(user=ann) reached: limit 10 requests per day"),
        (refusal(bucket("key:ci:tpm", unit="tokens"), needed_nusd=11), "It can never have room for this request"),
        (refusal(bucket("key:ci:tpm", unit="tokens"), retry_after_ms=None), "limit 10 tokens per minute, used 10, needed 1."),
        (refusal(bucket("key:ci:concurrent", unit="concurrent", rolling_ms=0)), "limit 10 calls at a time, 10 are under way."),
    ],
)
def test_a_refusal_names_limit_unit_use_and_when(told: Refusal, text: str) -> None:
    """Without these four nobody can act on it."""
    assert text in rate_message(told)


@pytest.mark.parametrize(
    ("name", "kind", "word"),
    [
        ("team:search:rpm", "team", "rpm"),
        ("team:search:users:tpd", "user", "tpd"),
        ("each_user:rpm", "user", "rpm"),
        ("deployment:ollama/qwen3:8b:concurrent", "deployment", "concurrent"),
    ],
)
def test_a_limit_is_counted_by_its_kind_never_by_a_key(name: str, kind: str, word: str) -> None:
    """Metrics have bounded labels."""
    assert (limit_kind(bucket(name)), limit_word(bucket(name))) == (kind, word)
