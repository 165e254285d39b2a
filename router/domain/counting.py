"""What is booked: the provider's counts where they can be believed, else our own count of the text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol

import msgspec
from msgspec.structs import astuple

from router.domain.openai_usage import NO_PARTS, NOTHING_RARE, Counts, Doubt, InputDetails, OutputDetails, RawUsage
from router.domain.usage import Evidence, Usage

BYTES_PER_TOKEN: Final = 4
"""UTF-8 bytes that a token of prose covers at least, on average; see `estimate_tokens`."""

_ABSURD_FACTOR: Final = 1000
_ABSURD_FLOOR: Final = 1024

# Strings of a choice that were not written by the model, or are not text.
_NOT_TEXT: Final = frozenset({"role", "id", "type", "index", "finish_reason", "data", "logprobs", "url", "object"})


class Dialect(Protocol):
    """What metering must know of a provider (`router.snapshot.Quirks` has it)."""

    @property
    def reasoning_beside_output(self) -> bool:
        """Whether reasoning tokens are reported beside, not inside, the output tokens."""
        ...


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What was known of a call before it was made."""

    input_likely: int
    """Our own count of the prompt."""
    input_bound: int
    """No tokenizer can count more."""
    output_cap_total: int
    """The cap that was forwarded, over all choices; 0 if there is none (embeddings)."""


class Metered(msgspec.Struct, frozen=True, kw_only=True):
    """What one answer consumed, and how it ended."""

    usage: Usage
    served_model: str = ""
    """The model name in the answer."""
    finish_reason: str | None = None
    """Of the last choice that ended."""
    over_cap: bool = False
    """The provider counts more output than the cap allowed."""
    over_bound: bool = False
    """The provider counts more input than our bound."""


