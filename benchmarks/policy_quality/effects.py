"""What each ready-made route does for its purpose: `python -m benchmarks.policy_quality.effects --data DIR --locale DIR [--write]`.

Each is measured on traffic that has what it is for, by the service itself with recorded answers behind it (see `presets`), most beside
`cost`: everything to the cheapest model that can serve it. Modelled, and said so in what is written: times to the first token
(lognormal, sigma 0.35, seed 1), refusals, calls at a time, contexts that grow. `--locale` is a folder with catalogues of
translations (`ko/LC_MESSAGES/django.po`), whose Korean messages are the Korean text.

`--write` puts the sentences into the presets, as `measured`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from textwrap import fill
from typing import Any, Final

import msgspec

from benchmarks.policy_quality.presets import LARGE, LARGE_ONES, NAMES, PART_OF_THE_DEAREST, PRICES, SMALL, config, extra, measured
from benchmarks.policy_quality.recorded import Answer, Made, Recorded, read_recorded
from benchmarks.policy_quality.replay import Extra, Outcome, replay
from policies.answers import Said
from policies.plans import Verify
from policies.signals.task import task_of
from policies.verifiers import failed_check
from router.learned.labels import read_labels
from router.settings.preset import presets

FOLDER: Final = Path("policies/presets")
BY_COST: Final[Mapping[str, Any]] = {"use": {"size": ["small", "medium", "large"]}, "by": "cost"}
LOCAL = next(name for name, short in NAMES.items() if short == SMALL)
DEAREST = next(name for name, short in NAMES.items() if short == LARGE)
LETTERS: Final = 10
"""Of a message that says enough."""
PLENTY: Final = 1_000_000.0
"""USD of a budget that nobody uses up."""
FEWEST_OF_A_TASK: Final = 15
WAIT_MS: Final = 30.0
"""Of a local model that is busy with a request."""
REFUSAL: Final = "I'm sorry, but I can't help with that."
SLOW_MS: Final = {LOCAL: 1_100.0, "google/gemini-2.5-flash": 420.0, "mistralai/mistral-large-2512": 650.0, DEAREST: 1_500.0}
TARGET_MS: Final = 800.0
SIGMA: Final = 0.35
RUNS: Final = 40
TURNS: Final = 12
TOKENS_PER_TURN: Final = 2_000


@dataclass(frozen=True)
class World:
    """What is measured on."""

    recorded: Sequence[Recorded]
    quality: Mapping[str, float]
    by_task: Mapping[str, Mapping[str, float]]
    """Quality by task, of each model."""
    code: Sequence[str]
    korean: Sequence[str]

    def dearest_usd(self) -> float:
        """What the dearest model alone would cost."""
        return sum(PRICES[DEAREST].usd(one.answers[DEAREST]) for one in self.recorded)


def percent(share: float) -> str:
    """As it is written."""
    return f"{share:.1%}".replace(".0%", "%").replace("%", " %")


def with_fields(text: str, models: Mapping[str, Mapping[str, Any]]) -> str:
    """A configuration some of whose models have other fields."""
    document = json.loads(text)
    for name, fields in models.items():
        document["models"][name].update(fields)
    return json.dumps(document)


async def asked(world: World, route: Mapping[str, Any], recorded: Sequence[Recorded], wishes: Extra = extra, **more: Any) -> Outcome:
    """What comes of a route."""
    return await replay(config(route, world.quality, PLENTY), recorded, extra=wishes, **more)


def route_of(name: str) -> Mapping[str, Any]:
    """A ready-made route."""
    route: Mapping[str, Any] = presets()[name]["route"]
    return route


async def cheapest_capable(world: World) -> str:
    """What the cheapest that can serve it saves."""
    got = await measured("cheapest-capable", world.recorded, world.quality, PLENTY)
    alone = fmean(one.score(DEAREST) for one in world.recorded)
    dear = 1_000 * world.dearest_usd() / len(world.recorded)
    told = f"{got.usd_per_1000:.2f} USD per 1,000 requests at a mean score of {got.quality:.3f}"
    return f"{told}; {LARGE} for everything: {dear:.2f} USD at {alone:.3f}."


async def quality_per_dollar(world: World) -> str:
    """What a quality by task gets, where the small model is good enough for most."""
    fields = {NAMES[name]: {"quality": scores} for name, scores in world.by_task.items()}
    kinds = [task_of(one.prompt) for one in world.recorded]

    async def scored(route: Mapping[str, Any]) -> tuple[float, float, float]:
        got = await replay(with_fields(config(route, world.quality, PLENTY), fields), world.recorded, extra=extra)
        code = [score for (score, _), kind in zip(got.each, kinds, strict=True) if kind == "code"]
        return fmean(code), got.quality, got.usd_per_1000

    code, every, usd = await scored(route_of("quality-per-dollar"))
    code_by_cost, by_cost, usd_by_cost = await scored(BY_COST)
    return (
        f"With qualities by task as measured on other prompts, where only the small model is below 0.7 and only at code: {code:.3f} at"
        f" code and"
        f" {every:.3f} at all for {usd:.2f} USD per 1,000 requests; by cost alone {code_by_cost:.3f} and {by_cost:.3f} for"
        f" {usd_by_cost:.2f}."
    )


async def small_first_cascade(world: World) -> str:
    """What the checks of form catch: every fifth answer of the small model is made a refusal."""
    refused = [_refusing(one) if number % 5 == 0 else one for number, one in enumerate(world.recorded)]
    verify = Verify(schema=False)
    got = [await asked(world, route, refused) for route in (route_of("small-first-cascade"), BY_COST)]
    seen = [sum(failed_check(verify, Said(text=text), schema=None, own_cap=False) == "refusal" for text in one.texts) for one in got]
    shares = [count / len(refused) for count in seen]
    return (
        f"With every fifth answer of the small model made a refusal, {percent(shares[0])} of the clients got one ({percent(shares[1])}"
        f" by cost alone),"
        f" at {got[0].usd_per_1000:.2f} instead of {got[1].usd_per_1000:.2f} USD per 1,000 requests and a mean score of"
        f" {got[0].quality:.3f}"
        f" instead of {got[1].quality:.3f}; a large model was asked {percent(sum(got[0].asked.get(name, 0.0) for name in LARGE_ONES))}"
        f" of the prompts."
    )


def _refusing(one: Recorded) -> Recorded:
    """The prompt, which the small model refuses."""
    refusal = Answer(text=REFUSAL, input_tokens=one.answers[LOCAL].input_tokens, output_tokens=12, score=0.0)
    return msgspec.structs.replace(one, answers={**one.answers, LOCAL: refusal})


async def _at_home(world: World, route: Mapping[str, Any], recorded: Sequence[Recorded], private: set[int]) -> tuple[float, float, float]:
    """(Private requests that left the house, that were refused, requests of all that were served at home), where four fit in at a time."""

    def wishes(number: int, one: Recorded) -> Mapping[str, Any]:
        tags = {"data": "restricted"} if number % 10 == 0 else {}
        return {"metadata": {"tags": tags}, "stream": True, "max_tokens": 16_000}

    text = with_fields(config(route, world.quality, PLENTY), {SMALL: {"max_in_flight": 4}})
    got = await replay(text, recorded, extra=wishes, parallel=8, first_token_ms={LOCAL: WAIT_MS})
    mine = [got.models[number] for number in sorted(private)]
    return (
        sum(model not in ("", LOCAL) for model in mine) / len(mine),
        mine.count("") / len(mine),
        sum(model == LOCAL for model in got.models) / len(got.models),
    )


async def local_first(world: World) -> str:
    """Whether restricted requests stay, and what overflows."""
    restricted = set(range(0, len(world.recorded), 10))
    left, out, home = await _at_home(world, route_of("local-first"), world.recorded, restricted)
    by_cost, _, _ = await _at_home(world, BY_COST, world.recorded, restricted)
    return (
        f"With eight requests at a time and room for four on the local machine, {percent(home)} of all were served at home; of those"
        f" that were tagged"
        f" as restricted {percent(left)} left the house ({percent(by_cost)} by cost alone), and {percent(out)} were refused."
    )


async def local_private(world: World) -> str:
    """Whether personal data stays, that nobody has tagged."""
    prompts = [
        msgspec.structs.replace(one, prompt=f"{one.prompt}\nSend the answer to kim.minsu{number}@example.com, please.")
        if number % 10 == 5
        else one
        for number, one in enumerate(world.recorded)
    ]
    personal = set(range(5, len(prompts), 10))
    left, out, _ = await _at_home(world, route_of("local-private"), prompts, personal)
    by_cost, _, _ = await _at_home(world, BY_COST, prompts, personal)
    return (
        f"With eight requests at a time, room for four on the local machine, and an address of electronic mail put into every tenth"
        f" prompt, {percent(left)} of"
        f" these left the house ({percent(by_cost)} by cost alone), and {percent(out)} were refused, since there was no room."
    )


def _same(prompts: Sequence[str]) -> list[Recorded]:
    """Prompts that all models answer alike: only where they go counts."""
    return [
        Recorded(prompt=one, answers=dict.fromkeys(NAMES, Answer(text="42", input_tokens=60, output_tokens=40, score=1.0)))
        for one in prompts
    ]


def plain(number: int, one: Recorded) -> Mapping[str, Any]:
    """Nothing but a cap."""
    return {"max_tokens": 1_000}


async def _sorted(world: World, name: str, mine: Sequence[str], others: Sequence[str], right: str) -> tuple[float, float]:
    """(Of the prompts that it is for, share that went to the right model; the same of others)."""
    prompts = list(dict.fromkeys([*mine, *others]))
    got = await asked(world, route_of(name), _same(prompts), plain)
    hits = {prompt: model == right for prompt, model in zip(prompts, got.models, strict=True)}
    return fmean(hits[prompt] for prompt in mine), fmean(hits[prompt] for prompt in others)


async def korean(world: World) -> str:
    """Whether Korean text goes where it is meant to."""
    english = [one.prompt for one in world.recorded]
    hits, wrong = await _sorted(world, "korean", world.korean, english, "google/gemini-2.5-flash")
    return (
        f"Of {len(world.korean):,} Korean texts (messages of a program, {LETTERS} letters and more) {percent(hits)} went to the model"
        f" with `languages: [ko]`, of"
        f" {len(english):,} English prompts {percent(wrong)}."
    )


async def code(world: World) -> str:
    """Whether programming goes where it is meant to."""
    others = [one.prompt for one in world.recorded if one.cat != "mbpp"]
    hits, wrong = await _sorted(world, "code", world.code, others, "mistralai/mistral-large-2512")
    return (
        f"Of {len(world.code):,} questions of CRUXEval, MBPP and HumanEval {percent(hits)} went to the model with `domain: code`, of"
        f" {len(others):,} others"
        f" {percent(wrong)}."
    )


async def latency_slo(world: World) -> str:
    """Whether streams begin in time, where the cheapest model is slow."""
    recorded = world.recorded[:600]
    chance = random.Random(1)
    times = {one.prompt: {name: SLOW_MS[name] * chance.lognormvariate(0.0, SIGMA) for name in NAMES} for one in recorded}

    def wishes(number: int, one: Recorded) -> Mapping[str, Any]:
        return {"stream": True, "max_tokens": 16_000}

    shares = []
    for route in (route_of("latency-slo"), BY_COST):
        got = await asked(world, route, recorded, wishes, first_token_ms=times, parallel=12)
        shares.append(
            (fmean(times[one.prompt][model] <= TARGET_MS for one, model in zip(recorded, got.models, strict=True)), got.usd_per_1000)
        )
    (mine, usd), (by_cost, usd_by_cost) = shares
    return (
        f"On modelled times (medians {', '.join(f'{ms:,.0f}' for ms in SLOW_MS.values())} ms, the cheapest model first)"
        f" {percent(mine)} of {len(recorded)} streams began"
        f" within 800 ms ({percent(by_cost)} by cost alone), at {usd:.2f} instead of {usd_by_cost:.2f} USD per 1,000 requests."
    )


def _of_vendor(got: Outcome, vendor: str) -> float:
    """A vendor's share of the money."""
    charges = [(model, nusd) for model, (_, nusd) in zip(got.models, got.each, strict=True)]
    return sum(nusd for model, nusd in charges if model.startswith(vendor)) / sum(nusd for _, nusd in charges)


