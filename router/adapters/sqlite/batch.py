"""One batch of operations on the books: loaded once, applied in order in memory, written back once.

Used by the writer thread inside a transaction. Nothing here waits or commits.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile

import msgspec

from router.adapters.entries import (
    AUDITOR_MS,
    CLOSED,
    IDLE_MS,
    KEEP_INVENTED_MS,
    KEEP_MS,
    SEPARATOR,
    SWEPT_MS,
    TOMBSTONE_MS,
    Plan,
    by_unit,
    crowded,
    split_ids,
)
from router.adapters.sqlite.counters import Attempt, Change, Counter, Units, attempt_of, attempt_row, counter_row, rolling
from router.adapters.sqlite.lending import lend
from router.adapters.sqlite.schema import APPEND_TO_LOG, FIND_ATTEMPTS, KEEP_ATTEMPT, KEEP_COUNTER, scoped_name
from router.adapters.sqlite.special import Special
from router.domain.budgets import NEVER_MS, Bucket, BucketSet, Refusal, Reservation, Unit, WindowMoved
from router.domain.windows import bucket_id, budget_of, ends_unused, rolling_of, unit_of, window_of

TRIM_LIMIT = 512
"""Most entries of the log that are dropped at a time."""
SWEEP_LIMIT = 512
"""Most holds that one sweep charges at a time, so that others get their turn."""


class Batch:
    """The part of the books that is in memory: valid until another process commits."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self.now_ms = 0
        self._data_version = -1
        self._counters: dict[str, Counter] = {}
        self._attempts: dict[str, Attempt | None] = {}
        self._loaded: list[str] = []
        self._limits: dict[str, int] | None = None
        self._has_scoped = False
        """Whether an instance of a budget has a limit for itself."""
        self._leases: dict[str, int] | None = None
        self._sets: dict[str, list[Counter]] = {}
        """The counters of buckets that were named together, by their ids."""
        self._hard: dict[int, tuple[Plan, list[tuple[int, Bucket, int]]]] = {}
        """Of plans: their hard plain buckets with their places and limits."""
        self._changed_counters: set[Counter] = set()
        self._changed_attempts: set[str] = set()
        self._scopes: dict[tuple[str, str], int] = {}
        """How many scopes of a budget there are in a window, where that is bounded."""
        self._log: list[tuple[int, str, str, int, int, int, str, bytes, int, int, int, int]] = []

    # -- one batch ---------------------------------------------------------------------------------------------

    def begin(self, now_ms: int, attempt_ids: Iterable[str]) -> None:
        """Start a batch: forget what another process may have changed, load the attempts it is about."""
        self.now_ms = now_ms
        version: int = self._db.execute("PRAGMA data_version").fetchone()[0]
        if version != self._data_version or len(self._counters) > 50_000 or len(self._hard) > 50_000:
            self.forget()
            self._data_version = version
        self._loaded = [i for i in attempt_ids if i not in self._attempts]
        if self._loaded:
            self._load_attempts(self._loaded)

    def write(self) -> None:
        """Write everything that changed. The caller commits."""
        if self._changed_counters:
            for counter in self._changed_counters:
                counter.exists = True
            self._db.executemany(KEEP_COUNTER, map(counter_row, self._changed_counters))
        if self._changed_attempts:
            changed = [(i, self._attempts[i]) for i in self._changed_attempts]
            self._db.executemany(KEEP_ATTEMPT, [attempt_row(i, a) for i, a in changed if a])
        if self._log:
            self._db.executemany(APPEND_TO_LOG, self._log)

    def end(self) -> None:
        """After the commit: keep open holds and counters in memory, drop the rest."""
        attempts = self._attempts
        for attempt_id in (*self._changed_attempts, *self._loaded):
            attempt = attempts.get(attempt_id)
            if attempt is None or attempt.done_ms is not None:
                attempts.pop(attempt_id, None)
        self._changed_attempts.clear()
        self._changed_counters.clear()
        self._log.clear()

    def forget(self) -> None:
        """Drop everything in memory: the file may say otherwise by now."""
        self._data_version = -1
        self._counters.clear()
        self._sets.clear()
        self._hard.clear()
        self._scopes.clear()
        self._attempts.clear()
        self._limits = None
        self._leases = None
        self._changed_attempts.clear()
        self._changed_counters.clear()
        self._log.clear()

    # -- loading -----------------------------------------------------------------------------------------------

    def _load_attempts(self, wanted: list[str]) -> None:
        attempts = self._attempts
        attempts.update(dict.fromkeys(wanted))
        for row in self._db.execute(FIND_ATTEMPTS, (msgspec.json.encode(wanted).decode(),)):
            attempts[row[0]] = attempt_of(row)

    def _counter(self, name: str, ends_ms: int = NEVER_MS) -> Counter:
        counter = self._counters.get(name)
        if counter is None:
            row = self._db.execute("SELECT spent, held, debt, ends_ms, more, rolling FROM bucket WHERE id=?", (name,)).fetchone()
            known = name, budget_of(name), name.split("|")[1], window_of(name)
            counter = self._counters[name] = Counter(known, *row[:5], exists=True) if row else Counter(known, 0, 0, 0, ends_ms)
            length_ms = rolling_of(name)
            if length_ms:
                counter.rolling = rolling(length_ms, row[5] if row else None)
        return counter

    def _counters_of(self, plan: Plan) -> list[Counter]:
        found = self._sets.get(plan.joined)
        if found is None:
            found = [self._counter(name, bucket.ends_ms) for name, bucket in zip(plan.ids, plan.buckets, strict=True)]
            self._sets[plan.joined] = found
        return found

    def _hard_of(self, plan: Plan) -> list[tuple[int, Bucket, int]]:
        known = self._hard.get(id(plan))
        if known is None:
            plain = enumerate(plan.buckets[: plan.plain])
            # With the plan, so that no other one can have its number.
            known = self._hard[id(plan)] = plan, [(i, bucket, self._limit(bucket)) for i, bucket in plain if bucket.hard]
        return known[1]

    def _limit(self, bucket: Bucket) -> int:
        if self._limits is None:
            self._limits = dict(self._db.execute("SELECT name, limit_nusd FROM budget"))
            self._has_scoped = any("\t" in name for name in self._limits)
        if self._has_scoped and (own := self._limits.get(scoped_name(bucket.budget, bucket.scope))) is not None:
            return own
        return self._limits.get(bucket.budget, bucket.limit_nusd)

    def _keep_lease(self, replica: str, lease_ms: int) -> None:
        """Renew a lease that has lapsed: a replica that reserves is alive."""
        if self._leases is None:
            self._leases = dict(self._db.execute("SELECT replica, until_ms FROM lease"))
        if self._leases.get(replica, 0) < self.now_ms:
            self._set_lease(replica, self.now_ms + lease_ms)

    def _set_lease(self, replica: str, until_ms: int) -> None:
        self._db.execute("INSERT OR REPLACE INTO lease VALUES (?,?)", (replica, until_ms))
        if self._leases is not None:
            self._leases[replica] = until_ms

    # -- operations --------------------------------------------------------------------------------------------

    def reserve(
        self, attempt_id: str, amount: int, tokens: int, buckets: BucketSet, plan: Plan, note: bytes, replica: str, lease_ms: int
    ) -> Reservation | Refusal | WindowMoved:
        """See `BudgetStore.reserve`."""
        known = self._attempts[attempt_id]
        if known is not None:
            return Reservation(attempt_id=attempt_id, amount_nusd=known.held, buckets=buckets, tokens=tokens)
        if not plan.starts_ms <= self.now_ms < plan.ends_ms:
            return WindowMoved(now_ms=self.now_ms)
        answer = self._hold(attempt_id, (amount, tokens, 1), amount, tokens, buckets, plan)
        if type(answer) is Reservation:
            units = None if plan.plain == len(plan.ids) else Units(tokens, 0, 0, "o", [(self.now_ms, amount)])
            self._attempts[attempt_id] = Attempt("H", amount, amount, 0, 0, replica, plan.joined, note, units)
            self._changed_attempts.add(attempt_id)
            self._keep_lease(replica, lease_ms)
        return answer

    def extend(
        self, attempt_id: str, total: int, tokens: int, buckets: BucketSet, plan: Plan, replica: str, lease_ms: int
    ) -> Reservation | Refusal:
        """See `BudgetStore.extend`. A hold that was swept, or that the store lost, is taken anew."""
        known = self._attempts[attempt_id]
        if known is None:
            units = None if plan.plain == len(plan.ids) else Units(0, 0, 0, "n", [])
            known = Attempt("H", 0, 0, 0, 0, replica, plan.joined, b"", units)
        by = total - known.held - known.charged
        if by <= 0 or known.state in ("S", "V"):
            amount = total if known.state in ("H", "X") else 0
            return Reservation(attempt_id=attempt_id, amount_nusd=amount, buckets=buckets, tokens=tokens)
        answer = self._hold(attempt_id, (by, 0, 0), total, tokens, buckets, plan)
        if type(answer) is Reservation:
            if known.units is not None:
                known.units.pieces.append((self.now_ms, by))
            known.state = "H"
            known.amount = total
            known.held += by
            known.replica = replica
            known.done_ms = None
            self._attempts[attempt_id] = known
            self._changed_attempts.add(attempt_id)
            self._keep_lease(replica, lease_ms)
        return answer

    def _hold(
        self, attempt_id: str, add: tuple[int, int, int], total: int, tokens: int, buckets: BucketSet, plan: Plan
    ) -> Reservation | Refusal:
        """Add to `held` in all buckets, or in none. `add`: nano-USD, tokens, calls."""
        by = add[0]
        counters = self._counters_of(plan)
        begun = [i for i in plan.bounded if not counters[i].exists] if plan.bounded else ()
        for i in begun:
            if self._scopes_of(plan.buckets[i]) >= plan.buckets[i].max_scopes:
                return crowded(plan.buckets[i])
        special = None
        if plan.plain < len(plan.ids):
            special = Special(self.now_ms, plan, counters, add, self._limit, self._before)
            if special.refusal is not None:
                return special.refusal
        tightest, least, at = self._tightest(plan, counters, (None, 0, 0) if special is None else special.tightest)
        if tightest is not None and by > 0 and least < by:
            c = counters[at]
            return Refusal(
                bucket=tightest,
                limit_nusd=self._limit(tightest),
                spent_nusd=c.spent,
                held_nusd=c.held,
                needed_nusd=by,
                retry_after_ms=None if tightest.ends_ms >= NEVER_MS else tightest.ends_ms - self.now_ms,
            )
        self._write_hold(by, plan, counters, begun, special)
        return Reservation(
            attempt_id=attempt_id,
            amount_nusd=total,
            buckets=buckets,
            tightest=tightest,
            tightest_left_nusd=None if tightest is None else least - by,
            tokens=tokens,
            left=() if special is None else tuple(special.left),
            shadowed=None if special is None else special.shadowed,
        )

    def _tightest(self, plan: Plan, counters: Sequence[Counter], found: tuple[Bucket | None, int, int]) -> tuple[Bucket | None, int, int]:
        """The hard bucket in USD with the least left, that, and its place; `found` among those that are not plain."""
        tightest, least, at = found
        for i, bucket, limit in self._hard_of(plan):
            counter = counters[i]
            left = limit - counter.spent - counter.held
            if tightest is None or left < least:
                tightest, least, at = bucket, left, i
        return tightest, least, at

    def _write_hold(self, by: int, plan: Plan, counters: Sequence[Counter], begun: Sequence[int], special: Special | None) -> None:
        for counter in counters[: plan.plain]:
            counter.held += by
        if special is not None:
            special.hold()
        for i in begun:
            counters[i].exists = True
            self._scopes[plan.buckets[i].budget, plan.buckets[i].window] += 1
        for i in plan.idle:
            counters[i].ends_ms = self.now_ms + IDLE_MS
        self._changed_counters.update(counters)

    def _scopes_of(self, bucket: Bucket) -> int:
        found = self._scopes.get((bucket.budget, bucket.window))
        if found is None:
            query = "SELECT count(*) FROM bucket WHERE budget=? AND label=? AND scope NOT LIKE '%=*%'"
            found = self._scopes[bucket.budget, bucket.window] = self._db.execute(query, (bucket.budget, bucket.window)).fetchone()[0]
        return found

    def _before(self, bucket: Bucket) -> Counter:
        """The counter of the window directly before."""
        return self._counter(bucket_id(replace(bucket, window=bucket.before)))

    def settle(self, attempt_id: str, charge: int, tokens: int | None, plan: Plan, record: bytes) -> bool:
        """See `BudgetStore.settle`. A hold that the store does not know is charged all the same, as debt."""
        attempt = self._attempts[attempt_id]
        if attempt is None:
            self._counters_of(plan)
            units = None if plan.plain == len(plan.ids) else Units(0, 0, 0, "n", [(self.now_ms, 0)])
            attempt = self._attempts[attempt_id] = Attempt("H", 0, 0, 0, 0, "", plan.joined, b"", units)
            self._book(attempt_id, attempt, charge, record, "orphan", tokens)
        elif attempt.state == "H":
            # A hold taken anew after a sweep has a charge already: what comes now is the difference.
            self._book(attempt_id, attempt, charge, record, "corrected" if attempt.charged else "", tokens)
        elif attempt.state == "X":
            self._book(attempt_id, attempt, charge, record, "corrected", tokens)
        else:
            return False
        self._finish(attempt_id, attempt, "S", TOMBSTONE_MS)
        return True

    def lend(self, attempt_id: str, lender_id: str, total: int, replica: str, note: bytes) -> bool:
        """See `Lending.lend`."""
        if lender_id not in self._attempts:
            self._loaded.append(lender_id)
            self._load_attempts([lender_id])
        borrower = lend(self._attempts[lender_id], self._attempts[attempt_id], total=total, replica=replica, note=note)
        if borrower is None:
            return False
        self._attempts[attempt_id] = borrower
        self._changed_attempts.update((attempt_id, lender_id))
        return True

    def void(self, attempt_id: str) -> bool:
        """See `BudgetStore.void`. An unknown attempt is marked, so that a reserve that is still under way holds nothing."""
        attempt = self._attempts[attempt_id]
        if attempt is None:
            attempt = self._attempts[attempt_id] = Attempt("V", 0, 0, 0, 0, "", "", b"", None)
            self._finish(attempt_id, attempt, "V", TOMBSTONE_MS)
            return False
        if attempt.state in ("S", "V"):
            return False
        if attempt.charged or (attempt.units is not None and attempt.units.state == "c"):
            self._book(attempt_id, attempt, 0, attempt.note, "corrected", 0, 0)
        elif attempt.units is not None:
            self._change(attempt, attempt.units.end((0, -attempt.held, 0), 0, 0, 0))
        else:
            self._move(attempt, 0, -attempt.held, 0)
        self._finish(attempt_id, attempt, "V", TOMBSTONE_MS)
        return True

    def _book(
        self, attempt_id: str, attempt: Attempt, charge: int, record: bytes, outcome: str, tokens: int | None, calls: int = 1
    ) -> None:
        """Replace hold and earlier charge by the charge; append to the log."""
        spent = charge - attempt.charged
        growth = spent - attempt.held
        # What a step adds to spent + held was never checked against a limit: it is debt. What it takes away pays debt back.
        debt = growth if growth > 0 else -min(attempt.debt, -growth)
        held = attempt.held
        added = (0, 0, 0, 0)
        if attempt.units is None:
            self._move(attempt, spent, -held, debt)
        else:
            changes = attempt.units.end((spent, -held, debt), charge, tokens, calls)
            self._change(attempt, changes)
            (t, _, t_debt, _), (n, _, n_debt, _) = changes["tokens"], changes["requests"]
            added = (t, t_debt, n, n_debt)
        attempt.charged = charge
        attempt.debt += debt
        self._log.append((self.now_ms, attempt_id, outcome, spent, debt, held, attempt.buckets, record, *added))

    def _change(self, attempt: Attempt, changes: Mapping[Unit, Change]) -> None:
        counters = self._named(attempt.buckets)
        for counter in counters:
            spent, held, debt, pieces = changes[unit_of(counter.name[0])]
            counter.spent += spent
            counter.held += held
            counter.debt += debt
            if counter.rolling is not None:
                if counter.rolling.newest < 0:
                    counter.rolling.roll(self.now_ms)
                for at_ms, amount in pieces:
                    counter.rolling.add(at_ms, amount)
        self._changed_counters.update(counters)

    def _move(self, attempt: Attempt, spent: int, held: int, debt: int) -> None:
        counters = self._named(attempt.buckets)
        for counter in counters:
            counter.spent += spent
            counter.held += held
        if debt:
            for counter in counters:
                counter.debt += debt
        self._changed_counters.update(counters)

    def _named(self, joined: str) -> list[Counter]:
        """The counters of buckets with these ids."""
        found = self._sets.get(joined)
        if found is None:
            found = self._sets[joined] = [self._counter(name) for name in split_ids(joined)]
        return found

    def _finish(self, attempt_id: str, attempt: Attempt, state: str, keep_ms: int) -> None:
        attempt.state = state
        attempt.held = 0
        attempt.done_ms = self.now_ms + keep_ms
        if state != "X":
            attempt.buckets = ""
            attempt.note = b""
        self._changed_attempts.add(attempt_id)

    def heartbeat(self, replica: str, lease_ms: int, progress: Mapping[str, int]) -> None:
        """See `Lease.heartbeat`."""
        self._set_lease(replica, self.now_ms + lease_ms)
        self._db.execute("DELETE FROM progress WHERE replica=?", (replica,))
        self._db.executemany("INSERT INTO progress VALUES (?,?,?)", [(replica, i, n) for i, n in progress.items()])

    def release(self, replica: str) -> None:
        """See `Lease.release`: the lease ends now."""
        self._set_lease(replica, self.now_ms - 1)

    def sweep(self, longest_ms: int) -> int:
        """See `Lease.sweep`; also drops tombstones and counters that nobody can need any more."""
        self._db.execute("UPDATE lease SET until_ms=? WHERE until_ms > ?", (self.now_ms + longest_ms,) * 2)
        rows = self._db.execute(
            "SELECT a.id, p.burnt FROM attempt a LEFT JOIN lease l USING (replica)"
            " LEFT JOIN progress p ON p.replica=a.replica AND p.attempt_id=a.id"
            " WHERE a.done_ms IS NULL AND coalesce(l.until_ms, 0) < ? LIMIT ?",
            (self.now_ms, SWEEP_LIMIT),
        ).fetchall()
        self._load_attempts([row[0] for row in rows if row[0] not in self._attempts])
        swept = 0
        for attempt_id, burnt in rows:
            attempt = self._attempts[attempt_id]
            # An operation of this very batch may have ended it; the row is then older than memory.
            if attempt is None or attempt.state != "H":
                continue
            self._book(attempt_id, attempt, max(attempt.held + attempt.charged, burnt or 0), attempt.note, "swept", None)
            self._finish(attempt_id, attempt, "X", SWEPT_MS)
            swept += 1
        if not rows:
            self._clean()
        return swept

    def _clean(self) -> None:
        now = self.now_ms
        # Held back while any attempt of a dead replica is open: its progress is still needed.
        self._db.execute("DELETE FROM progress WHERE replica NOT IN (SELECT replica FROM lease WHERE until_ms >= ?)", (now,))
        self._db.execute("DELETE FROM lease WHERE until_ms < ?", (now - SWEPT_MS,))
        self._db.execute("DELETE FROM attempt WHERE id IN (SELECT id FROM attempt WHERE done_ms < ? LIMIT 20000)", (now,))
        old = self._db.execute(
            "DELETE FROM bucket WHERE held=0 AND (ends_ms < ? OR (ends_ms < ? AND"
            " (scope LIKE '%user=%' OR scope LIKE '%session=%' OR scope LIKE '%tag:%'))) RETURNING id, spent, debt",
            (now - KEEP_MS, now - KEEP_INVENTED_MS),
        ).fetchall()
        self._scopes.clear()
        self._sets.clear()
        for name, spent, debt in old:
            self._counters.pop(name, None)
            # An id that may be used again leaves a line in the log that takes back what its others say.
            if ends_unused(name):
                sums = {"usd": (-spent, -debt, 0, 0, 0, 0), "tokens": (0, 0, -spent, -debt, 0, 0), "requests": (0, 0, 0, 0, -spent, -debt)}
                s, d, *added = sums.get(unit_of(name), (0, 0, 0, 0, 0, 0))
                self._log.append((now, "", CLOSED, s, d, 0, name, b"", *added))
            else:
                self._db.execute("DELETE FROM trimmed WHERE bucket=?", (name,))

    def claim_audit(self, replica: str) -> bool:
        """Whether this replica is the one that compares counters and log now; it stays it as long as it comes back."""
        found = self._db.execute("SELECT value FROM meta WHERE name='auditor'").fetchone()
        holder, until_ms = found[0].split(SEPARATOR) if found else (replica, "0")
        if holder != replica and int(until_ms) > self.now_ms:
            return False
        claim = f"{replica}{SEPARATOR}{self.now_ms + AUDITOR_MS}"
        self._db.execute("INSERT OR REPLACE INTO meta VALUES ('auditor', ?)", (claim,))
        return True

    def trim(self, before_ms: int) -> int:
        """See `Books.trim`; some entries at a time."""
        oldest = self._db.execute(
            "SELECT at_ms, seq, buckets, spent, debt, tokens, tokens_debt, calls, calls_debt FROM log ORDER BY seq LIMIT ?", (TRIM_LIMIT,)
        )
        # The newest entry stays: its number is what keeps numbers from being given twice.
        newest = self._db.execute("SELECT max(seq) FROM log").fetchone()[0]
        rows = list(takewhile(lambda row: row[0] < before_ms and row[1] < newest, oldest))
        sums = [(name, *by_unit(name, *row[3:]), ends_unused(name), name) for row in rows for name in split_ids(row[2])]
        self._db.executemany(
            "INSERT INTO trimmed SELECT ?, ?, ? WHERE ? OR EXISTS (SELECT 1 FROM bucket WHERE id=?)"
            " ON CONFLICT (bucket) DO UPDATE SET spent=spent+excluded.spent, debt=debt+excluded.debt",
            sums,
        )
        if rows:
            self._db.execute("DELETE FROM log WHERE seq <= ?", (rows[-1][1],))
        return len(rows)

    def publish_limits(self, limits: Mapping[str, int], version: str) -> None:
        """See `Books.publish_limits`."""
        self._db.execute("DELETE FROM budget")
        self._db.executemany("INSERT INTO budget VALUES (?,?)", list(limits.items()))
        self._db.execute("INSERT OR REPLACE INTO meta VALUES ('limits_version', ?)", (version,))
        self._limits = dict(limits)
        self._has_scoped = False
        self._hard.clear()

    def pepper(self, fresh: bytes) -> bytes:
        """The pepper; `fresh` becomes it at first use."""
        self._db.execute("INSERT OR IGNORE INTO meta VALUES ('pepper', ?)", (fresh,))
        found: bytes = self._db.execute("SELECT value FROM meta WHERE name='pepper'").fetchone()[0]
        return found

    def put_key(self, key_id: str, stored: bytes) -> None:
        """Add or replace a virtual key."""
        self._db.execute("INSERT OR REPLACE INTO virtual_key VALUES (?,?)", (key_id, stored))

    def ping(self) -> None:
        """Nothing: that the transaction can be committed is the answer."""
