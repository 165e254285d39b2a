"""`faregate unfreeze`: take a freeze back."""

from __future__ import annotations

from router.commands.changes import Why, change
from router.commands.freeze import Who
from router.commands.options import Books, Store


def command(who: Who, reason: Why = "", store: Store = None, config: Books = None) -> None:
    """Take a freeze back."""
    change(store, config, lambda desk: desk.unfreeze(who, reason=reason))
    print(f"{who} is not frozen any more.")
