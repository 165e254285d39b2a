"""`faregate router`: train, calibrate and evaluate a learned router on labels of your own."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import typer

from router import __version__
from router.adapters.choose import choose_store, must_exist, open_ledger
from router.commands.files import write_file
from router.commands.options import Books, Store
from router.domain.records import SpendRecord
from router.errors import ConfigError
from router.learned.files import BUILTIN, load_model, write_bytes
from router.learned.labels import Label, read_labels
from router.learned.measure import Quality, calibration_error, quality
from router.spend import parse_moment

if TYPE_CHECKING:
    from policies.learned.model import Model

app = typer.Typer(add_completion=False, help="Train, calibrate and evaluate a learned router on labels of your own.")

SUFFIXES: Final = (".jsonl", ".jsonl.gz")

Data = Annotated[
    list[Path] | None, typer.Option("--data", help="File of labels (JSON lines, may be gzipped), or a folder of them; repeatable.")
]
FromFeedback = Annotated[
    Path | None,
    typer.Option(help='Labels from ratings in the ledger; this file has their prompts: {"request_id": ..., "prompt": ...}, one a line.'),
]
Since = Annotated[str, typer.Option(help="Of feedback: from here on, such as 30d or 2026-11-01.")]
Small = Annotated[str | None, typer.Option(help="Model of `scores` that is the small one. Default: the lesser half of them.")]
Large = Annotated[str | None, typer.Option(help="Model of `scores` that is the large one. Default: the best quarter of them.")]
Out = Annotated[Path, typer.Option(help="File to write.")]
ModelName = Annotated[str, typer.Option("--model", help=f"Model to use: a file, or {BUILTIN}.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print for machines.")]


@app.command()
def train(
    out: Out,
    data: Data = None,
    from_feedback: FromFeedback = None,
    since: Since = "30d",
    store: Store = None,
    config: Books = None,
    small: Small = None,
    large: Large = None,
    start: Annotated[str | None, typer.Option("--from", help=f"Model to begin with, such as {BUILTIN}: for few labels.")] = None,
    penalty: Annotated[float, typer.Option(min=0.01, help="On weights: more for noisy labels.")] = 6.0,
    bits: Annotated[int, typer.Option(min=8, max=20, help="Size of the tables, 2^bits places of 5 bytes; `--from` has its own.")] = 17,
) -> None:
    """Learn from labels: prompts, and how good the answers of a small and a large model were. Needs numpy (the extra `train`)."""
    from router.learned.train import train as learn

    labels = _gathered(data, from_feedback, since, store, config, small, large)
    model = learn(labels, bits=bits, penalty=penalty, start=None if start is None else load_model(start)[0])
    _write(out, model, labels, {"small": small, "large": large, "from": start, "penalty": penalty})


@app.command()
def calibrate(
    out: Out,
    data: Data = None,
    from_feedback: FromFeedback = None,
    since: Since = "30d",
    store: Store = None,
    config: Books = None,
    model: ModelName = BUILTIN,
    small: Small = None,
    large: Large = None,
) -> None:
    """Keep what a model has learned, and make its chances and its difficulty those of your own prompts."""
    from router.learned.train import recalibrate

    labels = _gathered(data, from_feedback, since, store, config, small, large)
    known, trained = load_model(model)
    _write(out, recalibrate(known, labels), labels, {"calibrated": model, "trained": dict(trained)})


@app.command("eval")
def evaluate(
    data: Data = None,
    from_feedback: FromFeedback = None,
    since: Since = "30d",
    store: Store = None,
    config: Books = None,
    model: ModelName = BUILTIN,
    small: Small = None,
    large: Large = None,
    as_json: AsJson = False,
) -> None:
    """Measure a model on labels that it was not trained on, beside the length of the prompt and the oracle."""
    labels = _gathered(data, from_feedback, since, store, config, small, large)
    known, _ = load_model(model)
    said = [known.scores(label.prompt) for label in labels]
    found = {
        model: quality([one.gap for one in said], labels),
        "length of the prompt": quality([float(len(label.prompt)) for label in labels], labels),
        "oracle": quality([label.gap for label in labels], labels),
    }
    error = calibration_error([one.small for one in said], [label.small for label in labels])
    if as_json:
        print(msgspec.json.encode({"labels": len(labels), "routers": found, "calibration_error": error}).decode())
    else:
        print(_table(found, labels))
        print(f"\n{len(labels):,} labels. Calibration error of the chance that the small model is right: {error:.3f}")


def _gathered(
    data: Sequence[Path] | None,
    from_feedback: Path | None,
    since: str,
    store: str | None,
    config: str | None,
    small: str | None,
    large: str | None,
) -> list[Label]:
    """Labels of files, of ratings, or of both."""
    if not data and from_feedback is None:
        raise typer.BadParameter("name a file of labels, or --from-feedback", param_hint="--data")
    rated = [] if from_feedback is None else _rated(from_feedback, since, choose_store(store, config), small, large)
    return rated + (_labels(data, small, large) if data else [])


def _labels(data: Sequence[Path], small: str | None, large: str | None) -> list[Label]:
    files = [file for path in data for file in (sorted(_in_folder(path)) if path.is_dir() else [path])]
    labels = [label for file in files for label in read_labels(file, small=_one(small), large=_one(large))]
    if not labels:
        raise ConfigError(f"{', '.join(map(str, data))}: there are no files of labels ({' or '.join(SUFFIXES)})")
    if not sum(label.gap for label in labels):
        raise ConfigError("the large model is not better than the small one on these labels: there is nothing to route")
    return labels


def _rated(prompts: Path, since: str, store: str, small: str | None, large: str | None) -> list[Label]:
    """Labels from the ratings in a ledger."""
    from router.books.reading import TIMEOUT_SECONDS, each_record, read_feedback
    from router.learned.feedback import doubt, labels_of, read_prompts

    if small is None or large is None:
        raise typer.BadParameter("of ratings both models have to be named", param_hint="--small, --large")
    if small == large:
        raise typer.BadParameter("they are two different models", param_hint="--small, --large")
    try:
        begin = int(parse_moment(since, now=datetime.datetime.now(datetime.UTC), zone=datetime.UTC).timestamp() * 1000)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--since") from None
    address, known = must_exist(store), read_prompts(prompts)
    given = read_feedback(open_ledger(address, timeout_seconds=TIMEOUT_SECONDS), since_ms=begin)
    records: list[SpendRecord] = []
    each_record(
        open_ledger(address, timeout_seconds=TIMEOUT_SECONDS),
        lambda record: records.append(record) if record.request_id in known else None,
        since_ms=begin,
    )
    labels = labels_of(known, records, given, small=small, large=large)
    if odd := doubt(labels, small=small, large=large):
        typer.echo(f"warning: {odd}", err=True)
    return labels


def _one(name: str | None) -> tuple[str, ...]:
    return () if name is None else (name,)


def _in_folder(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name.endswith(SUFFIXES)]


def _write(out: Path, model: Model, labels: Sequence[Label], how: Mapping[str, Any]) -> None:
    sources: dict[str, int] = {}
    for label in labels:
        sources[label.bench] = sources.get(label.bench, 0) + 1
    trained = {
        "labels": len(labels),
        "sources": sources,
        "release": __version__,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        **{name: value for name, value in how.items() if value is not None},
    }
    data = write_bytes(model, trained)
    write_file(out, data)
    typer.echo(f"{out}: {len(data):,} bytes, from {len(labels):,} labels. Use it with `signals: {{difficulty: {{model: {out}}}}}`.")


def _table(found: Mapping[str, Quality], labels: Sequence[Label]) -> str:
    small, large = (sum(values) / len(labels) for values in ([label.small for label in labels], [label.large for label in labels]))
    lines = [
        f"always small: {small:.3f}   always large: {large:.3f}   random order: APGR 0.500",
        "",
        "| router | APGR | CPT50 | CPT80 | S95 | USD per 1,000 at 95 % |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, one in found.items():
        usd = "" if one.usd_per_1000 is None else f"{one.usd_per_1000:.2f}"
        lines.append(f"| {name} | {one.apgr:.3f} | {one.cpt50:.1%} | {one.cpt80:.1%} | {one.s95:.1%} | {usd} |")
    return "\n".join(lines)
