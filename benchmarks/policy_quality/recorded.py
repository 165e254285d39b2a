"""Recorded answers: what several models said to the same prompts, how good it was and how many tokens it took.

A file is JSON lines, plain or gzipped. Of answers whose texts are known:

    {"prompt": "...", "expect": "42", "extract": "number",
     "answers": {"some-model": {"text": "... The answer is 42.", "input_tokens": 90, "output_tokens": 130, "score": 1.0}}}

`score` (0 to 1) may be left out: then the answer is compared with `expect` by what `extract` says. Of answers of which only the score is
known, `{"prompt": "...", "scores": {"some-model": 1.0}, "cost_usd": {"some-model": 0.002}}`: their texts and tokens are made up by `Made`.
"""

from __future__ import annotations

import gzip
import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from policies.answers import Extract, agree

BYTES_PER_TOKEN: Final = 4.5
TEMPLATE_TOKENS: Final = 10
"""That a chat adds to its text."""
FILLER: Final = "well "
"""A token of a text that is made up."""
RIGHT: Final = 0.5
"""Least score of an answer that is taken for right where its text is made up."""


class Answer(msgspec.Struct, kw_only=True):
    """One model's answer to one prompt."""

    text: str
    input_tokens: int
    output_tokens: int
    score: float | None = None
    """From 0 to 1."""


class Recorded(msgspec.Struct, kw_only=True):
    """A prompt, and what the models said."""

    prompt: str
    answers: Mapping[str, Answer] = {}
    expect: str = ""
    extract: Extract = "auto"
    cat: str = ""
    """What kind of prompt it is, in the words of its source."""
    scores: Mapping[str, float] = {}
    cost_usd: Mapping[str, float] = {}

    def score(self, model: str) -> float:
        """How good the answer of a model is, from 0 to 1."""
        said = self.answers[model]
        return float(agree(said.text, self.expect, self.extract)) if said.score is None else said.score


@dataclass(frozen=True)
class Price:
    """USD per million tokens."""

    input: float
    output: float

    def usd(self, answer: Answer) -> float:
        """Of one answer."""
        return (answer.input_tokens * self.input + answer.output_tokens * self.output) / 1_000_000


@dataclass(frozen=True)
class Made:
    """How texts and tokens are made up where a file has scores only.

    A right answer says what all right ones say. Of two wrong ones, the share `same_wrong` says the same. An answer has as many tokens
    as the recorded cost pays for at the price of its model; without a cost `output_tokens`.
    """

    prices: Mapping[str, Price]
    same_wrong: float = 0.0
    output_tokens: int = 150
    seed: int = 1

    def answer(self, one: Recorded, model: str, draw: random.Random) -> Answer:
        """The answer of one model; `draw` is the prompt's own."""
        score = one.scores[model]
        popular = draw.random() < self.same_wrong**0.5
        number = 42 if score >= RIGHT else 13 if popular else draw.randrange(1_000, 1_000_000_000)
        tokens = TEMPLATE_TOKENS + round(len(one.prompt.encode()) / BYTES_PER_TOKEN)
        length = self._output(one, model, tokens)
        text = f"{FILLER * length}\nThe answer is {number}."
        return Answer(text=text, input_tokens=tokens, output_tokens=length, score=score)

    def _output(self, one: Recorded, model: str, tokens: int) -> int:
        cost, price = one.cost_usd.get(model), self.prices[model]
        return self.output_tokens if cost is None else max(1, round((cost * 1_000_000 - tokens * price.input) / price.output))


def read_recorded(path: Path, models: Collection[str], made: Made | None = None) -> list[Recorded]:
    """The prompts of a file that all `models` have answered; each text once.

    Raises:
        SystemExit: there are none, or texts have to be made up and nothing says how.
    """
    data = path.read_bytes()
    lines = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).splitlines()
    decoder = msgspec.json.Decoder(Recorded)
    found: dict[str, Recorded] = {}
    for number, line in enumerate(lines):
        one = decoder.decode(line)
        if made is not None and not one.answers and all(model in one.scores for model in models):
            draw = random.Random(made.seed * 1_000_003 + number)
            one.answers = {model: made.answer(one, model, draw) for model in models}
        if all(model in one.answers for model in models):
            found.setdefault(one.prompt, one)
    if not found:
        raise SystemExit(f"{path}: no prompt has answers of all of {', '.join(models)}")
    return list(found.values())
