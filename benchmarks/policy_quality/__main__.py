"""How good the learned router is: `python -m benchmarks.policy_quality --data DIR`. Prints Markdown tables.

DIR holds the files `routellm_mmlu`, `routellm_gsm8k`, `zeroeval_gsm`, `zeroeval_crux`, `mmlu_pro_new`, `uiuc_train` and `pareto_val`
(`.jsonl.gz`): prompts, and scores of the answers of several models. Nothing that is measured was trained on:

- *cross-validated*: five parts by the text of the prompt, each predicted by a model that was trained on the other four.
- *1,500 labels*: trained on 1,500 prompts of the benchmark alone, measured on all others; mean of the draws.
- *benchmark left out*: trained on all other files, without prompts of the same benchmark or the same text.

APGR: mean share of the performance gap between the small and the large model that is recovered, over all shares of calls to the large
one. CPT50, CPT80: share of calls to the large model for 50 % and 80 % of that gap. S95: the same for 95 % of the large model's quality.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from benchmarks.policy_quality.builtin import PAIRS
from policies.learned.model import Scores, along
from policies.learned.thresholds import Target, Thresholds
from router.learned.labels import Label, read_labels, without_texts
from router.learned.measure import Quality, calibration_error, quality
from router.learned.train import cross_validate, fit_predict, hashed, points

SAME = {"routellm_mmlu": ("mmlu",), "routellm_gsm8k": ("gsm",), "pareto_val": ("pareto",)}
"""What the names of files and categories of the same benchmark contain."""
MEASURED = tuple(SAME)
PUBLISHED = {
    "routellm_mmlu": ("RouteLLM, as published", "0.603 | 35.4 % | 70.3 % | | |"),
    "routellm_gsm8k": ("RouteLLM, as published", "0.62 | 33.9 % | 63.7 % | | |"),
}
FEW = 1_500
SEEDS = (1, 2, 3)
REQUESTS = 500
HEAD = "| router | APGR | CPT50 | CPT80 | S95 | USD per 1,000 at 95 % |\n|---|---:|---:|---:|---:|---:|"


def row(name: str, found: Sequence[Quality]) -> str:
    """A line of the table: the mean of several measurements."""
    apgr, half, most, least = (fmean(getattr(one, field) for one in found) for field in ("apgr", "cpt50", "cpt80", "s95"))
    usd = "" if found[0].usd_per_1000 is None else f"{fmean(one.usd_per_1000 or 0 for one in found):.2f}"
    return f"| {name} | {apgr:.3f} | {half:.1%} | {most:.1%} | {least:.1%} | {usd} |".replace("%", " %")


def alone(name: str, answers: Sequence[tuple[float, float | None]]) -> str:
    """A line of the table: one model for everything."""
    usd = "" if any(cost is None for _, cost in answers) else f"{1_000 * fmean(cost or 0 for _, cost in answers):.2f} (at its own quality)"
    return f"| {name}: quality {fmean(score for score, _ in answers):.3f} | | | | | {usd} |"


def of_few(labels: list[Label]) -> list[Quality]:
    """Trained on a few labels of the benchmark."""
    rows = hashed(labels)
    found = []
    for seed in SEEDS:
        order = list(range(len(labels)))
        random.Random(seed).shuffle(order)
        learn = order[:FEW]
        known = {labels[i].prompt for i in learn}
        asked = [i for i in order[FEW:] if labels[i].prompt not in known]
        mine = [labels[i] for i in learn]
        _, gap = fit_predict(mine, [rows[i] for i in learn], [rows[i] for i in asked])
        found.append(quality(gap.tolist(), [labels[i] for i in asked]))
    return found


def left_out(name: str, data: dict[str, list[Label]]) -> Quality:
    """Trained on everything but this benchmark."""
    words = SAME[name]
    others = [
        label
        for file, labels in data.items()
        for label in labels
        if not any(word in f"{file} {label.category}".lower() for word in words if word != "mmlu" or file != "mmlu_pro_new")
    ]
    others = without_texts(others, data[name])
    _, gap = fit_predict(others, hashed(others), hashed(data[name]))
    return quality(gap.tolist(), data[name])


def benchmark(name: str, data: dict[str, list[Label]]) -> None:
    """Print the table of one benchmark."""
    labels = data[name]
    folds = cross_validate(labels)
    small, large = fmean(label.small for label in labels), fmean(label.large for label in labels)
    print(f"\n### {name}: {len(labels):,} prompts, small {small:.3f}, large {large:.3f}\n\n{HEAD}")
    print(alone("always small", [(label.small, label.small_usd) for label in labels]))
    print(alone("always large", [(label.large, label.large_usd) for label in labels]))
    print(row("oracle", [quality([label.gap for label in labels], labels)]))
    print(row("cross-validated", [quality(folds.gap.tolist(), labels)]))
    print(row("cross-validated, by the chance that small is right", [quality((-folds.small).tolist(), labels)]))
    if len(labels) > 2 * FEW:
        print(row("1,500 labels", of_few(labels)))
    print(row("benchmark left out", [left_out(name, data)]))
    if name in PUBLISHED:
        print(f"| {PUBLISHED[name][0]} | {PUBLISHED[name][1]}")
    print(row("length of the prompt alone", [quality([float(len(label.prompt)) for label in labels], labels)]))
    draws = [random.Random(seed) for seed in SEEDS]
    print(row("random", [quality([draw.random() for _ in labels], labels) for draw in draws]))
    print(
        f"\nCalibration error of the chance that small is right, {calibration(folds.small.tolist(), labels):.3f} (ten bins, cross-fitted)."
    )


def calibration(predicted: list[float], labels: Sequence[Label]) -> float:
    """The error of one half of the prompts, calibrated on the other."""
    half = len(labels) // 2
    order = list(range(len(labels)))
    random.Random(1).shuffle(order)
    first, second = order[:half], order[half:]
    line = points([predicted[i] for i in first], [labels[i].small for i in first])
    return calibration_error([along(predicted[i], line) for i in second], [labels[i].small for i in second])


def shares(data: dict[str, list[Label]]) -> None:
    """Print how well a share is held, on traffics that have nothing in common."""
    print(f"\n### A share of difficult requests, after {REQUESTS} requests of each traffic\n")
    print(
        "Difficulties are the ranks of the prompts' lengths among all prompts: each file is a traffic of its own, as a language would be.\n"
    )
    every = sorted(len(label.prompt) for labels in data.values() for label in labels)
    ranks = {length: place / len(every) for place, length in enumerate(every)}
    print("| target | static threshold: least and most | window by traffic: least and most |\n|---:|---:|---:|")
    for share in (0.2, 0.3, 0.5, 0.8):
        thresholds = Thresholds(Target(kind="share", value=share), size=REQUESTS)
        static, held = [], []
        for file, labels in data.items():
            sample = random.Random(1).sample(labels, REQUESTS)
            found = [ranks[len(label.prompt)] for label in sample]
            static.append(fmean(rank >= 1 - share for rank in found))
            held.append(fmean(thresholds.difficulty(file, Scores(0.5, 0.1, rank)) >= 0.5 for rank in found))
        print(f"| {share:.0%} | {min(static):.0%}, {max(static):.0%} | {min(held):.1%}, {max(held):.1%} |".replace("%", " %"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with the files of labels")
    parser.add_argument("--only", choices=(*MEASURED, "shares"), help="one part")
    given = parser.parse_args()
    data = {name: read_labels(given.data / f"{name}.jsonl.gz", small=small, large=large) for name, (small, large) in PAIRS.items()}
    for name in MEASURED:
        if given.only in (None, name):
            benchmark(name, data)
    if given.only in (None, "shares"):
        shares(data)


if __name__ == "__main__":
    main()