async def vendor_neutral(world: World) -> str:
    """The dear vendor's share of the money."""
    got = await asked(world, route_of("vendor-neutral"), world.recorded)
    weighted = await asked(world, {"use": {"size": "large"}, "by": "weighted"}, world.recorded)
    return (
        f"Of two large models, one of which costs {_ratio(world):.0f} times as much a request, the dear vendor had"
        f" {percent(_of_vendor(got, 'google'))} of the money"
        f" of {len(world.recorded):,} requests ({percent(_of_vendor(weighted, 'google'))} by weight alone)."
    )


def _ratio(world: World) -> float:
    cheap = "mistralai/mistral-large-2512"
    return world.dearest_usd() / sum(PRICES[cheap].usd(one.answers[cheap]) for one in world.recorded)


async def balanced_weighted(world: World) -> str:
    """Whether shares are as the weights say."""
    text = with_fields(config(route_of("balanced-weighted"), world.quality, PLENTY), {"mistral-large": {"weight": 3}})
    got = await replay(text, world.recorded, extra=extra)
    share = got.answered["mistralai/mistral-large-2512"]
    return f"With weights of 3 and 1, {percent(share)} of {len(world.recorded):,} requests went to the first."


async def budget_pacing(world: World) -> str:
    """How near the spending keeps to the pace of the budget."""
    budget = PART_OF_THE_DEAREST * world.dearest_usd()
    got = await measured("budget-pacing", world.recorded, world.quality, budget)
    spent, furthest, count = 0.0, 0.0, len(world.recorded)
    for number, (_, nusd) in enumerate(got.each, 1):
        spent += nusd / 1e9 / budget
        if number > count / 10:
            furthest = max(furthest, abs(spent - number / count))
    return (
        f"A month's budget of a quarter of what the dearest model would cost was used to {percent(spent)} at its end, after the first"
        f" tenth never further than"
        f" {percent(furthest)} from the pace, at a mean score of {got.quality:.3f}; the dearest model alone would have used it up"
        f" after a quarter of the month."
    )


