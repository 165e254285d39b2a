"""What billed answers teach: how many tokens an input of a kind becomes, and how long answers of a kind are.

Holds made by it stay bounds: a learned length is forwarded as the cap, and a learned input is never held above what is
certain. Nothing here reads a clock; what was seen is forgotten by count.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final

import msgspec

from policies.sequential import Count, Positive
from policies.types import TEXT_ONLY
from router.domain.experience import KEEP_MS
from router.domain.request import INPUTS, ParsedRequest

LEAST_INPUTS: Final = 50
"""So many texts of a kind are seen before one is held below its certain bound."""
INPUT_MARGIN: Final = 1.25
"""Of the highest share seen."""
WRITTEN_MARGIN: Final = 1.1
"""The same for what is written: its events bound it too."""
LEAST_WRITTEN: Final = 128
"""Streams with a smaller bound say little of how it compares with what is billed."""
INPUT_FLOOR: Final = 32
"""Tokens that are held for an input beside its share: of a short one, what the provider adds is a large part."""
LEAST_ANSWERS: Final = 200
"""So many answers of a kind are seen before one is given a cap of its own."""
LONGEST_SHARE: Final = 0.005
"""The share of answers that is longer than the quantile which caps go by."""
OUTPUT_MARGIN: Final = 1.15
"""Of that quantile."""
WIDENED_ANSWERS: Final = 400
"""For so many answers, the cap of a kind stays above one that has cut an answer."""
MOST_ANSWERS: Final = 8192
"""Above so many, older answers weigh half."""
LOOK_EVERY: Final = 16
"""After so many answers a cap is worked out anew."""
LEAST_SLICE: Final = 256
"""Output tokens that the first slice of a stream holds at least."""
TYPICAL_SHARE: Final = 0.5
"""The share of answers that the first slice of a stream covers."""

_PROSE: Final = bytes(set(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ,.'\"{}[]:"))
_FOLLOWING: Final = bytes(range(0x80, 0xC0))
"""Bytes of UTF-8 that go on with a character."""
_EIGHTHS: Final = 8
LONGEST_READ: Final = 8192
"""Bytes of a text that are all looked at."""
SAMPLE: Final = 4096
_WRITTEN: Final = ("written", 0)

Script = str
"""`latin`, `code`, `escaped` (JSON escapes), `mixed`, `dense` (CJK, Hangul, Cyrillic ...), or empty: never held below its bound."""


def script_of(text: bytes) -> Script:
    """The script of an input, by shares of its bytes.

    Digits and rare characters can become a token each, so that a text of little else is left to its certain bound.
    """
    if not text.isascii():
        # A character of two bytes leaves one, one of three bytes two.
        surplus = 1 - len(text.translate(None, _FOLLOWING)) / len(text)
        if surplus > 0.05:
            return "mixed" if surplus < 0.4 else "dense" if surplus < 0.68 else ""
    elif b"\\u" in text:
        return "escaped"
    odd = len(text.translate(None, _PROSE))
    return "latin" if odd * 8 < len(text) else "code" if odd * 2 < len(text) else ""


def sample_of(text: bytes | msgspec.Raw) -> bytes:
    """As much of a text as its script is told by: all of a short one, every so manieth byte of a long one."""
    # Every so manieth byte is taken nine times as fast from bytes as from a view, which is worth a copy of a `Raw`.
    text = bytes(text)
    if len(text) <= LONGEST_READ:
        return text
    begin = text[:SAMPLE]
    return begin if b"\\u" in begin else text[:: len(text) // SAMPLE]


class Share:
    """The highest share of their certain bound that texts of one kind were billed at."""

    __slots__ = ("highest", "news", "seen")

    def __init__(self) -> None:
        self.seen = 0
        self.highest = 0.0
        self.news = 0
        """How many of these nobody else knows of."""

    def add(self, billed_tokens: int, bound_tokens: int) -> None:
        """Learn from a text that was billed by the provider's own count. A higher share than ever counts at once."""
        self.seen += 1
        self.news += 1
        share = billed_tokens / bound_tokens
        if share > self.highest:
            self.highest = share

    def tokens(self, bound_tokens: int) -> int:
        """What to hold for an input whose certain bound is this."""
        if self.seen < LEAST_INPUTS:
            return bound_tokens
        return min(bound_tokens, int(bound_tokens * self.highest * INPUT_MARGIN) + INPUT_FLOOR)

    @property
    def rate(self) -> float:
        """Tokens for each token of the bound, at most; 1 until enough is known."""
        return 1.0 if self.seen < LEAST_INPUTS else min(1.0, self.highest * WRITTEN_MARGIN)


