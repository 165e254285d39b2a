"""`faregate frontier`: cost and quality of models from an evaluation, and where today's policy lies between them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from router.commands.files import write_file
from router.commands.options import Config
from router.commands.replaying import Replay, Since, Until, read_log
from router.replay.evaluation import Point, Score, points_of, policy_point, read_lines
from router.replay.picture import as_png, frontier_svg
from router.replay.report import Table, as_text, usd
from router.settings.offline import load_offline


def command(
    scores: Annotated[Path, typer.Argument(help="Scores, as `faregate evaluate` writes them.")],
    svg: Annotated[Path | None, typer.Option(help="File for a picture, SVG.")] = None,
    png: Annotated[Path | None, typer.Option(help="File for the picture as PNG; needs the extra `png`.")] = None,
    config: Config = None,
    replay: Replay = None,
    since: Since = "30d",
    until: Until = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; money in nano-USD.")] = False,
) -> None:
    """Print, and draw, which models nothing else beats in cost and quality. With --config or --replay, today's policy is placed
    among them: the models that served the log, by their shares of its requests.
    """
    latest = {(one.prompt, one.model): one for one in read_lines(scores, Score)}
    points = points_of(latest.values())
    if (config is not None or replay is not None) and (today := _today(config, replay, since, until, points)) is not None:
        points.append(today)
    if svg is not None or png is not None:
        _draw(frontier_svg(points, title=f"Cost and quality: {scores.name}"), svg, png)
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(points), indent=2).decode())
        return
    rows = [(one.name, one.kind, f"{one.quality:.3f}", usd(one.cost_nusd), "yes" if one.on_frontier else "") for one in points]
    prompts = points[0].prompts if points else 0
    table = Table(title="", columns=("name", "kind", "score", "USD each", "on the frontier"), rows=rows)
    typer.echo(as_text([f"{prompts:,} prompts that all models answered."], [table]))


def _draw(picture: str, svg: Path | None, png: Path | None) -> None:
    if svg is not None:
        write_file(svg, picture.encode())
    if png is not None:
        write_file(png, as_png(picture))


def _today(config: str | None, replay: str | None, since: str, until: str | None, points: list[Point]) -> Point | None:
    requests = read_log(load_offline(config), replay, since, until)
    served = Counter(asked.model for asked in requests if asked.answered)
    return policy_point("today's policy", {name: float(count) for name, count in served.items()}, points)
