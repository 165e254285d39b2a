"""Generate `book.json`: `python -m router.prices.generate --litellm FILE --litellm-version V`.

Reads genai-prices (installed, a development dependency) and the JSON file of model prices inside litellm's
wheel, as data: litellm itself is never imported. Fails, and writes nothing, if the two differ on a curated
model that no person has decided on (see `REVIEWED`).
"""

from __future__ import annotations

import argparse
import datetime as dt
import sys
from importlib.metadata import version
from pathlib import Path

import msgspec

from router.prices import Book, Section
from router.prices.curated import CURATED, REVIEWED
from router.prices.merge import Known, merge
from router.prices.read_genai import read_genai
from router.prices.read_litellm import read_litellm

BOOK = Path(__file__).with_name("book.json")


class Disagreement(Exception):
    """The sources differ on curated models. The message has one a line."""


def build(first: dict[str, Known], second: dict[str, Known], *, date: str, versions: tuple[str, str]) -> Book:
    """Merge both sources into a book.

    Raises:
        Disagreement: a curated model is missing, differs without a decision, or a decision is not needed any more.
    """
    sections: dict[str, Section] = {}
    problems: list[str] = []
    for kind in sorted(first.keys() | second.keys()):
        section, wrong = merge(kind, first.get(kind, Known()), second.get(kind, Known()))
        sections[kind] = section
        problems += wrong
    for kind, models in CURATED.items():
        for model in models:
            row = sections[kind].models.get(model) if kind in sections else None
            if row is None:
                problems.append(f"{kind}/{model}: not in either source")
            elif row.c not in ("agree", "reviewed"):
                problems.append(f"{kind}/{model}: {row.c}: {row.p} {row.t}")
            elif row.c == "agree" and (kind, model) in REVIEWED:
                problems.append(f"{kind}/{model}: the sources agree by now; take it out of REVIEWED")
    if problems:
        raise Disagreement("\n".join(problems))
    return Book(
        date=date,
        sources={
            "g": f"genai-prices {versions[0]}",
            "l": f"litellm {versions[1]}",
            "b": f"genai-prices {versions[0]}, litellm {versions[1]}",
        },
        curated={kind: sorted(models) for kind, models in CURATED.items()},
        providers={kind: msgspec.Raw(msgspec.json.encode(section, order="sorted")) for kind, section in sections.items()},
    )


def write(book: Book, path: Path) -> None:
    """Write one model a line, so that a change of prices reads as one."""
    sections = []
    for kind, raw in sorted(book.providers.items()):
        section = msgspec.json.decode(raw, type=Section)
        models = ",\n".join(f"{_json(name)}:{_json(row)}" for name, row in sorted(section.models.items()))
        sections.append(f'{_json(kind)}:{{"aliases":{_json(section.aliases)},"models":{{\n{models}}}}}')
    head = f'"date":{_json(book.date)},\n"sources":{_json(book.sources)},\n"curated":{_json(book.curated)}'
    body = ",\n".join(sections)
    path.write_text(f'{{{head},\n"providers":{{\n{body}}}}}\n', encoding="utf-8")


def _json(value: object) -> str:
    return msgspec.json.encode(value, order="sorted").decode()


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--litellm", type=Path, required=True, help="model_prices_and_context_window_backup.json")
    parser.add_argument("--litellm-version", required=True)
    parser.add_argument("--date", default=dt.datetime.now(dt.UTC).date().isoformat(), help="date the prices are read for")
    asked = parser.parse_args()
    try:
        book = build(
            read_genai(dt.date.fromisoformat(asked.date)),
            read_litellm(asked.litellm),
            date=asked.date,
            versions=(version("genai-prices"), asked.litellm_version),
        )
    except Disagreement as exc:
        sys.stderr.write(f"{exc}\n")
        return 1
    write(book, BOOK)
    return 0


if __name__ == "__main__":
    sys.exit(main())
