"""Budgets and the buckets that are counted: one budget, in one window, for one scope instance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import msgspec

from router.domain.shortage import DEFAULT, OnShort

Unit = Literal["usd", "requests", "tokens", "concurrent"]
"""What a budget counts: nano-USD; calls; tokens in and out; calls that are under way."""
WindowKind = Literal["minute", "hour", "day", "week", "month", "lifetime", "rolling"]
StepAction = Literal["downgrade", "refuse"]
"""What a budget does before it is used up: only small models, or none."""
Dimension = str
"""`org`, `team`, `key`, `user`, `session`, `route`, `model`, `provider` or `tag:<name>`."""

REST: Final = "*"
"""Scope of all values beyond those that a budget counts by themselves. No value is escaped to this."""
TOLD_AT: Final = (0.5, 0.8, 0.95, 1.0)
"""Shares of a limit whose crossing people are told of, where a budget says nothing else."""
NEVER_MS: Final = 2**53 - 1
"""End of a window that does not end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """What must hold of a call for a budget to apply, where lists of values cannot say it."""

    text: str
    looks_at: frozenset[Dimension]
    holds: Callable[[Mapping[str, str], Mapping[str, str]], bool] = field(compare=False, repr=False)
    """Takes the dimensions and the tags of a call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """A limit on spending: whose, how much, in which window."""

    name: str
    limit_nusd: int
    """In the budget's unit: nano-USD, calls or tokens."""
    window: WindowKind
    unit: Unit = "usd"
    rolling_ms: int = 0
    """Length of a rolling window: what counts is the sum over so long until now. 0: another kind of window."""
    timezone: str = "UTC"
    """IANA time zone in which calendar windows begin."""
    each: Dimension | tuple[Dimension, ...] | None = None
    """Split by this dimension, or by several: every value has the whole limit for itself. None: one for all."""
    hard: bool = True
    """A hard budget refuses; a soft one only counts, alerts and steers."""
    shadow: bool = False
    """A hard budget that is only tried out: evaluated like any other, but it never refuses."""
    when: tuple[tuple[str, frozenset[str]], ...] = ()
    """(dimension or `tag:<name>`, accepted values) pairs, all of which must hold for the budget to apply."""
    condition: Condition | None = None
    """What must hold beside that."""
    carry_ppm: int = 0
    """Most that is carried over from the window before, in millionths of the limit: what was left then is added now."""
    max_scopes: int = 100_000
    """Most values of `each` that are counted in one window."""
    beyond: Literal["refuse", "other"] = "refuse"
    """What a value beyond `max_scopes` meets: a refusal, or the one scope `other` for all of them."""
    strict: bool = False
    """Inputs are held at their certain bound, never at a lower one that was learned."""
    when_down: Literal["closed", "lease", "open"] = "closed"
    """What happens to calls that it covers while the store is away; see `router/domain/advances.py`."""
    on_short: tuple[OnShort, ...] = DEFAULT
    """What is done when it has too little room for a call, in this order."""
    alert_at: tuple[float, ...] = TOLD_AT
    """Shares of the limit whose crossing people are told of, in rising order."""
    steps: tuple[tuple[float, StepAction], ...] = ()
    """Shares of the limit from which on less is let through."""
    shared: bool = False
    """The limit spans several ledgers; each refuses by its share of it, see `router/domain/shares.py`."""
    watched: bool = False
    """Whether rules read how full it is."""
    owner: str = ""
    """Who can raise it, for refusals; empty: nobody is named."""

    @property
    def dimensions(self) -> tuple[Dimension, ...]:
        """What it is split by."""
        return self.each if isinstance(self.each, tuple) else () if self.each is None else (self.each,)

    @property
    def looks_at(self) -> frozenset[Dimension]:
        """All that decides whether and where a call is counted."""
        asked = frozenset() if self.condition is None else self.condition.looks_at
        return asked.union(self.dimensions, [name for name, _ in self.when])


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """The unit that is counted."""

    budget: str
    scope: str
    """`team=search`, or an empty string for a budget that is not split."""
    window: str
    """`2026`-style label that is unique per window of the budget: `2026-11`, `2026-11-22`, `2026-W47`, `2026-11-22T14`, `all`."""
    starts_ms: int
    """First millisecond of the window, Unix time."""
    ends_ms: int
    """First millisecond after the window, Unix time; `NEVER_MS` if it does not end."""
    limit_nusd: int
    """The limit this process knows, in the bucket's unit. The store's own copy decides (see `BudgetStore.publish_limits`)."""
    hard: bool
    unit: Unit = "usd"
    shadow: bool = False
    rolling_ms: int = 0
    """Length of a rolling window; its `window` is a name such as `last-86400s`. 0: another kind of window."""
    before: str = ""
    """The window directly before, if something of it may be carried over."""
    carry_ppm: int = 0
    max_scopes: int = 0
    """Most scopes of the budget in this window; 0: no bound."""
    shares_rest: bool = False
    """Beyond that, all others are counted in one scope, `REST`; else they are refused."""
    steers: bool = False
    """What is left in it is told with every hold: it has steps, or rules read it."""


