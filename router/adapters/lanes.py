"""The ways to call providers, made when a configuration first needs them."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from router.adapters.upstream.http1 import Http1Upstream
from router.dispatch import AdapterLane, Dispatcher
from router.errors import ConfigError, RouterError
from router.ports import Upstream
from router.snapshot import Simulation, Snapshot

if TYPE_CHECKING:
    from router.sim.server import Simulator


class Lanes:
    """Makes each lane once, and closes it with the service."""

    def __init__(self, stack: AsyncExitStack) -> None:
        """`stack` closes what is made."""
        self._stack = stack
        self._wire: Upstream | None = None
        self._second_wire: Upstream | None = None
        self._adapter: AdapterLane | None = None
        self._simulators: dict[Simulation, Simulator] = {}
        """By how they behave; one behaviour keeps its address over reloads."""

    async def with_simulator(self, snapshot: Snapshot) -> Snapshot:
        """Start the simulated providers that a configuration names without an address."""
        waiting = [provider for provider in snapshot.providers.values() if provider.kind == "sim" and not provider.endpoint.port]
        if not waiting:
            return snapshot
        from router.sim.server import Simulator

        for provider in waiting:
            wanted = provider.simulation
            found = self._simulators.get(wanted)
            if found is None:
                found = Simulator(seed=wanted.seed, speed=wanted.speed, faults=wanted.faults)
                self._simulators[wanted] = await self._stack.enter_async_context(found)
                for model in wanted.down:
                    found.outage(model, True)
            provider.endpoint.host, port = found.base_url.split("/")[2].rsplit(":", 1)
            provider.endpoint.port = int(port)
        return snapshot

    async def dispatcher(self, snapshot: Snapshot) -> Dispatcher:
        """What the configuration needs of the ways to call providers; what was made once is used again.

        Raises:
            ConfigError: an extra is missing.
        """
        if self._wire is None:
            self._wire = Http1Upstream()
            self._stack.push_async_callback(self._wire.close)
        providers = snapshot.providers.values()
        if self._second_wire is None and any(provider.endpoint.by_second_wire for provider in providers):
            from router.adapters.upstream.http2 import PyreqwestUpstream

            self._second_wire = PyreqwestUpstream()
            self._stack.push_async_callback(self._second_wire.close)
        if self._adapter is None and any(provider.lane == "litellm" for provider in providers):
            from router.adapters.upstream.litellm_lane import LitellmLane

            lane = LitellmLane()
            try:
                await lane.warm()
            except RouterError as exc:
                raise ConfigError(f"providers: {exc}") from exc
            self._stack.push_async_callback(lane.close)
            self._adapter = lane
        return Dispatcher(wire=self._wire, second_wire=self._second_wire, adapter=self._adapter)
