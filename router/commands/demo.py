"""`faregate demo`: teams, providers, an outage and budgets, simulated, in the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    fast: Annotated[bool, typer.Option("--fast", help="The whole script in seconds; providers then fail only on cue.")] = False,
    plain: Annotated[bool, typer.Option("--plain", help="Lines instead of a live view; so too when the output is no terminal.")] = False,
    seed: Annotated[int, typer.Option(help="The same seed gives the same requests and answers.")] = 1,
    minutes: Annotated[float | None, typer.Option(help="About how long the script takes.", min=0.05, max=60)] = None,
    report: Annotated[Path | None, typer.Option(help="Write the figures of all acts to this file, as JSON.")] = None,
) -> None:
    """Watch the router work: simulated providers with real list prices, no key, no network."""
    if report is not None and not report.absolute().parent.is_dir():
        raise typer.BadParameter(f"{report.parent} is no folder: the report could not be written", param_hint="--report")
    # Said before anything is imported, so that nobody waits before an empty screen.
    typer.echo("faregate demo: four teams, four simulated models, six acts. Ctrl-C ends it.")
    import uvloop

    from router.demo.run import Options, run

    raise typer.Exit(uvloop.run(run(Options(seed=seed, fast=fast, plain=plain, minutes=minutes, report=report))))
