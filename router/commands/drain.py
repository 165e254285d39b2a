"""`faregate drain`: call a provider or a deployment no more."""

from __future__ import annotations

from typing import Annotated

import typer

from router.commands.changes import NO_REASON, Reason, Until, change, ending, until_ms, warn_unknown
from router.commands.options import Books, Store

What = Annotated[str, typer.Argument(help="Provider, or deployment as provider/id.", show_default=False)]


def command(what: What, reason: Reason = NO_REASON, until: Until = None, store: Store = None, config: Books = None) -> None:
    """Send no new call to a provider or a deployment; what is under way ends. Routes go on with their other candidates."""
    ends_ms = until_ms(until)
    known = change(store, config, lambda desk: desk.drain(what, reason=reason, until_ms=ends_ms))
    warn_unknown(known)
    print(f"{what} is drained{ending(ends_ms)}.")
