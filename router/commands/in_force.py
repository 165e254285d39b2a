"""Which configuration the service serves, where that is not the file: it was rolled back to an earlier version."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from router.adapters.choose import must_exist, store_of, visiting
from router.controls import Desk
from router.domain.controls import Pin
from router.errors import ConfigError
from router.snapshot import Snapshot

LOOK_SECONDS: Final = 1.0
"""Longest wait for a store that a check would only like to ask."""


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