async def agents(world: World) -> str:
    """What staying with the cached prompt saves, where the cheapest model is often busy."""
    chance = random.Random(1)
    runs = []
    for run in range(RUNS):
        for turn in range(1, TURNS + 1):
            tokens = turn * TOKENS_PER_TURN
            told = Answer(text="done", input_tokens=tokens, output_tokens=chance.randrange(60, 240), score=1.0)
            runs.append(Recorded(prompt=f"run {run} turn {turn} " + "word " * tokens, answers=dict.fromkeys(NAMES, told)))

    def wishes(number: int, one: Recorded) -> Mapping[str, Any]:
        return {"metadata": {"session_id": f"run-{number // TURNS}"}, "stream": True, "max_tokens": 1_000}

    costs = []
    for route in (route_of("agents"), BY_COST):
        document = json.loads(config({**route, "use": {"size": ["medium", "large"]}}, world.quality, PLENTY))
        del document["models"][LARGE]
        for name, model in document["models"].items():
            model["price"]["cached_input"] = model["price"]["input"] / 10
            if name == "gemini-2.5-flash":
                model["max_in_flight"] = 3
        waits = dict.fromkeys(NAMES, WAIT_MS)
        got = await replay(json.dumps(document), runs, extra=wishes, parallel=8, runs=TURNS, caches=True, first_token_ms=waits)
        costs.append(sum(nusd for _, nusd in got.each) / 1e9 / RUNS)
    return (
        f"{RUNS} runs of {TURNS} steps, whose context grows by {TOKENS_PER_TURN:,} tokens each, eight at a time on two models, the"
        f" cheaper of which takes three"
        f" calls, with cached input for a tenth: {costs[0]:.4f} USD a run ({costs[1]:.4f} by cost alone). How much it is depends on"
        f" how often that one is full."
    )


