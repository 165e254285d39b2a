"""`faregate resume`: let an experiment that was taken back begin anew."""

from __future__ import annotations

from typing import Annotated

import typer

from router.commands.changes import Why, change
from router.commands.options import Books, Store

What = Annotated[str, typer.Argument(help="Name of the experiment, or route/rule/name if several have it.", show_default=False)]


def command(what: What, reason: Why = "", store: Store = None, config: Books = None) -> None:
    """Let a canary that was taken back begin anew, in all processes: its share is as at the start, and what it did is forgotten."""
    target = change(store, config, lambda desk: desk.resume(what, reason=reason))
    print(f"{target} begins anew.")
