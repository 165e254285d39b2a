"""How well a share of difficult requests is held for each language: `python -m benchmarks.policy_quality.holding --data DIR --locale DIR`.

500 texts of each language: English prompts of the benchmarks in DIR; in the other languages that `language_of` tells and there are
messages of (catalogues of translations, `<language>/LC_MESSAGES/django.po`), three messages of a program, drawn by chance from those with
at least 10 letters. The built-in model says how difficult each is, `language_of` in which window it belongs, as in the service. Stated is
the share of difficult texts among all 500 of a language, the first ones included: in a traffic of that language alone, and in one of all
languages mixed. `static` is one threshold for all, which would hold the share on the English prompts. Prints Markdown.
"""

from __future__ import annotations

import argparse
import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Final

from benchmarks.policy_quality.builtin import PAIRS
from benchmarks.policy_quality.signals import KNOWN
from policies.learned.model import Model, Scores
from policies.learned.thresholds import Target, Thresholds
from policies.signals.language import language_of
from router.learned.files import BUILTIN, load_model
from router.learned.labels import read_labels

REQUESTS: Final = 500
MESSAGES: Final = 3
FEWEST: Final = 200
"""Messages of a language that texts are drawn from."""
LETTERS: Final = 10
SHARES: Final = (0.2, 0.3, 0.5, 0.8)
STATIC: Final = 0.3
SEEDS: Final = (1, 2, 3, 4, 5)
NO_LANGUAGE: Final = "none"
CODES: Final = {"zh_Hans": "zh"}


def messages(folders: Sequence[Path]) -> dict[str, list[str]]:
    """Translated messages by language, each once."""
    found: dict[str, dict[str, None]] = {}
    for file in sorted(file for folder in folders for file in folder.rglob("django.po")):
        name = file.parts[-3]
        texts = found.setdefault(CODES.get(name, name), {})
        for quoted in re.findall(r'^msgstr(?:\[\d\])? ((?:".*"\n)+)', file.read_text(encoding="utf-8"), re.M):
            text = "".join(re.findall(r'"(.*)"', quoted)).replace("\\n", " ")
            if sum(map(str.isalpha, text)) >= LETTERS and "Content-Type" not in text:
                texts[text] = None
    return {name: list(texts) for name, texts in found.items()}


def prompts(data: Path) -> list[str]:
    """English prompts, each once."""
    every = [
        label.prompt for name, (small, large) in PAIRS.items() for label in read_labels(data / f"{name}.jsonl.gz", small=small, large=large)
    ]
    return list(dict.fromkeys(every))


def traffic(texts: Mapping[str, Sequence[str]], seed: int) -> list[tuple[str, str]]:
    """(Language, text), so many of each, mixed."""
    chance = random.Random(seed)
    mixed = [(name, text) for name, known in sorted(texts.items()) for text in _drawn(name, known, chance)]
    chance.shuffle(mixed)
    return mixed


def _drawn(name: str, known: Sequence[str], chance: random.Random) -> list[str]:
    """Texts of a language: prompts as they are, messages three at a time."""
    if name == "en":
        return chance.sample(known, REQUESTS)
    return [" ".join(chance.sample(known, MESSAGES)) for _ in range(REQUESTS)]


def held(mixed: Sequence[tuple[str, str]], share: float, scores: Mapping[str, Scores], windows: Mapping[str, str]) -> dict[str, float]:
    """The share of difficult texts of each language."""
    thresholds = Thresholds(Target(kind="share", value=share), size=REQUESTS)
    hard: dict[str, list[bool]] = {}
    for name, text in mixed:
        hard.setdefault(name, []).append(thresholds.difficulty(windows[text], scores[text]) >= 0.5)
    return {name: fmean(found) for name, found in hard.items()}


def static(mixed: Sequence[tuple[str, str]], share: float, scores: Mapping[str, Scores]) -> dict[str, float]:
    """The same by one threshold for all, which holds the share on the English prompts."""
    ranks: dict[str, list[float]] = {}
    for name, text in mixed:
        ranks.setdefault(name, []).append(scores[text].difficulty)
    threshold = sorted(ranks["en"])[int((1 - share) * REQUESTS)]
    return {name: fmean(rank >= threshold for rank in found) for name, found in ranks.items()}


def table(texts: Mapping[str, Sequence[str]], model: Model) -> str:
    """A line for each language, and the worst of all."""
    mixes = [traffic(texts, seed) for seed in SEEDS]
    scores = {text: model.scores(text) for mixed in mixes for _, text in mixed}
    windows = {text: language_of(text) or NO_LANGUAGE for text in scores}
    alone: dict[tuple[str, float], list[float]] = {}
    together: dict[tuple[str, float], list[float]] = {}
    for mixed in mixes:
        for share in SHARES:
            for name, got in held(mixed, share, scores, windows).items():
                together.setdefault((name, share), []).append(got)
            for name in texts:
                own = [(of, text) for of, text in mixed if of == name]
                alone.setdefault((name, share), []).append(held(own, share, scores, windows)[name])
    fixed = static(mixes[0], STATIC, scores)
    head = "".join(f" {share:.0%}: least and most |" for share in SHARES)
    lines = [f"| language | read as such | static {STATIC:.0%} |{head} furthest, mixed |", f"|---|---:|---:|{'---:|' * len(SHARES)}---:|"]
    for name in sorted(texts):
        read = fmean(windows[text] == name for of, text in mixes[0] if of == name)
        cells = "".join(f" {min(alone[name, share]):.1%}, {max(alone[name, share]):.1%} |" for share in SHARES)
        lines.append(f"| {name} | {read:.0%} | {fixed[name]:.0%} |{cells} {furthest(together, name):.3f} |")
    worst = [max((furthest(found, name), name) for name in texts) for found in (alone, together)]
    told = " and ".join(f"{how} {far:.3f} ({name})" for how, (far, name) in zip(("alone", "mixed"), worst, strict=True))
    lines.append(f"\nFurthest from its share: {told}; {len(SEEDS)} draws.")
    return "\n".join(lines).replace("%", " %")


def furthest(found: Mapping[tuple[str, float], Sequence[float]], name: str) -> float:
    """How far a language was from its share at worst."""
    return max(abs(got - share) for share in SHARES for got in found[name, share])


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the files of labels")
    parser.add_argument("--locale", type=Path, action="append", required=True, help="folder with catalogues of translations")
    parser.add_argument("--language", action="append", help="only these; default: all that have texts enough")
    given = parser.parse_args(words)
    found = {name: known for name, known in messages(given.locale).items() if name in KNOWN and len(known) >= FEWEST}
    wanted = {
        name: known for name, known in {**found, "en": prompts(given.data)}.items() if not given.language or name in (*given.language, "en")
    }
    print(table(wanted, load_model(BUILTIN)[0]))


if __name__ == "__main__":
    main()