EFFECTS: Final[Mapping[str, Callable[[World], Awaitable[str]]]] = {
    "agents": agents,
    "balanced-weighted": balanced_weighted,
    "budget-pacing": budget_pacing,
    "cheapest-capable": cheapest_capable,
    "code": code,
    "korean": korean,
    "latency-slo": latency_slo,
    "local-first": local_first,
    "local-private": local_private,
    "quality-per-dollar": quality_per_dollar,
    "small-first-cascade": small_first_cascade,
    "vendor-neutral": vendor_neutral,
}


def written(preset: str, sentence: str) -> str:
    """A preset's file with what was measured."""
    head, sign, route = preset.partition("\nroute:\n")
    head = re.sub(r"\nmeasured: >-\n(  .*\n?)+", "\n", f"{head}\n").rstrip("\n")
    told = fill(sentence, 150, initial_indent="  ", subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return f"{head}\nmeasured: >-\n{told}{sign}{route}"


def korean_texts(folders: Sequence[Path]) -> list[str]:
    """Korean messages of catalogues, each once."""
    found: dict[str, None] = {}
    for file in sorted(file for folder in folders for file in folder.rglob("ko/LC_MESSAGES/django.po")):
        for quoted in re.findall(r'^msgstr ((?:".*"\n)+)', file.read_text(encoding="utf-8"), re.M):
            text = "".join(re.findall(r'"(.*)"', quoted)).replace("\\n", " ")
            if sum(map(str.isalpha, text)) >= LETTERS and "Content-Type" not in text:
                found[text] = None
    return list(found)


def world_of(data: Path, locale: Sequence[Path]) -> World:
    """What is measured on, from the files."""
    every = read_recorded(data / "pareto_val.jsonl.gz", list(NAMES), Made(PRICES))
    known, recorded = every[: len(every) // 5], every[len(every) // 5 :]
    tasks = [task_of(one.prompt) for one in known]
    often = [task for task in ("code", "math") if tasks.count(task) >= FEWEST_OF_A_TASK]
    by_task = {
        name: {"default": round(fmean(one.score(name) for one in known), 3)}
        | {task: round(fmean(one.score(name) for one, kind in zip(known, tasks, strict=True) if kind == task), 3) for task in often}
        for name in NAMES
    }
    labels = [*read_labels(data / "zeroeval_crux.jsonl.gz")]
    labels += [label for label in read_labels(data / "uiuc_train.jsonl.gz") if "mbpp" in label.category or "human" in label.category]
    return World(
        recorded=recorded,
        quality={name: fmean(one.score(name) for one in known) for name in NAMES},
        by_task=by_task,
        code=list(dict.fromkeys(label.prompt for label in labels)),
        korean=korean_texts(locale),
    )


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the files of labels")
    parser.add_argument("--locale", type=Path, action="append", default=[], help="folder with catalogues of translations")
    parser.add_argument("--only", choices=sorted(EFFECTS), action="append", help="one of them")
    parser.add_argument("--write", action="store_true", help=f"put the sentences into {FOLDER}")
    given = parser.parse_args(words)
    world = world_of(given.data, given.locale)
    for name, effect in EFFECTS.items():
        if (given.only and name not in given.only) or (name == "korean" and not world.korean):
            continue
        sentence = asyncio.run(effect(world))
        print(f"{name}: {sentence}", flush=True)
        if given.write:
            file = FOLDER / f"{name}.yaml"
            file.write_text(written(file.read_text(encoding="utf-8"), sentence), encoding="utf-8")


if __name__ == "__main__":
    main()
