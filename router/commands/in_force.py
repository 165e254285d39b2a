"""Which configuration the service serves, where that is not the file: it was rolled back to an earlier version."""

from __future__ import annotations

import asyncio
import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from router.adapters.choose import default_store, file_of, must_exist, simulated_store, store_of, visiting
from router.controls import Desk
from router.domain.controls import Pin
from router.errors import ConfigError
from router.settings.env import CONFIG, REDIS_URL
from router.settings.findings import Finding
from router.settings.loader import DocumentError, parse
from router.settings.references import resolve
from router.snapshot import Snapshot
from router.versions import Versions

LOOK_SECONDS: Final = 1.0
"""Longest wait for a store that a check would only like to ask."""
_STORE: Final = re.compile(r"""(?m)^[^#\n]*?(?<![\w.-])store["']?[ \t]*:[ \t]*["']?(\$\{[^}\n]*\}[^\s"',}]*|[^\s"',}#]+)""")
"""Where a text that is no YAML names its store."""


def told(pin: Pin | None, snapshot: Snapshot) -> str:
    """What people must know who look at a file that is not in force; empty: it is, as far as the store knows."""
    if pin is None or pin.version == snapshot.version:
        return ""
    when = datetime.fromtimestamp(pin.at_ms / 1000, UTC)
    return (
        f"the service was rolled back to version {pin.version} on {when:%Y-%m-%d %H:%M} UTC by {pin.by} ({pin.reason}), and serves that,"
        f" not {snapshot.source} (version {snapshot.version})"
    )


async def pin_of(snapshot: Snapshot) -> Pin | None:
    """To what people rolled back; None: to nothing, or the store cannot be asked."""
    try:
        async with visiting(must_exist(store_of(snapshot)), timeout_seconds=LOOK_SECONDS) as ledger:
            return (await Desk(ledger.control_store(), who="", via="").state()).pin
    except ConfigError:
        # There are no books yet, or not from here: a check of a file needs none.
        return None


def rolled_back(config: str | None, error: ConfigError, *, store: str | None = None) -> Snapshot:
    """What is served although its file has errors: the version that the service was rolled back to.

    It is served only if it names the ledger in which it was found as its own: nobody's money is counted in other books because of
    a typing error. `error` says what is wrong with the file; `store` is the ledger, if that is known otherwise.

    Raises:
        ConfigError: nothing was rolled back; or it cannot be served, and the message says why. What is wrong with the file is in it.
    """
    path = config or os.environ.get(CONFIG)
    if not path or not Path(path).is_file():
        raise error
    try:
        stores = [must_exist(store)] if store else _stores(Path(path))
        found = [each for each in (asyncio.run(_served(known, path, own=not store)) for known in stores) if each is not None]
    except ConfigError as exc:
        raise ConfigError(f"{error}\n{exc}") from None
    if not found:
        raise error
    if len(found) > 1:
        raise ConfigError(f"{error}\n{path}: {' and '.join(stores)} were both rolled back; which one is meant, only the file can say")
    return found[0]


async def _served(store: str, path: str, *, own: bool) -> Snapshot | None:
    """The version that a ledger says is served; None: it says nothing."""
    pin: Pin | None = None
    try:
        async with visiting(store) as ledger:
            pin = (await Desk(ledger.control_store(), who="", via="").state()).pin
            if pin is None:
                return None
            snapshot = await Versions(ledger.shelf()).load(pin.version, path)
        if own and store_of(snapshot) != store:
            raise ConfigError("it keeps its books elsewhere than this file seems to")
    except ConfigError as exc:
        if pin is None:
            raise ConfigError(f"{path}: whether the service was rolled back is not known: {exc}") from None
        raise ConfigError(
            f"{path}: the service was rolled back to version {pin.version}, which cannot be served: {exc}; mend the file"
        ) from None
    return snapshot


def _stores(path: Path) -> list[str]:
    """Where the books of a file with errors may be, if there are any; written as `store_of` does.

    Raises:
        ConfigError: nobody can say.
    """
    chosen = _named(path) or os.environ.get(REDIS_URL)
    files = {each: file_of(each) for each in ([chosen] if chosen else [default_store(), simulated_store()])}
    return [each if file is None else os.path.abspath(file) for each, file in files.items() if file is None or Path(file).exists()]


def _named(path: Path) -> str | None:
    """The store that a file with errors names; None: it names none.

    Raises:
        ConfigError: it cannot be read.
    """
    text = path.read_bytes()
    try:
        data: Any = parse(text, str(path)).data
        server = data.get("server") if isinstance(data, dict) else None
        named = [server.get("store")] if isinstance(server, dict) else []
    except DocumentError:
        named = list(dict.fromkeys(_STORE.findall(text.decode(errors="replace"))))
    unresolved: list[Finding] = []
    given = [resolve(each, os.environ, folder=path.parent, findings=unresolved) for each in named if each is not None]
    if unresolved or len(given) > 1 or not all(isinstance(each, str) for each in given):
        raise ConfigError(f"{path}: whether the service was rolled back is not known: `server.store` cannot be read; mend the file")
    if not given:
        return None
    file = file_of(given[0])
    return str(given[0]) if file is None else str(path.parent / file)
