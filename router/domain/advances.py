"""Advances: which budgets let calls through while the store is away, and how much is set aside for them beforehand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from router.domain.budgets import NEVER_MS, Bucket, BucketSet, BucketState
from router.domain.windows import bucket_id

WhenDown = Literal["closed", "lease", "open"]
"""What happens to calls that a hard budget covers while the store is away: refused; paid from what was set aside; let
through up to a cap."""
NEVER_USED: Final = -1
MARK: Final = "-advance-"
"""In the attempt ids of advances, and in no other."""


@dataclass(slots=True, eq=False)
class Cover:
    """What pays for calls that fall under the same budgets."""

    mode: Literal["closed", "lease", "open", "free"]
    """`free`: no hard budget covers them."""
    name: str
    """Ids of the buckets that an advance is held in."""
    buckets: BucketSet
    """Those buckets: all in USD."""
    budgets: tuple[str, ...]
    """The budgets whose cap counts, for `open`."""
    recent: int = NEVER_USED
    """The largest hold since the last round, nano-USD."""
    largest: int = 0
    """The largest hold of the last rounds, nano-USD; halved with each round."""
    idle: int = 0
    """Rounds without a call."""

    def round(self) -> None:
        """A round of refreshing begins."""
        self.idle = self.idle + 1 if self.recent == NEVER_USED else 0
        if not self.idle:
            self.largest = max(self.recent, self.largest // 2)
        self.recent = NEVER_USED


def cover_of(buckets: Sequence[Bucket], modes: Mapping[str, str], default: str) -> Cover:
    """What pays for calls that fall under these buckets. The strictest budget decides.

    `modes` are those of budgets by name; buckets of others are rate limits, which nobody can ask while the store is away.
    `default` counts where no hard budget says anything. There are no advances in tokens or requests: those stay closed.
    """
    hard = [b for b in buckets if b.hard and not b.shadow and b.budget in modes]
    said = {"closed" if modes[b.budget] == "lease" and b.unit != "usd" else modes[b.budget] for b in hard}
    mode: Literal["closed", "lease", "open", "free"] = "free"
    if "closed" in said or (not said and default == "closed"):
        mode = "closed"
    elif "lease" in said:
        mode = "lease"
    elif "open" in said:
        mode = "open"
    usd = tuple(b for b in buckets if b.unit == "usd")
    return Cover(
        mode=mode,
        name="\t".join(bucket_id(b) for b in usd),
        buckets=BucketSet(buckets=usd, valid_until_ms=min((b.ends_ms for b in usd), default=NEVER_MS)),
        budgets=tuple({b.budget: None for b in hard}) if mode == "open" else (),
    )


def sizes(covers: Sequence[Cover], states: Sequence[BucketState], *, share_ppm: int) -> dict[str, int]:
    """How much to set aside for each, nano-USD, by name: of each budget no more than its share of what is left, for all together.

    0 where that would not pay for a single call.
    """
    left = {(s.budget, s.scope, s.window): s.limit_nusd - s.spent_nusd - s.held_nusd for s in states if s.limit_nusd is not None}
    sharers = Counter(_key(b) for cover in covers for b in cover.buckets.buckets)
    found: dict[str, int] = {}
    for cover in covers:
        hard = [b for b in cover.buckets.buckets if b.hard and not b.shadow]
        parts = [max(0, left.get(_key(b), b.limit_nusd)) * share_ppm // 1_000_000 // sharers[_key(b)] for b in hard]
        size = min(parts, default=0)
        found[cover.name] = size if size >= max(1, cover.largest) else 0
    return found


def _key(bucket: Bucket) -> tuple[str, str, str]:
    return bucket.budget, bucket.scope, bucket.window
