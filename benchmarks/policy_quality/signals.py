"""What signals cost and how often they are right: `python -m benchmarks.policy_quality.signals --data DIR`. Prints Markdown.

Cost: CPU time of this thread, of each prompt the best of 15 times, of 60 prompts of 1.4 to 1.6 kB the median; that of Presidio with
its recognisers for English, if the extra `presidio` is installed. Tasks: questions of
benchmarks whose task is known. Languages: the messages of Django's catalogues (`--locale DIR`, `django/conf/locale` or `contrib`),
those with at least 25 letters that the trigrams of `policies.signals.profiles` were not counted in (the CRC-32 of the English
message is even); a catalogue is in one language.
"""

from __future__ import annotations

import argparse
import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import median
from zlib import crc32

from policies.signals.language import language_of
from policies.signals.pii import pii_of
from policies.signals.task import task_of
from router.learned.files import BUILTIN, load_model
from router.learned.labels import read_labels
from router.presidio import NotThere, presidio

TASKS = (("routellm_gsm8k", "", "math"), ("zeroeval_crux", "", "code"), ("uiuc_train", "mbpp", "code"), ("uiuc_train", "human", "code"))
LETTERS = 25
CODES = {"zh_Hans": "zh", "zh_Hant": "zh", "pt_BR": "pt", "es_AR": "es", "es_MX": "es", "en_GB": "en", "nb": "da"}

KNOWN = frozenset(
    {"ko", "ja", "zh", "en", "de", "fr", "es", "pt", "it", "nl", "sv", "da", "pl", "cs", "tr", "vi", "id", "fi", "ro", "hu"}
) | {*("ru", "uk", "bg", "ar", "fa", "hi", "el", "he", "th", "bn", "ta", "te", "ka", "hy")}
"""Languages that are told apart."""


def cost(detect: Callable[[str], object], prompts: list[str]) -> float:
    """Microseconds for one prompt."""
    found = []
    for prompt in prompts:
        times = []
        for _ in range(15):
            began = time.thread_time()
            detect(prompt)
            times.append(time.thread_time() - began)
        found.append(min(times))
    return median(found) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--locale", type=Path, action="append", default=[])
    given = parser.parse_args()
    prompts = [label.prompt for label in read_labels(given.data / "mmlu_pro_new.jsonl.gz")]
    sample = [prompt for prompt in prompts if 1_400 <= len(prompt) <= 1_600][:60]
    model, _ = load_model(BUILTIN)
    print("| signal | CPU µs |\n|---|---:|")
    print(f"| for comparison: `sum(range(10_000))` | {cost(lambda _: sum(range(10_000)), sample):.0f} |")
    for name, detect in (("language", language_of), ("task", task_of), ("pii", pii_of), ("difficulty", model.difficulty)):
        print(f"| {name} | {cost(detect, sample):.0f} |")
    try:
        engine = presidio((), 0.5, "en", "")
        print(f"| pii, what Presidio adds | {cost(lambda text: list(engine(text)), sample):.0f} |")
    except NotThere as missing:
        print(f"\n{missing}")
    print("\n| questions | are | found |\n|---|---|---:|")
    for file, category, task in TASKS:
        labels = [label for label in read_labels(given.data / f"{file}.jsonl.gz") if category in label.category]
        hits = sum(task_of(label.prompt) == task for label in labels)
        print(f"| {file} {category} ({len(labels)}) | {task} | {hits / max(len(labels), 1):.0%} |")
    languages(given.locale)


def languages(folders: list[Path]) -> None:
    """Print how often the language of a catalogue's messages is told."""
    right: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    for file in (file for folder in folders for file in folder.rglob("django.po")):
        name = file.parts[-3]
        language = CODES.get(name, name)
        for message, text in re.findall(r'^msgid "(.+)"\nmsgstr "(.+)"$', file.read_text(encoding="utf-8"), re.M):
            if sum(map(str.isalpha, text)) >= LETTERS and not crc32(message.encode()) % 2:
                asked[language] += 1
                right[language] += language_of(text) == language
    if asked:
        print("\n| language | messages | right |\n|---|---:|---:|")
    for language in sorted(KNOWN & set(asked), key=lambda name: -right[name] / asked[name]):
        print(f"| {language} | {asked[language]} | {right[language] / asked[language]:.0%} |")


if __name__ == "__main__":
    main()
