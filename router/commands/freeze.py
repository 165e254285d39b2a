"""`faregate freeze`: refuse who asks, at once and on all replicas."""

from __future__ import annotations

from typing import Annotated

import typer

from router.commands.changes import NO_REASON, Reason, Until, change, ending, until_ms, warn_unknown
from router.commands.options import Books, Store

Who = Annotated[str, typer.Argument(help="team=NAME, key=NAME or its id, user=NAME, model=NAME, or all.", show_default=False)]


def command(who: Who, reason: Reason = NO_REASON, until: Until = None, store: Store = None, config: Books = None) -> None:
    """Refuse all requests of a team, key, user or model, or all there are: 403 with the reason. Streams under way end by themselves."""
    ends_ms = until_ms(until)
    known = change(store, config, lambda desk: desk.freeze(who, reason=reason, until_ms=ends_ms))
    warn_unknown(known)
    print(f"{who} is frozen{ending(ends_ms)}.")
