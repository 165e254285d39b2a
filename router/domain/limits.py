"""Guards on single requests, and how rate limits show themselves. Pure."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from typing import Any, Final, Literal

import msgspec

from router.domain.budgets import Bucket, Refusal
from router.domain.request import ParsedRequest
from router.snapshot import Deployment, Guards

GuardName = Literal["max_tokens", "max_n", "max_images", "max_audio_seconds", "max_input_tokens", "max_tools"]
LEAST_AUDIO_BYTES_PER_SECOND: Final = 4000
"""32 kbit/s: less is rare for speech. What has more bits counts as longer than it is."""
WAV_HEADER_BYTES: Final = 32
DEPLOYMENT: Final = "deployment:"
"""Begins the names of limits that providers set us."""


class Breach(msgspec.Struct, frozen=True):
    """A request that asks for more than it may."""

    guard: GuardName
    param: str
    """The member of the body that asks for it."""
    message: str


def breach(request: ParsedRequest, guards: Guards) -> Breach | None:
    """What a request asks for that it may not, if anything; clamping of `max_tokens` aside."""
    return (
        _above_cap(request, guards)
        or _above_choices(request, guards)
        or _above_input(request, guards)
        or _above_images(request, guards)
        or _above_tools(request, guards)
        or _above_audio(request, guards)
    )


def _told(guards: Guards, guard: GuardName, param: str, asked: str, limit: str, way_out: str) -> Breach:
    return Breach(guard, param, f"The request {asked}; {guards.whose} allows at most {limit} ({guard}). {way_out}")


def _above_cap(request: ParsedRequest, guards: Guards) -> Breach | None:
    cap, most = request.output_cap, guards.max_tokens
    if most is None or guards.clamp or cap is None or cap <= most:
        return None
    asked = f"asks for up to {cap:,} output tokens"
    return _told(guards, "max_tokens", request.cap_field or "max_tokens", asked, f"{most:,} tokens", "Send a smaller max_tokens.")


def _above_choices(request: ParsedRequest, guards: Guards) -> Breach | None:
    most = guards.max_n
    if most is None:
        return None
    choices = request.choices // (request.shape.prompts if request.operation == "completions" else 1)
    if choices <= most:
        return None
    return _told(guards, "max_n", "n", f"asks for {choices} answers", f"{most} answers", "Send a smaller n.")


def _above_input(request: ParsedRequest, guards: Guards) -> Breach | None:
    most, likely = guards.max_input_tokens, request.shape.tokens_likely
    if most is None or likely <= most:
        return None
    asked = f"has about {likely:,} input tokens"
    return _told(guards, "max_input_tokens", _input_member(request), asked, f"{most:,} tokens", "Shorten it, or split it up.")


def _above_images(request: ParsedRequest, guards: Guards) -> Breach | None:
    most, images = guards.max_images, request.shape.images
    if most is None or images <= most:
        return None
    return _told(guards, "max_images", "messages", f"has {images} images", f"{most} images", "Send fewer in one request.")


def _above_tools(request: ParsedRequest, guards: Guards) -> Breach | None:
    most = guards.max_tools
    if most is None or not request.tools:
        return None
    tools = sum(_length(request.fields.get(name)) for name in ("tools", "functions"))
    if tools <= most:
        return None
    return _told(guards, "max_tools", "tools", f"offers {tools} tools", f"{most} tools", "Offer only those that this step needs.")


def _above_audio(request: ParsedRequest, guards: Guards) -> Breach | None:
    most = guards.max_audio_seconds
    if most is None or "audio" not in request.shape.modalities:
        return None
    seconds = audio_seconds(request.fields["messages"])
    if seconds is not None and seconds <= most:
        return None
    asked = "has audio whose length cannot be told" if seconds is None else f"has about {seconds:,.0f} seconds of audio"
    return _told(guards, "max_audio_seconds", "messages", asked, f"{most:,} seconds", "Send less of it, inline, in one request.")


def _input_member(request: ParsedRequest) -> str:
    return {"chat": "messages", "completions": "prompt"}.get(request.operation, "input")


def _length(raw: msgspec.Raw | None) -> int:
    try:
        return 0 if raw is None else len(_decode_list(raw))
    except msgspec.MsgspecError:
        # Not a list: the provider will say so.
        return 0


_decode_list: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode


def audio_seconds(messages: msgspec.Raw) -> float | None:
    """Length of all audio in a chat's messages; None if some is known by its address only."""
    seconds = 0.0
    for part in _parts(msgspec.json.decode(messages)):
        if part.get("type") == "audio_url" or "audio_url" in part:
            return None
        audio = part.get("input_audio")
        if isinstance(audio, dict) and isinstance(audio.get("data"), str):
            seconds += _seconds_of(audio["data"])
    return seconds


def _parts(messages: Any) -> Iterable[dict[str, Any]]:
    for message in messages:
        content = message.get("content")
        if isinstance(content, list):
            yield from (part for part in content if isinstance(part, dict))


