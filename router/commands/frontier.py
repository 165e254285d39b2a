"""`faregate frontier`: cost and quality of models from an evaluation, and where today's policy lies between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer

from router.commands.files import write_file
from router.commands.options import Config
from router.commands.replaying import Replay, Since, Until, read_log
from router.replay.evaluation import Point, Score, points_of, policy_point, read_lines
from router.replay.picture import as_png, frontier_svg
from router.replay.rated import TODAY, points_of_log
from router.replay.report import Table, as_text, usd
from router.settings.offline import load_offline

OTHERS: Final = "By ratings of clients: each model answered other requests than the rest, and only some were rated."
MOST_NAMED: Final = 5


def command(
    scores: Annotated[
        Path | None, typer.Argument(help="Scores, as `faregate evaluate` writes them. Without: the ratings and costs of the log.")
    ] = None,
    svg: Annotated[Path | None, typer.Option(help="File for a picture, SVG.")] = None,
    png: Annotated[Path | None, typer.Option(help="File for the picture as PNG; needs the extra `png`.")] = None,
    config: Config = None,
    replay: Replay = None,
    since: Since = "30d",
    until: Until = None,
    least: Annotated[int, typer.Option(min=1, help="Without scores: ratings that a model or route must have.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; money in nano-USD.")] = False,
) -> None:
    """Print, and draw, which models nothing else beats in cost and quality. With --config or --replay, today's policy is placed
    among them: the models that served the log, by their shares of its requests.
    """
    if scores is None:
        points, few = points_of_log(read_log(load_offline(config), replay, since, until), least=least)
        notes = [OTHERS, *([_few(few, least)] if few else [])]
        title = "of the log"
    else:
        points, notes = _evaluated(scores, config, replay, since, until)
        title = scores.name
    if svg is not None or png is not None:
        _draw(frontier_svg(points, title=f"Cost and quality: {title}"), svg, png)
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(points), indent=2).decode())
        for note in notes[1:]:
            typer.echo(note, err=True)
        return
    rows = [(one.name, one.kind, f"{one.quality:.3f}", usd(one.cost_nusd), "yes" if one.on_frontier else "") for one in points]
    table = Table(title="", columns=("name", "kind", "score", "USD each", "on the frontier"), rows=rows)
    typer.echo(as_text(notes, [table]))


def _few(few: list[tuple[str, int]], least: int) -> str:
    named = ", ".join(f"{name} {count:,}" for name, count in few[:MOST_NAMED]) + (", ..." if len(few) > MOST_NAMED else "")
    return f"Models with fewer than {least:,} ratings are left out: {named}."


def _evaluated(scores: Path, config: str | None, replay: str | None, since: str, until: str | None) -> tuple[list[Point], list[str]]:
    """Points of an evaluation, and what is to be said of them."""
    latest = {(one.prompt, one.model): one for one in read_lines(scores, Score)}
    points = points_of(latest.values())
    notes = [f"{points[0].prompts if points else 0:,} prompts that all models answered."]
    if config is not None or replay is not None:
        served = _served(config, replay, since, until)
        today = policy_point(TODAY, {name: float(count) for name, count in served.items()}, points)
        points += [] if today is None else [today]
        notes += _left_out(served, points)
    return points, notes


def _draw(picture: str, svg: Path | None, png: Path | None) -> None:
    if svg is not None:
        write_file(svg, picture.encode())
    if png is not None:
        write_file(png, as_png(picture))


def _served(config: str | None, replay: str | None, since: str, until: str | None) -> Counter[str]:
    """How many requests of the log each model answered."""
    return Counter(asked.model for asked in read_log(load_offline(config), replay, since, until) if asked.answered)


def _left_out(served: Counter[str], points: Iterable[Point]) -> list[str]:
    """Of how much of the log today's policy is drawn."""
    known = {point.name for point in points if point.kind == "model"}
    others = [(name, count) for name, count in served.most_common() if name not in known]
    if served and not others:
        return []
    whole, left = served.total(), sum(count for _, count in others)
    if left == whole:
        told = "None of its models was evaluated" if served else "The log has no answers in this time"
        return [f"{told}: {TODAY} is not drawn."]
    named = ", ".join(f"{name} {count:,}" for name, count in others[:MOST_NAMED]) + (", ..." if len(others) > MOST_NAMED else "")
    share = f"{whole - left:,} of {whole:,} answers of the log ({(whole - left) / whole:.1%})"
    return [f"{TODAY} is drawn by {share}: the others came from models that were not evaluated: {named}."]
