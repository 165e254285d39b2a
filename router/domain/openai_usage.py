"""The `usage` object of the OpenAI wire, as providers really send it, read into counts that do not overlap."""

from __future__ import annotations

from itertools import product, starmap
from typing import Annotated, Any, Final, Literal, get_args

import msgspec
from msgspec.structs import astuple

Doubt = Literal[
    "missing",
    "zero_input",
    "zero_with_text",
    "negative",
    "not_a_number",
    "absurd",
    "inconsistent",
    "twice",
    "stale",
    "truncated",
    "error_event",
    "oversized",
    "unreadable",
]
"""Why a count is not exact. A closed set: it becomes a metric label."""

DOUBTS: Final[frozenset[str]] = frozenset(get_args(Doubt))

MOST_TOKENS: Final = 1_000_000_000
"""No call uses more: a larger number is a mistake of whoever sent it."""

_Count = Annotated[int, msgspec.Meta(ge=0, le=MOST_TOKENS)]


class InputDetails(msgspec.Struct, frozen=True):
    """Parts of the input."""

    cached_tokens: _Count | None = None
    audio_tokens: _Count | None = None
    cache_write_tokens: _Count | None = None
    cache_creation_tokens: _Count | None = None


class OutputDetails(msgspec.Struct, frozen=True):
    """Parts of the output."""

    reasoning_tokens: _Count | None = None
    audio_tokens: _Count | None = None


class RawUsage(msgspec.Struct, frozen=True):
    """The fields that we know; every other one is ignored. Decoding refuses what is not a believable number."""

    prompt_tokens: _Count | None = None
    completion_tokens: _Count | None = None
    total_tokens: _Count | None = None
    prompt_tokens_details: InputDetails | None = None
    completion_tokens_details: OutputDetails | None = None
    # Those below are rare: an answer that has one is looked at more closely.
    input_tokens: _Count | None = None
    output_tokens: _Count | None = None
    input_tokens_details: InputDetails | None = None
    output_tokens_details: OutputDetails | None = None
    prompt_cache_hit_tokens: _Count | None = None
    cached_tokens: _Count | None = None
    cache_read_input_tokens: _Count | None = None
    cache_creation_input_tokens: _Count | None = None
    reasoning_tokens: _Count | None = None


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """What a provider said, made inclusive: parts fit into their whole. None: it did not say."""

    input_tokens: int | None = None
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    audio_input_tokens: int = 0
    output_tokens: int | None = None
    reasoning_tokens: int = 0
    audio_output_tokens: int = 0
    doubt: Doubt | None = None


NO_PARTS: Final = frozenset(
    {None, *starmap(InputDetails, product((None, 0), repeat=4)), *starmap(OutputDetails, product((None, 0), repeat=2))}
)
"""Every way to say that there are no parts."""
NOTHING_RARE: Final = list(astuple(RawUsage())[5:])
"""The fields of a usage object after the first five, where none is set."""
_NO_INPUT_DETAILS: Final = InputDetails()
_NO_OUTPUT_DETAILS: Final = OutputDetails()
_decode_usage: Final = msgspec.json.Decoder(RawUsage).decode
_decode_any: Final = msgspec.json.Decoder().decode
_DETAILS: Final[dict[str, type[msgspec.Struct]]] = {
    "prompt_tokens_details": InputDetails,
    "input_tokens_details": InputDetails,
    "completion_tokens_details": OutputDetails,
    "output_tokens_details": OutputDetails,
}


def decode_usage(raw: bytes) -> tuple[RawUsage, Doubt | None]:
    """Read a usage object. Fields that hold no believable number are dropped and named by a doubt. Never raises."""
    try:
        return _decode_usage(raw), None
    except (ValueError, RecursionError):
        pass
    try:
        value = _decode_any(raw)
    except (ValueError, RecursionError):
        return RawUsage(), "unreadable"
    if not isinstance(value, dict):
        return RawUsage(), "missing" if value is None else "not_a_number"
    usage, doubt = _lenient(RawUsage, value)
    return usage, doubt


