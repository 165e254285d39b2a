"""A port for administrators alone."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from router.errors import ConfigError
from router.snapshot import ServerSettings

if TYPE_CHECKING:
    from router.edge.gate import Gate

GRACE_SECONDS = 1


class Listening:
    """The server of a gate, on `server.admin`. It accepts what the main port accepts: the same bounds on heads and slow clients."""

    def __init__(self, gate: Gate, server: ServerSettings, *, shared: bool) -> None:
        """`shared`: all workers listen on the port, the kernel deals out connections."""
        self._gate = gate
        self._host = server.admin_host
        self.port = server.admin_port or 0
        self._shared = shared

    async def open(self) -> None:
        """Begin to listen.

        Raises:
            ConfigError: the address is taken or not ours, or every worker would have another port.
        """
        # It serves uvicorn; only a process that listens needs that.
        from router.serving import GateServer, listen, server_config

        if self._shared and not self.port:
            raise ConfigError("server.admin.port: with several workers, give a number: 0 would be another port for each.")
        listener = listen(self._host, self.port, shared=self._shared)
        self.port = listener.getsockname()[1]
        self._server = GateServer(server_config(self._gate, grace_seconds=GRACE_SECONDS))
        self._serving = asyncio.create_task(self._server.serve(sockets=[listener]), name="admin")
        while not self._server.started:
            if self._serving.done():
                self._serving.result()
            await asyncio.sleep(0.001)

    async def close(self) -> None:
        """Accept nothing more; what is under way has a moment to end."""
        self._server.end()
        await self._serving
