"""`faregate plan`: what a change of the configuration would do, on the requests of a log."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer

from router.commands.replaying import Replay, Since, Until, read_log
from router.learned.feedback import kept_prompts
from router.replay.compare import compare
from router.replay.observed import Observed
from router.replay.reading import Reading
from router.replay.report import as_markdown, as_text, notes_of, tables_of
from router.replay.simulate import World, reproduced, simulate
from router.replay.thresholds import MEASURES, Threshold, broken, parse_threshold
from router.settings.offline import load_offline

EXIT_BROKEN: Final = 1


def command(
    old: Annotated[str, typer.Argument(help="Configuration in force.", show_default=False)],
    new: Annotated[str, typer.Argument(help="Configuration that is to replace it.", show_default=False)],
    replay: Replay = None,
    since: Since = "30d",
    until: Until = None,
    prompts: Annotated[
        Path | None, typer.Option(help="Prompts of these requests, as server.keep_prompts wrote them: rules are asked what they say.")
    ] = None,
    fail_on: Annotated[
        list[str] | None, typer.Option(help=f"Exit 1 beyond this: cost:+5%, quality:-1%, refusals:+0 ...; may be given again. {MEASURES}.")
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown, for a pull request.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; money in nano-USD.")] = False,
) -> None:
    """Replay the requests of a log under two configurations: what goes elsewhere, what it costs, what budgets would refuse.

    Nothing is sent. Requests that were refused then are not in the log, and what clients would do differently is not known.
    """
    thresholds = _thresholds(fail_on or [])
    snapshots = load_offline(old), load_offline(new)
    requests = read_log(snapshots[0], replay, since, until)
    observed = Observed(requests)
    kept = {} if prompts is None else kept_prompts(prompts)
    old_world, new_world = (World(each, observed, reading=Reading(each, kept) if kept else None) for each in snapshots)
    worlds = old_world, new_world
    for asked in requests:
        worlds[0].remember(asked)
    served = simulate(worlds[0], requests), simulate(worlds[1], requests)
    told = compare(worlds, requests, served, reproduced(worlds, requests))
    found = broken(told, thresholds) if requests else ["the log has no requests"] * bool(thresholds)
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode({"plan": told, "broken": found}), indent=2).decode())
    elif markdown:
        typer.echo(as_markdown(f"Plan: {old} to {new}", [*notes_of(told), *(f"**{line}**" for line in found)], tables_of(told)))
    else:
        typer.echo(as_text(notes_of(told), tables_of(told)))
    for line in found:
        typer.echo(f"beyond {line}", err=True)
    if found:
        raise typer.Exit(EXIT_BROKEN)


def _thresholds(texts: list[str]) -> list[Threshold]:
    try:
        return [parse_threshold(text) for text in texts]
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--fail-on") from None
