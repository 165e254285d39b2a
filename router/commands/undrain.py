"""`faregate undrain`: take a drain back."""

from __future__ import annotations

from router.commands.changes import Why, change
from router.commands.drain import What
from router.commands.options import Books, Store


def command(what: What, reason: Why = "", store: Store = None, config: Books = None) -> None:
    """Take a drain back."""
    change(store, config, lambda desk: desk.undrain(what, reason=reason))
    print(f"{what} is not drained any more.")
