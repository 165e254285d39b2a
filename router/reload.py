"""Hot reload: a configuration that changed is read whole, checked and swapped in. A bad one never replaces a good one."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final, Protocol

import structlog

from router.alerts import emit
from router.alerts.local import config_rejected
from router.domain.addresses import is_loopback
from router.domain.controls import Pin
from router.errors import ConfigError, StoreUnavailable
from router.metrics import Metrics
from router.ports import Endpoint
from router.snapshot import ServerSettings, Snapshot

log = structlog.get_logger("faregate.reload")

RELOAD_SECONDS: Final = 2.0
"""How often the file is looked at."""
SETTLED_SECONDS: Final = 0.25
"""A file must not have changed for so long before it is read: half of it may be a configuration without budgets."""
FIXED: Final = {
    "host": "host",
    "port": "port",
    "workers": "workers",
    "store": "store",
    "shared_store": "shared_store",
    "ledger": "ledger",
    "lease_seconds": "lease",
    "store_timeout_seconds": "store_timeout",
    "drain_seconds": "drain",
    "drain_delay_seconds": "drain_delay",
    "max_body_bytes": "max_body",
    "max_header_bytes": "max_header",
    "max_connections": "max_connections",
    "log_requests": "log_requests",
    "keep_prompts": "keep_prompts",
    "admin_host": "admin.host",
    "admin_port": "admin.port",
}
"""Fields of `ServerSettings` that hold for the life of a process, and how the file names them."""


def is_open_door(snapshot: Snapshot, host: str) -> bool:
    """Whether everybody who reaches the address could spend: no key in the configuration, and not only this machine."""
    return not (snapshot.keys or snapshot.server.allow_anonymous or is_loopback(host))


def goes_on_alone(snapshot: Snapshot) -> bool:
    """Whether calls go on while the store is away: any `when_store_is_down` is not `closed`."""
    return snapshot.server.when_store_is_down != "closed" or any(budget.when_down != "closed" for budget in snapshot.budgets)


def needs_restart(new: ServerSettings, old: ServerSettings) -> list[str]:
    """The fields under `server` that differ and take effect only when the service is started again."""
    return [shown for field, shown in FIXED.items() if getattr(new, field) != getattr(old, field)]


def keep_fixed(new: Snapshot, old: Snapshot) -> Snapshot:
    """The new configuration with what is fixed taken from the old one, and with the connections to providers that did not change."""
    for name, provider in new.providers.items():
        before = old.providers.get(name)
        # Certificates are read when a connection is made, and a new file may lie under the same name.
        if before is not None and before.endpoint.ca_file is None and _same(provider.endpoint, before.endpoint):
            # Nobody has seen the new one yet.
            object.__setattr__(provider, "endpoint", before.endpoint)
    fixed = {field: getattr(old.server, field) for field in FIXED}
    return dataclasses.replace(new, server=dataclasses.replace(new.server, **fixed))


def _same(one: Endpoint, other: Endpoint) -> bool:
    return all(getattr(one, field.name) == getattr(other, field.name) for field in dataclasses.fields(Endpoint))


def reload_notes(reloader: Reloader, pin: Pin | None) -> list[str]:
    """What is worth knowing of the configuration that is served. Findings are not in it: anybody may read this."""
    notes = []
    if pin is not None:
        notes.append(f"the configuration was rolled back to version {pin.version}")
    if reloader.findings:
        refused = datetime.fromtimestamp(reloader.refused_at, UTC)
        notes.append(f"the last reload was refused at {refused:%Y-%m-%dT%H:%M:%SZ}; the configuration before stays in force")
    return notes


class Target(Protocol):
    """What is reloaded."""

    snapshot: Snapshot
    metrics: Metrics
    worker: int
    host: str
    """Address that is listened on."""

    async def swap(self, snapshot: Snapshot) -> None:
        """Serve by this configuration from now on. Raises `ConfigError` and `StoreUnavailable`; then nothing has changed."""
        ...


Signature = tuple[int, int, int] | None


class Reloader:
    """Watches the file of a configuration, and reads it when it changed or when somebody asks."""

    def __init__(
        self, target: Target, load: Callable[[], Snapshot], *, instead: Callable[[], Awaitable[Snapshot | None]] | None = None
    ) -> None:
        """`load` reads and checks the configuration; it raises `ConfigError` with all findings.

        `instead` gives what people rolled back to, and is served in place of the file; None: they did not.
        """
        self._target = target
        self._load = load
        self._instead = instead
        self._path = target.snapshot.source
        self._goes_on_alone = goes_on_alone(target.snapshot)
        self._seen = _signature(self._path)
        self._asked = asyncio.Event()
        self.findings = ""
        """What was wrong at the last try; empty if nothing was."""
        self.refused_at = 0.0
        """When the last try failed, Unix seconds; 0: it did not."""
        self.waiting: tuple[str, ...] = ()
        """Fields that differ in the file and hold only from the next start on."""
        self._tried: list[asyncio.Future[None]] = []

    def soon(self) -> None:
        """Read the configuration now, whether the file changed or not."""
        self._asked.set()

    def next_try(self) -> asyncio.Future[None]:
        """What is done when the next try to read the configuration, of those that begin from now on, has come to its end."""
        tried: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tried.append(tried)
        return tried

    async def look(self) -> None:
        """Wait until somebody asks or a moment has passed, then reload if there is a reason."""
        with suppress(TimeoutError):
            async with asyncio.timeout(RELOAD_SECONDS):
                await self._asked.wait()
        found = _signature(self._path)
        if not self._asked.is_set() and (found is None or found == self._seen):
            return
        self._asked.clear()
        waiting, self._tried = self._tried, []
        try:
            await self._settled()
            seen = _signature(self._path)
            if await self.reload():
                self._seen = seen
        finally:
            for tried in waiting:
                if not tried.done():
                    tried.set_result(None)

    async def _settled(self) -> None:
        found = _signature(self._path)
        while found is not None:
            await asyncio.sleep(SETTLED_SECONDS)
            before, found = found, _signature(self._path)
            if found == before:
                return

    async def reload(self) -> bool:
        """Load and swap. False: the store did not answer, and it is to be tried again."""
        target = self._target
        try:
            kept = None if self._instead is None else await self._instead()
            snapshot = await self.read() if kept is None else self._closed(kept)
            waiting = needs_restart(snapshot.server, target.snapshot.server)
            if goes_on_alone(snapshot) and not self._goes_on_alone:
                waiting.append("when_store_is_down")
            await target.swap(snapshot)
        except ConfigError as exc:
            self._refused(str(exc))
            return True
        except StoreUnavailable as exc:
            target.metrics.reloaded(outcome="store_away")
            log.warning("the configuration is not reloaded before the budget store is back", reason=str(exc))
            return False
        self.findings, self.refused_at, self.waiting = "", 0.0, tuple(waiting)
        target.metrics.reloaded(outcome="ok")
        if not target.worker:
            self._say(snapshot, waiting, rolled_back=kept is not None)
        return True

    async def read(self) -> Snapshot:
        """What the file says now, whatever is served.

        Raises:
            ConfigError: all findings.
        """
        return self._closed(await asyncio.to_thread(self._load))

    def _closed(self, snapshot: Snapshot) -> Snapshot:
        host = self._target.host
        if is_open_door(snapshot, host):
            raise ConfigError(f"{self._path}: keys: without keys, everybody who reaches {host} could spend your money")
        return snapshot

    def _refused(self, findings: str) -> None:
        self.findings, self.refused_at = findings, time.time()
        self._target.metrics.reloaded(outcome="refused")
        emit(config_rejected(self._path, findings))
        # One worker speaks for all: they read the same file.
        if not self._target.worker:
            log.error("the configuration has errors; the one before stays in force", file=self._path, findings=findings)

    def _say(self, snapshot: Snapshot, waiting: list[str], *, rolled_back: bool) -> None:
        if rolled_back:
            log.warning("a configuration that was rolled back to is served, whatever the file says", version=snapshot.version)
        else:
            log.info("the configuration was reloaded", version=snapshot.version, file=self._path)
        for warning in snapshot.warnings:
            log.warning(warning)
        if waiting:
            fields = ", ".join(f"server.{name}" for name in waiting)
            log.warning(f"needs a restart: {fields} of the file differ from what is in force")


def _signature(path: str) -> Signature:
    """What changes with a file; None if there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
