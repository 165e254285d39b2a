"""`faregate approve`: let a session go on that was paused because it ran away."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated

import typer

from router.adapters.choose import choose_store, must_exist, visiting
from router.commands.changes import operator
from router.commands.options import Books, Store
from router.controls import Desk
from router.runaway import approve


def command(
    token: Annotated[str, typer.Argument(help="Token of the refusal: its field `approval`.", show_default=False)],
    store: Store = None,
    config: Books = None,
) -> None:
    """Let a paused session go on; exit 1 if none is paused under this token. Workers know within two seconds."""
    name = asyncio.run(_approve(must_exist(choose_store(store, config)), token))
    if name is None:
        why = "it was approved already, the token belongs to another ledger, or the refusal is less than two seconds old (try again)"
        print(f"No session is paused under this token: {why}.", file=sys.stderr)
        raise typer.Exit(1)
    key, _, session = name.partition("|")
    print(f"session {session} of key {key or 'anonymous'} goes on")


async def _approve(store: str, token: str) -> str | None:
    async with visiting(store) as ledger:
        name = await approve(ledger.alert_store(), token)
        if name is not None:
            await Desk(ledger.control_store(), who=operator(), via="command").note_approval(name)
        return name
