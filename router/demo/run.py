"""One run of the demonstration, from the first line to the last."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import msgspec

from router.demo.acts import ACTS
from router.demo.closing import NEXT_STEPS, closing, figures_of
from router.demo.plain import PlainScreen
from router.demo.show import Outcome, Screen, Show
from router.demo.stage import open_stage
from router.demo.traffic import Traffic
from router.demo.watch import Watch

FAST_SCALE: Final = 50.0
"""With `--fast`, simulated seconds per second of the wall."""
SCRIPT_MINUTES: Final = 2.5
"""What the script takes at scale 1, about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line says."""

    seed: int = 1
    fast: bool = False
    plain: bool = False
    minutes: float | None = None
    """How long the script should take, about; None: `SCRIPT_MINUTES`."""
    report: Path | None = None
    """File for the figures of all acts, as JSON."""

    @property
    def scale(self) -> float:
        """Simulated seconds per second of the wall."""
        if self.fast:
            return FAST_SCALE
        return 1.0 if self.minutes is None else SCRIPT_MINUTES / self.minutes


async def run(options: Options) -> int:
    """Play all acts. The exit status is 0 if the books equal the bill, else 1."""
    with TemporaryDirectory(prefix="faregate-demo-") as folder:
        async with open_stage(folder=Path(folder), seed=options.seed, scale=options.scale, faults=not options.fast) as stage:
            sys.stdout.write(f"Simulated providers at {stage.sim.base_url}, router at {stage.app.base_url}\n")
            sys.stdout.flush()
            watch = Watch(stage.ledger)
            outcomes: dict[str, Outcome] = {}
            with _screen(plain=options.plain) as screen:
                traffic = Traffic(options.seed)
                show = Show(
                    base_url=stage.app.base_url,
                    sim=stage.sim,
                    watch=watch,
                    traffic=traffic,
                    screen=screen,
                    scale=options.scale,
                    states=stage.states,
                    drained=stage.drained,
                )
                async with _redrawn(show):
                    for act in ACTS:
                        show.act = act.title
                        screen.begin(act.title, act.text)
                        outcomes[act.title] = await act.play(show)
                        screen.end(outcomes[act.title])
            await stage.drained()
            last = await closing(watch, stage.ledger, stage.sim.billed)
            outcomes[last.title] = last
    _print_closing(last)
    if options.report is not None:
        options.report.write_bytes(msgspec.json.format(msgspec.json.encode(figures_of(outcomes))) + b"\n")
    return 0 if last.figures["difference_nusd"] == 0 and last.figures["drift"] == 0 else 1


@asynccontextmanager
async def _redrawn(show: Show) -> AsyncIterator[None]:
    drawing = asyncio.create_task(show.redraw_forever())
    try:
        yield
    finally:
        drawing.cancel()
        with suppress(asyncio.CancelledError):
            await drawing


@contextmanager
def _screen(*, plain: bool) -> Iterator[Screen]:
    if plain or not sys.stdout.isatty():
        yield PlainScreen(sys.stdout)
        return
    # Imported here: whoever pipes the lines into a file does not need the terminal library.
    from rich.console import Console

    from router.demo.live import LiveScreen

    with LiveScreen(Console()) as screen:
        yield screen


def _print_closing(outcome: Outcome) -> None:
    lines = [f"\n{outcome.title}", *(f"  {line}" for line in outcome.lines), "\nWith real models:", *(f"  {step}" for step in NEXT_STEPS)]
    sys.stdout.write("\n".join(lines) + "\n")
