"""`faregate alerts`: who is told, and whether it works."""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
import time
from typing import Annotated

import typer

from router.alerts.config import Receiver
from router.alerts.events import Event
from router.alerts.ports import NotDelivered
from router.commands.options import Config
from router.errors import ConfigError
from router.settings.env import CONFIG
from router.settings.findings import one_of

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Show who is told of alerts, and send a test.")


@app.command("list")
def show(config: Config = None) -> None:
    """Show every receiver: its kind, where it is (without what may be a secret), and what it is told of."""
    receivers = _receivers(config)
    if not receivers:
        print("Nobody is told: the configuration has no `notify`.", file=sys.stderr)
        return
    rows = [("NAME", "KIND", "ADDRESS", "EVENTS")]
    rows += [(each.name, each.kind, each.address, ", ".join(sorted(each.events)) or "all") for each in receivers]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@app.command("test")
def try_out(
    name: Annotated[str, typer.Argument(help="Receiver, as `notify` names it.", show_default=False)],
    config: Config = None,
) -> None:
    """Send a test to a receiver, once; exit 1 if it did not take it."""
    receivers = {receiver.name: receiver for receiver in _receivers(config)}
    receiver = receivers.get(name)
    if receiver is None:
        raise ConfigError(f'notify: there is no receiver "{name}"{one_of(name, receivers)}')
    failure = asyncio.run(_try(receiver))
    if failure is not None:
        print(f"{name}: {failure}", file=sys.stderr)
        raise typer.Exit(1)
    print(f"{name} took it: {receiver.address}")


def _receivers(config: str | None) -> tuple[Receiver, ...]:
    from router.settings import load_snapshot

    path = config or os.environ.get(CONFIG)
    if path is None:
        raise ConfigError("notify: name the configuration with --config FILE or FAREGATE_CONFIG.")
    return load_snapshot(path).receivers


async def _try(receiver: Receiver) -> str | None:
    """What went wrong; None if nothing did."""
    from router.adapters.upstream.http1 import Http1Upstream
    from router.alerts.receivers import sender_of

    event = Event(
        kind="test",
        severity="info",
        subject="This is a test of alerts",
        text="If you can read it, alerts reach you. Nothing is wrong.",
        fields={"receiver": receiver.name},
        at_ms=time.time_ns() // 1_000_000,
        id=f"alert_{secrets.token_hex(12)}",
    )
    http = Http1Upstream()
    try:
        await sender_of(receiver, http, clock=time.time).send(event)
    except NotDelivered as error:
        return str(error)
    finally:
        await http.close()
    return None
