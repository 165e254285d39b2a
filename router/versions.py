"""Configurations that were served before: the last ones are kept in the store, so that people can go back to one."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Final

import msgspec
import structlog

from router.domain.controls import Pin
from router.errors import ConfigError
from router.ports import Shelf
from router.snapshot import Snapshot

log = structlog.get_logger("faregate.versions")

MOST_KEPT: Final = 20
"""Versions that are kept; the oldest goes first."""


class KeptVersion(msgspec.Struct, frozen=True, kw_only=True):
    """A configuration that was accepted and served."""

    version: str
    source: str
    """The file that it was read from."""
    at_ms: int
    """When it was served first, or again; Unix time of the process."""


class Versions:
    """The last accepted texts of the configuration. Secrets are in them by reference only, as in the file."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    async def keep(self, snapshot: Snapshot, *, now_ms: int) -> None:
        """Keep the text of what is served now. What does not come from a file, or has changed since, is not kept.

        Raises:
            StoreUnavailable: the store does not answer.
        """
        found = await asyncio.to_thread(_text_of, snapshot)
        if found is None:
            return
        label = KeptVersion(version=snapshot.version, source=snapshot.source, at_ms=now_ms)
        await self._shelf.keep(snapshot.version, msgspec.json.encode(label), found)
        for old in (await self.all())[MOST_KEPT:]:
            await self._shelf.drop(old.version)

    async def all(self) -> list[KeptVersion]:
        """Those that are kept, the newest first."""
        found = [msgspec.json.decode(label, type=KeptVersion) for label in await self._shelf.labels()]
        return sorted(found, key=lambda kept: (-kept.at_ms, kept.version))

    async def text(self, version: str) -> bytes | None:
        """The text of one; None if it is not kept."""
        return await self._shelf.text(version)

    async def load(self, version: str, source: str) -> Snapshot:
        """Compile one with the environment and the price book of this process, as if it were the file `source`.

        Raises:
            ConfigError: it is not kept any more, or has errors by now.
            StoreUnavailable: the store does not answer.
        """
        text = await self.text(version)
        if text is None:
            raise ConfigError(f"{source}: version {version} is not kept any more")
        return await asyncio.to_thread(_compiled, text, source)

    async def at_start(self, pin: Pin | None, served: Snapshot) -> Snapshot:
        """What is to be served by a process that starts: what people rolled back to, else what it was started with.

        Raises:
            StoreUnavailable: the store does not answer.
        """
        if pin is None:
            return served
        try:
            return await self.load(pin.version, served.source)
        except ConfigError as exc:
            log.error("the configuration was rolled back to a version that cannot be loaded; the file is served", problem=str(exc))
            return served


def _text_of(snapshot: Snapshot) -> bytes | None:
    """The text of a snapshot's file, if that is still what the snapshot was made of."""
    try:
        text = Path(snapshot.source).read_bytes()
        return text if _compiled(text, snapshot.source).version == snapshot.version else None
    except (OSError, ConfigError):
        return None


def _compiled(text: bytes, source: str) -> Snapshot:
    # Not needed by a process that never goes back.
    from router.settings.load import load_text, price_book

    return load_text(text, source=source, environ=os.environ, price_book=price_book(), folder=Path(source).parent).snapshot
