"""Shares of budgets that span several ledgers: how much each of them may spend, so that together they never exceed the limit. Pure.

Each ledger refuses by its own share, and all shares are written down in one place, the register. A share is raised there before it
is raised in its ledger, and lowered in its ledger before it is lowered there: whoever dies in between leaves too little, never
too much. A share holds for every window: when one ends, nothing has to be handed out anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

ROUNDS_AHEAD: Final = 10
"""A ledger wants room for what it uses in so many rounds."""
LEAST_PART: Final = 8
"""And for at least this part (one in 8 times the number of ledgers) of what is left for all: as that shrinks, so does what lies idle."""
LAST_PART: Final = 50
"""This part of the limit goes to whoever still spends, the rest of it as long as there is any: what is left in small pieces pays for
no call."""
NEWS_PART: Final = 32
"""What a ledger has used is told again when it changed by this part of what is left for all."""
TELL_MS: Final = 60_000
"""And at least so often, ms."""


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """What one ledger has of a budget; amounts in the budget's unit."""

    limit: int
    """What it may use, in any window."""
    used: int = 0
    """What it had used or held in the present window when it told last."""
    wants: int = 0
    """So much more it could not get."""
    whole: int = 0
    """The limit of the whole budget, as its configuration says."""
    at_ms: int = 0
    """When it told last, Unix time of the register."""


class Register(msgspec.Struct, frozen=True, kw_only=True):
    """All shares, replaced as a whole."""

    budgets: dict[str, dict[str, Share]] = {}
    """By budget and ledger."""

    def of(self, budget: str) -> Mapping[str, Share]:
        """The shares of a budget by ledger."""
        return self.budgets.get(budget, {})

    def with_share(self, budget: str, ledger: str, share: Share) -> Register:
        """The same, with another share."""
        return Register(budgets=self.budgets | {budget: {**self.of(budget), ledger: share}})

    def without(self, ledger: str) -> Register:
        """The same without a ledger that is gone for ever: what it had is free."""
        return Register(
            budgets={budget: {name: share for name, share in shares.items() if name != ledger} for budget, shares in self.budgets.items()}
        )


class OwnShare(msgspec.Struct, frozen=True):
    """What a ledger knows of its share."""

    limit: int
    mark: int
    """Version of the register that it follows from; an older one does not raise it any more."""


def whole_limit(shares: Mapping[str, Share], own: int, ledger: str) -> int:
    """The limit of the whole budget: while ledgers are configured differently, the lowest. `own` is that of `ledger` now."""
    return min([own, *(share.whole for name, share in shares.items() if name != ledger)])


def next_share(shares: Mapping[str, Share], ledger: str, *, whole: int, used: int, grown: int, idle: bool, now_ms: int) -> Share:
    """What a ledger should have, from what all had and what it uses itself.

    Args:
        shares: those in the register.
        ledger: whose to fit.
        whole: the limit that its configuration says.
        used: what it has used or holds now.
        grown: how much more that is than a round before.
        idle: whether it has not grown for long.
        now_ms: the register's time.
    """
    own = shares.get(ledger, Share(limit=0))
    others = {name: share for name, share in shares.items() if name != ledger}
    limit = whole_limit(shares, whole, ledger)
    free = limit - own.limit - sum(share.limit for share in others.values())
    left = max(0, limit - used - sum(share.used for share in others.values()))
    need = min(left, max(ROUNDS_AHEAD * max(0, grown), -(-left // (LEAST_PART * (len(others) + 1)))))
    if left <= limit // LAST_PART:
        need = 0 if idle else left
    spare = own.limit - used
    wants = 0
    if free < 0:
        # The limit was lowered: whoever comes first gives back all that it can; what others need they will ask for.
        target = min(own.limit, max(used, own.limit + free))
    elif spare < need:
        # What nobody has lies idle: more of it than is needed, but not all.
        got = min(free, max(2 * need - spare, free // (len(others) + 2)))
        target = own.limit + got
        wants = max(0, need - spare - got)
    else:
        asked = sum(share.wants for share in others.values())
        target = own.limit - max(0, min(asked - free, spare - 2 * need))
    fitted = Share(limit=target, used=used, wants=wants, whole=whole, at_ms=now_ms)
    return fitted if _is_news(own, fitted, left) else own


def _is_news(told: Share, now: Share, left: int) -> bool:
    """Whether a share is worth writing down again."""
    if (told.limit, told.whole) != (now.limit, now.whole) or now.at_ms - told.at_ms >= TELL_MS:
        return True
    if bool(told.wants) != bool(now.wants):
        return True
    return abs(now.used - told.used) + abs(now.wants - told.wants) > left // NEWS_PART
