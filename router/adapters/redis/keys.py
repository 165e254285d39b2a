"""Every key that this program keeps in Redis. All of a ledger share one hash tag, so scripts work in a cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


def counter_fields(bucket_id: str) -> tuple[str, str, str]:
    """Where the books keep used (spent and held), spent and debt of a bucket."""
    return bucket_id, f"{bucket_id}|s", f"{bucket_id}|d"


def more_field(bucket_id: str) -> str:
    """Where the books keep what is added to the limit of a bucket: carried over from the window before, or gone from one that rolls."""
    return f"{bucket_id}|x"


def read_counters(values: Sequence[bytes | None]) -> tuple[int, int, int]:
    """Spent, held and debt, from the values of `counter_fields`."""
    used, spent, debt = (int(value or 0) for value in values)
    return spent, used - spent, debt


def limit_field(bucket_id: str) -> str:
    """Where the books keep the limit of a bucket's budget; the escaped name of the budget will do, too."""
    return f"{bucket_id.partition('|')[0]}|l"


def write_limit(limit: int, scoped: Mapping[str, int]) -> str:
    """A limit as the books keep it: a number of at most 16 digits; if some instances have one of their own, one of 17 digits and
    then a line for each of them: scope, tab, limit. `reserve.lua` tells the two apart by their length alone.
    """
    if not scoped:
        return str(limit)
    return "\n".join([f"{limit:017}", *(f"{scope}\t{own}" for scope, own in scoped.items())])


def read_limit(value: bytes, scope: str) -> int:
    """The limit of an instance, from what `write_limit` made."""
    limit, *scoped = value.decode().split("\n")
    own = dict(line.split("\t") for line in scoped)
    return int(own.get(scope, limit))


def lease_field(replica: str) -> str:
    """Where the books keep the end of a lease."""
    return f"|{replica}"


@dataclass(frozen=True, slots=True)
class Keys:
    """Key names under a prefix; `fg` gives `{fg}:...`."""

    prefix: str

    @property
    def books(self) -> str:
        """Hash of all that a reserve must look at, nano-USD and ms.

        `<bucket id>`: spent and held together, which is what a limit bounds. `<bucket id>|s`: spent. `<bucket id>|d`: debt.
        `<bucket id>|x`: what is added to its limit; `<bucket id>|n` and `|0` to `|59`: windows that roll, see `rolling.lua`.
        `<budget>|<window>|k`: how many scopes it has that clients made up. `<bucket id>|i`: see `sweep.lua`.
        `<budget>|l`: its limit, see `write_limit`. `|<replica>`: end of its lease. A bucket id has two bars, the escaped name
        of a budget none.
        """
        return f"{{{self.prefix}}}:books"

    @property
    def attempts(self) -> str:
        """Start of the names of attempts that have ended; the attempt id follows. See `reserve.lua`.

        The whole name stands for the attempt in the open holds, the progress and the log.
        """
        return f"{{{self.prefix}}}:a:"

    @property
    def open_holds(self) -> str:
        """Hash: attempt key -> its hold, see `reserve.lua`."""
        return f"{{{self.prefix}}}:open"

    @property
    def progress(self) -> str:
        """Start of the names of progress hashes; the replica follows. Attempt key -> nano-USD burnt."""
        return f"{{{self.prefix}}}:p:"

    @property
    def leases(self) -> str:
        """Zset: replica -> end of its lease, ms."""
        return f"{{{self.prefix}}}:leases"

    @property
    def ledger_id(self) -> str:
        """String: made with the ledger; another one, or none, means that what was in it is gone."""
        return f"{{{self.prefix}}}:id"

    @property
    def limits_version(self) -> str:
        """String: the configuration that published the limits."""
        return f"{{{self.prefix}}}:limits:version"

    @property
    def index(self) -> str:
        """Zset: bucket id -> end of its window, ms."""
        return f"{{{self.prefix}}}:index"

    @property
    def scopes(self) -> str:
        """Zset: the same of buckets whose scope clients make up."""
        return f"{self.index}:scopes"

    @property
    def log(self) -> str:
        """Stream: one entry per charge, see `settle.lua`."""
        return f"{{{self.prefix}}}:log"

    @property
    def trimmed(self) -> str:
        """Hash: what dropped entries of the log added up to, see `trim.lua`."""
        return f"{{{self.prefix}}}:trimmed"

    @property
    def auditor(self) -> str:
        """String: the replica that compares counters and log now. Expires."""
        return f"{{{self.prefix}}}:auditor"

    @property
    def virtual_keys(self) -> str:
        """Hash: key id -> JSON of `StoredKey`."""
        return f"{{{self.prefix}}}:keys"

    @property
    def pepper(self) -> str:
        """String: the secret under which key secrets are hashed."""
        return f"{{{self.prefix}}}:pepper"

    @property
    def controls(self) -> str:
        """Hash: what people changed while the service runs, and its version. See `controls.lua`."""
        return f"{{{self.prefix}}}:controls"

    @property
    def audit_log(self) -> str:
        """Stream: one entry per change that somebody made."""
        return f"{{{self.prefix}}}:audit"

    @property
    def corrections(self) -> str:
        """String: how often corrections were booked, see `correct.lua`."""
        return f"{{{self.prefix}}}:corrections"

    @property
    def readers(self) -> str:
        """Hash: program that keeps records elsewhere -> the last entry of the log that it has read."""
        return f"{{{self.prefix}}}:readers"

    @property
    def config_labels(self) -> str:
        """Hash: version of a configuration that was served -> when, and of which file."""
        return f"{{{self.prefix}}}:configs"

    @property
    def config_texts(self) -> str:
        """Hash: version -> its text."""
        return f"{self.config_labels}:texts"

    @property
    def feedback(self) -> str:
        """Stream: what clients say of answers, JSON of `Feedback`; as many as `MOST_FEEDBACK`, roughly."""
        return f"{{{self.prefix}}}:feedback"

    @property
    def answers(self) -> tuple[str, ...]:
        """Hash: which of the next ones is written to, and how much is in it; hashes: request -> who may rate its answer, what that
        teaches and what was said. The oldest of these gives way. See `expect.lua`.
        """
        base = f"{{{self.prefix}}}:answers"
        return base, *(f"{base}:{i}" for i in range(8))

    @property
    def experience(self) -> str:
        """Hash: process -> what it has learned, JSON of `Experience`. See `experience.lua`."""
        return f"{{{self.prefix}}}:experience"

    @property
    def alerts_marks(self) -> str:
        """Hash: what was told -> until when it is not told again, ms. See `mark.lua`."""
        return f"{{{self.prefix}}}:alerts:marks"

    @property
    def alerts_pending(self) -> str:
        """Hash: what was told -> the event, until it is delivered."""
        return f"{{{self.prefix}}}:alerts:pending"

    @property
    def alerts_leader(self) -> str:
        """String: the replica that looks for what all share. Expires."""
        return f"{{{self.prefix}}}:alerts:leader"

    @property
    def alerts_state(self) -> str:
        """String: statistics over the log, see `router/alerts/statistics.py`."""
        return f"{{{self.prefix}}}:alerts:state"
