"""The configuration in force, its history, reloads and roll-backs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable
from pathlib import Path
from typing import Annotated, Any, Final

from fastapi import Path as PathParameter
from fastapi import Request

from router.admin.office import Office
from router.admin.roles import OPERATOR, VIEWER, Endpoint
from router.admin.shapes import (
    ConfigStatus,
    PinCard,
    ReasonGiven,
    RollbackGiven,
    VersionCard,
    VersionList,
    VersionText,
    WorkerConfig,
)
from router.admin.views import moment
from router.errors import INVALID_REQUEST, NOT_FOUND, ConfigError, RouterError
from router.reload import Reloader

RELOAD_SECONDS: Final = 15.0
"""Longest wait for a reload to come to an end."""

Version = Annotated[str, PathParameter(pattern=r"^[0-9a-f]{12}$")]


def add(endpoint: Endpoint) -> None:
    """Add the endpoints."""
    _add_reads(endpoint)
    _add_changes(endpoint)


async def _status(office: Office) -> ConfigStatus:
    service = office.service
    pin, workers = service.controls.state.pin, await office.peers.ask_all("config")
    return ConfigStatus(
        version=service.snapshot.version,
        source=service.snapshot.source,
        loaded_at=moment(int(service.loaded_at * 1000)),
        warnings=list(service.snapshot.warnings),
        pin=None if pin is None else PinCard(version=pin.version, by=pin.by, at=moment(pin.at_ms), reason=pin.reason),
        can_reload=service.reloader is not None,
        workers=sorted((_worker(each) for each in workers), key=lambda worker: worker.worker),
    )


def _worker(told: dict[str, Any]) -> WorkerConfig:
    return WorkerConfig(
        worker=told["worker"],
        version=told["version"],
        loaded_at=moment(int(told["loaded_at"] * 1000)),
        findings=told["findings"].splitlines(),
        refused_at=moment(int(told["refused_at"] * 1000)) if told["refused_at"] else None,
        needs_restart=told["needs_restart"],
    )


def _add_reads(endpoint: Endpoint) -> None:
    office = endpoint.office

    @endpoint.get("/config", VIEWER)
    async def status() -> ConfigStatus:
        """Which configuration each worker serves, and what was wrong with the file at the last try to load it."""
        return await _status(office)

    @endpoint.get("/config/versions", VIEWER)
    async def versions() -> VersionList:
        """Configurations that were served, the newest first: the last 20 are kept."""
        serving = office.service.snapshot.version
        found = await office.service.versions.all()
        return VersionList(
            data=[
                VersionCard(version=kept.version, source=kept.source, at=moment(kept.at_ms), serving=kept.version == serving)
                for kept in found
            ]
        )

    @endpoint.get("/config/versions/{version}", VIEWER)
    async def version_text(version: Version) -> VersionText:
        """One of them, as it is understood: shorthand written out, secrets as references."""
        text = await office.service.versions.text(version)
        if text is None:
            raise RouterError(NOT_FOUND, f"Version {version} is not kept.")
        return VersionText(version=version, configuration=await asyncio.to_thread(_understood, text, office.service.snapshot.source))


def _understood(text: bytes, source: str) -> dict[str, Any]:
    from router.settings.effective import effective_data
    from router.settings.load import load_text, price_book

    return effective_data(load_text(text, source=source, environ=os.environ, price_book=price_book(), folder=Path(source).parent).settings)


def _add_changes(endpoint: Endpoint) -> None:
    office = endpoint.office

    @endpoint.post("/config/reload", OPERATOR)
    async def reload(request: Request, given: ReasonGiven) -> ConfigStatus:
        """Read the file now, at all workers of all replicas. 400 with all findings if it has errors: the one before stays in force."""
        reloader = _reloader(office)
        status = await _reloaded(office, reloader, endpoint.desk(request).reload(reason=given.reason))
        if status.pin is not None:
            await _refuse_broken(reloader, f"The file has errors; version {status.pin.version} stays in force.")
        return status

    @endpoint.post("/config/rollback", OPERATOR)
    async def rollback(request: Request, given: RollbackGiven) -> ConfigStatus:
        """Serve a version that was served before, whatever the file says, at all replicas, until it is unpinned; also after a restart."""
        reloader = _reloader(office)
        service, admin = office.service, endpoint.admin(request)
        before = await service.versions.load(given.version, service.snapshot.source)
        allowed = before.admins.get(admin.name)
        if allowed is None or allowed.role == VIEWER:
            message = f"Administrator '{admin.name}' could not take it back: version {given.version} does not let him change anything."
            raise RouterError(INVALID_REQUEST, message)
        return await _reloaded(office, reloader, endpoint.desk(request).pin(given.version, reason=given.reason))

    @endpoint.post("/config/unpin", OPERATOR)
    async def unpin(request: Request, given: ReasonGiven) -> ConfigStatus:
        """Serve the file again. 400 with all findings if it has errors: the version stays in force."""
        reloader = _reloader(office)
        if (pin := office.service.controls.state.pin) is not None:
            await _refuse_broken(
                reloader, f"The file has errors: mend it first. Version {pin.version} stays in force, also after a restart."
            )
        return await _reloaded(office, reloader, endpoint.desk(request).unpin(reason=given.reason))


def _reloader(office: Office) -> Reloader:
    if office.service.reloader is None:
        raise RouterError(INVALID_REQUEST, "The configuration of this process is fixed: it was not read from a file.")
    return office.service.reloader


async def _refuse_broken(reloader: Reloader, message: str) -> None:
    """Raises: RouterError: 400 with all findings, if the file has any."""
    try:
        await reloader.read()
    except ConfigError as exc:
        raise RouterError(INVALID_REQUEST, message, details={"findings": str(exc).splitlines()}) from None


async def _reloaded(office: Office, reloader: Reloader, change: Awaitable[None]) -> ConfigStatus:
    """Make a change that has all workers read their configuration, and wait until this one has; the others do so within a second.

    Raises:
        RouterError: 400 with all findings.
    """
    tried = reloader.next_try()
    try:
        await change
        await office.service.controls.poll()
        await asyncio.wait_for(tried, RELOAD_SECONDS)
    except TimeoutError:
        raise ConfigError("the configuration could not be read in time; /admin/v1/config tells what came of it") from None
    if reloader.findings:
        details: dict[str, object] = {"findings": reloader.findings.splitlines()}
        raise RouterError(INVALID_REQUEST, "The configuration has errors; the one before stays in force.", details=details)
    return await _status(office)