def to_counts(raw: RawUsage, *, reasoning_beside_output: bool, doubt: Doubt | None = None) -> Counts:
    """Make a provider's counts inclusive.

    What providers disagree on, and how it is told apart (API references read 2026-11):

    - cached tokens are inside the input (OpenAI, DeepSeek, Gemini) or beside it (the Anthropic wire, and
      gateways that pass its names on): beside if its names are used, if they exceed the input, or if only
      then the total is right;
    - reasoning is inside the output (OpenAI, DeepSeek) or beside it (xAI, Gemini): the total decides; without
      a total the provider's quirk does; reasoning that exceeds the output is beside it. A total above the sum
      is output that was not shown.
    """
    given_input = raw.prompt_tokens if raw.prompt_tokens is not None else raw.input_tokens
    given_output = raw.completion_tokens if raw.completion_tokens is not None else raw.output_tokens
    total = raw.total_tokens
    if total is not None and doubt is None and (given_input is None or given_output is None):
        given_input, given_output = _from_total(total, given_input, given_output)
    details = raw.prompt_tokens_details or raw.input_tokens_details or _NO_INPUT_DETAILS
    read = _first(details.cached_tokens, raw.prompt_cache_hit_tokens, raw.cached_tokens, raw.cache_read_input_tokens)
    write = _first(details.cache_write_tokens, details.cache_creation_tokens, raw.cache_creation_input_tokens)
    out_details = raw.completion_tokens_details or raw.output_tokens_details or _NO_OUTPUT_DETAILS
    reasoning = _first(out_details.reasoning_tokens, raw.reasoning_tokens)
    if given_input is not None and _cached_is_beside(raw, given_input, given_output, read + write, reasoning):
        given_input += read + write
    if given_output is not None:
        gap = None if total is None or given_input is None else total - given_input - given_output
        given_output, reasoning, doubt = _with_reasoning(given_output, reasoning, gap, reasoning_beside_output, doubt)
    return _fit(given_input, read, write, details.audio_tokens or 0, given_output, reasoning, out_details.audio_tokens or 0, doubt)


def _from_total(total: int, given_input: int | None, given_output: int | None) -> tuple[int, int]:
    """Where one of the two is missing the total knows it; a lone total is input (embeddings have no output)."""
    if given_input is not None:
        return given_input, max(0, total - given_input)
    return max(0, total - (given_output or 0)), given_output or 0


def _first(*values: int | None) -> int:
    for value in values:
        if value is not None:
            return value
    return 0


def _cached_is_beside(raw: RawUsage, given_input: int, given_output: int | None, cached: int, reasoning: int) -> bool:
    if not cached:
        return False
    if raw.prompt_tokens is None and not (raw.cache_read_input_tokens is None and raw.cache_creation_input_tokens is None):
        return True
    if cached > given_input:
        return True
    gap = (raw.total_tokens or 0) - given_input - (given_output or 0)
    return gap in (cached, cached + reasoning) and gap != reasoning


def _with_reasoning(output: int, reasoning: int, gap: int | None, beside: bool, doubt: Doubt | None) -> tuple[int, int, Doubt | None]:
    """(output with reasoning inside, reasoning, doubt). `gap`: the total less input and output."""
    if gap is None or gap < 0:
        return (output + reasoning if beside or reasoning > output else output), reasoning, doubt
    if gap == 0:
        if reasoning > output:
            return output + reasoning, reasoning, doubt or "inconsistent"
        return output, reasoning, doubt
    if gap == reasoning or (beside and not reasoning):
        return output + gap, gap, doubt
    return output + max(gap, reasoning if reasoning > output else 0), max(reasoning, gap), doubt or "inconsistent"


def _fit(
    given_input: int | None,
    read: int,
    write: int,
    audio_in: int,
    given_output: int | None,
    reasoning: int,
    audio_out: int,
    doubt: Doubt | None,
) -> Counts:
    """Cut parts that exceed their whole, the cheap ones first."""
    whole_in, whole_out = given_input or 0, given_output or 0
    if read + write + audio_in > whole_in or reasoning + audio_out > whole_out:
        write = min(write, whole_in)
        audio_in = min(audio_in, whole_in - write)
        read = min(read, whole_in - write - audio_in)
        audio_out = min(audio_out, whole_out)
        reasoning = min(reasoning, whole_out - audio_out)
        doubt = doubt or "inconsistent"
    return Counts(
        input_tokens=given_input,
        cache_read_tokens=read,
        cache_write_tokens=write,
        audio_input_tokens=audio_in,
        output_tokens=given_output,
        reasoning_tokens=reasoning,
        audio_output_tokens=audio_out,
        doubt=doubt,
    )


def _lenient(kind: type[msgspec.Struct], fields: dict[str, Any]) -> tuple[Any, Doubt | None]:
    """Read field by field what strict decoding refused; the first doubt found is the one named."""
    kept: dict[str, Any] = {}
    first: Doubt | None = None
    for name in kind.__struct_fields__:
        value = fields.get(name)
        if value is None:
            continue
        doubt: Doubt | None
        if name in _DETAILS:
            kept[name], doubt = _lenient(_DETAILS[name], value) if isinstance(value, dict) else (None, "not_a_number")
        else:
            kept[name], doubt = _count(value)
        first = first or doubt
    return kind(**kept), first


def _count(value: object) -> tuple[int | None, Doubt | None]:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None, "not_a_number"
    if value < 0:
        return None, "negative"
    if value > MOST_TOKENS:
        return None, "absurd"
    # Some servers written in JavaScript or Lua send 12.0 for 12.
    return (int(value), None) if value == int(value) else (None, "not_a_number")
