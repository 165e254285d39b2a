"""What a cascade costs and how good it is, on recorded answers: `python -m benchmarks.policy_quality.cascade FILE ...`.

Two cheap models are asked; only where what they answer differs, the large one is. The service itself does this with the kind `cascade` and
`verify: {agree}`: every step is priced, held and settled, and the costs are those in the books. FILE is described in
`benchmarks.policy_quality.recorded`. Where it has scores only, texts and tokens are made up: two wrong answers then say the same
as often as `--same-wrong` says, and the truth lies between 0 and 1 of it.

    python -m benchmarks.policy_quality.cascade answers.jsonl --small a=0.1/0.4 --small b=0.2/0.6 --large c=2.5/10

Models are given with their prices in USD per million tokens. Every pair of small ones is a cascade; the cheaper one is asked first, and its
answer is the client's if both agree.

Shares are of the prompts. The break-even is the share of escalations beyond which asking the large model at once is cheaper, and the price
of the small calls, as a multiple of today's, at which the cascade stops to pay. Beside each cascade stand routers that see the prompt alone
and send the same share to the large model: the oracle, one that was trained on these scores (five parts, each predicted from the others;
needs numpy), and chance.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Final

from benchmarks.policy_quality.recorded import Made, Price, Recorded, read_recorded
from benchmarks.policy_quality.replay import Outcome, replay
from router.learned.labels import Label
from router.learned.measure import curve
from router.learned.train import LEAST_LABELS, cross_validate

HEAD: Final = (
    "| way | quality | of the large model's | asked the large one | USD per 1,000 | of its cost | break-even: share | small price |\n"
    "|---|---:|---:|---:|---:|---:|---:|---:|"
)


def config(models: Mapping[str, Price], by: str) -> str:
    """A route to all models, ordered by `by`."""
    lines = ["version: 1", 'server: {store: "STORE", log_requests: false}']
    lines += ['providers: {recorded: {kind: openai, base_url: "http://127.0.0.1:1/v1", api_key: none}}', "models:"]
    for name, price in models.items():
        entry = {"at": f"recorded/{name}", "price": {"input": price.input, "output": price.output}}
        lines.append(f"  {json.dumps(name)}: {json.dumps(entry)}")
    return "\n".join([*lines, f"routes: {{auto: {{use: {json.dumps(list(models))}, by: {by}}}}}"])


def cascade_of(small: str, second: str, large: str, extract: str) -> str:
    """The policy kind, never switched off: what it would cost where it does not pay is to be seen."""
    agree = {"model": second, "extract": extract}
    return json.dumps({"kind": "cascade", "steps": [small, large], "always": True, "verify": {"agree": agree}})


def usd_of(recorded: Sequence[Recorded], model: str, price: Price) -> float:
    """USD per 1,000 prompts of one model."""
    return 1_000 * fmean(price.usd(one.answers[model]) for one in recorded)


def line(name: str, quality: float, usd: float, asked: float, best: tuple[float, float], cheap_usd: float | None = None) -> str:
    """A line of the table; `best`: quality and cost of the large model alone; `cheap_usd`: of the small calls of a cascade."""
    ends = " | "
    if cheap_usd is not None:
        ends = f"{max(0.0, 1 - cheap_usd / best[1]):.1%} | × {(1 - asked) * best[1] / cheap_usd:.1f}"
    text = f"| {name} | {quality:.3f} | {quality / best[0]:.1%} | {asked:.1%} | {usd:.3f} | {usd / best[1]:.1%} | {ends} |"
    return text.replace("%", " %")


BREAK_EVEN: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
"""Costs of both small calls as shares of the large one's."""


def prompt_only(recorded: Sequence[Recorded], small: str, large: str, prices: Mapping[str, Price]) -> dict[str, list[tuple[float, float]]]:
    """(Quality, USD per 1,000) by share of the large model for routers that see no answer."""
    labels = [Label(one.prompt, one.score(small), one.score(large)) for one in recorded]
    gaps = [label.gap for label in labels]
    low, high = (usd_of(recorded, name, prices[name]) for name in (small, large))
    draw = random.Random(1)
    found = {}
    ways: dict[str, list[float]] = {"oracle": gaps}
    if len(labels) >= LEAST_LABELS and sum(gaps):
        ways["a learned router"] = cross_validate(labels).gap.tolist()
    ways["chance"] = [draw.random() for _ in labels]
    for name, scores in ways.items():
        path = curve(scores, labels)
        found[name] = [(value, low + (high - low) * place / len(labels)) for place, value in enumerate(path)]
    return found


