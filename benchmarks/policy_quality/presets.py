"""What each ready-made route costs and how good it is: `python -m benchmarks.policy_quality.presets --data DIR [--write]`.

DIR/pareto_val.jsonl.gz has 1,547 prompts (GSM8K, MMLU, BBH, MBPP and others) with a judge's score of four models' answers and what each
answer cost. The service itself asks them, in order, a provider that replays the answers; costs are those in its books. Texts are made up
and all end well, so that checks of form pass. The catalogue's quality is the mean score on the first fifth; measured is the rest.

The traffic: half of it streams; sessions of ten prompts; GSM8K and BBH are tagged difficulty=hard, every tenth request data=restricted. The
month of the budget `everyone` passes evenly with the requests, and it has a quarter of what the dearest model would cost. Nothing is in
Korean. Times to the first token are invented: 90, 380, 620 and 1,400 ms.

`--write` puts the table into the page of the documentation.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Final

from benchmarks.policy_quality.recorded import Made, Price, Recorded, read_recorded
from benchmarks.policy_quality.replay import Before, Outcome, Replay, no_wait, replay
from router.domain.windows import bucket_set
from router.settings.preset import presets

PAGE: Final = Path("docs/routing.md")
BEGIN: Final = "<!-- Measured by `python -m benchmarks.policy_quality.presets --write`; do not edit. -->"
END: Final = "<!-- End of what was measured. -->"
SMALL, LARGE = "llama-3.1-8b", "gemini-2.5-pro"
NAMES: Final = {
    "meta-llama/llama-3.1-8b-instruct": SMALL,
    "google/gemini-2.5-flash": "gemini-2.5-flash",
    "mistralai/mistral-large-2512": "mistral-large",
    "google/gemini-2.5-pro": LARGE,
}
PRICES: Final = {
    "meta-llama/llama-3.1-8b-instruct": Price(0.02, 0.05),
    "google/gemini-2.5-flash": Price(0.3, 2.5),
    "mistralai/mistral-large-2512": Price(0.5, 1.5),
    "google/gemini-2.5-pro": Price(1.25, 10.0),
}
CLASSES: Final[Mapping[str, Mapping[str, Any]]] = {
    SMALL: {"size": "small", "weights": "open", "locality": "local"},
    "gemini-2.5-flash": {"size": "medium", "weights": "closed", "locality": "cloud", "languages": ["ko"]},
    "mistral-large": {"size": "large", "weights": "open", "locality": "cloud", "domain": "code"},
    LARGE: {"size": "large", "weights": "closed", "locality": "cloud"},
}
FIRST_TOKEN_MS: Final = dict(zip(NAMES, (90.0, 380.0, 620.0, 1400.0), strict=True))
LARGE_ONES: Final = frozenset({"mistralai/mistral-large-2512", "google/gemini-2.5-pro"})
PART_OF_THE_DEAREST: Final = 0.25
READ_EVERY: Final = 10
"""Requests between two looks at the budget."""


def config(route: Mapping[str, Any], quality: Mapping[str, float], budget_usd: float) -> str:
    """The catalogue with one route; JSON is YAML."""
    providers = {
        vendor: {"kind": "openai", "base_url": "http://127.0.0.1:1/v1", "api_key": "none"} for vendor in ("house", "google", "mistral")
    }
    vendors = {SMALL: "house", "mistral-large": "mistral"}
    models = {}
    for recorded, name in NAMES.items():
        price = PRICES[recorded]
        at = f"{vendors.get(name, 'google')}/{recorded}"
        quality_of = {"quality": round(quality[recorded], 3)}
        models[name] = {"at": at, "price": {"input": price.input, "output": price.output}, **CLASSES[name], **quality_of}
    budgets = {"everyone": f"${budget_usd:.2f}/month"}
    return json.dumps(
        {
            "version": 1,
            "server": {"store": "STORE", "log_requests": False},
            # What is measured is what a text is told to be, not whether a crowded machine tells it in time.
            "signals": {"timeout": "5s"},
            "providers": providers,
            "models": models,
            "budgets": budgets,
            "routes": {"auto": dict(route)},
        }
    )


def extra(number: int, one: Recorded) -> Mapping[str, Any]:
    """The traffic."""
    tags = {}
    if one.cat == "gsm8k" or one.cat.startswith("bbh"):
        tags["difficulty"] = "hard"
    if number % 10 == 0:
        tags["data"] = "restricted"
    return {"metadata": {"session_id": f"s{number // 10}", "tags": tags}, "stream": number % 2 == 0, "max_tokens": 16_000}


def a_month_of(requests: int) -> Before:
    """Lets the month pass with the requests, and the counters be read as they are."""

    async def before(service: Replay, number: int) -> None:
        memory, budgets = service.fleet.memory, tuple(service.snapshot.budgets)
        now_ms = int(service.began * 1000)
        bucket = bucket_set(budgets, dims={}, tags={}, now_ms=now_ms).buckets[0]
        passed = bucket.starts_ms + (bucket.ends_ms - bucket.starts_ms) * number / requests
        memory._clock = lambda: passed / 1000
        if number % READ_EVERY == 0:
            memory.read_budgets(await service.ledger.bucket_states(), budgets)

    return before


def row(name: str, quality: float, usd: float, large: float, refused: float) -> str:
    """A line of the table."""
    return f"| {name} | {usd:.2f} | {quality:.3f} | {large:.0%} | {refused:.0%} |".replace("%", " %")


async def measured(name: str, recorded: Sequence[Recorded], quality: Mapping[str, float], budget_usd: float) -> Outcome:
    """What comes of one ready-made route."""
    route = presets()[name]["route"]
    slow = name == "latency-slo"
    return await replay(
        config(route, quality, budget_usd if name == "budget-pacing" else 1_000_000),
        recorded,
        extra=extra,
        first_token_ms=FIRST_TOKEN_MS if slow else None,
        parallel=16 if slow else 1,
        before=a_month_of(len(recorded)) if name == "budget-pacing" else no_wait,
    )


def table(recorded: Sequence[Recorded], quality: Mapping[str, float]) -> str:
    """All ready-made routes beside one model for everything."""
    usd = {name: 1_000 * fmean(PRICES[name].usd(one.answers[name]) for one in recorded) for name in NAMES}
    budget = PART_OF_THE_DEAREST * usd["google/gemini-2.5-pro"] * len(recorded) / 1_000
    lines = ["| | USD per 1,000 requests | quality | answered by a large model | refused |", "|---|---:|---:|---:|---:|"]
    for recorded_name, name in NAMES.items():
        score = fmean(one.score(recorded_name) for one in recorded)
        lines.append(row(f"always {name} ({CLASSES[name]['size']})", score, usd[recorded_name], float(recorded_name in LARGE_ONES), 0.0))
    for name in sorted(presets()):
        got = asyncio.run(measured(name, recorded, quality, budget))
        large = sum(share for model, share in got.answered.items() if model in LARGE_ONES)
        lines.append(row(f"`{name}`", got.quality, got.usd_per_1000, large, got.refused / len(recorded)))
        print(lines[-1], flush=True)
    return "\n".join(lines)


def written(page: str, text: str) -> str:
    """The page with the table in its place."""
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    if not tail:
        raise SystemExit(f"{PAGE}: the place of the table is missing: {BEGIN}")
    return f"{head}{BEGIN}\n\n{text}\n\n{END}{tail}"


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with pareto_val.jsonl.gz")
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE}")
    given = parser.parse_args(words)
    every = read_recorded(given.data / "pareto_val.jsonl.gz", list(NAMES), Made(PRICES))
    known, asked = every[: len(every) // 5], every[len(every) // 5 :]
    text = table(asked, {name: fmean(one.score(name) for one in known) for name in NAMES})
    told = f"{len(asked):,} prompts with recorded scores and costs; protocol and traffic: `benchmarks/policy_quality/presets.py`."
    if given.write:
        PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), f"{told}\n\n{text}"), encoding="utf-8")


if __name__ == "__main__":
    main()
