"""One batch of operations on the books: loaded once, applied in order in memory, written back once.

Used by the writer thread inside a transaction. Nothing here waits or commits.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from itertools import takewhile

import msgspec

from router.adapters.entries import AUDITOR_MS, KEEP_MS, SEPARATOR, SWEPT_MS, TOMBSTONE_MS, Plan, split_ids
from router.domain.budgets import NEVER_MS, Bucket, BucketSet, Refusal, Reservation, WindowMoved
from router.domain.windows import budget_of

TRIM_LIMIT = 512
"""Most entries of the log that are dropped at a time."""
SWEEP_LIMIT = 512
"""Most holds that one sweep charges at a time, so that others get their turn."""


class Counter:
    """A bucket's counters, nano-USD."""

    __slots__ = ("debt", "ends_ms", "held", "spent")

    def __init__(self, spent: int, held: int, debt: int, ends_ms: int) -> None:
        self.spent = spent
        self.held = held
        self.debt = debt
        self.ends_ms = ends_ms


class Attempt:
    """An attempt as the store knows it.

    States: H held, S settled, V voided, X swept. `amount` is all that was ever allowed, `held` the part that is
    still set aside, `charged` what was booked, `debt` the part of it that was booked as debt.
    """

    __slots__ = ("amount", "buckets", "charged", "debt", "done_ms", "held", "note", "replica", "state")

    def __init__(self, state: str, amount: int, held: int, charged: int, debt: int, replica: str, buckets: str, note: bytes) -> None:
        self.state = state
        self.amount = amount
        self.held = held
        self.charged = charged
        self.debt = debt
        self.replica = replica
        self.buckets = buckets
        self.note = note
        self.done_ms: int | None = None


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
        self._leases: dict[str, int] | None = None
        self._changed_counters: set[str] = set()
        self._changed_attempts: set[str] = set()
        self._log: list[tuple[int, str, str, int, int, int, str, bytes]] = []

    # -- one batch ---------------------------------------------------------------------------------------------

    def begin(self, now_ms: int, attempt_ids: Iterable[str]) -> None:
        """Start a batch: forget what another process may have changed, load the attempts it is about."""
        self.now_ms = now_ms
        version: int = self._db.execute("PRAGMA data_version").fetchone()[0]
        if version != self._data_version or len(self._counters) > 50_000:
            self.forget()
            self._data_version = version
        self._loaded = [i for i in attempt_ids if i not in self._attempts]
        if self._loaded:
            self._load_attempts(self._loaded)

    def write(self) -> None:
        """Write everything that changed. The caller commits."""
        if self._changed_counters:
            rows = []
            for name in self._changed_counters:
                c = self._counters[name]
                _, scope, label = name.split("|")
                rows.append((name, budget_of(name), scope, label, c.ends_ms, c.spent, c.held, c.debt))
            self._db.executemany(
                "INSERT INTO bucket VALUES (?,?,?,?,?,?,?,?) ON CONFLICT (id) DO UPDATE SET"
                " spent=excluded.spent, held=excluded.held, debt=excluded.debt",
                rows,
            )
        if self._changed_attempts:
            changed = [(i, self._attempts[i]) for i in self._changed_attempts]
            self._db.executemany(
                "INSERT OR REPLACE INTO attempt VALUES (?,?,?,?,?,?,?,?,?,?)",
                [(i, a.state, a.amount, a.held, a.charged, a.debt, a.replica, a.buckets, a.note, a.done_ms) for i, a in changed if a],
            )
        if self._log:
            self._db.executemany(
                "INSERT INTO log (at_ms, attempt_id, outcome, spent, debt, held, buckets, record) VALUES (?,?,?,?,?,?,?,?)", self._log
            )

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
        found = self._db.execute(
            "SELECT id, state, amount, held, charged, debt, replica, buckets, note, done_ms FROM attempt"
            " WHERE id IN (SELECT value FROM json_each(?))",
            (msgspec.json.encode(wanted).decode(),),
        )
        for row in found:
            attempt = Attempt(*row[1:9])
            attempt.done_ms = row[9]
            attempts[row[0]] = attempt

    def _counter(self, name: str, ends_ms: int = NEVER_MS) -> Counter:
        counter = self._counters.get(name)
        if counter is None:
            row = self._db.execute("SELECT spent, held, debt, ends_ms FROM bucket WHERE id=?", (name,)).fetchone()
            counter = self._counters[name] = Counter(*row) if row else Counter(0, 0, 0, ends_ms)
        return counter

    def _limit(self, bucket: Bucket) -> int:
        if self._limits is None:
            self._limits = dict(self._db.execute("SELECT name, limit_nusd FROM budget"))
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
        self, attempt_id: str, amount: int, buckets: BucketSet, plan: Plan, note: bytes, replica: str, lease_ms: int
    ) -> Reservation | Refusal | WindowMoved:
        """See `BudgetStore.reserve`."""
        known = self._attempts[attempt_id]
        if known is not None:
            return Reservation(attempt_id=attempt_id, amount_nusd=known.held, buckets=buckets)
        if not plan.starts_ms <= self.now_ms < plan.ends_ms:
            return WindowMoved(now_ms=self.now_ms)
        answer = self._hold(attempt_id, amount, amount, buckets, plan)
        if type(answer) is Reservation:
            self._attempts[attempt_id] = Attempt("H", amount, amount, 0, 0, replica, plan.joined, note)
            self._changed_attempts.add(attempt_id)
            self._keep_lease(replica, lease_ms)
        return answer

    def extend(self, attempt_id: str, total: int, buckets: BucketSet, plan: Plan, replica: str, lease_ms: int) -> Reservation | Refusal:
        """See `BudgetStore.extend`. A hold that was swept, or that the store lost, is taken anew."""
        known = self._attempts[attempt_id]
        if known is None:
            known = Attempt("H", 0, 0, 0, 0, replica, plan.joined, b"")
        by = total - known.held - known.charged
        if by <= 0 or known.state in ("S", "V"):
            return Reservation(attempt_id=attempt_id, amount_nusd=total if known.state in ("H", "X") else 0, buckets=buckets)
        answer = self._hold(attempt_id, by, total, buckets, plan)
        if type(answer) is Reservation:
            known.state = "H"
            known.amount = total
            known.held += by
            known.replica = replica
            known.done_ms = None
            self._attempts[attempt_id] = known
            self._changed_attempts.add(attempt_id)
            self._keep_lease(replica, lease_ms)
        return answer

    def _hold(self, attempt_id: str, by: int, total: int, buckets: BucketSet, plan: Plan) -> Reservation | Refusal:
        """Add to `held` in all buckets, or in none."""
        counters = [self._counter(name, bucket.ends_ms) for name, bucket in zip(plan.ids, plan.buckets, strict=True)]
        tightest: Bucket | None = None
        least = at = 0
        for i, bucket in enumerate(plan.buckets):
            if not bucket.hard:
                continue
            left = self._limit(bucket) - counters[i].spent - counters[i].held
            if tightest is None or left < least:
                tightest, least, at = bucket, left, i
        if tightest is not None and by > 0 and least < by:
            c = counters[at]
            return Refusal(bucket=tightest, limit_nusd=self._limit(tightest), spent_nusd=c.spent, held_nusd=c.held, needed_nusd=by)
        for counter in counters:
            counter.held += by
        self._changed_counters.update(plan.ids)
        return Reservation(
            attempt_id=attempt_id,
            amount_nusd=total,
            buckets=buckets,
            tightest=tightest,
            tightest_left_nusd=None if tightest is None else least - by,
        )

    def settle(self, attempt_id: str, charge: int, plan: Plan, record: bytes) -> bool:
        """See `BudgetStore.settle`. A hold that the store does not know is charged all the same, as debt."""
        attempt = self._attempts[attempt_id]
        if attempt is None:
            for name, bucket in zip(plan.ids, plan.buckets, strict=True):
                self._counter(name, bucket.ends_ms)
            attempt = self._attempts[attempt_id] = Attempt("H", 0, 0, 0, 0, "", plan.joined, b"")
            self._book(attempt_id, attempt, charge, record, "orphan")
        elif attempt.state == "H":
            # A hold taken anew after a sweep has a charge already: what comes now is the difference.
            self._book(attempt_id, attempt, charge, record, "corrected" if attempt.charged else "")
        elif attempt.state == "X":
            self._book(attempt_id, attempt, charge, record, "corrected")
        else:
            return False
        self._finish(attempt_id, attempt, "S", TOMBSTONE_MS)
        return True

    def void(self, attempt_id: str) -> bool:
        """See `BudgetStore.void`. An unknown attempt is marked, so that a reserve that is still under way holds nothing."""
        attempt = self._attempts[attempt_id]
        if attempt is None:
            attempt = self._attempts[attempt_id] = Attempt("V", 0, 0, 0, 0, "", "", b"")
            self._finish(attempt_id, attempt, "V", TOMBSTONE_MS)
            return False
        if attempt.state in ("S", "V"):
            return False
        if attempt.charged:
            self._book(attempt_id, attempt, 0, attempt.note, "corrected")
        else:
            self._move(attempt, 0, -attempt.held, 0)
        self._finish(attempt_id, attempt, "V", TOMBSTONE_MS)
        return True

    def _book(self, attempt_id: str, attempt: Attempt, charge: int, record: bytes, outcome: str) -> None:
        """Replace hold and earlier charge by the charge; append to the log."""
        spent = charge - attempt.charged
        growth = spent - attempt.held
        # What a step adds to spent + held was never checked against a limit: it is debt. What it takes away pays debt back.
        debt = growth if growth > 0 else -min(attempt.debt, -growth)
        held = attempt.held
        self._move(attempt, spent, -held, debt)
        attempt.charged = charge
        attempt.debt += debt
        self._log.append((self.now_ms, attempt_id, outcome, spent, debt, held, attempt.buckets, record))

    def _move(self, attempt: Attempt, spent: int, held: int, debt: int) -> None:
        if not attempt.buckets:
            return
        names = attempt.buckets.split(SEPARATOR)
        for name in names:
            counter = self._counter(name)
            counter.spent += spent
            counter.held += held
            counter.debt += debt
        self._changed_counters.update(names)

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

    def sweep(self) -> int:
        """See `Lease.sweep`; also drops tombstones and counters that nobody can need any more."""
        rows = self._db.execute(
            "SELECT a.id, p.burnt FROM attempt a LEFT JOIN lease l USING (replica)"
            " LEFT JOIN progress p ON p.replica=a.replica AND p.attempt_id=a.id"
            " WHERE a.done_ms IS NULL AND coalesce(l.until_ms, 0) < ? LIMIT ?",
            (self.now_ms, SWEEP_LIMIT),
        ).fetchall()
        wanted = [row[0] for row in rows if row[0] not in self._attempts]
        if wanted:
            self._load_attempts(wanted)
        swept = 0
        for attempt_id, burnt in rows:
            attempt = self._attempts[attempt_id]
            # An operation of this very batch may have ended it; the row is then older than memory.
            if attempt is None or attempt.state != "H":
                continue
            self._book(attempt_id, attempt, max(attempt.charged, burnt or attempt.held + attempt.charged), attempt.note, "swept")
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
        old = self._db.execute("DELETE FROM bucket WHERE ends_ms < ? AND held=0 RETURNING id", (now - KEEP_MS,)).fetchall()
        for (name,) in old:
            self._counters.pop(name, None)
        self._db.executemany("DELETE FROM trimmed WHERE bucket=?", old)

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
        oldest = self._db.execute("SELECT at_ms, seq, buckets, spent, debt FROM log ORDER BY seq LIMIT ?", (TRIM_LIMIT,))
        # The newest entry stays: its number is what keeps numbers from being given twice.
        newest = self._db.execute("SELECT max(seq) FROM log").fetchone()[0]
        rows = list(takewhile(lambda row: row[0] < before_ms and row[1] < newest, oldest))
        sums = [(name, spent, debt) for _, _, joined, spent, debt in rows for name in split_ids(joined)]
        self._db.executemany(
            "INSERT INTO trimmed SELECT ?1, ?2, ?3 WHERE EXISTS (SELECT 1 FROM bucket WHERE id=?1)"
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