async def tables(
    recorded: Sequence[Recorded], small: Mapping[str, Price], large: str, prices: Mapping[str, Price], extract: str
) -> dict[str, Outcome]:
    """Print all ways; each cascade's outcome."""
    best = fmean(one.score(large) for one in recorded), usd_of(recorded, large, prices[large])
    print(HEAD)
    print(line(f"always {large}", *best, 1.0, best))
    for name in small:
        print(line(f"always {name}", fmean(one.score(name) for one in recorded), usd_of(recorded, name, prices[name]), 0.0, best))
    found = {}
    for pair in itertools.combinations(small, 2):
        first, second = sorted(pair, key=lambda name: usd_of(recorded, name, prices[name]))
        text = config({name: prices[name] for name in (first, second, large)}, cascade_of(first, second, large, extract))
        outcome = found[f"{first} + {second}"] = await replay(text, recorded)
        cheap = sum(usd_of(recorded, name, prices[name]) for name in (first, second))
        asked = outcome.asked.get(large, 0.0)
        print(line(f"cascade {first} + {second}", outcome.quality, outcome.usd_per_1000, asked, best, cheap))
        _beside(recorded, first, large, prices, best, asked)
    return found


def _beside(
    recorded: Sequence[Recorded], small: str, large: str, prices: Mapping[str, Price], best: tuple[float, float], asked: float
) -> None:
    """The same share of calls to the large model by routers that see no answer."""
    for name, path in prompt_only(recorded, small, large, prices).items():
        place = round(asked * len(recorded))
        print(line(f"· the same share by {name}, {small} for the rest", *path[place], asked, best))


def break_even(name: str, outcome: Outcome, large: str) -> None:
    """Print what a cascade costs, as a share of the large model alone, by what its small calls cost."""
    asked = outcome.asked.get(large, 0.0)
    ratios = " | ".join(f"{ratio:.0%}" for ratio in BREAK_EVEN)
    costs = " | ".join(f"{ratio + asked:.1%}" for ratio in BREAK_EVEN)
    text = f"| both small calls cost, of a large one | {ratios} |\n|---|{'---:|' * len(BREAK_EVEN)}\n| cascade {name} costs | {costs} |"
    print(f"\n{text}\n\nBreak-even: {1 - asked:.1%}.".replace("%", " %"))


def write_scores(path: Path, recorded: Sequence[Recorded], prices: Mapping[str, Price], cascades: Mapping[str, Outcome]) -> None:
    """Scores as `faregate evaluate` writes them, so that `faregate frontier` places the cascades among the models."""
    lines = []
    for number, one in enumerate(recorded, start=1):
        for name, price in prices.items():
            nusd = round(price.usd(one.answers[name]) * 1e9)
            lines.append({"prompt": number, "model": name, "score": one.score(name), "cost_nusd": nusd})
        for name, outcome in cascades.items():
            score, nusd = outcome.each[number - 1]
            lines.append({"prompt": number, "model": f"cascade {name}", "score": score, "cost_nusd": nusd, "kind": "policy"})
    path.write_text("".join(f"{json.dumps(each)}\n" for each in lines), encoding="utf-8")


def priced(text: str) -> tuple[str, Price]:
    """A model and its prices, of `name=input/output`."""
    name, _, price = text.rpartition("=")
    low, _, high = price.partition("/")
    try:
        return name, Price(float(low), float(high))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: write NAME=INPUT/OUTPUT, in USD per million tokens") from None


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="recorded answers")
    parser.add_argument("--small", type=priced, action="append", required=True, help="a cheap model: NAME=INPUT/OUTPUT; two at least")
    parser.add_argument("--large", type=priced, required=True, help="the large model")
    parser.add_argument("--extract", default="auto", choices=("auto", "json", "choice", "number", "text"), help="what must be equal")
    parser.add_argument("--same-wrong", type=float, action="append", help="where texts are made up: wrong answers that say the same")
    parser.add_argument("--output-tokens", type=int, default=150, help="where tokens are made up: of an answer")
    parser.add_argument("--scores", type=Path, help="file to write for `faregate frontier`")
    given = parser.parse_args(words)
    small, (large, _) = dict(given.small), given.large
    prices = {**small, large: given.large[1]}
    for same in given.same_wrong or [0.0]:
        recorded = read_recorded(given.file, list(prices), Made(prices, same_wrong=same, output_tokens=given.output_tokens))
        made = any(one.scores for one in recorded)
        told = f"texts made up of scores: {same:.0%} of two wrong answers say the same" if made else "texts as recorded"
        print(f"\n### {given.file.name.partition('.')[0]}: {len(recorded):,} prompts, {told}\n".replace("%", " %"))
        cascades = asyncio.run(tables(recorded, small, large, prices, given.extract))
        break_even(*max(cascades.items(), key=lambda each: each[1].quality), large)
        if given.scores is not None:
            write_scores(given.scores, recorded, prices, cascades)


if __name__ == "__main__":
    main()