def _seconds_of(data: str) -> float:
    """By the bytes per second that a WAV header names, else by the fewest that are usual."""
    size = len(data) * 3 // 4
    try:
        head = base64.b64decode(data[: WAV_HEADER_BYTES * 4 // 3 + 4 - WAV_HEADER_BYTES * 4 // 3 % 4], validate=True)
    except (binascii.Error, ValueError):
        head = b""
    rate = int.from_bytes(head[28:32], "little") if head[:4] == b"RIFF" and head[8:12] == b"WAVE" else 0
    return size / (rate or LEAST_AUDIO_BYTES_PER_SECOND)


def clamped_cap(request: ParsedRequest, most: int, deployments: Iterable[Deployment]) -> int | None:
    """The cap that a request gets under `max_tokens: most`; None if it may stay as it is.

    A request without a cap gets one if a deployment would be given more than `most` by itself: no more than the smallest
    of them is given, so that each accepts it.
    """
    cap = request.output_cap
    if cap is not None:
        return most if cap > most else None
    if request.operation == "embeddings":
        return None
    own = [deployment.default_max_output_tokens for deployment in deployments]
    return min(most, *own) if own and max(own) > most else None


def is_providers(bucket: Bucket) -> bool:
    """Whether a limit is one that a provider sets us, so that another candidate may have room."""
    return bucket.budget.startswith(DEPLOYMENT)


def is_rate_limit(bucket: Bucket) -> bool:
    """Whether a bucket is a rate limit, not a budget: budgets' names have no colon."""
    return ":" in bucket.budget


def reset_text(ms: int) -> str:
    """A length of time as OpenAI writes it: `120ms`, `1s`, `6m0s`, `1h0m0s`."""
    if ms < 1000:
        return f"{max(0, ms)}ms"
    minutes, seconds = divmod(-(-ms // 1000), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{seconds}s"
    return f"{minutes}m{seconds}s" if minutes else f"{seconds}s"


def rate_headers(left: Iterable[tuple[Bucket, int]], now_ms: int) -> bytes:
    """`x-ratelimit-*` lines as OpenAI sends them: of requests and tokens, the limit with the smallest share left.

    `remaining` is what this call leaves; `reset` is when all of the limit is there again, if nothing more is sent.
    Limits that providers set us are no business of clients.
    """
    tightest: dict[str, tuple[float, Bucket, int]] = {}
    for bucket, rest in left:
        unit = bucket.unit
        if unit not in ("requests", "tokens") or not is_rate_limit(bucket) or is_providers(bucket):
            continue
        share = rest / bucket.limit_nusd if bucket.limit_nusd else 0.0
        known = tightest.get(unit)
        if known is None or share < known[0]:
            tightest[unit] = (share, bucket, rest)
    return b"".join([_lines(unit, bucket, rest, now_ms) for unit, (_, bucket, rest) in tightest.items()])


def _lines(unit: str, bucket: Bucket, rest: int, now_ms: int) -> bytes:
    # What was counted last leaves a rolling window when its whole length is over.
    reset = reset_text(bucket.rolling_ms or bucket.ends_ms - now_ms)
    return (
        f"x-ratelimit-limit-{unit}: {bucket.limit_nusd}\r\n"
        f"x-ratelimit-remaining-{unit}: {max(0, rest)}\r\n"
        f"x-ratelimit-reset-{unit}: {reset}\r\n"
    ).encode()


_WORDS: Final = {"requests": "requests", "tokens": "tokens", "concurrent": "calls at a time", "usd": "nano-USD"}


def rate_message(refusal: Refusal) -> str:
    """Which limit, how much of it is used, what was needed, and when there is room."""
    bucket = refusal.bucket
    unit, per = _WORDS[bucket.unit], _per(bucket)
    whose = f" ({bucket.scope})" if bucket.scope else ""
    head = f"Rate limit '{bucket.budget}'{whose} reached: limit {refusal.limit_nusd:,} {unit}{per}"
    if bucket.unit == "concurrent":
        return f"{head}, {refusal.held_nusd + refusal.spent_nusd:,} are under way. Try again when one of them has ended."
    told = f"{head}, used {refusal.spent_nusd + refusal.held_nusd:,}, needed {refusal.needed_nusd:,}."
    if refusal.needed_nusd > refusal.limit_nusd:
        return f"{told} It can never have room for this request: send a shorter prompt or a smaller max_tokens."
    wait = refusal.retry_after_ms
    return told if wait is None else f"{told} Try again in {reset_text(wait)}."


def _per(bucket: Bucket) -> str:
    if bucket.unit == "concurrent":
        return ""
    return " per minute" if bucket.rolling_ms == 60_000 or bucket.window.count(":") else " per day"


def limit_word(bucket: Bucket) -> str:
    """`rpm`, `tpd`, `concurrent`, ...: the last part of a limit's name."""
    return bucket.budget.rpartition(":")[2]


def limit_kind(bucket: Bucket) -> str:
    """What a limit is of: `key`, `team`, `users`, `each_user`, `deployment`, ..."""
    parts = bucket.budget.split(":")
    return "user" if parts[-2] == "users" else parts[0].removeprefix("each_")
