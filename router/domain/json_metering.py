"""From a provider's JSON answer to a count of tokens; streams are counted by `StreamMeter`.

Nothing here raises on what a provider sends. Where the provider's count cannot be believed, ours is used and
the doubt is named; see `docs/metering.md`.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from router.domain.counting import Dialect, Limits, Metered, book, choice_list, own_output_tokens, resolve, text_bytes
from router.domain.openai_usage import Counts, Doubt, RawUsage, decode_usage, to_counts
from router.domain.usage import Usage


class _Choice(msgspec.Struct):
    finish_reason: str | None = None


class _Answer(msgspec.Struct):
    usage: RawUsage | None = None
    model: str | None = None
    choices: list[_Choice] | None = None


class _LooseAnswer(msgspec.Struct):
    usage: msgspec.Raw = msgspec.Raw(b"null")
    model: Any = None
    choices: Any = None


_decode_answer: Final = msgspec.json.Decoder(_Answer).decode
_decode_loose: Final = msgspec.json.Decoder(_LooseAnswer).decode
_decode_any: Final = msgspec.json.Decoder().decode


def split_usage(raw: bytes, *, quirks: Dialect | None = None) -> Usage | Doubt:
    """Read a usage object (JSON). A doubt instead of a count where it cannot be believed. Never raises."""
    decoded, doubt = decode_usage(raw)
    counts = to_counts(decoded, reasoning_beside_output=quirks is not None and quirks.reasoning_beside_output, doubt=doubt)
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
    limits = Limits(input_likely=input_likely, input_bound=input_bound, output_cap_total=output_cap_total)
    beside = quirks is not None and quirks.reasoning_beside_output
    try:
        answer = _decode_answer(body)
    except (ValueError, RecursionError):
        return _meter_loosely(body, limits, beside=beside)
    raw = answer.usage
    counts = Counts(doubt="missing") if raw is None else to_counts(raw, reasoning_beside_output=beside)
    finish_reason = answer.choices[-1].finish_reason if answer.choices else None
    return resolve(counts, limits, lambda: _own_count(body, output_cap_total), served_model=answer.model or "", finish_reason=finish_reason)


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
    reasons = [choice.get("finish_reason") for choice in choice_list(answer.choices)]
    return resolve(
        to_counts(raw, reasoning_beside_output=beside, doubt=doubt),
        limits,
        lambda: _own_count(body, limits.output_cap_total),
        served_model=answer.model if isinstance(answer.model, str) else "",
        finish_reason=reasons[-1] if reasons and isinstance(reasons[-1], str) else None,
    )