@dataclass(slots=True, eq=False)
class BucketSet:
    """All buckets that one attempt falls under; built once per principal and window, then reused."""

    buckets: tuple[Bucket, ...]
    valid_until_ms: int
    """After this, at least one window has ended and the set must be built anew."""
    latest_start_ms: int = field(init=False)
    """Before this, at least one window has not begun: the clock went back."""
    encoded: dict[str, Any] = field(default_factory=dict)
    """Adapters may keep their wire form here, under their own name."""

    def __post_init__(self) -> None:
        self.latest_start_ms = max((bucket.starts_ms for bucket in self.buckets), default=0)


class Reservation(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An amount set aside in every bucket of an attempt, until it is settled or voided."""

    attempt_id: str
    amount_nusd: int
    buckets: BucketSet
    tightest: Bucket | None = None
    """The hard bucket with the least left after this hold."""
    tightest_left_nusd: int | None = None
    """What was left in it after this hold, nano-USD; None if no hard budget in USD applies."""
    tokens: int = 0
    """What is held in buckets that count tokens."""
    left: tuple[tuple[Bucket, int], ...] = ()
    """What was left after this hold in each bucket that is not a plain one in USD, in its unit; negative if it is exceeded."""
    shadowed: Bucket | None = None
    """A bucket on trial that would have refused this."""
    lender: str = ""
    """The advance that paid for what the store does not know of this hold; see `router/escrow.py`."""


class Refusal(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Nothing was held, because one bucket is too full."""

    bucket: Bucket
    """The fullest one. Its unit is that of all amounts here."""
    limit_nusd: int
    spent_nusd: int
    held_nusd: int
    needed_nusd: int
    retry_after_ms: int | None = None
    """After so long there is room again by itself: the window ends, or enough leaves it. None: that cannot be said."""
    crowded: bool = False
    """It is not full: `limit_nusd` scopes of its budget are counted already, and this would be one more."""

    @property
    def left_nusd(self) -> int:
        """What could still be reserved now, never negative."""
        return max(0, self.limit_nusd - self.spent_nusd - self.held_nusd)


class WindowMoved(msgspec.Struct, frozen=True, kw_only=True):
    """A bucket's window is not the store's current one: build the set anew for `now_ms` and try again."""

    now_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketState:
    """What the store holds for one bucket."""

    budget: str
    scope: str
    window: str
    limit_nusd: int | None
    spent_nusd: int
    held_nusd: int
    debt_nusd: int
    """The part of `spent_nusd` that came from charges above their holds."""
    ends_ms: int
    """Until when the store keeps it at least: the end of the window. A session's lifetime has none: this is when it was idle for long."""
    unit: Unit = "usd"
    """Of the limit and of what is spent, held and owed."""

    @property
    def resets_ms(self) -> int | None:
        """When the window starts anew, Unix milliseconds; None if it never does."""
        return None if self.window == "all" or self.ends_ms >= NEVER_MS else self.ends_ms
