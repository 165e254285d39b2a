"""`faregate sim`: the simulated providers on a port of their own."""

from __future__ import annotations

import asyncio
import signal
from typing import Annotated

import typer

from router.errors import ConfigError


def command(
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535)] = 4010,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    seed: Annotated[int, typer.Option(help="The same seed gives the same answers.")] = 0,
    speed: Annotated[float, typer.Option(help="Divides all latencies.", min=0.001)] = 1.0,
    faults: Annotated[bool, typer.Option(help="Let the models fail as often as their profiles say.")] = True,
    control: Annotated[bool, typer.Option(help="Serve POST /sim/control and GET /sim/billed too.")] = False,
) -> None:
    """Serve the simulated providers: OpenAI's wire, real list prices, no key, no network."""
    try:
        asyncio.run(_serve(port=port, host=host, seed=seed, speed=speed, faults=faults, control=control))
    except OSError as exc:
        raise ConfigError(f"sim: cannot listen on {host}:{port}: {exc.strerror or exc}. Choose another with --port.") from None


async def _serve(*, port: int, host: str, seed: int, speed: float, faults: bool, control: bool) -> None:
    from router.domain.money import format_usd
    from router.sim.server import Simulator

    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    async with Simulator(seed=seed, speed=speed, faults=faults, control=control, host=host, port=port) as sim:
        typer.echo(f"Simulated providers at {sim.base_url}: {', '.join(sim.app.profiles)}")
        await ended.wait()
        typer.echo(f"Billed {sim.billed.calls_total:,} calls, {format_usd(sim.billed.nusd)} USD")
