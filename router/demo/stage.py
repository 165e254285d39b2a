"""The stage of the demonstration: simulated providers and the real router, in one process, on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from router.ports import Ledger
from router.serving import RunningApp
from router.settings import load_snapshot
from router.sim.server import Simulator

CONFIG: Final = Path(__file__).with_name("demo.yaml")
"""The same as `config/demo.yaml`; here so that an installed copy has it."""
_DRAIN_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Stage:
    """Everything that runs while the demonstration does."""

    sim: Simulator
    app: RunningApp

    @property
    def ledger(self) -> Ledger:
        return self.app.service.ledger

    def states(self) -> Mapping[str, str]:
        """How the router judges each deployment now: `up`, `cooldown`, `probe` or `busy`."""
        service = self.app.service
        return {
            name: service.fleet.view(name, deployment.max_in_flight).health for name, deployment in service.snapshot.deployments.items()
        }

    async def drained(self) -> None:
        """Wait until no attempt is open and everything is booked.

        Raises:
            TimeoutError: something is still held after ten seconds.
        """
        async with asyncio.timeout(_DRAIN_SECONDS):
            # The store is the truth here, and it tells nobody when it changes.
            while self.app.service.live or any(state.held_nusd for state in await self.ledger.bucket_states()):  # noqa: ASYNC110
                await asyncio.sleep(0.01)


@asynccontextmanager
async def open_stage(*, folder: Path, seed: int, scale: float, faults: bool) -> AsyncIterator[Stage]:
    """Start simulator and router; the books are a file in `folder`. `scale` divides the simulated latencies."""
    async with Simulator(seed=seed, speed=scale, faults=faults) as sim:
        loaded = load_snapshot(str(CONFIG), environ={"FAREGATE_SIM_URL": sim.base_url})
        server = replace(loaded.server, store=str(folder / "ledger.sqlite"), log_requests=False)
        async with RunningApp(replace(loaded, server=server), port=0, run_folder=str(folder)) as app:
            yield Stage(sim, app)