class Lengths:
    """The lengths of answers of one kind, to a sixteenth or better."""

    __slots__ = ("_counts", "_due", "_floor", "_floor_left", "cap", "first_slice", "news", "remaining", "seen")

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self.news: dict[int, int] = {}
        """Those of `_counts` that nobody else knows of."""
        self._due = LEAST_ANSWERS
        self._floor = 0
        self._floor_left = 0
        self.seen = 0
        self.cap: int | None = None
        """Longer answers are rare: what to forward for one that is not streamed. None: not known yet."""
        self.first_slice = LEAST_SLICE
        """What most streams stay below; known with `cap`."""
        self.remaining = 0
        """Tokens that are still to come of an answer that is under way, on average. Long answers are under way longest."""

    def add(self, tokens: int) -> None:
        """Learn from an answer that ended by itself."""
        self.seen += 1
        bits = max(tokens.bit_length(), 4)
        place = bits * _EIGHTHS + (tokens >> (bits - 4)) % _EIGHTHS
        self._counts[place] = self._counts.get(place, 0) + 1
        self.news[place] = self.news.get(place, 0) + 1
        self._floor_left -= 1
        self._due -= 1
        if self._due <= 0:
            self._due = LOOK_EVERY
            self._look()

    def cut(self, cap: int) -> None:
        """An answer was cut by a cap that was chosen here: it would have been longer, and the next ones get more at once."""
        self._floor = max(self._floor if self._floor_left > 0 else 0, int(cap * OUTPUT_MARGIN))
        self._floor_left = WIDENED_ANSWERS
        self._due = min(self._due, 1)
        self.add(cap * 2)

    def know(self, counts: Mapping[int, int]) -> None:
        """Go by these counts, and by what is news."""
        self._counts = _added(counts, self.news)
        self.seen = sum(self._counts.values())
        self._due = LEAST_ANSWERS - self.seen
        if self._due <= 0:
            self._due = LOOK_EVERY
            self._look()

    def quantile(self, longer: float) -> int:
        """A length that this share of answers exceeds at most."""
        spare = int(sum(self._counts.values()) * longer)
        for place in sorted(self._counts, reverse=True):
            spare -= self._counts[place]
            if spare < 0:
                return _upper(place)
        return 0

    def _look(self) -> None:
        cap = int(self.quantile(LONGEST_SHARE) * OUTPUT_MARGIN)
        self.cap = max(cap, self._floor) if self._floor_left > 0 else cap
        self.first_slice = max(LEAST_SLICE, self.quantile(1 - TYPICAL_SHARE))
        summed = squares = 0
        for place, count in self._counts.items():
            length = _upper(place)
            summed += count * length
            squares += count * length * length
        self.remaining = squares // max(1, 2 * summed)
        self._counts = _faded(self._counts)


def _added(counts: Mapping[int, int], more: Mapping[int, int]) -> dict[int, int]:
    return {place: counts.get(place, 0) + more.get(place, 0) for place in {**counts, **more}}


def _faded(counts: dict[int, int]) -> dict[int, int]:
    """With older answers at half their weight, where there are enough."""
    return counts if sum(counts.values()) <= MOST_ANSWERS else {place: count // 2 for place, count in counts.items() if count > 1}


def _upper(place: int) -> int:
    """The longest answer that is counted in a place."""
    bits, eighth = divmod(place, _EIGHTHS)
    return ((_EIGHTHS + eighth + 1) << (bits - 4)) - 1


class Habits:
    """What is known of requests that go one way: from one route to one deployment."""

    __slots__ = ("_lengths", "_shares", "strict")

    def __init__(self, shares: dict[tuple[Script, int], Share], lengths: dict[tuple[int, bool], Lengths], *, strict: bool) -> None:
        self._shares = shares
        self._lengths = lengths
        self.strict = strict
        """Inputs are held at their certain bound."""

    def share(self, request: ParsedRequest) -> Share | None:
        """Of inputs like this one; None where only the certain bound will do."""
        shape = request.shape
        if shape.modalities is not TEXT_ONLY:
            return None
        text = request.fields[INPUTS[request.operation]]
        script = script_of(bytes(text) if len(text) <= LONGEST_READ else sample_of(text))
        if not script:
            return None
        key = (script, shape.tokens_bound.bit_length() >> 2)
        return self._shares.get(key) or self._share(key)

    def written(self) -> Share:
        """Of streams: tokens that were billed, and the most that can be in what came."""
        return self._share(_WRITTEN)

    def _share(self, key: tuple[Script, int]) -> Share:
        share = self._shares.get(key)
        if share is None:
            share = self._shares[key] = Share()
        return share

    def lengths(self, request: ParsedRequest) -> Lengths | None:
        """Of answers to requests like this one; None where the client says how long they may be, or wants several."""
        if request.output_cap is not None or request.choices != 1 or request.operation == "embeddings":
            return None
        key = (request.shape.tokens_likely.bit_length() >> 1, request.reasoning)
        lengths = self._lengths.get(key)
        if lengths is None:
            lengths = self._lengths[key] = Lengths()
        return lengths


_InputKind = Annotated[str, msgspec.Meta(pattern=r"^[a-z]+ [0-9]{1,3}$")]
"""Script and size."""
_AnswerKind = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,3} [01]$")]
"""Size, and whether the model thinks."""
_Place = Annotated[int, msgspec.Meta(ge=4 * _EIGHTHS, lt=65 * _EIGHTHS)]
"""Of a length in `Lengths`."""


