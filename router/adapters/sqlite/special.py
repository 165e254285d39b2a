"""Holds in buckets that are not plain: of another unit, in windows that roll, on trial, or with something carried over."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from router.adapters.entries import Plan, in_unit
from router.adapters.sqlite.counters import Counter
from router.domain.budgets import NEVER_MS, Bucket, Refusal

FOREVER_MS = NEVER_MS


class Special:
    """Looks whether these buckets have room, without changing any; then holds."""

    def __init__(
        self,
        now_ms: int,
        plan: Plan,
        counters: Sequence[Counter],
        add: tuple[int, int, int],
        limit_of: Callable[[Bucket], int],
        before: Callable[[Bucket], Counter],
    ) -> None:
        self._now_ms = now_ms
        self._before = before
        self._writes: list[tuple[Counter, int, int | None]] = []
        self.left: list[tuple[Bucket, int]] = []
        """What is left in each after the hold."""
        self.shadowed: Bucket | None = None
        self.refusal: Refusal | None = None
        self.tightest: tuple[Bucket | None, int, int] = (None, 0, 0)
        """The hard bucket in USD with the least left before the hold, that, and its place in the plan."""
        self._longest_ms = -1
        for i in range(plan.plain, len(plan.ids)):
            self._look(i, plan.buckets[i], counters[i], in_unit(plan.ids[i], *add), limit_of(plan.buckets[i]))

    def _look(self, i: int, bucket: Bucket, counter: Counter, add: int, limit: int) -> None:
        carried = counter.more
        if counter.rolling is not None:
            counter.rolling.roll(self._now_ms)
        elif bucket.carry_ppm and carried is None:
            before = self._before(bucket)
            most = int(limit * (bucket.carry_ppm / 1_000_000))
            carried = max(0, min(before.left(limit), most)) if before.exists else 0
        left = counter.left(limit) + (carried or 0) - (counter.more or 0) - add
        self.left.append((bucket, left))
        self._writes.append((counter, add, carried))
        if not bucket.hard:
            return
        if left < 0 and add > 0 and bucket.shadow:
            self.shadowed = self.shadowed or bucket
        elif left < 0 and add > 0:
            self._refuse(bucket, counter, add, limit, carried or 0)
        if bucket.unit == "usd" and not bucket.shadow and (self.tightest[0] is None or left + add < self.tightest[1]):
            self.tightest = (bucket, left + add, i)

    def _refuse(self, bucket: Bucket, counter: Counter, add: int, limit: int, carried: int) -> None:
        """Of several that refuse, the one that takes longest is told of."""
        wait_ms: int | None = None
        window = counter.rolling
        used = counter.spent + counter.held
        held = counter.held
        if window is not None:
            used -= window.gone
            held = min(held, used)
            wait_ms = window.wait_ms(used + add - limit, self._now_ms) if add <= limit else None
        elif bucket.unit != "concurrent" and bucket.ends_ms < NEVER_MS:
            wait_ms = bucket.ends_ms - self._now_ms
        rank = wait_ms if wait_ms is not None else 0 if bucket.unit == "concurrent" else FOREVER_MS
        if rank > self._longest_ms:
            self._longest_ms = rank
            self.refusal = Refusal(
                bucket=bucket,
                limit_nusd=limit + carried,
                spent_nusd=used - held,
                held_nusd=held,
                needed_nusd=add,
                retry_after_ms=wait_ms,
            )

    def hold(self) -> None:
        """Write what was looked at."""
        for counter, add, carried in self._writes:
            counter.held += add
            counter.more = carried
            if counter.rolling is not None:
                counter.rolling.add(self._now_ms, add)
