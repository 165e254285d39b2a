"""What one kind of request, attempt or store call counts in: looked up once, fed with raw values, counted in bulk.

A value is kept as it comes and counted later by `fold`, many at a time and in C. Values that belong together lie in
one list, one after the other, and are told apart by their place: adding them costs one call, and nothing but the
numbers stays in memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import compress, repeat
from operator import sub, truediv
from typing import Any, Final

import msgspec

from router.domain.usage import Usage
from router.metrics_store import Cell, Histogram, Labels, Store

_INPUT_PARTS: Final = (("cache_read", "cache_read_tokens"), ("cache_write", "cache_write_tokens"), ("audio_input", "audio_input_tokens"))
_OUTPUT_PARTS: Final = (("reasoning", "reasoning_tokens"), ("audio_output", "audio_output_tokens"))

RequestValues = tuple[float, float, int, float | None]
"""Overhead and total seconds, attempts, seconds of the decision; None: it came to none."""
AttemptValues = tuple[Usage | None, int, int, int | None, float, float | None]
"""Usage (None: nothing was billed), charge, hold, what the usage would have cost on the baseline deployment (None: there
is none), seconds of the call, seconds to the first token (None: not streamed). Money is nano-USD."""


def _known(values: list[Any]) -> list[Any]:
    """Those that are not None. All and none are the common cases, and found in C."""
    unknown = values.count(None)
    if not unknown:
        return values
    return [value for value in values if value is not None] if unknown < len(values) else []


class Times:
    """The values of one histogram."""

    __slots__ = ("_histogram", "_values", "observe")

    observe: Callable[[float], None]
    """Count one value."""

    def __init__(self, histogram: Histogram) -> None:
        self._histogram = histogram
        self._values: list[float] = []
        self.observe = self._values.append

    def fold(self) -> None:
        """Count what came since the last call."""
        self._histogram.observe_all(self._values)
        self._values.clear()


class RequestSeries:
    """Everything that one kind of request counts in."""

    __slots__ = ("_attempts", "_count", "_decision", "_overhead", "_total", "_values", "observe")

    observe: Callable[[RequestValues], None]
    """Count one request."""

    def __init__(self, count: Cell, overhead: Histogram, total: Histogram, attempts: Histogram, decision: Histogram) -> None:
        self._count = count
        self._overhead = overhead
        self._total = total
        self._attempts = attempts
        self._decision = decision
        self._values: list[Any] = []
        self.observe = self._values.extend

    def fold(self) -> None:
        """Count what came since the last call."""
        values = self._values
        if not values:
            return
        overhead, total, attempts, decision = [values[place::4] for place in range(4)]
        values.clear()
        self._count.value += len(overhead)
        self._overhead.observe_all(overhead)
        self._total.observe_all(total)
        self._attempts.observe_all(attempts)
        self._decision.observe_all(_known(decision))


class AttemptSeries:
    """Everything that one kind of attempt counts in. Its attributes are set by whoever makes it."""

    __slots__ = (
        "_values",
        "avoided",
        "cost",
        "count",
        "duration",
        "estimated",
        "extra",
        "first_token",
        "gen_ai_cost",
        "input_tokens",
        "input_usage",
        "observe",
        "output_tokens",
        "output_usage",
        "per_token",
        "ratio",
        "tokens",
        "where",
    )

    observe: Callable[[AttemptValues], None]
    """Count one attempt."""
    count: Cell
    cost: Cell
    gen_ai_cost: Cell
    avoided: Cell
    extra: Cell
    input_tokens: Cell
    output_tokens: Cell
    duration: Histogram
    first_token: Histogram
    per_token: Histogram
    ratio: Histogram
    input_usage: Histogram
    output_usage: Histogram
    tokens: Store
    """Of all classes; rare ones appear with their first token."""
    estimated: Store
    where: Labels
    """Model, deployment, provider, team."""

    def __init__(self) -> None:
        self._values: list[Any] = []
        self.observe = self._values.extend

    def fold(self) -> None:
        """Count what came since the last call."""
        values = self._values
        if not values:
            return
        usages, charges, holds, baselines, seconds, first_seconds = [values[place::6] for place in range(6)]
        values.clear()
        self.count.value += len(usages)
        self._count_money(charges, holds, baselines)
        streamed = _known(first_seconds)
        if streamed:
            self._count_streams(usages, seconds, first_seconds)
            self.first_token.observe_all(streamed)
        self.duration.observe_all(seconds)
        billed = _known(usages)
        if billed:
            self._count_usage(billed)

    def _count_money(self, charges: list[int], holds: list[int], baselines: list[int | None]) -> None:
        charged = sum(charges)
        self.cost.value += charged
        self.gen_ai_cost.value += charged
        self.ratio.observe_all(list(map(truediv, compress(holds, charges), filter(None, charges))))
        if _known(baselines):
            differences = [baseline - charge for baseline, charge in zip(baselines, charges, strict=True) if baseline is not None]
            avoided = sum(map(max, differences, repeat(0)))
            self.avoided.value += avoided
            self.extra.value += avoided - sum(differences)

    def _count_streams(self, usages: list[Usage | None], seconds: list[float], first_seconds: list[float | None]) -> None:
        # The first token's wait is a metric of its own: what follows it is shared out over the others.
        self.per_token.observe_all(
            [
                (second - first) / (usage.output_tokens - 1)
                for usage, second, first in zip(usages, seconds, first_seconds, strict=True)
                if first is not None and usage is not None and usage.output_tokens > 1
            ]
        )

    def _count_usage(self, usages: list[Usage]) -> None:
        # One column for each field, so that the fields are summed in C.
        columns = dict(zip(Usage.__struct_fields__, zip(*map(msgspec.structs.astuple, usages), strict=True), strict=True))
        tokens_in, tokens_out = columns["input_tokens"], columns["output_tokens"]
        self.input_tokens.value += self._count_parts(tokens_in, columns, _INPUT_PARTS)
        self.output_tokens.value += self._count_parts(tokens_out, columns, _OUTPUT_PARTS)
        self.input_usage.observe_all(list(tokens_in))
        self.output_usage.observe_all(list(tokens_out))
        for evidence, attempts in Counter(columns["evidence"]).items():
            if evidence != "exact":
                self.estimated.cell((self.where[1], evidence)).value += attempts

    def _count_parts(self, wholes: Sequence[int], columns: dict[str, Any], parts: tuple[tuple[str, str], ...]) -> int:
        """Count the special classes; return what is left of the wholes. Parts that overlap are cut at their whole."""
        left = wholes
        for name, field in parts:
            if any(columns[field]):
                counted = list(map(min, columns[field], left))
                left = list(map(sub, left, counted))
                self.tokens.cell((*self.where, name)).value += sum(counted)
        return sum(left)