def estimate_tokens(utf8_bytes: int) -> int:
    """Our own count for a text of this size: one token per four bytes, rounded up.

    English prose is about 4.4 bytes a token with o200k, Korean about 4.5 (three bytes a character, one and a
    half characters a token), so that prose is counted slightly high. Code, numbers and rare scripts are
    denser and can be counted low; where the text came as a stream, its events bound the count from below.
    """
    return -(-utf8_bytes // BYTES_PER_TOKEN)


def plain_usage(raw: RawUsage, input_bound: int, output_cap_total: int) -> Usage | None:
    """What most answers report, as it is booked: counts within their bounds that agree with their total.

    None where anything needs a closer look; what this answers, `to_counts` and `resolve` answer too.
    """
    given_input, given_output, total, of_input, of_output, *rare = astuple(raw)
    if not given_input or not given_output or total != given_input + given_output:
        return None
    if given_input > input_bound or given_output > output_cap_total or rare != NOTHING_RARE:
        return None
    if of_input in NO_PARTS and of_output in NO_PARTS:
        return Usage(input_tokens=given_input, output_tokens=given_output, evidence="exact")
    return _with_parts(given_input, given_output, of_input or InputDetails(), of_output or OutputDetails())


def _with_parts(given_input: int, given_output: int, of_input: InputDetails, of_output: OutputDetails) -> Usage | None:
    """The same with parts, if they fit."""
    read, audio_in, write, created = astuple(of_input)
    reasoning, audio_out = astuple(of_output)
    write = created if write is None else write
    if (read or 0) + (audio_in or 0) + (write or 0) > given_input or (reasoning or 0) + (audio_out or 0) > given_output:
        return None
    return Usage(
        input_tokens=given_input,
        cache_read_tokens=read or 0,
        cache_write_tokens=write or 0,
        audio_input_tokens=audio_in or 0,
        output_tokens=given_output,
        reasoning_tokens=reasoning or 0,
        audio_output_tokens=audio_out or 0,
        evidence="exact",
    )


def resolve(
    counts: Counts,
    limits: Limits,
    own_output: Callable[[], int],
    *,
    served_model: str = "",
    finish_reason: str | None = None,
    evidence: Evidence | None = None,
    lower_bound: bool = False,
) -> Metered:
    """Settle what is booked: the provider's counts where they can be believed, else ours, never a silent 0.

    A count above the cap is the truth (and becomes debt); above a thousand times the cap it is a mistake.
    `own_output` counts what was relayed; it is called only when needed. `lower_bound`: the provider's output
    count was made before the answer ended, so that ours holds if it is larger. `evidence` overrides what
    follows from the doubt.
    """
    doubt = counts.doubt
    given_input, given_output = counts.input_tokens, counts.output_tokens
    if given_input is None or _absurd(given_input, limits.input_bound) or (given_input == 0 and limits.input_likely > 0):
        doubt = doubt or ("missing" if given_input is None else "absurd" if given_input else "zero_input")
        given_input = max(0, limits.input_likely)
    if not given_output or lower_bound or _absurd(given_output, limits.output_cap_total):
        given_output, doubt = _own_output(given_output, limits, own_output(), doubt)
    usage = book(counts, given_input, given_output, evidence=evidence or ("estimated" if doubt else "exact"), doubt=doubt)
    return Metered(
        usage=usage,
        served_model=served_model,
        finish_reason=finish_reason,
        over_cap=given_output > limits.output_cap_total > 0,
        over_bound=given_input > limits.input_bound > 0,
    )


def own_output_tokens(written_bytes: int, *, at_least: int, cap_total: int) -> int:
    """Our own count of an answer, held to the cap where only the estimate exceeds it.

    The estimate can be off by half; an answer that it puts at more than twice the cap did exceed the cap.
    """
    estimated = estimate_tokens(written_bytes)
    if cap_total < estimated <= 2 * cap_total:
        estimated = cap_total
    return max(estimated, at_least)


def text_bytes(value: object) -> int:
    """UTF-8 bytes of all text that the model wrote, in a decoded choice, message or delta."""
    total = 0
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            total += len(item.encode("utf-8", "surrogatepass"))
        elif isinstance(item, list):
            stack.extend(item)
        elif isinstance(item, dict):
            stack.extend(inner for name, inner in item.items() if name not in _NOT_TEXT)
    return total


def choice_list(value: object) -> Iterator[dict[str, Any]]:
    """The objects in a decoded `choices`, whatever it holds."""
    if isinstance(value, list):
        yield from (item for item in value if isinstance(item, dict))


def _absurd(tokens: int, reference: int) -> bool:
    return tokens > _ABSURD_FACTOR * max(reference, _ABSURD_FLOOR)


def _own_output(given: int | None, limits: Limits, own: int, doubt: Doubt | None) -> tuple[int, Doubt | None]:
    """The output to book where the provider's count is missing, zero, absurd or a lower bound."""
    if given is None:
        return own, doubt or ("missing" if own else None)
    if _absurd(given, limits.output_cap_total):
        # Nothing was relayed that we could count: it may all have been hidden reasoning.
        return own or limits.output_cap_total, doubt or "absurd"
    if given == 0 and own:
        return own, doubt or "zero_with_text"
    return max(given, own), doubt


def book(counts: Counts, input_tokens: int, output_tokens: int, *, evidence: Evidence, doubt: Doubt | None) -> Usage:
    """Counts whose whole was replaced by ours lose their parts."""
    same_input = input_tokens == counts.input_tokens
    same_output = counts.output_tokens is not None and output_tokens >= counts.output_tokens
    return Usage(
        input_tokens=input_tokens,
        cache_read_tokens=counts.cache_read_tokens if same_input else 0,
        cache_write_tokens=counts.cache_write_tokens if same_input else 0,
        audio_input_tokens=counts.audio_input_tokens if same_input else 0,
        output_tokens=output_tokens,
        reasoning_tokens=counts.reasoning_tokens if same_output else 0,
        audio_output_tokens=counts.audio_output_tokens if same_output else 0,
        evidence=evidence,
        doubt=doubt,
    )
