"""From a provider's JSON answer to a count of tokens; streams are counted by `StreamMeter`.

Nothing here raises on what a provider sends. Where the provider's count cannot be believed, ours is used and
the doubt is named; see `docs/metering.md`.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from router.domain.counting import Dialect, Limits, Metered, book, own_output_tokens, plain_usage, resolve, text_bytes
from router.domain.openai_usage import Counts, Doubt, RawUsage, decode_usage, to_counts
from router.domain.usage import Usage


class _Answer(msgspec.Struct):
    usage: RawUsage | None = None
    model: str | None = None


class _LooseAnswer(msgspec.Struct):
    usage: msgspec.Raw = msgspec.Raw(b"null")
    model: Any = None


_decode_answer: Final = msgspec.json.Decoder(_Answer).decode
_decode_loose: Final = msgspec.json.Decoder(_LooseAnswer).decode
_decode_any: Final = msgspec.json.Decoder().decode


def split_usage(raw: bytes, *, quirks: Dialect | None = None) -> Usage | Doubt:
    """Read a usage object (JSON). A doubt instead of a count where it cannot be believed. Never raises."""
    decoded, doubt = decode_usage(raw)
    counts = to_counts(decoded, reasoning_beside_output=_beside(quirks), doubt=doubt)
    if counts.doubt is not None:
        return counts.doubt
    if counts.input_tokens is None:
        return "missing"
    return book(counts, counts.input_tokens, counts.output_tokens or 0, evidence="exact", doubt=None)


def meter_json(body: bytes, *, input_likely: int, input_bound: int, output_cap_total: int, quirks: Dialect | None = None) -> Metered:
    """Count a JSON answer: the provider's usage, else our own count of its text. Never raises.

    `input_likely` and `input_bound` are our count of the prompt and its certain bound, `output_cap_total`
    the forwarded cap over all choices (0: none).
    """
    try:
        answer = _decode_answer(body)
    except (ValueError, RecursionError):
        return _meter_loosely(body, _limits(input_likely, input_bound, output_cap_total), beside=_beside(quirks))
    raw = answer.usage
    usage = None if raw is None else plain_usage(raw, input_bound, output_cap_total)
    if usage is not None:
        return Metered(usage=usage, served_model=answer.model or "")
    return _meter_closely(answer, body, _limits(input_likely, input_bound, output_cap_total), beside=_beside(quirks))


def _limits(input_likely: int, input_bound: int, output_cap_total: int) -> Limits:
    return Limits(input_likely=input_likely, input_bound=input_bound, output_cap_total=output_cap_total)


def _beside(quirks: Dialect | None) -> bool:
    return quirks is not None and quirks.reasoning_beside_output


def _meter_closely(answer: _Answer, body: bytes, limits: Limits, *, beside: bool) -> Metered:
    """Count what is shaped as it should be but does not add up at first sight."""
    raw = answer.usage
    counts = Counts(doubt="missing") if raw is None else to_counts(raw, reasoning_beside_output=beside)
    return resolve(counts, limits, lambda: _own_count(body, limits.output_cap_total), served_model=answer.model or "")


def _own_count(body: bytes, cap_total: int) -> int:
    try:
        answer = _decode_any(body)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        written = len(body)
    elif "choices" in answer:
        written = text_bytes(answer["choices"])
    else:
        # Embeddings have no text, an error was not written by a model; whatever else it is, it was relayed.
        written = 0 if "data" in answer or "error" in answer else text_bytes(answer)
    return own_output_tokens(written, at_least=0, cap_total=cap_total)


def _meter_loosely(body: bytes, limits: Limits, *, beside: bool) -> Metered:
    """The same for a body that is not shaped as it should be: some field of a wrong type, or no JSON at all."""
    try:
        answer = _decode_loose(body)
    except (ValueError, RecursionError):
        return resolve(Counts(doubt="unreadable"), limits, lambda: _own_count(body, limits.output_cap_total))
    raw, doubt = decode_usage(bytes(answer.usage))
    return resolve(
        to_counts(raw, reasoning_beside_output=beside, doubt=doubt),
        limits,
        lambda: _own_count(body, limits.output_cap_total),
        served_model=answer.model if isinstance(answer.model, str) else "",
    )