class Seen(msgspec.Struct, array_like=True, gc=False):
    """What a `Share` goes by."""

    seen: Count = 0
    highest: Positive = 0.0


class Taught(msgspec.Struct, omit_defaults=True):
    """What answers taught, in a form that can be kept: by deployment, and by route and model with a line break between; then by kind."""

    shares: dict[str, dict[_InputKind, Seen]] = {}
    lengths: dict[str, dict[_AnswerKind, dict[_Place, Count]]] = {}
    used_ms: dict[str, Count] = {}
    """When something was added last, by the names of the first two."""

    def with_news(self, news: Taught, now_ms: int) -> Taught:
        """Both, without what nobody has added to for `KEEP_MS`."""
        used = self.used_ms | dict.fromkeys([*news.shares, *news.lengths], now_ms)
        used = {name: at_ms for name, at_ms in used.items() if at_ms >= now_ms - KEEP_MS}
        shares = {name: dict(kinds) for name, kinds in self.shares.items() if name in used}
        for name, kinds in news.shares.items():
            ours = shares.setdefault(name, {})
            for kind, one in kinds.items():
                before = ours.get(kind, Seen())
                ours[kind] = Seen(before.seen + one.seen, max(before.highest, one.highest))
        lengths = {name: dict(found) for name, found in self.lengths.items() if name in used}
        for name, found in news.lengths.items():
            sizes = lengths.setdefault(name, {})
            for kind, counts in found.items():
                sizes[kind] = _faded(_added(sizes.get(kind, {}), counts))
        return Taught(shares, lengths, used)


class Learned:
    """Everything that answers have taught. Grows with the configuration, not with traffic: names come from it, sizes are few."""

    def __init__(self) -> None:
        self._shares: dict[str, dict[tuple[Script, int], Share]] = {}
        self._lengths: dict[tuple[str, str], dict[tuple[int, bool], Lengths]] = {}

    def habits(self, *, route: str, model: str, deployment: str, strict: bool) -> Habits:
        """What is known of requests for this route to this deployment of this model; it goes on growing."""
        return Habits(self._shares.setdefault(deployment, {}), self._lengths.setdefault((route, model), {}), strict=strict)

    def news(self) -> Taught:
        """What was learned since the last call: it is news no more, unless it is given back."""
        told = Taught()
        for deployment, shares in self._shares.items():
            for (script, size), share in shares.items():
                if share.news:
                    told.shares.setdefault(deployment, {})[f"{script} {size}"] = Seen(share.news, share.highest)
                    share.news = 0
        for (route, model), found in self._lengths.items():
            for (size, reasoning), lengths in found.items():
                if lengths.news:
                    told.lengths.setdefault(f"{route}\n{model}", {})[f"{size} {reasoning:d}"] = lengths.news
                    lengths.news = {}
        return told

    def give_back(self, told: Taught) -> None:
        """Nobody took the news: they are to be told again."""
        for deployment, kinds in told.shares.items():
            for kind, one in kinds.items():
                self._share(deployment, kind).news += one.seen
        for names, found in told.lengths.items():
            for kind, counts in found.items():
                lengths = self._length(names, kind)
                lengths.news = _added(lengths.news, counts)

    def know(self, whole: Taught) -> None:
        """Go by what all processes have learned, and by what is news here."""
        for deployment, kinds in whole.shares.items():
            for kind, one in kinds.items():
                share = self._share(deployment, kind)
                share.seen, share.highest = one.seen + share.news, max(one.highest, share.highest)
        for names, found in whole.lengths.items():
            for kind, counts in found.items():
                self._length(names, kind).know(counts)

    def _share(self, deployment: str, kind: str) -> Share:
        script, _, size = kind.rpartition(" ")
        return self._shares.setdefault(deployment, {}).setdefault((script, int(size)), Share())

    def _length(self, names: str, kind: str) -> Lengths:
        route, _, model = names.partition("\n")
        size, _, reasoning = kind.partition(" ")
        return self._lengths.setdefault((route, model), {}).setdefault((int(size), reasoning == "1"), Lengths())
